"""Everything at random, for as long as is asked.

    python tests/soak/soak.py --minutes 30 [--seed N] [--jobs 2]

Each round is an interpreter of its own. It makes one pool, and several threads put it through a plan: a list of
operations for each, drawn from the seed, while SIGINT comes at random in the main thread. Then the pool ends in one of
many ways, and the round accounts for every task, callback, state and place.

A plan is written to a file before it is carried out, and removed when the round has gone well. After a failure:

    python tests/soak/soak.py --replay FILE [--times N]

does the same operations again. Which thread comes first is up to the interpreter, so a race may take many times.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import faulthandler
import gc
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import CancelledError, Future, as_completed, wait
from concurrent.futures.thread import BrokenThreadPool
from contextlib import suppress
from functools import partial
from itertools import count, islice
from pathlib import Path
from types import FrameType
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from inside import current, inside

from stateful_executor import BacklogFull, Scope, StatefulThreadPoolExecutor, StatePolicy, StateView

PATIENCE = 50  # seconds, for what takes one or two unless something hangs
Pool = StatefulThreadPoolExecutor[Any]
EntryPoint = Pool | Scope[Any]
Plan = dict[str, Any]
Operation = tuple[str, Any]

# Plans

KINDS = ("returns", "fails", "waits", "waits in a scope", "discards", "submits", "looks", "dies")
ENTRY_POINTS = ("pool", "own", "plain", "generator", "careful", "fragile", "bound")
WEIGHTS = {
    "submit": 30,
    "result": 8,
    "cancel": 6,
    "scope": 8,
    "map": 4,
    "wait": 2,
    "call_back": 4,
    "forget": 4,
    "broadcast": 2,
    "discard_all": 2,
    "resize": 1,
    "stats": 2,
    "collect": 1,
    "asubmit": 1,
    "fork": 0.1,
}
ENDINGS = ("with", "shutdown", "cancel", "drop", "exit", "shutdown meanwhile", "timeout")


def draw_plan(seed: str) -> Plan:
    """What one round does."""
    dice = random.Random(seed)  # noqa: S311  # to be drawn again from the same seed
    return {
        "seed": seed,
        "switch_interval": dice.choice((5e-3, 1e-4, 1e-6)),
        "max_workers": dice.choice((1, 1, 2, 3, 8)),
        "max_backlog": dice.choice((None, 1, 2, 10)),
        "submit_timeout": dice.choice((None, None, 0, 0.001)),
        "idle_timeout": dice.choice((None, None, 0, 0.0005)),
        "copy_context": dice.random() < 0.2,
        "breaks": dice.random() < 0.03,
        "interrupts": dice.choice((0, 10, 100)),
        "ending": dice.choice(ENDINGS),
        "threads": [
            [draw_operation(dice) for _ in range(dice.randrange(20, 200))] for _ in range(dice.choice((1, 2, 4)))
        ],
    }


def draw_operation(dice: random.Random, *, in_scope: bool = False) -> Operation:
    """A method of `Hand`, without its `do_`, and what it takes."""
    name = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    if name == "scope":
        return ("submit", draw_task(dice)) if in_scope else (name, draw_scope(dice))
    draw = {"submit": draw_task, "asubmit": draw_task, "map": draw_map}.get(name, random.Random.random)
    return name, draw(dice)


def draw_task(dice: random.Random) -> Plan:
    """How a task is submitted, and what it does."""
    return {"entry_point": dice.choice(ENTRY_POINTS), "kind": dice.choice(KINDS), "depth": dice.choice((1, 1, 2, 5))}


def draw_scope(dice: random.Random) -> Plan:
    """A scope, and the operations in its block."""
    return {
        "fail_fast": dice.random() < 0.2,
        "timeout": dice.choice((None, None, None, 0, 0.001)),
        "raises": dice.random() < 0.2,
        "cancels": dice.random() < 0.2,
        "body": [draw_operation(dice, in_scope=True) for _ in range(dice.randrange(6))],
    }


def draw_map(dice: random.Random) -> Plan:
    """A map of some kind, perhaps left in the middle."""
    return {
        "unordered": dice.random() < 0.5,
        "items": dice.randrange(12),
        "chunksize": dice.choice((1, 1, 3)),
        "buffersize": dice.choice((None, 1, 3)),
        "take": dice.choice((0, 3, 100, 100)),
    }


# The account


class Task:
    """What becomes of one task. Its worker writes `begun` and `ended`; `calls` counts callbacks, in one step of C."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.callbacks = 0
        self.calls = count()
        self.future: Future[Any] | None = None  # None: the submit raised, or the round has forgotten it


