"""The account that every task, state and callback of a run enters itself into, and the check at its end.

    ledger = Ledger()
    account = ledger.account(workers=2, max_backlog=3, threads=4)  # one for each pool, with the pool's parameters
    make = account.initializer()                                   # or generator=True, and then no finalizer
    pool = StatefulThreadPoolExecutor(2, initializer=make, finalizer=account.finalizer, max_backlog=3)
    account.opened(pool)
    view = pool.with_state()
    account.submit(pool.submit, returning(1))                      # a future; what `submit` raises comes through
    account.submit(view.submit, raising(KeyError()), entry_point="view")
    account.submit(lambda task: pool.submit(view.bind(task)), returning(1), entry_point="bound")
    list(account.map(view.map, [returning(n) for n in range(9)], chunksize=2))
    account.broadcast(pool.broadcast, returning(1))
    pool.shutdown()
    ledger.check()                                                 # an AssertionError names the culprits

A body is called with its `Task`, whose `state` is what it was lent (None without one). Bodies made here: `returning`,
`raising`, `gated`, `discarding`, `nesting`. Any function of one parameter will do. What is verified, some of it at
once, in the thread where it happens (then `ledger.problems` has it, with the place, and `check()` raises it):

- a task begins at most once; never when it was refused or cancelled; its future ends once, as its body did;
- tasks submitted by a thread that is none of the pool's workers begin in that order: no more of that thread's tasks
  may be overtaken than other workers can have taken and not begun yet (not looked at where a task runs inside another);
- accepted and not begun are no more than `max_backlog`. Exactly so by `account.look()`, which asks the pool; by the
  ledger's own count but for the moments between the pool's step and the entry here, one for each worker and thread;
- each callback is called once, in the order added;
- a state is used in the thread that made it, by one task at a time, after its reset; it is torn down once, there,
  not while lent; after the end there are as many torn down as made;
- at the end no place of the backlog is lost, and the pool's own counts are those of the ledger.

Tasks and states that are settled are forgotten, but for their number in `ledger.counts`: a run may have any number of
them. Nothing is called while a lock is held here. `wait_for` bounds every wait.
"""

from __future__ import annotations

import threading
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from itertools import count, islice
from typing import Any

from inside import inside

PATIENCE = 20


class Broken(AssertionError):
    """Something that must not happen has happened."""


