"""The whole pool against a simple model, put through whatever `hypothesis` comes up with.

`PoolMachine` has one driver and tasks that wait until it releases them, so that the model knows at each step what runs,
what waits, and which states there are. `test_threads` lets several threads loose on one pool, and asks only for what
holds whatever the interleaving: see `ledger`.

By default the examples are the same each time. STATEFUL_EXECUTOR_EXAMPLES=5000 takes that many, at random.
"""

from __future__ import annotations

import contextvars
import gc
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from inside import HAS_GIL
from ledger import PATIENCE, Account, Gate, Ledger, Task, discarding, gated, nesting, raising, returning, wait_for

from stateful_executor import BacklogFull, StatefulThreadPoolExecutor, StatePolicy

pytestmark = pytest.mark.timeout(0 if "STATEFUL_EXECUTOR_EXAMPLES" in os.environ else 300)  # time to shrink, too

LIVELY = 6  # tasks before a pool is shut down, lest most of them live for no more than one or two
EXAMPLES = int(os.environ.get("STATEFUL_EXECUTOR_EXAMPLES", "0"))


def profile(examples: int, **kwargs: Any) -> settings:
    return settings(
        max_examples=EXAMPLES
        or (examples if HAS_GIL else examples // 4),  # without it 20 s become 100 on a busy machine
        derandomize=not EXAMPLES,  # the same examples each time: no new one fails on an unrelated change
        database=None,
        deadline=None,  # a thread may have to wait for the machine
        # Threads take their time, and `thorough` runs take as long as they are asked to.
        suppress_health_check=[HealthCheck.too_slow],
        print_blob=True,
        **kwargs,
    )


class Boom(Exception):
    """What tasks raise."""


class BodyError(Exception):
    """What the body of a scope raises."""


var: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=-1)


# The model


class ModelTask:
    """A task as the model sees it."""

    def __init__(self, entry_point: str, scope: ModelScope | None) -> None:
        self.entry_point = entry_point
        self.scope = scope
        self.gate = Gate()
        self.future: Any = None
        self.entry: Any = None  # in the ledger
        self.phase = "waiting"  # running, cancelled, returned, raised
        self.error = Boom()
        self.seen: int | None = None
        self.var: int | None = None

    @property
    def has_state(self) -> bool:
        return self.entry_point in ("view", "scope view")


class ModelWorker:
    def __init__(self, thread: threading.Thread, state: object) -> None:
        self.thread = thread
        self.task: ModelTask | None = None
        self.state = state  # of the pool's own: an object of the ledger, True when it was not seen yet, None
        self.uses = 0
        self.stale = False
        self.broadcasts: list[str] = []
        self.scoped: dict[ModelScope, object] = {}


class ModelScope:
    """A block that runs in a thread of its own until it is told to end."""

    def __init__(self, scope: Any, fail_fast: bool, timeout: float | None) -> None:
        self.scope = scope
        self.fail_fast = fail_fast
        self.timed_out = timeout == 0
        self.cancelled = self.timed_out
        self.failures: list[BaseException] = []
        self.error: BaseException | None = None  # what the body is to raise
        self.outcome: BaseException | None = None
        self.entered, self.end = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.view: Any = None
        self.thread.start()
        wait_for(self.entered, "scope")

    def _run(self) -> None:
        try:
            with self.scope:
                self.entered.set()
                wait_for(self.end, "the scope's body")
                if self.error is not None:
                    raise self.error
        except BaseException as exc:
            self.outcome = exc
        self.scope = self.view = None


def repeating(times: int, body: Callable[[Task], Any]) -> Callable[[Task], Any]:
    return lambda task: [body(task) for _ in range(times)]


def until(what: Callable[[], Any], expected: Any, context: Callable[[], object] = lambda: "") -> None:
    """Wait until `what()` is `expected`, not for ever."""
    give_up = time.monotonic() + PATIENCE
    while (found := what()) != expected:
        assert time.monotonic() < give_up, f"is {found}, should be {expected} {context()}"
        time.sleep(0.0001)