class Held:
    """A state."""

    def __init__(self, run: Round) -> None:
        self.run = run
        self.thread = threading.get_ident()
        self.free = [None]
        self.there = [None]

    def __enter__(self) -> Self:
        try:
            del self.free[0]
        except IndexError:
            self.run.fault("a state was lent twice at once")
        if self.thread != threading.get_ident():
            self.run.fault("a state was lent in another thread")
        if not self.there:
            self.run.fault("a state was lent after its teardown")
        return self

    def __exit__(self, *_: object) -> None:
        self.free.append(None)

    def tear_down(self) -> None:
        """The finalizer."""
        try:
            del self.there[0]
        except IndexError:
            self.run.fault("a state was torn down twice")
        if self.thread != threading.get_ident():
            self.run.fault("a state was torn down in another thread")
        if not self.free:
            self.run.fault("a state was torn down while it was lent")
        self.run.torn_down.append(None)


class Fragile(Exception):
    """What initializers and checks raise at random."""


class Meant(Exception):
    """What tasks and bodies raise."""


class Dies:
    """An argument whose end, wherever a collection starts, uses the pool."""

    def __init__(self, run: Round) -> None:
        self.run = run
        self.me = self  # only a collection ends it

    def __del__(self) -> None:
        pool = self.run.pool
        if pool is None:
            return
        pool.stats()
        if current.worker is not None or self.run.plan["max_backlog"] is None:  # else it might block, anywhere
            with suppress(RuntimeError):
                pool.submit(int)


# Rounds