class Ledger:
    """The whole run: any number of pools one after the other, or at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # nothing is called while it is held
        self.accounts: list[Account] = []
        self.tasks: dict[int, Task] = {}  # that are not settled
        self.states: dict[int, State] = {}  # that are not torn down
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.numbers = count()
        self.here = _Here()

    def account(self, workers: int, max_backlog: int | None = None, threads: int = 1) -> Account:
        """The account of one pool, on which `threads` threads at once submit and cancel."""
        account = Account(self, workers, max_backlog, threads)
        self.accounts.append(account)
        return account

    def close(self, account: Account) -> None:
        """Check what can be said of a pool whose workers have ended, and forget it."""
        account.check()
        self.accounts.remove(account)

    def problem(self, text: str) -> None:
        """Something is wrong, in this thread, just now."""
        where = "".join(traceback.format_stack(limit=8)[:-1])
        self.problems.append(f"{text} (in thread {threading.current_thread().name})\n{where}")

    def add(self, **counts: int) -> None:
        """Count."""
        with self.lock:
            for name, number in counts.items():
                self.counts[name] += number

    def check(self) -> None:
        """All pools have ended: every task and every state has, too, and nothing went wrong on the way."""
        for account in list(self.accounts):
            account.check()
        for task in list(self.tasks.values()):
            task.check()
        for state in list(self.states.values()):
            self.problem(f"{state!r} was never torn down")
        if self.problems:
            few = "\n".join(self.problems[:5])
            raise Broken(f"{len(self.problems)} problems, the first ones:\n{few}\ncounts: {dict(self.counts)}")


class _Here(threading.local):
    """What the calling thread is in the middle of: tasks, hooks, callbacks."""

    def __init__(self) -> None:
        self.stack: list[object] = []
        self.workers: set[int] = set()  # ids of the accounts that have seen this thread work


class Account:
    """One pool's tasks and states."""

    def __init__(self, ledger: Ledger, workers: int, max_backlog: int | None, threads: int) -> None:
        self.ledger = ledger
        self.workers = workers
        self.max_backlog = max_backlog
        self.slack = workers + threads
        self.lock = threading.Lock()  # nothing is called while it is held
        self.waiting = 0  # accepted and not begun
        self.lines: dict[int, dict[Task, None]] = {}  # by submitting thread, those not begun
        self.pool: weakref.ref[Any] | None = None
        self.registry: Any = None
        self.counts: Counter[str] = Counter()
        self.overflows = False  # tasks may be queued over the bound (`asubmit` in a worker, more than 32 levels inline)

    def opened(self, pool: Any) -> None:
        """Tell which pool it is. Keeps it not alive."""
        self.pool = weakref.ref(pool)
        self.registry = inside(pool).outlive_pool()

    def add(self, name: str, number: int = 1) -> None:
        with self.lock:
            self.counts[name] += number
        self.ledger.add(**{name: number})

    # States

    def initializer(
        self, *, generator: bool = False, resets: bool = False, fails: Callable[[], object] | None = None
    ) -> Callable[..., Any]:
        """An initializer; with `resets`, its states have to be `reset` between two tasks. `fails` may raise."""

        def make(*_: object) -> State:
            with self.inside("initializer"):
                if fails is not None:
                    fails()
                return State(self, resets)

        def generate(*_: object) -> Generator[State, None, None]:
            state = make()
            yield state
            self.finalizer(state)

        return generate if generator else make

    def finalizer(self, state: State) -> None:
        """The teardown."""
        with self.inside("teardown"):
            state.tear_down()

    def check_hook(self, state: State) -> None:
        """For `StatePolicy.check`."""
        with self.inside("check"):
            state.look("checked")

    def reset_hook(self, state: State) -> None:
        """For `StatePolicy.reset`."""
        with self.inside("reset"):
            state.look("reset")
            if not state.dirty:
                self.ledger.problem(f"{state!r} is reset, but no task has used it since the last reset")
            state.dirty = False

    def inside(self, what: object) -> Inside:
        """While this lasts, what begins in this thread runs inside `what`."""
        return Inside(self.ledger.here.stack, what)

    # Tasks

    def task(self, body: Callable[[Task], Any], entry_point: str = "pool") -> Task:
        """A task that was not submitted yet, for `submit(..., task)`."""
        return Task(self, body, entry_point)

    def submit(
        self,
        submit: Callable[..., Any],
        body: Callable[[Task], Any] | Task,
        *args: object,
        entry_point: str = "pool",
        callbacks: int = 1,
        takes_error: bool = True,
    ) -> Any:
        """`submit(task, *args)`: a future, with `callbacks` callbacks added. What it raises comes through.

        With `takes_error` the ledger takes the task's error, which is then neither the scope's to raise nor logged.
        """
        task = body if isinstance(body, Task) else Task(self, body, entry_point)
        task.enter()
        try:
            future = submit(task, *args)
        except BaseException as exc:
            task.refuse(exc)
            raise
        task.accept(future)
        task.takes_error, task.callbacks = takes_error, callbacks
        for _ in range(callbacks):
            task.call_back()
        future.add_done_callback(task.settle)
        return future

    def map(
        self, entry_point_map: Callable[..., Iterator[Any]], bodies: list[Callable[[Task], Any]], **kwargs: Any
    ) -> Iterator[Any]:
        """`entry_point_map` over the bodies: its tasks have no futures that can be seen, so less is known of them."""
        tasks = [Task(self, body, "map") for body in bodies]
        for task in tasks:
            task.mapped = True
        self.add("mapped", len(tasks))
        return entry_point_map(_run_mapped, tasks, **kwargs)

    def broadcast(self, broadcast: Callable[..., list[Any]], body: Callable[[Task], Any]) -> list[Any]:
        """`broadcast` of the body: at most one call in each thread."""
        run = _Broadcast(self, body)
        futures = broadcast(run)
        self.add("submitted", len(futures))
        run.expect(futures)
        return futures

    def may_begin(self, task: Task) -> None:
        """Whether it is the turn of `task`, which begins in this thread; it waits no more."""
        here = self.ledger.here
        late = None
        with self.lock:
            task.begun += 1
            again = task.begun > 1
            if task.counted:
                task.counted = False
                self.waiting -= 1
            line = self.lines.get(task.submitter)
            if line is not None and task in line:
                if not here.stack:
                    # Others may have taken as many as there are workers, and not come as far as this.
                    ahead = [other for other in islice(line, self.workers + self.slack) if not other.is_out()]
                    if task not in ahead[: self.workers]:
                        late = [other for other in ahead if other is not task][:3]
                del line[task]
        if again:
            self.ledger.problem(f"{task!r} begins for the {task.begun}th time")
        if late:
            self.ledger.problem(f"{task!r} begins before {late}, submitted earlier by the same thread")

    def leave_line(self, task: Task) -> None:
        with self.lock:
            if task.counted:
                task.counted = False
                self.waiting -= 1
            line = self.lines.get(task.submitter)
            if line is not None:
                line.pop(task, None)

    def look(self) -> None:
        """Ask the pool for its backlog, at any moment: it is not above its bound, ever."""
        pool = None if self.pool is None else self.pool()
        if pool is None or self.max_backlog is None or self.overflows:
            return
        stats = pool.stats()
        if stats.backlog > self.max_backlog or stats.peak_backlog > self.max_backlog:
            self.ledger.problem(f"the backlog has had more than {self.max_backlog} tasks: {stats}")

    def check(self) -> None:
        """The pool's workers have ended."""
        if self.waiting:
            self.ledger.problem(f"{self.waiting} accepted tasks have neither begun nor been cancelled")
        registry = self.registry
        if registry is None:
            return
        if registry.free_permits is not None and registry.permits_left() != self.max_backlog:
            self.ledger.problem(f"{registry.permits_left()} permits are left of {self.max_backlog}")
        if registry.waiters:
            self.ledger.problem(f"{len(registry.waiters)} submitters are left in line")
        if registry.pending():
            self.ledger.problem(f"tasks are left in the registry: {registry.pending()}")
        self._compare(registry.stats())

    def _compare(self, stats: Any) -> None:
        mine = self.counts
        expected = {"states_made": mine["made"], "states_torn_down": mine["torn_down"], "running": 0, "workers": 0}
        if not mine["mapped"]:  # whose tasks nobody sees
            expected |= {"completed": mine["returned"], "failed": mine["raised"]}
        for name, number in expected.items():
            if getattr(stats, name) != number:
                self.ledger.problem(f"stats().{name} is {getattr(stats, name)}, should be {number}: {stats}")
        if stats.submitted < stats.completed + stats.failed + stats.cancelled:
            self.ledger.problem(f"more tasks have ended than were submitted: {stats}")
        if not mine["mapped"] and stats.cancelled < mine["cancelled"]:
            self.ledger.problem(f"stats().cancelled is {stats.cancelled}, should be {mine['cancelled']}: {stats}")