class PoolMachine(RuleBasedStateMachine):
    """One driver thread; each task waits at a gate, unless the rule says otherwise."""

    extra_uses = 0

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.pool: Any = None
        self.account: Any = None
        self.shut = self.ends = False
        self.workers: list[ModelWorker] = []
        self.waiting: deque[ModelTask] = deque()
        self.scopes: list[ModelScope] = []
        self.futures: list[ModelTask] = []

    # Pools

    @precondition(lambda self: self.account is None)
    @rule(
        workers=st.integers(1, 3),
        bound=st.sampled_from([None, 1, 2, 3]),
        retires=st.booleans(),
        generator=st.booleans(),
        hooks=st.booleans(),
        max_tasks=st.sampled_from([None, None, 2]),
        copies=st.booleans(),
    )
    def open_pool(
        self,
        workers: int,
        bound: int | None,
        retires: bool,
        generator: bool,
        hooks: bool,
        max_tasks: int | None,
        copies: bool,
    ) -> None:
        account = self.account = self.ledger.account(workers, bound)
        policy = None
        if hooks:
            policy = StatePolicy(check=account.check_hook, reset=account.reset_hook, max_tasks=max_tasks)
        elif max_tasks:
            policy = StatePolicy(max_tasks=max_tasks)
        self.pool = StatefulThreadPoolExecutor(
            workers,
            initializer=account.initializer(generator=generator, resets=hooks),
            finalizer=None if generator else account.finalizer,
            policy=policy,
            max_backlog=bound,
            submit_timeout=None if bound is None else 0,
            idle_timeout=0 if retires else None,
            copy_context=copies,
        )
        account.opened(self.pool)
        self.max_workers, self.bound, self.max_tasks, self.copies = workers, bound, max_tasks, copies
        self.view = self.pool.with_state()
        self.ends = retires  # whether idle workers end
        self.shut = False
        self.counts = dict.fromkeys(("completed", "failed", "cancelled", "made", "torn_down", "discarded"), 0)

    is_open = precondition(lambda self: self.account is not None)

    @property
    def running(self) -> list[ModelWorker]:
        return [worker for worker in self.workers if worker.task is not None]

    # Submitting

    @is_open
    @precondition(lambda self: self.pool is not None)
    @rule(
        entry_point=st.sampled_from(["pool", "view", "bound", "scope", "scope view", "scope state"]),
        which=st.integers(0, 3),
        callbacks=st.integers(0, 2),
    )
    def submit(self, entry_point: str, which: int, callbacks: int) -> None:
        self.submit_by(entry_point, which, callbacks)

    def submit_by(self, entry_point: str, which: int, callbacks: int) -> None:
        scope = None
        if entry_point.startswith("scope"):
            if not self.scopes:
                return
            scope = self.scopes[which % len(self.scopes)]
        task = ModelTask(entry_point, scope)
        task.seen = which
        var.set(which)
        self.expect_refusal_or(task, lambda: self._submit(task, callbacks))

    @is_open
    @precondition(lambda self: self.pool is not None)
    @rule(many=st.lists(st.sampled_from(["pool", "view", "bound", "scope", "scope view"]), min_size=2, max_size=5))
    def submit_many(self, many: list[str]) -> None:
        for entry_point in many:
            self.submit_by(entry_point, 0, 1)

    def _submit(self, task: ModelTask, callbacks: int) -> Any:
        scope = task.scope.scope if task.scope else None
        body = gated(task.gate)

        def with_var(entry: Task) -> Any:
            task.var = var.get()
            return body(entry)

        task.entry = self.account.task(with_var, task.entry_point)
        submit: Callable[..., Any]
        match task.entry_point:
            case "pool":
                submit = self.pool.submit
            case "view":
                submit = self.view.submit
            case "bound":
                bound = self.view.bind(task.entry)
                return self.account.submit(lambda _: self.pool.submit(bound), task.entry, callbacks=callbacks)
            case "scope":
                submit = scope.submit
            case "scope view":
                submit = scope.with_state().submit
            case _:
                if task.scope.view is None:
                    task.scope.view = scope.with_state(self.account.initializer(generator=True))
                submit = task.scope.view.submit
        return self.account.submit(submit, task.entry, callbacks=callbacks, takes_error=scope is None)

    def expect_refusal_or(self, task: ModelTask, submit: Callable[[], Any]) -> None:
        expected: type[Exception] | None = None
        if self.shut or (task.scope is not None and task.scope.cancelled):
            expected = RuntimeError
        elif self.bound is not None and len(self.waiting) >= self.bound:
            expected = BacklogFull
        try:
            task.future = submit()
        except RuntimeError as exc:
            assert type(exc) is expected, f"{exc!r}, expected {expected}"
            return
        assert expected is None, f"accepted, expected {expected}"
        self.futures.append(task)
        self.waiting.append(task)
        if len(self.running) < self.max_workers:
            self.start_next([worker for worker in self.workers if worker.task is None])

    def start_next(self, candidates: list[ModelWorker]) -> None:
        """The first task that waits begins in one of these workers, in a new one if there are none."""
        task = self.waiting.popleft()
        assert task.gate.reached.wait(PATIENCE), f"{task.entry!r} does not begin: {self.account.registry.stats()}"
        task.phase = "running"
        thread = task.gate.thread
        assert thread is not None
        if candidates:
            worker = next((worker for worker in candidates if worker.thread is thread), None)
            assert worker is not None, f"{task.entry!r} runs in {thread.name}, not in one of the free workers"
        else:
            assert all(thread is not worker.thread for worker in self.workers)
            worker = ModelWorker(thread, True)
            self.counts["made"] += 1
            self.workers.append(worker)
        worker.task = task
        if self.copies:
            assert task.var == task.seen, "the context is not the submitter's"
        self.lend(worker, task)

    def lend(self, worker: ModelWorker, task: ModelTask) -> None:
        state = task.gate.state
        if task.entry_point == "scope state":
            assert task.scope is not None
            if task.scope not in worker.scoped:
                worker.scoped[task.scope] = state
                self.counts["made"] += 1
            assert worker.scoped[task.scope] is state
        elif task.has_state or task.entry_point == "bound":
            self.lend_own(worker, state)
        else:
            assert state is None

    def lend_own(self, worker: ModelWorker, state: object) -> None:
        """`state` is what was seen; True when it was not."""
        if worker.state is not None and worker.stale:
            self.drop_own(worker)
        if worker.state is None:
            self.counts["made"] += 1
            worker.state, worker.uses, worker.stale = True, 0, False
        if state is not True:
            assert worker.state in (True, state), f"lent {state!r}, the worker has {worker.state!r}"
            worker.state = state

    def drop_own(self, worker: ModelWorker) -> None:
        self.counts["discarded"] += 1
        self.counts["torn_down"] += 1
        worker.state, worker.stale = None, False

    def take_back_own(self, worker: ModelWorker, discards: bool = False) -> None:
        worker.uses += 1
        if discards or worker.stale or worker.uses == self.max_tasks:
            self.drop_own(worker)

    # Ending

    @is_open
    @precondition(lambda self: self.running)
    @rule(
        which=st.integers(0, 2),
        how=st.sampled_from(
            ["return", "raise", "raise", "discard", "nest", "nest view", "nest view twice", "nest scope"]
        ),
    )
    def release(self, which: int, how: str) -> None:
        self.end(self.running[which % len(self.running)], how)

    @is_open
    @rule()
    def release_all(self) -> None:
        while self.running:
            self.end(self.running[0], "return")

    def end(self, worker: ModelWorker, how: str) -> None:
        """Release the task of `worker`, and see all that follows from that."""
        task = worker.task
        assert task is not None
        own = task.has_state or task.entry_point == "bound"
        if how == "discard" and not (own and self.pool is not None):
            how = "return"
        extra = how.startswith("nest") and self.nest(worker, task, how, own)
        if how == "raise":
            task.gate.then = raising(task.error)
        elif how == "discard":
            task.gate.then = discarding(self.view.discard)
        task.gate.open.set()
        wait([task.future], PATIENCE)
        assert task.future.done(), f"{task.entry!r} was released, and has not ended"
        self.ended(task, how)
        if own:
            self.take_back_own(worker, how == "discard")
        if worker.stale:
            self.drop_own(worker)
        if extra and worker.state is None:  # what was made for the inner task stays
            worker.state, worker.uses = True, self.extra_uses
        elif extra:
            self.counts["torn_down"] += 1
        self.run_broadcasts(worker)
        worker.task = None
        self.goes_on(worker)

    def goes_on(self, worker: ModelWorker) -> None:
        """With the next task, unless there is none, or it is one too many."""
        if len(self.workers) > self.max_workers:
            self.retire(worker)
            self.until_gone()  # else the next one to end its task may look before this one has
        elif self.waiting:
            self.start_next([worker])
        elif self.ends:
            self.retire(worker)

    def nest(self, worker: ModelWorker, task: ModelTask, how: str, own: bool) -> bool:
        """Have the task submit another one and wait for it; True when that makes one more state for the worker."""
        scope = self.scopes[0] if self.scopes else None
        if self.pool is None or max(len(self.workers), self.max_workers) > 1 or (how == "nest scope" and scope is None):
            return False  # another worker might run it, or is to when its gate is opened: see test_who_runs_it.py
        entry_point = {"nest": self.pool, "nest scope": scope and scope.scope}.get(how, self.view)
        times = 2 if how == "nest view twice" else 1
        task.gate.then = repeating(times, nesting(entry_point.submit, returning(1)))
        if self.shut or (how == "nest scope" and scope is not None and scope.cancelled):
            return False
        self.counts["completed"] += times
        if not how.startswith("nest view"):
            return False
        return self.lend_inside(worker, own, times)

    def lend_inside(self, worker: ModelWorker, own: bool, times: int) -> bool:
        """Tasks are lent a state, one after the other, inside the task of `worker`."""
        if own:
            self.counts["made"] += 1
            if times != self.max_tasks:
                self.extra_uses = times
                return True
            self.counts["discarded"] += 1
            self.counts["torn_down"] += 1
            return False
        for _ in range(times):
            self.lend_own(worker, True)
            self.take_back_own(worker)
        return False

    def ended(self, task: ModelTask, how: str) -> None:
        task.phase = "raised" if how == "raise" else "returned"
        self.counts["failed" if how == "raise" else "completed"] += 1
        scope = task.scope
        if how == "raise" and scope is not None:
            scope.failures.append(task.error)
            if scope.fail_fast:
                self.cancel_scope(scope)

    def cancel_scope(self, scope: ModelScope) -> None:
        scope.cancelled = True
        for task in [task for task in self.waiting if task.scope is scope]:
            self.cancelled(task)

    def cancelled(self, task: ModelTask) -> None:
        self.waiting.remove(task)
        task.phase = "cancelled"
        self.counts["cancelled"] += 1

    def retire(self, worker: ModelWorker) -> None:
        self.workers.remove(worker)
        self.counts["torn_down"] += (worker.state is not None) + len(worker.scoped)

    def run_broadcasts(self, worker: ModelWorker) -> None:
        for entry_point in worker.broadcasts:
            if entry_point == "view":
                self.lend_own(worker, True)
                self.take_back_own(worker)
            self.counts["completed"] += 1
        worker.broadcasts = []

    # Futures

    @precondition(lambda self: self.futures)
    @rule(which=st.integers(0, 50))
    def cancel(self, which: int) -> None:
        task = self.futures[which % len(self.futures)]
        expected = task.phase in ("waiting", "cancelled")
        assert task.future.cancel() is expected
        if task.phase == "waiting":
            self.cancelled(task)

    @precondition(lambda self: self.futures)
    @rule(which=st.integers(0, 50))
    def result(self, which: int) -> None:
        task = self.futures[which % len(self.futures)]
        if task.phase == "raised" and task.scope is not None and task.error in task.scope.failures:
            task.scope.failures.remove(task.error)  # taken from here on
        try:
            task.future.result(timeout=0)
            assert task.phase == "returned"
        except CancelledError:
            assert task.phase == "cancelled"
        except TimeoutError:
            assert task.phase in ("waiting", "running")
        except Boom as exc:
            assert task.phase == "raised" and exc is task.error

    @precondition(lambda self: self.futures)
    @rule(which=st.integers(0, 50))
    def add_callback(self, which: int) -> None:
        self.futures[which % len(self.futures)].entry.call_back()

    # All workers

    @is_open
    @precondition(lambda self: self.pool is not None)
    @rule(entry_point=st.sampled_from(["pool", "view"]))
    def broadcast(self, entry_point: str) -> None:
        broadcast = (self.pool if entry_point == "pool" else self.view).broadcast
        if self.shut:
            with pytest.raises(RuntimeError, match="after shutdown"):
                self.account.broadcast(broadcast, returning(1))
            return
        futures = self.account.broadcast(broadcast, returning(1))
        assert len(futures) == len(self.workers)
        for worker in self.workers:
            worker.broadcasts.append(entry_point)
            if worker.task is None:
                self.run_broadcasts(worker)

    @is_open
    @precondition(lambda self: self.pool is not None)
    @rule()
    def discard_all(self) -> None:
        self.view.discard_all()
        for worker in self.workers:
            if worker.state is not None:
                if worker.task is None:
                    self.drop_own(worker)
                else:
                    worker.stale = True

    @is_open
    @precondition(lambda self: self.pool is not None and not self.ends and len(self.workers) > len(self.running))
    @rule(name=st.sampled_from(["map", "map_unordered"]), number=st.integers(0, 5), chunksize=st.integers(1, 3))
    def map(self, name: str, number: int, chunksize: int) -> None:
        """Tasks that return at once, one after the other, in an idle worker."""
        bodies = [returning(n) for n in range(number)]
        results = self.account.map(getattr(self.pool, name), bodies, chunksize=chunksize, buffersize=1)
        assert list(results) == list(range(number))
        self.counts["completed"] += -(-number // chunksize)

    # More and fewer workers

    @is_open
    @precondition(lambda self: self.pool is not None)
    @rule(workers=st.integers(1, 4), assigns=st.booleans())
    def resize(self, workers: int, assigns: bool) -> None:
        if self.shut:
            with pytest.raises(RuntimeError, match="after shutdown"):
                self.pool.resize(workers)
            return
        self.max_workers = workers
        self.account.workers = max(self.account.workers, workers)  # tasks in that many may overtake each other
        if assigns:
            self.pool._max_workers = workers
        else:
            self.pool.resize(workers)
        idle = [worker for worker in self.workers if worker.task is None]
        too_many = min(len(idle), len(self.workers) - workers)
        if too_many > 0:
            until(lambda: self.account.registry.stats().workers, len(self.workers) - too_many)
            there = {worker.thread for worker in list(self.account.registry.workers)}
            for worker in idle:
                if worker.thread not in there:
                    self.retire(worker)
            self.until_gone()
        while self.waiting and len(self.running) < workers:
            self.start_next([])

    def until_gone(self) -> None:
        """As many have left as are to, teardown and all."""
        until(lambda: self.account.registry.stats().workers, len(self.workers), self.account.registry.stats)

    # Scopes

    @is_open
    @precondition(lambda self: self.pool is not None and len(self.scopes) < 3)
    @rule(fail_fast=st.booleans(), timeout=st.sampled_from([None, None, 60, 0]))
    def open_scope(self, fail_fast: bool, timeout: float | None) -> None:
        self.scopes.append(ModelScope(self.pool.scope(fail_fast=fail_fast, timeout=timeout), fail_fast, timeout))

    @is_open
    @precondition(lambda self: self.scopes)
    @rule(which=st.integers(0, 2))
    def cancel_a_scope(self, which: int) -> None:
        scope = self.scopes[which % len(self.scopes)]
        scope.scope.cancel()
        self.cancel_scope(scope)

    @is_open
    @precondition(lambda self: self.scopes)
    @rule(which=st.integers(0, 2), raises=st.booleans())
    def close_scope(self, which: int, raises: bool) -> None:
        """The block ends when its last task has, not before; and with what is to be expected."""
        scope = self.scopes[which % len(self.scopes)]
        scope.error = BodyError() if raises else None
        scope.end.set()
        if raises:
            self.cancel_scope(scope)
            # What was waiting is cancelled before the others have ended.
            until(self.account.registry.backlog, len(self.waiting), self.account.registry.stats)
        moved = False  # else a worker may have torn down between two tasks, and the block ends before the second
        while busy := self.holds_up(scope):
            tasks = [*self.waiting, *(worker.task for worker in busy)]
            certain = not moved or any(task.scope is scope for task in tasks)
            assert scope.thread.is_alive() or not certain, f"the block ended before {busy[0].task.entry!r}"
            self.end(busy[0], "return")
            moved = True
        scope.thread.join(PATIENCE)
        assert not scope.thread.is_alive(), "the block does not end"
        for worker in self.workers:
            if worker.scoped.pop(scope, None) is not None:
                self.counts["torn_down"] += 1
        self.scopes.remove(scope)
        self.check_outcome(scope)
        scope.error = scope.outcome = None  # whose tracebacks refer to the pool

    def holds_up(self, scope: ModelScope) -> list[ModelWorker]:
        """The workers without whose tasks the block does not end."""
        if any(task.scope is scope for task in self.waiting):
            return self.running
        return [worker for worker in self.running if worker.task.scope is scope or scope in worker.scoped]

    def check_outcome(self, scope: ModelScope) -> None:
        outcome = scope.outcome
        if scope.error is not None:
            assert outcome is scope.error
            assert len(getattr(outcome, "__notes__", [])) == bool(scope.failures)
            return
        group: BaseException | None = outcome
        if scope.timed_out:
            assert type(outcome) is TimeoutError
            group = outcome.__cause__
        if scope.failures:
            assert isinstance(group, ExceptionGroup), f"{outcome!r}"
            assert set(group.exceptions) == set(scope.failures)
            assert len(group.exceptions) == len(scope.failures)
        else:
            assert group is None, f"{group!r}"

    # Ending the pool

    @is_open
    @precondition(lambda self: self.pool is not None and len(self.futures) >= LIVELY)
    @rule(cancels=st.booleans(), how=st.sampled_from(["goes on", "waits", "has no time"]))
    def shutdown(self, cancels: bool, how: str) -> None:
        if how == "goes on":
            self.pool.shutdown(wait=False, cancel_futures=cancels)
        elif how == "has no time" and self.running:
            with pytest.raises(TimeoutError, match="has not ended"):
                self.pool.shutdown(cancel_futures=cancels, timeout=0)
        else:
            self.wait_for_shutdown(cancels)
            return
        self.shuts(cancels)

    def wait_for_shutdown(self, cancels: bool) -> None:
        thread = threading.Thread(target=self.pool.shutdown, kwargs={"cancel_futures": cancels})
        thread.start()
        until(lambda: self.account.registry.close_reason is not None, True)
        self.shuts(cancels)
        until(lambda: self.account.registry.stats().cancelled, self.counts["cancelled"])
        while self.running:
            assert thread.is_alive(), "shutdown returned before the tasks have ended"
            self.end(self.running[0], "return")
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"shutdown does not return: {self.account.registry.stats()}"
        assert not any(worker.thread.is_alive() for worker in self.workers)

    @is_open
    @precondition(
        lambda self: self.pool is not None and not self.scopes and len(self.futures) >= LIVELY and not self.has_bound()
    )
    @rule()
    def drop(self) -> None:
        """Nobody refers to the pool any more."""
        self.pool = self.view = None
        gc.collect()
        until(lambda: self.account.registry.close_reason is not None, True)
        self.shuts(cancels=False)

    def has_bound(self) -> bool:
        """Whether a task refers to the pool, since its function, or the traceback of its error, does."""
        return any(
            task.entry_point == "bound" and task.phase in ("waiting", "running", "raised") for task in self.futures
        )

    def shuts(self, cancels: bool) -> None:
        self.shut = self.ends = True
        if cancels:
            for task in list(self.waiting):
                self.cancelled(task)
            for worker in self.workers:
                self.counts["cancelled"] += len(worker.broadcasts)
                worker.broadcasts = []
        for worker in list(self.workers):
            if worker.task is None:
                self.retire(worker)

    @is_open
    @precondition(lambda self: self.shut and not self.running and not self.scopes)
    @rule()
    def forget_pool(self) -> None:
        self.at_rest()
        assert self.account.registry.join(PATIENCE)
        self.ledger.close(self.account)
        self.pool = self.view = self.account = None
        self.futures = []

    # Looking

    @invariant()
    def at_rest(self) -> None:
        """What the pool says of itself is what the model says."""
        if self.account is None:
            return
        until(self.figures, self.expected_figures(), lambda: self.account.registry.stats())
        for task in self.futures:
            assert (task.future.running(), task.future.done(), task.future.cancelled()) == (
                task.phase == "running",
                task.phase in ("returned", "raised", "cancelled"),
                task.phase == "cancelled",
            ), f"{task.entry!r} should be {task.phase}"
            if task.future.done():
                assert len(task.entry.called) == task.entry.expected, f"{task.entry!r}"
        assert not self.ledger.problems, self.ledger.problems[0]

    def figures(self) -> dict[str, int]:
        stats = self.account.registry.stats()
        names = ("workers", "idle", "running", "backlog", "completed", "failed", "cancelled")
        figures = {name: getattr(stats, name) for name in names}
        figures |= {"made": stats.states_made, "torn_down": stats.states_torn_down}
        return figures | {"discarded": stats.states_discarded, "errors": stats.teardown_errors}

    def expected_figures(self) -> dict[str, int]:
        running = len(self.running)
        figures = {"workers": len(self.workers), "idle": len(self.workers) - running, "running": running}
        return figures | {"backlog": len(self.waiting), "errors": 0} | self.counts

    def teardown(self) -> None:
        try:
            if self.account is not None:
                self.finish()
            self.ledger.check()
        finally:
            self.let_go()

    def finish(self) -> None:
        while self.scopes:
            self.close_scope(0, raises=False)
        if self.pool is not None:
            self.wait_for_shutdown(cancels=False)
        self.release_all()
        self.at_rest()
        assert self.account.registry.join(PATIENCE)

    def let_go(self) -> None:
        """After a failure too: no thread is left behind."""
        for task in self.futures:
            task.gate.open.set()
        if self.account is not None:
            for scope in self.scopes:
                scope.end.set()
            if self.pool is not None:
                self.pool.shutdown(wait=False, cancel_futures=True)
            self.account.registry.join(PATIENCE)
            for scope in self.scopes:
                scope.thread.join(PATIENCE)
        self.pool = self.view = None
        self.futures = []


def test_one_driver() -> None:
    """Whatever one thread does with pools whose tasks wait for it: all is as the model says."""
    run_state_machine_as_test(PoolMachine, settings=profile(350, stateful_step_count=50))


# Many threads

index = st.integers(0, 20)
entry_points = st.sampled_from(["pool", "view", "bound", "other"])
kinds = st.sampled_from(["return", "raise", "raise", "discard", "nest", "nest twice", "nest in a scope", "two deep"])
submits = st.tuples(st.just("submit"), entry_points, kinds, st.integers(0, 2))
simple = st.one_of(
    submits,
    submits,
    st.tuples(st.just("cancel"), index),
    st.tuples(st.just("result"), index),
    st.tuples(st.just("add_callback"), index),
    st.tuples(
        st.just("map"), entry_points, st.sampled_from(["map", "map_unordered"]), st.integers(0, 6), st.integers(1, 3)
    ),
    st.tuples(st.just("broadcast"), entry_points),
    st.tuples(st.just("discard_all"), entry_points),
    st.tuples(st.just("resize"), st.integers(1, 4)),
    st.tuples(st.just("look")),
)
blocks = st.tuples(
    st.just("block"),
    st.lists(st.tuples(st.sampled_from(["pool", "view", "own"]), kinds), max_size=6),
    st.sampled_from(["ends", "raises", "cancels"]),
    st.booleans(),
)
operations = st.lists(st.one_of(simple, simple, simple, blocks), min_size=1, max_size=12)
endings = st.tuples(st.sampled_from(["shutdown", "cancels", "drop", "with others"]), st.booleans())


class Run:
    """One pool, and what several threads do with it."""

    def __init__(self, ledger: Ledger, parameters: dict[str, Any], plans: list[list[Any]]) -> None:
        workers, bound = parameters["workers"], parameters["bound"]
        self.ledger = ledger
        sizes = [size for plan in plans for operation, *args in plan if operation == "resize" for size in args]
        self.account = account = ledger.account(max([workers, *sizes]), bound, len(plans) + 1)
        hooks = parameters["hooks"]
        self.policy = None
        if hooks:
            self.policy = StatePolicy(
                check=account.check_hook, reset=account.reset_hook, discard_on=Boom, max_tasks=parameters["max_tasks"]
            )
        self.pool: Any = StatefulThreadPoolExecutor(
            workers,
            initializer=account.initializer(resets=hooks),
            finalizer=account.finalizer,
            policy=self.policy,
            max_backlog=bound,
            submit_timeout=parameters["submit_timeout"] if bound else None,
            idle_timeout=parameters["idle_timeout"],
            copy_context=parameters["copies"],
        )
        account.opened(self.pool)
        self.generator = account.initializer(generator=True)
        self.views = {"view": self.pool.with_state(), "other": self.pool.with_state(self.generator)}
        self.shut = False  # from the moment before
        self.errors: list[BaseException] = []

    def carry_out(self, plan: list[Any], barrier: threading.Barrier, ending: Any) -> None:
        try:
            barrier.wait(PATIENCE)
            futures: list[tuple[Any, str]] = []
            for operation, *args in plan:
                try:
                    getattr(self, operation)(futures, *args)
                except BacklogFull:
                    assert self.account.registry.submit_timeout == 0
                except RuntimeError as exc:
                    if not self.shut:
                        raise
                    assert "after shutdown" in str(exc)
            if ending is not None:
                self.end(*ending)
            for future, kind in futures:
                self.check_result(future, kind)
        except BaseException as exc:
            self.errors.append(exc)

    # Operations, each in any of the threads

    def submit(self, futures: list[Any], entry_point: str, kind: str, callbacks: int) -> None:
        submit = self.submit_of(entry_point)
        futures.append(
            (
                self.account.submit(submit, self.body(kind, entry_point), entry_point=entry_point, callbacks=callbacks),
                kind,
            )
        )
        self.account.look()

    def submit_of(self, entry_point: str) -> Callable[..., Any]:
        pool = self.pool
        if entry_point == "bound":
            return lambda task: pool.submit(self.views["view"].bind(task))
        return pool.submit if entry_point == "pool" else self.views[entry_point].submit

    def body(self, kind: str, entry_point: str) -> Callable[[Task], Any]:
        submit = self.submit_of("view" if entry_point == "bound" else entry_point)
        match kind:
            case "raise":
                return raising(Boom())
            case "discard":
                view = self.views.get("view" if entry_point == "bound" else entry_point)
                return returning(None) if view is None else discarding(view.discard)
            case "nest" | "nest twice":
                return repeating(1 + (kind == "nest twice"), nesting(submit, returning(1)))
            case "two deep":
                return nesting(submit, nesting(submit, raising(Boom())))
            case "nest in a scope":
                return lambda task: self.block_in_task(task, submit)
        return returning(kind)

    def block_in_task(self, task: Task, submit: Callable[..., Any]) -> None:
        with self.pool.scope() as scope:
            done = []
            try:
                done = [
                    task.account.submit(entry_point.submit, returning(1), entry_point="scope in task")
                    for entry_point in (scope, scope.with_state(), scope.with_state(self.generator))
                ]
            except RuntimeError:
                assert self.shut
        assert all(future.done() for future in done)

    def cancel(self, futures: list[Any], which: int) -> None:
        if futures:
            future, _ = futures[which % len(futures)]
            cancelled = future.cancel()
            assert cancelled is future.cancelled()
            assert cancelled is future.cancel()

    def result(self, futures: list[Any], which: int) -> None:
        if futures:
            self.check_result(*futures[which % len(futures)])

    def check_result(self, future: Any, kind: str) -> None:
        try:
            result = future.result(PATIENCE)
            assert kind != "raise"
            assert result == kind or kind != "return"
        except CancelledError:
            assert future.cancelled()
        except Boom:
            assert kind == "raise"

    def add_callback(self, futures: list[Any], which: int) -> None:
        if futures:
            future, _ = futures[which % len(futures)]
            called: list[Any] = []
            done = future.done()
            future.add_done_callback(called.append)
            assert called == [future] or not done
            wait([future], PATIENCE)
            assert future.done()

    def map(self, futures: list[Any], entry_point: str, name: str, number: int, chunksize: int) -> None:
        mapper = getattr(self.pool if entry_point in ("pool", "bound") else self.views[entry_point], name)
        bodies = [returning(n) for n in range(number)]
        try:
            results = list(self.account.map(mapper, bodies, chunksize=chunksize, timeout=PATIENCE))
        except CancelledError:
            assert self.shut
            return
        assert (results if name == "map" else sorted(results)) == list(range(number))

    def broadcast(self, futures: list[Any], entry_point: str) -> None:
        broadcast = (self.pool if entry_point in ("pool", "bound") else self.views[entry_point]).broadcast
        calls = self.account.broadcast(broadcast, returning("return"))
        assert len(calls) <= self.account.workers
        futures.extend((call, "return") for call in calls)

    def discard_all(self, futures: list[Any], entry_point: str) -> None:
        self.views.get(entry_point, self.views["view"]).discard_all()

    def resize(self, futures: list[Any], workers: int) -> None:
        self.pool.resize(workers)

    def look(self, futures: list[Any]) -> None:
        self.account.look()
        stats = self.pool.stats()
        assert stats.workers <= self.account.workers, f"{stats}"
        assert stats.idle <= self.account.workers, f"{stats}"
        repr(self.pool)

    def block(self, futures: list[Any], parts: list[tuple[str, str]], how: str, fail_fast: bool) -> None:
        """A scope: what was submitted in it has ended after it, and what failed is raised."""
        inside: list[tuple[Any, str]] = []
        error = BodyError()
        raised: BaseException | None = None
        try:
            with self.pool.scope(fail_fast=fail_fast) as scope:
                self.fill(scope, parts, inside)
                if how == "cancels":
                    scope.cancel()
                if how == "raises":
                    raise error
        except (BodyError, ExceptionGroup) as exc:
            raised = exc
        assert all(future.done() for future, _ in inside), f"{inside} after the end of their scope"
        failed = {future._exception for future, _ in inside if not future.cancelled()} - {None}
        if how == "raises":
            assert raised is error
        elif failed:
            assert isinstance(raised, ExceptionGroup)
            assert set(raised.exceptions) == failed
        else:
            assert raised is None

    def fill(self, scope: Any, parts: list[tuple[str, str]], inside: list[tuple[Any, str]]) -> None:
        for entry_point, kind in parts:
            view = {"pool": lambda: scope, "view": scope.with_state, "own": lambda: scope.with_state(self.generator)}
            body = raising(Boom()) if kind == "raise" else returning(kind)
            if kind == "nest":
                body = nesting(scope.submit, returning(1))
            try:
                future = self.account.submit(
                    view[entry_point]().submit, body, entry_point=f"scope {entry_point}", takes_error=False
                )
            except RuntimeError as exc:
                assert self.shut or isinstance(exc, BacklogFull) or scope.cancelled
            else:
                inside.append((future, kind))

    def end(self, how: str, waits: bool) -> None:
        """By one of the threads, while the others go on."""
        if how == "with others":
            self.shut = True
            self.pool.shutdown(waits)
        elif how == "cancels":
            self.shut = True
            self.pool.shutdown(waits, cancel_futures=True)


@profile(300)
@given(
    parameters=st.fixed_dictionaries(
        {
            "workers": st.integers(1, 4),
            "bound": st.sampled_from([None, 1, 3]),
            "submit_timeout": st.sampled_from([None, None, 0]),
            "idle_timeout": st.sampled_from([None, 0]),
            "hooks": st.booleans(),
            "max_tasks": st.sampled_from([None, 1, 3]),
            "copies": st.booleans(),
        }
    ),
    plans=st.lists(operations, min_size=1, max_size=4),
    ending=endings,
)
def test_threads(parameters: dict[str, Any], plans: list[list[Any]], ending: tuple[str, bool]) -> None:
    """Whatever several threads do with one pool: everything is accounted for at the end."""
    ledger = Ledger()
    run = Run(ledger, parameters, plans)
    barrier = threading.Barrier(len(plans))
    threads = [
        threading.Thread(target=run.carry_out, args=(plan, barrier, None if number else ending))
        for number, plan in enumerate(plans)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), f"hangs: {run.account.registry.stats()}"
    account, pool = run.account, run.pool
    errors = run.errors
    if ending[0] == "drop":
        del run
        pool = None
        gc.collect()
    else:
        pool.shutdown(timeout=PATIENCE)
    for error in errors:
        raise error
    finish(ledger, account)


def finish(ledger: Ledger, account: Account) -> None:

    def refused() -> bool:
        gc.collect()  # again: a worker may not have let go yet of what is in a cycle of the test's own with the pool
        return account.registry.close_reason is not None

    until(refused, True)
    assert account.registry.join(PATIENCE), f"{account.registry.stats()}"
    note(str(ledger.counts))
    ledger.check()