class Round:
    """One pool, and all that happens to it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.faults: list[str] = []
        self.tasks: list[Task] = []
        self.made: list[None] = []
        self.torn_down: list[None] = []
        self.counts: Counter[str] = Counter()  # by the main thread, or when the others have ended
        self.is_open = True
        self.armed = 0  # how many more SIGINTs are to raise KeyboardInterrupt
        self.throws = count()
        self.policy = StatePolicy[Held](check=self.check, reset=self.check, discard_on=Meant, max_tasks=7, max_age=0.01)
        self.pool: Pool | None = StatefulThreadPoolExecutor(
            plan["max_workers"],
            "soak",
            self.make_none if plan["breaks"] else self.make,
            finalizer=Held.tear_down,
            max_backlog=plan["max_backlog"],
            submit_timeout=plan["submit_timeout"] if plan["max_backlog"] else None,
            idle_timeout=plan["idle_timeout"],
            copy_context=plan["copy_context"],
        )
        self.registry = inside(self.pool).outlive_pool()

    def fault(self, text: str) -> None:
        """Something is not as promised."""
        self.faults.append(f"{text} ({threading.current_thread().name})")

    def errors_are_due(self) -> bool:
        """Whether a entry point may refuse, and a task fail, without having a reason of its own."""
        return self.plan["breaks"] or not self.is_open

    # States

    def make(self) -> Held:
        held = Held(self)
        self.made.append(None)
        return held

    def make_none(self) -> Held:
        raise Fragile

    def make_generator(self) -> Generator[Held, None, None]:
        held = self.make()
        try:
            yield held
        finally:
            held.tear_down()

    def make_fragile(self) -> Held:
        if next(self.throws) % 5 == 0:
            raise Fragile
        return self.make()

    def check(self, held: Held) -> None:
        if next(self.throws) % 11 == 0:
            raise Fragile

    def view(self, entry_point: EntryPoint, name: str) -> StateView[Held]:
        """One of several kinds of state."""
        if name == "own":
            return entry_point.with_state()
        if name == "generator":
            return entry_point.with_state(self.make_generator)
        if name == "careful":
            return entry_point.with_state(self.make, finalizer=Held.tear_down, policy=self.policy)
        if name == "fragile":
            return entry_point.with_state(self.make_fragile, finalizer=Held.tear_down)
        return entry_point.with_state(self.make, finalizer=Held.tear_down)

    # Tasks

    def submit(self, entry_point: EntryPoint, how: Plan) -> Task:
        """Submit a task as `how` says."""
        task = Task()
        self.tasks.append(task)
        args = (task, how["kind"], how["depth"], Dies(self) if how["kind"] == "dies" else None)
        if how["entry_point"] == "pool":
            task.future = entry_point.submit(self.run_task, *args)
        elif how["entry_point"] == "bound":
            task.future = entry_point.submit(self.view(entry_point, "plain").bind(self.run_with_state), *args)
        else:
            task.future = self.view(entry_point, how["entry_point"]).submit(self.run_with_state, *args)
        return task

    def run_with_state(self, held: Held, *args: Any) -> None:
        """A task that is lent a state."""
        with held:
            self.run_task(*args)

    def run_task(self, task: Task, kind: str, depth: int, thing: object) -> None:
        """A task."""
        task.begun += 1
        try:
            if kind == "fails":
                raise Meant
            pool = self.pool
            if pool is not None and depth:
                self.use(pool, kind, depth - 1)
        except TimeoutError:
            self.fault(f"a task that {kind} hangs")
        except (RuntimeError, CancelledError) as exc:
            if not self.errors_are_due():
                self.fault(f"a task that {kind} got {exc!r}")
        finally:
            task.ended += 1

    def use(self, pool: Pool, kind: str, depth: int) -> None:
        """What a task does with its own pool."""
        inner = {"entry_point": ("pool", "plain", "own")[depth % 3], "kind": kind, "depth": depth}
        if kind == "waits":
            task = self.submit(pool, inner)
            assert task.future is not None
            task.future.result(PATIENCE)
        elif kind == "waits in a scope":
            with pool.scope() as scope:
                self.submit(scope, inner)
                self.submit(scope, {"entry_point": "generator", "kind": "returns", "depth": 0})
        elif kind == "submits":
            self.submit(pool, inner)
        elif kind == "looks":
            pool.stats()
        elif kind == "discards":
            view = self.view(pool, "plain")
            with suppress(RuntimeError):  # it may hold another view's state, or none
                view.discard()

    # The end

    def account(self) -> None:
        """Whether all is as promised, now that the pool has ended."""
        for number, task in enumerate(self.tasks):
            self.account_for(number, task)
        stats, registry = self.registry.stats(), self.registry
        if not len(self.made) == len(self.torn_down) == stats.states_made == stats.states_torn_down:
            self.fault(f"{len(self.made)} states made, {len(self.torn_down)} torn down, counted: {stats}")
        if stats.submitted != stats.completed + stats.failed + stats.cancelled:
            self.fault(f"a task is not accounted for: {stats}")
        if stats.running or stats.backlog or stats.blocked_submitters or stats.workers or stats.idle:
            self.fault(f"something is left: {stats}")
        if registry.free_permits is not None and registry.permits_left() != registry.max_backlog:
            self.fault(f"a permit is lost: {registry.permits_left()} are left of {registry.max_backlog}")
        self.counts.update(
            tasks=stats.submitted,
            failed=stats.failed,
            cancelled=stats.cancelled,
            states=stats.states_made,
            discarded=stats.states_discarded,
            callbacks=sum(task.callbacks for task in self.tasks),
        )

    def account_for(self, number: int, task: Task) -> None:
        """Whether it began at most once, and its callbacks were called once."""
        if task.begun > 1 or task.begun != task.ended:
            self.fault(f"task {number} began {task.begun} times and ended {task.ended} times")
        if (calls := next(task.calls)) != task.callbacks:
            self.fault(f"task {number} had {task.callbacks} callbacks, and {calls} were called")
        if task.future is not None:
            if task.future.done():
                self.account_for_outcome(number, task, task.future)
            else:
                self.fault(f"task {number} is stranded: {task.future}")

    def account_for_outcome(self, number: int, task: Task, future: Future[Any]) -> None:
        """Whether the future says what happened."""
        if future.cancelled():
            if task.begun:
                self.fault(f"task {number} was cancelled and yet began")
        elif not task.begun and not isinstance(future.exception(), (RuntimeError, Fragile)):
            self.fault(f"task {number} ended without having begun: {future}, {future.exception()!r}")


class Hand:
    """One thread of a round, and the tasks it has in hand."""

    def __init__(self, run: Round, operations: list[Operation], *, is_main: bool) -> None:
        self.run = run
        self.operations = operations
        self.at = 0
        self.interrupted = is_main and run.plan["interrupts"] > 0
        self.mine: list[Task] = []
        self.counts: Counter[str] = Counter()

    def work(self) -> None:
        """Carry out the plan, or go on with it. SIGINT may end any operation in the main thread."""
        while self.at < len(self.operations):
            operation = self.operations[self.at]
            self.at += 1
            try:
                if self.interrupted:
                    self.run.armed = 2
                self.carry_out(operation)
            except KeyboardInterrupt:
                self.counts["interrupted"] += 1
            except Exception as exc:
                self.run.fault(f"{operation}: {exc!r}")

    def carry_out(self, operation: Operation, scope: Scope[Any] | None = None) -> None:
        """One operation, on the pool or on a scope of it."""
        name, argument = operation
        pool = self.run.pool
        assert pool is not None
        try:
            getattr(self, f"do_{name}")(scope or pool, argument)
            self.counts[name] += 1
        except BacklogFull:
            self.counts["refused"] += 1
        except (RuntimeError, CancelledError) as exc:
            if scope is None and not self.run.errors_are_due():  # a scope may have ended, by a failure or a deadline
                self.run.fault(f"{operation}: {exc!r}")

    def some(self, which: float) -> Task:
        """A task of this thread's, or one that never was."""
        return self.mine[int(which * len(self.mine))] if self.mine else Task()

    def do_submit(self, entry_point: EntryPoint, how: Plan) -> None:
        self.mine.append(self.run.submit(entry_point, how))

    def do_result(self, _: EntryPoint, which: float) -> None:
        future = self.some(which).future
        if future is not None:
            try:
                future.exception(PATIENCE if which < 0.8 else 0.0001)
            except TimeoutError:
                if which < 0.8:
                    self.run.fault("a result never came")
            except CancelledError:
                pass

    def do_cancel(self, _: EntryPoint, which: float) -> None:
        task = self.some(which)
        if task.future is not None and task.future.cancel() and task.begun:
            self.run.fault("cancel() said yes, and the task began")

    def do_call_back(self, _: EntryPoint, which: float) -> None:
        task = self.some(which)
        if task.future is not None and not self.interrupted:  # then it would not be known whether it was added
            task.callbacks += 1
            task.future.add_done_callback(partial(next, task.calls))

    def do_forget(self, _: EntryPoint, which: float) -> None:
        """Look at the outcome, and drop the futures; the errors of some are lost."""
        number = int(which * len(self.mine))
        gone = self.mine[:number]
        del self.mine[:number]
        for task in gone:
            if task.future is not None and task.future.done():
                self.run.account_for_outcome(-1, task, task.future)
                task.future = None

    def do_wait(self, _: EntryPoint, which: float) -> None:
        futures = [task.future for task in self.mine[-20:] if task.future is not None]
        if which < 0.5:
            if wait(futures, PATIENCE).not_done:
                self.run.fault("wait() waits in vain")
        elif len(list(as_completed(futures, PATIENCE))) != len(set(futures)):
            self.run.fault("as_completed() does not yield all")

    def do_map(self, entry_point: EntryPoint, how: Plan) -> None:
        items, take = how["items"], how["take"]
        function = entry_point.map_unordered if how["unordered"] else entry_point.map
        results = function(
            int, range(items), timeout=PATIENCE, chunksize=how["chunksize"], buffersize=how["buffersize"]
        )
        try:
            taken = list(islice(results, take))
        finally:
            results.close()  # type: ignore[attr-defined]  # a generator
        if len(set(taken)) != min(take, items) or (not how["unordered"] and taken != sorted(taken)):
            self.run.fault(f"{how} gave {taken}")

    def do_broadcast(self, entry_point: EntryPoint, which: float) -> None:
        view = self.run.view(entry_point, "plain" if which < 0.5 else "careful")
        for future in [*self.run.pool.broadcast(int), *view.broadcast(_use)]:  # type: ignore[union-attr]
            with suppress(Fragile, RuntimeError, CancelledError):
                future.result(PATIENCE)

    def do_discard_all(self, entry_point: EntryPoint, which: float) -> None:
        self.run.view(entry_point, ENTRY_POINTS[1 + int(which * (len(ENTRY_POINTS) - 1))]).discard_all()

    def do_resize(self, _: EntryPoint, which: float) -> None:
        self.run.pool.resize(1 + int(which * 8))  # type: ignore[union-attr]

    def do_stats(self, _: EntryPoint, __: float) -> None:
        stats, bound = self.run.pool.stats(), self.run.plan["max_backlog"]  # type: ignore[union-attr]
        if bound is not None and stats.backlog > bound:
            self.run.fault(f"the bound of {bound} is exceeded: {stats}")

    def do_collect(self, _: EntryPoint, __: float) -> None:
        gc.collect()

    def do_asubmit(self, entry_point: EntryPoint, how: Plan) -> None:
        if not self.interrupted:  # what asyncio leaves undone is not under test
            asyncio.run(self.submit_some(entry_point, how["depth"]))

    async def submit_some(self, entry_point: EntryPoint, number: int) -> None:
        """Await tasks, one after the other."""
        for _ in range(number):
            task = Task()
            self.run.tasks.append(task)
            future = await entry_point.asubmit(self.run.run_task, task, "returns", 0, None)
            with suppress(asyncio.CancelledError):
                await future
                if not task.ended:
                    self.run.fault("a task has been awaited, and has not ended")

    def do_fork(self, _: EntryPoint, __: float) -> None:
        if self.interrupted or not hasattr(os, "fork"):
            return
        pid = os.fork()
        if pid == 0:
            signal.alarm(PATIENCE // 2)
            try:
                self.run.pool.submit(int)  # type: ignore[union-attr]
            except BrokenThreadPool:
                os._exit(0)
            finally:
                os._exit(1)
        if status := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            self.run.fault(f"a forked child ended with {status}")

    def do_scope(self, entry_point: EntryPoint, how: Plan) -> None:
        assert isinstance(entry_point, StatefulThreadPoolExecutor)
        scope = entry_point.scope(fail_fast=how["fail_fast"], timeout=how["timeout"])
        try:
            with scope:
                self.fill(scope, how)
        except (Meant, TimeoutError, ExceptionGroup):
            pass
        except KeyboardInterrupt:
            if inside(scope).entered and not inside(scope).closed:
                self.counts["scopes left in Python's own window"] += 1  # see `Scope`
            raise
        finally:
            if inside(scope).closed and inside(scope).pending:
                self.run.fault("a scope has ended before its tasks")

    def fill(self, scope: Scope[Any], how: Plan) -> None:
        """The block of a scope."""
        for operation in how["body"]:
            self.carry_out(operation, scope)
        if how["cancels"]:
            scope.cancel()
        if how["raises"]:
            raise Meant


def _use(held: Held) -> None:
    with held:
        pass


def interrupt_at_random(run: Round, stop: threading.Event) -> None:
    """Send SIGINT to this process, as often as the plan says, or until `stop`."""
    dice = random.Random(run.plan["seed"])  # noqa: S311
    for _ in range(run.plan["interrupts"]):
        if stop.wait(dice.random() * 0.005):
            return
        os.kill(os.getpid(), signal.SIGINT)


def carry_out(plan: Plan) -> Round:
    """Everything in the plan, but for the end of the pool."""
    sys.setswitchinterval(plan["switch_interval"])
    run = Round(plan)

    def on_sigint(_: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code is not Hand.carry_out.__code__:
            frame = frame.f_back
        if frame is not None and run.armed:  # in the middle of an operation
            run.armed -= 1
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, on_sigint)
    first, *others = [Hand(run, plan["threads"][n], is_main=n == 0) for n in range(len(plan["threads"]))]
    stop = threading.Event()
    threads = [threading.Thread(target=hand.work, name=f"hand {n}") for n, hand in enumerate(others, 1)]
    for thread in threads:
        thread.start()
    sender = threading.Thread(target=interrupt_at_random, args=(run, stop), name="sender")
    sender.start()
    first.work()
    if plan["ending"] == "shutdown meanwhile":
        run.is_open = False
        run.pool.shutdown(wait=False)  # type: ignore[union-attr]
    stop.set()
    for thread in (*threads, sender):
        join(thread, run)
    run.is_open = False
    for hand in (first, *others):
        run.counts.update(hand.counts)
    return run


def join(thread: threading.Thread, run: Round) -> None:
    thread.join(PATIENCE)
    if thread.is_alive():
        run.fault(f"{thread.name} hangs")


def end(run: Round) -> None:
    """End the pool as the plan says."""
    pool, run.pool = run.pool, None
    assert pool is not None
    match run.plan["ending"]:
        case "with":
            with pool:
                pass
        case "cancel":
            pool.shutdown(cancel_futures=True)
        case "timeout":
            with suppress(TimeoutError):
                pool.shutdown(timeout=0)
            pool.shutdown(timeout=PATIENCE)
        case "drop":
            del pool
            gc.collect()
        case "exit":
            run.pool = pool
        case _:
            pool.shutdown()


def replay(path: Path) -> None:
    """One round in this process; its account is printed when the interpreter has joined the pool's workers."""
    faulthandler.dump_traceback_later(PATIENCE + 5, exit=True)
    warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
    run = carry_out(json.loads(path.read_text(encoding="utf-8")))

    def close() -> None:
        run.account()
        print(json.dumps({"faults": run.faults[:20], "counts": run.counts}), flush=True)
        faulthandler.cancel_dump_traceback_later()
        if run.faults:
            os._exit(1)

    atexit.register(close)
    end(run)


# The soak


def one_round(path: Path) -> tuple[Path, Counter[str], str]:
    """Run the plan in `path` in an interpreter of its own; what it counted, and what went wrong."""
    command = [sys.executable, __file__, "--replay", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return path, Counter(), "it did not end"
    try:
        report = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return path, Counter(), f"exit code {done.returncode}\n{done.stderr[-8000:]}"
    wrong = "\n".join(report["faults"])
    if done.returncode or "a bug in stateful_executor" in done.stderr:
        wrong += f"\nexit code {done.returncode}\n{done.stderr[-8000:]}"
    return path, Counter(report["counts"]), wrong


def plans(seed: int, folder: Path, give_up: float) -> Iterator[Path]:
    """Files with plans, until it is time."""
    for number in count():
        if time.monotonic() > give_up:
            return
        path = folder / f"{seed}-{number}.json"
        path.write_text(json.dumps(draw_plan(f"{seed}/{number}")), encoding="utf-8")
        yield path


def soak(minutes: float, seed: int, jobs: int) -> int:
    """Rounds for so many minutes, or until one fails."""
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"seed {seed}, {minutes} minutes, {jobs} rounds at a time, plans in {folder}", flush=True)
    print(sys.version, flush=True)
    total: Counter[str] = Counter()
    began = time.monotonic()
    with StatefulThreadPoolExecutor(jobs) as pool:
        paths = plans(seed, folder, began + minutes * 60)
        for path, counts, wrong in pool.map_unordered(one_round, paths, buffersize=jobs):
            if wrong:
                print(f"FAILED: {path}\n{wrong}\nafter {dict(total)}", flush=True)
                return 1
            path.unlink()
            total += counts
            total["rounds"] += 1
            if total["rounds"] % 500 == 0:
                print(f"{(time.monotonic() - began) / 60:.1f} minutes: {dict(total)}", flush=True)
    folder.rmdir()
    print(f"{(time.monotonic() - began) / 60:.1f} minutes without a fault:")
    for name, number in total.most_common():
        print(f"{number:12,}  {name}")
    return 0


def main() -> int:
    """Soak, or replay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=None, help="as printed by an earlier run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="rounds at a time")
    parser.add_argument("--replay", type=Path, help="the plan of one round")
    parser.add_argument("--times", type=int, default=1, help="replay it so often, each in its own interpreter")
    options = parser.parse_args()
    if options.replay is not None and options.times == 1:
        replay(options.replay)
        return 0
    if options.replay is not None:
        for _ in range(options.times):
            if wrong := one_round(options.replay)[2]:
                print(wrong)
                return 1
        return 0
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    return soak(options.minutes, seed, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