class Inside:
    """An entry of the stack of what a thread is in the middle of."""

    __slots__ = ("_stack", "_what")

    def __init__(self, stack: list[object], what: object) -> None:
        self._stack = stack
        self._what = what

    def __enter__(self) -> None:
        self._stack.append(self._what)

    def __exit__(self, *exc: object) -> None:
        self._stack.pop()


class State:
    """What an initializer made."""

    __slots__ = ("__weakref__", "account", "dirty", "free", "gone", "holder", "number", "resets", "tasks", "thread")

    def __init__(self, account: Account, resets: bool) -> None:
        self.account = account
        self.number = next(account.ledger.numbers)
        self.thread = threading.current_thread()
        self.free: list[None] = [None]  # whoever deletes the item holds the state
        self.holder: object = None
        self.resets = resets
        self.dirty = False
        self.gone: list[None] = [None]  # whoever deletes the item tears it down
        self.tasks = 0
        account.ledger.states[self.number] = self
        account.add("made")

    def look(self, what: str) -> None:
        """It is about to be lent, checked, reset or torn down: it is in its thread, free, and there."""
        problem = self.account.ledger.problem
        if threading.current_thread() is not self.thread:
            problem(f"{self!r} is {what} outside of its thread")
        if not self.gone:
            problem(f"{self!r} is {what} after its teardown")
        if not self.free:
            problem(f"{self!r} is {what} while {self.holder!r} holds it")

    def lend(self, task: Task) -> None:
        problem = self.account.ledger.problem
        self.look(f"lent to {task!r}")
        if self.resets and self.dirty and not task.mapped:  # a chunk is lent one state for all of its calls
            problem(f"{self!r} is lent to {task!r} without a reset after the last task")
        try:
            del self.free[0]
        except IndexError:
            problem(f"{self!r} is lent to {task!r} while {self.holder!r} holds it")
        self.holder = task
        self.dirty = True
        self.tasks += 1

    def give_back(self) -> None:
        self.holder = None
        self.free.append(None)

    def tear_down(self) -> None:
        self.look("torn down")
        try:
            del self.gone[0]
        except IndexError:
            return  # `look` has told
        self.account.ledger.states.pop(self.number, None)
        self.account.add("torn_down")

    def __repr__(self) -> str:
        gone = "" if self.gone else ", torn down"
        return f"<state {self.number} made in {self.thread.name}{gone}>"


class Task:
    """One task: called by the pool, it runs its body and enters what happens to it."""

    def __init__(self, account: Account, body: Callable[[Task], Any], entry_point: str) -> None:
        self.account = account
        self.body = body
        self.entry_point = entry_point
        self.number = next(account.ledger.numbers)
        self.submitter = 0  # the thread, unless that is a worker of the pool, whose tasks may run in place
        self.future: Any = None
        self.state: Any = None
        self.mapped = False
        self.counted = False
        self.begun = 0
        self.thread = ""
        self.fate = ""  # how the body ended
        self.error: BaseException | None = None
        self.ended: list[str] = []  # how the future did
        self.refused: BaseException | None = None
        self.called: list[tuple[int, int]] = []  # the numbers of callbacks, and in which threads
        self.expected = 0
        self.callbacks = 0  # of those, by the time of `submit`
        self.takes_error = True

    def __call__(self, *args: Any) -> Any:
        account = self.account
        self.thread = threading.current_thread().name
        account.may_begin(self)
        if self.refused is not None and isinstance(self.refused, Exception):
            account.ledger.problem(f"{self!r} begins though it was refused")
        if self.ended:
            account.ledger.problem(f"{self!r} begins though its future has ended")
        here = account.ledger.here
        here.workers.add(id(account))
        state = args[0] if args and isinstance(args[0], State) else None
        if state is not None:
            self.state = state
            state.lend(self)
        here.stack.append(self)
        try:
            result = self.body(self)
            self.fate = "returned"
            return result
        except BaseException as exc:
            self.fate, self.error = "raised", exc
            raise
        finally:
            here.stack.pop()
            if state is not None:
                state.give_back()
            self.state = None
            account.add("begun")

    # What its submitter enters

    def enter(self) -> None:
        """It is about to be submitted."""
        account = self.account
        account.ledger.tasks[self.number] = self
        if not account.ledger.here.stack and id(account) not in account.ledger.here.workers:
            self.submitter = threading.get_ident()
            with account.lock:
                account.lines.setdefault(self.submitter, {})[self] = None

    def accept(self, future: Future[Any]) -> None:
        account = self.account
        with account.lock:
            self.future = future
            if not self.begun and not future.done():
                self.counted = True
                account.waiting += 1
            over = (
                account.max_backlog is not None
                and not account.overflows
                and account.waiting > account.max_backlog + account.slack
            )
        account.add("submitted")
        if over:
            account.ledger.problem(f"{self!r} is accepted, with {account.waiting} tasks accepted and not begun")

    def refuse(self, error: BaseException) -> None:
        """`submit` has raised."""
        self.refused = error
        self.account.leave_line(self)
        self.account.add("refused")
        if self.begun and isinstance(error, Exception):
            self.account.ledger.problem(f"{self!r} has begun, but its submit raised {error!r}")
        self.account.ledger.tasks.pop(self.number, None)

    def call_back(self) -> None:
        """Add a callback to the future: it is to be called once."""
        number, self.expected = self.expected, self.expected + 1
        self.future.add_done_callback(lambda future: self.on_call_back(future, number))

    def on_call_back(self, future: Future[Any], number: int) -> None:
        problem = self.account.ledger.problem
        if future is not self.future or not future.done():
            problem(f"a callback of {self!r} is called with {future!r}")
        # One that was added late is called at once in the thread that adds it, while others are called in another one.
        before = [called for called, thread in list(self.called) if thread == threading.get_ident()]
        if any(called == number for called, _ in list(self.called)):
            problem(f"callback {number} of {self!r} is called twice")
        elif before and before[-1] > number:
            problem(f"callback {number} of {self!r} is called after {before}")
        self.called.append((number, threading.get_ident()))
        self.account.add("callbacks")
        self.forget_if_settled()

    def forget_if_settled(self) -> None:
        """When its future has ended and the callbacks that `submit` was to add have been called."""
        if self.ended and len(self.called) >= self.callbacks:
            self.account.ledger.tasks.pop(self.number, None)

    def settle(self, future: Any) -> None:
        """The last callback of those added by `submit`: the future has ended."""
        account, problem = self.account, self.account.ledger.problem
        account.leave_line(self)
        if future.cancelled():
            fate = "cancelled"
        else:
            error = future.exception(timeout=0) if self.takes_error else future._exception
            fate = "returned" if error is None else "raised"
        if self.ended:
            problem(f"the future of {self!r} ends for the second time")
        self.ended.append(fate)
        if not self._agrees(fate, None if fate != "raised" else error):
            problem(f"the future of {self!r} is {fate}")
        account.add(fate)
        self.forget_if_settled()

    def _agrees(self, fate: str, error: BaseException | None) -> bool:
        """Whether the future ended as the body did."""
        if fate == "cancelled":
            return self.begun == 0
        if self.begun == 0:  # its state could not be made, or was not good
            return fate == "raised" and error is not None
        return self.begun == 1 and fate == self.fate and error is self.error

    def is_out(self) -> bool:
        """Whether it waits for its turn no more."""
        return self.future is not None and self.future.done()

    def check(self) -> None:
        """At the end of the run it is still there."""
        told = (
            f"its callbacks called are {self.called}, should be {self.callbacks}" if self.ended else "nobody was told"
        )
        self.account.ledger.problem(f"{self!r} was accepted, but its future never ended, or {told}")

    def __repr__(self) -> str:
        parts = [f"<task {self.number} by {self.entry_point}"]
        if self.begun:
            parts.append(f"begun {self.begun} times, last in {self.thread}, {self.fate or 'running'}")
        if self.ended:
            parts.append(f"future {self.ended}")
        if self.refused is not None:
            parts.append(f"refused with {self.refused!r}")
        if self.future is not None:
            parts.append(repr(self.future))
        return ", ".join(parts) + ">"


class _Broadcast:
    """One call in each worker."""

    def __init__(self, account: Account, body: Callable[[Task], Any]) -> None:
        self.account = account
        self.body = body
        self.threads: list[str] = []

    def __call__(self, *args: Any) -> Any:
        thread = threading.current_thread().name
        if thread in self.threads:
            self.account.ledger.problem(f"a broadcast runs twice in {thread}")
        self.threads.append(thread)
        task = Task(self.account, self.body, "broadcast")
        if self.account.ledger.here.stack:
            self.account.ledger.problem(f"{task!r} runs inside {self.account.ledger.here.stack[-1]!r}")
        return task(*args)

    def expect(self, futures: list[Any]) -> None:
        for future in futures:
            key = next(self.account.ledger.numbers)
            task = Task(self.account, self.body, "broadcast")
            task.future = future
            self.account.ledger.tasks[key] = task
            future.add_done_callback(lambda future, key=key: self.settle(future, key))

    def settle(self, future: Any, key: int) -> None:
        if self.account.ledger.tasks.pop(key, None) is None:
            self.account.ledger.problem(f"{future!r} of a broadcast ends for the second time")
        fate = "cancelled" if future.cancelled() else "raised" if future.exception(0) else "returned"
        self.account.add(fate)


def _run_mapped(*args: Any) -> Any:
    """What the tasks of a map are: a state, if any, and the task."""
    return args[-1](*args[:-1])


# Bodies


def returning(value: object = None) -> Callable[[Task], Any]:
    return lambda task: value


def raising(error: BaseException) -> Callable[[Task], Any]:
    def body(task: Task) -> Any:
        raise error

    return body


class Gate:
    """Holds a task until it is opened, which then does `then`; tells when the task has come to it, and where."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        self.thread: threading.Thread | None = None
        self.state: State | None = None
        self.then: Callable[[Task], Any] | None = None


def gated(gate: Gate, then: Callable[[Task], Any] | None = None) -> Callable[[Task], Any]:
    """Wait at the gate, then go on."""

    def body(task: Task) -> Any:
        gate.thread, gate.state = threading.current_thread(), task.state
        gate.reached.set()
        wait_for(gate.open, task)
        after, gate.then = then or gate.then, None
        return None if after is None else after(task)

    return body


def discarding(discard: Callable[[], object], then: Callable[[Task], Any] | None = None) -> Callable[[Task], Any]:
    """Have the state replaced: `discard` is the view's."""

    def body(task: Task) -> Any:
        discard()
        return None if then is None else then(task)

    return body


def nesting(
    submit: Callable[..., Any], inner: Callable[[Task], Any], entry_point: str = "nested", *, waits: bool = True
) -> Callable[[Task], Any]:
    """Submit another task (to the pool, a view, a scope), and wait for its end. None if it is refused or cancelled."""

    def body(task: Task) -> Any:
        try:
            future = task.account.submit(submit, inner, entry_point=entry_point)
        except RuntimeError:  # the pool, or the scope, takes no more
            return None
        with suppress(CancelledError):  # when the pool, or the scope, cancels what has not begun
            return future.exception(PATIENCE) if waits else None
        return None

    return body


def wait_for(event: threading.Event, who: object) -> None:
    """Wait, not for ever."""
    if not event.wait(PATIENCE):
        raise Broken(f"{who!r} has waited for {PATIENCE} seconds")
