"""Staged interleavings of waits: who is woken, or gives up, at the very moment at which the other side acts."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, InvalidStateError, wait
from functools import partial
from typing import Any

import pytest
import threads
from inside import AsTheyFinish, Deadline, Parker, TearDown, Worker, find_binding, hook, inside, parts
from threads import run_in_thread

from stateful_executor import StatefulThreadPoolExecutor

Pool = StatefulThreadPoolExecutor[None]
until = partial(threads.until, patience=10)


def busy(pool: Pool) -> Callable[[], None]:
    """Keep one worker busy until what this returns is called."""
    started, go_on = threading.Event(), threading.Event()
    pool.submit(lambda: (started.set(), go_on.wait(20)))
    assert started.wait(10)
    return go_on.set


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """Waits with a timeout say that it has passed, right after they have called what is in this list."""
    lies: list[Callable[[], object]] = []
    true_park = Parker.park

    def lying_park(self: Parker, timeout: float | None = None) -> bool:
        if timeout is None or not lies:
            return true_park(self, timeout)
        lies.pop(0)()
        return False

    monkeypatch.setattr(Parker, "park", lying_park)
    return lies


class TestTimeoutAtTheVeryMoment:
    """The time is up when what was waited for comes: it is either taken, or left to the next one."""

    def test_result(self, lying: list[Callable[[], object]]) -> None:
        """The task ends while the wait gives up: its result is returned."""
        with StatefulThreadPoolExecutor(1) as pool:
            go_on = threading.Event()
            future = pool.submit(lambda: go_on.wait(20))
            lying.append(lambda: (go_on.set(), until(future.done)))
            assert future.result(10) is True
            assert not inside(future).watchers

    def test_shutdown(self, lying: list[Callable[[], object]]) -> None:
        """The last workers end while `shutdown` gives up: they have ended in time, and nobody waits in vain."""
        pool = StatefulThreadPoolExecutor(2)
        free = [busy(pool), busy(pool)]
        workers = list(inside(pool).workers)
        lying.append(lambda: ([end() for end in free], until(lambda: all(worker.ended for worker in workers))))
        pool.shutdown(timeout=10)
        assert not inside(pool).watchers

    def test_shutdown_leaves_no_waiter_behind(self, lying: list[Callable[[], object]]) -> None:
        """One that really gave up is forgotten."""
        pool = StatefulThreadPoolExecutor(2)
        free = [busy(pool), busy(pool)]
        for _ in range(3):
            lying.append(lambda: None)
            with pytest.raises(TimeoutError, match="has not ended"):
                pool.shutdown(timeout=10)
        assert not inside(pool).watchers
        for end in free:
            end()
        pool.shutdown(timeout=10)

    def test_first_of_two_blocked_submits(self, lying: list[Callable[[], object]]) -> None:
        """The place is meant for the first in line, whose time is up in that moment: it takes it, not the second."""
        with StatefulThreadPoolExecutor(1, max_backlog=1, submit_timeout=20) as pool:
            free = busy(pool)
            waits = pool.submit(int)
            second: list[Any] = []
            thread = threading.Thread(target=lambda: second.append(pool.submit(int)))

            def meanwhile() -> None:
                thread.start()
                until(lambda: len(inside(pool).waiters) == 2)
                waits.cancel()  # frees the place, and wakes the first in line

            lying.append(meanwhile)
            first = pool.submit(int)
            free()
            assert first.result(10) == 0
            thread.join(10)
            assert second[0].result(10) == 0
            assert not inside(pool).waiters

    def test_map_unordered(self, lying: list[Callable[[], object]]) -> None:
        """The task ends while the iterator gives up: its result comes next."""
        with StatefulThreadPoolExecutor(1) as pool:
            go_on = threading.Event()
            future = pool.submit(lambda: go_on.wait(20))
            parts = AsTheyFinish()
            parts.add((future, None))
            lying.append(lambda: (go_on.set(), until(lambda: inside(parts).arrived)))
            assert parts.next(Deadline(20)) == (future, None)

    def test_map_unordered_woken_once(self) -> None:
        """While one who ended a task is about to wake the iterator, another one ends, and leaves that to the first."""
        go_on = [threading.Event(), threading.Event()]

        class Waker(Parker):
            def wake(self, _: object = None) -> None:
                assert inside(ended).sleeper is None
                go_on[1].set()
                until(lambda: len(inside(ended).arrived) == 2)
                super().wake()

        with StatefulThreadPoolExecutor(2) as pool:
            results: Any = pool.map_unordered(lambda event: event.wait(20), go_on)
            ended = results.gi_frame.f_locals["parts"]
            found: list[bool] = []

            def iterate() -> None:
                inside(ended).parker = Waker()
                found.extend(results)

            thread = threading.Thread(target=iterate)
            thread.start()
            until(lambda: inside(ended).sleeper is not None)
            go_on[0].set()
            thread.join(10)
            assert found == [True, True]

    def test_map_unordered_told_again(self) -> None:
        """Who wakes the iterator is cut off before it does, and tells once more."""
        go_on = threading.Event()
        cut_off = [KeyboardInterrupt]

        class Waker(Parker):
            def wake(self, _: object = None) -> None:
                if cut_off:
                    raise cut_off.pop()
                super().wake()

        with StatefulThreadPoolExecutor(1) as pool:
            begun = pool.submit(go_on.wait, 20)
            results: Any = pool.map_unordered(int, range(1))
            ended = results.gi_frame.f_locals["parts"]
            (task,) = ended
            found: list[object] = []

            def iterate() -> None:
                inside(ended).parker = Waker()
                try:
                    found.extend(results)
                except CancelledError as exc:
                    found.append(type(exc))

            thread = threading.Thread(target=iterate)
            thread.start()
            until(lambda: inside(ended).sleeper is not None)
            with pytest.raises(KeyboardInterrupt):
                task.cancel()
            thread.join(10)
            assert found == [CancelledError]
            go_on.set()
            assert begun.result(10)

    def test_idle_worker(self) -> None:
        """A submit takes the worker out of `idle` when its idle time is up: it stays for the task."""
        with StatefulThreadPoolExecutor(1, idle_timeout=20) as pool:
            pool.submit(int).result(10)
            until(lambda: inside(pool).idle)
            worker = next(iter(inside(pool).workers))
            true_sleep = inside(worker).block
            futures = []

            def lying_sleep(*timeout: float) -> bool:
                if not timeout or futures:
                    return bool(true_sleep(*timeout))
                run_in_thread(lambda: futures.append(pool.submit(int)))
                return False

            inside(worker).block = lying_sleep
            pool.submit(int).result(10)
            until(lambda: futures)
            assert futures[0].result(10) == 0
            until(lambda: inside(pool).idle)
            assert list(inside(pool).workers) == [worker]


class Line(dict[Any, Any]):
    """The line of blocked submits, with a hook on the entry of the first one."""

    before: Callable[[], object] | None = None
    after: Callable[[], object] | None = None

    def __setitem__(self, waiter: Any, since: Any) -> None:
        self._run("before")
        super().__setitem__(waiter, since)
        self._run("after")

    def _run(self, name: str) -> None:
        hook = getattr(self, name)
        setattr(self, name, None)
        if hook is not None:
            run_in_thread(hook)


@pytest.mark.parametrize("moment", ["before", "after"])
class TestAboutToBlock:
    """A submit that found no place, just before or after it enters the line."""

    @pytest.fixture(autouse=True)
    def _full(self) -> Any:
        with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:
            self.pool, self.line, free = pool, Line(), busy(pool)
            self.waits = pool.submit(int)
            inside(pool).waiters = self.line
            try:
                yield
            finally:
                free()
        assert not self.line

    def test_place_freed(self, moment: str) -> None:
        """It takes the place."""
        setattr(self.line, moment, self.waits.cancel)
        future = self.pool.submit(int)
        assert inside(future).has_permit

    def test_shutdown(self, moment: str) -> None:
        """It is refused."""
        setattr(self.line, moment, lambda: self.pool.shutdown(wait=False))
        with pytest.raises(RuntimeError, match="after shutdown"):
            self.pool.submit(int)

    @pytest.mark.parametrize("ends", ["place", "shutdown"])
    def test_coroutine(self, moment: str, ends: str) -> None:
        """It is the same with `asubmit`."""
        how = self.waits.cancel if ends == "place" else lambda: self.pool.shutdown(wait=False)
        setattr(self.line, moment, how)

        async def main() -> None:
            if ends == "place":
                assert await asyncio.wait_for(self.pool.asubmit(int), 10) is not None
            else:
                with pytest.raises(RuntimeError, match="after shutdown"):
                    await asyncio.wait_for(self.pool.asubmit(int), 10)

        asyncio.run(main())


class NeedsNotify(dict[None, None]):
    """What a blocked submit enters before it looks at the permits, and a worker clears before it notifies."""

    looks = 0

    def __init__(self) -> None:
        self.hooks: dict[str, Callable[[], object]] = {}

    def _run(self, name: str) -> None:
        hook = self.hooks.pop(name, None)
        if hook is not None:
            run_in_thread(hook)

    def __setitem__(self, key: None, value: None) -> None:
        self._run("before the entry")
        super().__setitem__(key, value)
        self.looks += 1
        self._run("after the entry")

    def __bool__(self) -> bool:
        self._run("before the worker looks")
        return len(self) > 0

    def clear(self) -> None:
        self._run("before it is cleared")
        super().clear()
        self._run("after it is cleared")


class TestNeedsNotify:
    """Workers notify the first in line once for all the permits that they free, until somebody looks again."""

    @pytest.mark.parametrize("moment", ["before the entry", "after the entry"])
    def test_freed_while_a_submit_looks(self, moment: str) -> None:
        """A place comes free around the first look of a submit that blocks: it takes it, now or when called."""
        with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:
            free = busy(pool)
            waits = pool.submit(int)
            needs_notify = inside(pool).needs_notify = NeedsNotify()
            needs_notify.hooks = {moment: lambda: (free(), waits.result(10))}
            assert pool.submit(int).result(10) == 0
            assert not needs_notify.hooks

    @pytest.mark.parametrize("moment", ["before the worker looks", "before it is cleared", "after it is cleared"])
    @pytest.mark.parametrize("leaves", [True, False])
    def test_another_looks_while_a_worker_calls(self, moment: str, leaves: bool) -> None:
        """Of two in line the first takes the place that is freed, or leaves in vain; the second takes another one."""
        with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:
            registry = inside(pool)
            needs_notify = registry.needs_notify = NeedsNotify()
            free = busy(pool)
            first = pool.submit(int)
            done: list[Any] = []
            threads = []
            for n in range(2):
                threads.append(threading.Thread(target=lambda: done.append(pool.submit(int).result(10))))
                threads[-1].start()
                until(lambda n=n: len(registry.waiters) == needs_notify.looks == n + 1)
            needs_notify.hooks = {moment: lambda: inside(pool).wake_first() if leaves else None}
            free()
            for thread in threads:
                thread.join(20)
            assert done == [0, 0]
            assert first.result() == 0
            assert not needs_notify.hooks

    def test_call_for_one_that_leaves(self) -> None:
        """The first in line has its place, and is about to leave, when it is called again: the next is not missed."""
        with StatefulThreadPoolExecutor(1, max_backlog=1) as pool:
            registry = inside(pool)

            class Leaving(dict[Any, Any]):
                hook: Callable[[], object] | None = None

                def __delitem__(self, waiter: Any) -> None:
                    hook, self.hook = self.hook, None
                    if hook is not None:
                        run_in_thread(hook)
                    super().__delitem__(waiter)

            free = busy(pool)
            pool.submit(int)
            needs_notify = registry.needs_notify = NeedsNotify()
            registry.waiters = line = Leaving()
            done: list[Any] = []
            threads = []
            for n in range(2):
                threads.append(threading.Thread(target=lambda: done.append(pool.submit(int).result(10))))
                threads[-1].start()
                until(lambda n=n: len(line) == needs_notify.looks == n + 1)
            line.hook = registry.notify_first
            free()
            for thread in threads:
                thread.join(20)
            assert done == [0, 0]

    def test_called_once(self) -> None:
        """A thousand places are freed before the first in line has woken: it is called for the first one only."""
        calls: list[None] = []
        with StatefulThreadPoolExecutor(1, max_backlog=1_000) as pool:
            registry = inside(pool)
            free = busy(pool)
            tasks = [pool.submit(int) for _ in range(1_000)]
            asleep = Parker()
            asleep.wake()  # told already, and not awake yet
            registry.waiters[asleep] = 0.0
            registry.needs_notify[None] = None
            call = registry.notify_first
            registry.notify_first = lambda: (calls.append(None), call())  # type: ignore[assignment, method-assign, func-returns-value]
            free()
            tasks[-1].result(10)
            del registry.waiters[asleep]
        assert len(calls) == 1


class TestEndOfATask:
    """Who waits for a task, against its end."""

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_watcher(self, moment: str) -> None:
        """The task ends just before or after `result` has entered its watcher: it returns."""
        with StatefulThreadPoolExecutor(1) as pool:
            go_on = threading.Event()
            future = pool.submit(lambda: go_on.wait(20))

            class Watchers(list[Any]):
                def append(self, watcher: Any) -> None:
                    if moment == "before":
                        self.end()
                    super().append(watcher)
                    if moment == "after":
                        self.end()

                def end(self) -> None:
                    go_on.set()
                    until(future.done)

            inside(future).watchers = Watchers()
            assert future.result(10) is True

    def test_two_set_its_result(self) -> None:
        """Both have found that the task is theirs to finish: one does, and the other one is told."""
        with StatefulThreadPoolExecutor(1) as pool:
            free = busy(pool)
            future = pool.submit(int)
            assert future.set_running_or_notify_cancel()

            class Right(list[None]):
                def __delitem__(self, index: Any) -> None:
                    if self.once:
                        self.once = False
                        run_in_thread(lambda: future.set_result(1))
                    super().__delitem__(index)

                once = True

            inside(future).taken_over = Right([None])
            with pytest.raises(InvalidStateError):
                future.set_result(2)
            assert future.result(10) == 1
            assert pool.stats().completed == 1  # as the other one still runs
            free()

    @pytest.mark.parametrize("moment", ["taken", "given back"])
    def test_collection_while_a_list_is_made(self, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A finalizer that runs where the lock is taken or given back may add a callback elsewhere, and wait."""
        lock = getattr(*hook("making"))

        class Making:
            def acquire(self) -> None:
                lock.acquire()
                if moment == "taken":
                    finalizer()

            def release(self) -> None:
                if moment == "given back":
                    finalizer()
                lock.release()

        def finalizer() -> None:
            if todo:
                todo.pop().add_done_callback(called.append)

        called: list[object] = []
        with StatefulThreadPoolExecutor(1) as pool:
            free = busy(pool)
            first, second = pool.submit(int), pool.submit(int)
            todo = [second]
            monkeypatch.setattr(*hook("making"), Making())
            thread = threading.Thread(target=lambda: first.add_done_callback(called.append), daemon=True)
            thread.start()
            thread.join(10)
            free()
            assert not thread.is_alive()
        assert called == [first, second]


class Ending(list[None]):
    """What a worker appends to before it takes a task out of `_pending`, and pops when it has forgotten the task."""

    hooks: dict[str, Callable[[], object]]

    def append(self, item: None) -> None:
        self._run("before it enters")
        super().append(item)
        self._run("before it leaves the others")

    def pop(self, *args: Any) -> None:
        self._run("before it is forgotten")
        super().pop(*args)
        self._run("after it is forgotten")

    def _run(self, name: str) -> None:
        hook = self.hooks.pop(name, None)
        if hook is not None:
            hook()


@pytest.mark.parametrize(
    "moment", ["before it enters", "before it leaves the others", "before it is forgotten", "after it is forgotten"]
)
class TestLastTask:
    """The worker is about to forget the last task of a scope."""

    def test_block_looks(self, moment: str) -> None:
        """The block looks just then: it ends when the task is forgotten, not before, and it does end."""
        there, looked = threading.Event(), threading.Event()
        with StatefulThreadPoolExecutor(1) as pool:
            scope = pool.scope()
            ended: list[bool] = []

            def hook() -> None:
                there.set()
                until(lambda: inside(scope).joiner is not None)
                looked.wait(0.01)  # time enough for it to look, and fall asleep; it makes no difference if it is not
                ended.append(inside(scope).closed)

            inside(scope).ending = Ending()
            inside(scope).ending.hooks = {moment: hook}
            with scope:
                scope.submit(int)
                assert there.wait(10)
            assert inside(scope).closed
            assert ended == [False] or moment == "after it is forgotten"

    def test_submit(self, moment: str) -> None:
        """What a destructor in the worker submits just then is joined, too."""
        with StatefulThreadPoolExecutor(1) as pool:
            scope = pool.scope()
            late: list[Any] = []
            inside(scope).ending = Ending()
            inside(scope).ending.hooks = {moment: lambda: late.append(scope.submit(int))}
            if moment == "after it is forgotten":
                inside(scope).ending.hooks[moment] = int
            with scope:
                scope.submit(int)
            assert all(future.done() for future in late)
            assert late or moment == "after it is forgotten"


class TestScopeCloses:
    """The block has found no task, and closes the scope; a submit of another thread comes in that moment."""

    def test_task_that_submits(self) -> None:
        """It was accepted, and its task submits in turn before the block has looked again: that is accepted, too."""
        with StatefulThreadPoolExecutor(1) as pool:
            scope = pool.scope()
            other = pool.submit(int)
            wait([other])
            values: list[Any] = []

            class Pending(dict[Any, Any]):
                looks = 0

                def pop(self, *args: Any) -> Any:
                    if args == (None, None):
                        self.looks += 1
                        if self.looks == 2:
                            self[other] = None  # of a task that was accepted, and that runs just now
                            run_in_thread(lambda: values.append(scope.submit(int)))
                            run_in_thread(lambda: inside(scope).ended(other))
                    return super().pop(*args)

            inside(scope).pending = Pending()
            with scope:
                pass
            assert values[0].result(10) == 0
            with pytest.raises(RuntimeError, match="has ended"):
                scope.submit(int)

    def test_after_the_second_look(self) -> None:
        """The block has looked twice, and has not closed the scope yet: the submit is accepted, and joined."""
        with StatefulThreadPoolExecutor(1) as pool:
            scope = pool.scope()
            block = threading.current_thread()
            values: list[Any] = []

            class Pending(dict[Any, Any]):
                looks = 0

                def __len__(self) -> int:
                    length = super().__len__()
                    if threading.current_thread() is block:
                        self.looks += 1
                        if self.looks == 2:
                            run_in_thread(lambda: values.append(scope.submit(int)))
                    return length

            inside(scope).pending = Pending()
            with scope:
                pass
            assert inside(scope).pending.looks > 2  # type: ignore[attr-defined]
            assert values[0].done()
            with pytest.raises(RuntimeError, match="has ended"):
                scope.submit(int)

    def test_last_act_of_the_last_task(self) -> None:
        """What the last task submits, be it in a callback, is joined too."""
        with StatefulThreadPoolExecutor(1) as pool:
            ran: list[int] = []
            go_on = threading.Event()
            with pool.scope() as scope:
                future = scope.submit(lambda: go_on.wait(20))
                future.add_done_callback(lambda _: scope.submit(ran.append, 1))
                go_on.set()
            assert ran == [1]


@pytest.mark.parametrize("moment", ["before", "after", "asleep"])
def test_teardown_asked_of_a_worker_about_to_wait(moment: str) -> None:
    """A scope ends just before or after a worker says on what it sleeps: the worker tears down all the same."""
    entered, asked, held, go_on = (threading.Event() for _ in range(4))
    torn_down: list[object] = []

    class Staged(Worker):
        @property
        def parker(self) -> Any:
            return self.__dict__["parker"]

        @parker.setter
        def parker(self, parker: Any) -> None:
            if parker is not None and moment == "before":
                entered.set()
                asked.wait(10)
            self.__dict__["parker"] = parker
            entered.set()
            if parker is not None and moment == "after":
                asked.wait(10)

        def ask(self, request: Any) -> None:
            super().ask(request)
            if isinstance(request, TearDown):
                asked.set()

    def hold() -> None:
        held.set()
        go_on.wait(20)

    with StatefulThreadPoolExecutor(2) as pool:
        awaited = pool.submit(hold)
        assert held.wait(10)
        busy_one = next(iter(inside(pool).workers))
        with pool.scope() as scope:
            scope.with_state(list, finalizer=torn_down.append).submit(len).result(10)
            (worker,) = (worker for worker in inside(pool).workers if worker is not busy_one)
            worker.__class__ = Staged
            future = pool.submit(awaited.result, 20)
            assert entered.wait(10)
        assert torn_down == [[]]
        assert not future.done()
        go_on.set()
        future.result(10)


class TestCompaction:
    """Compaction, against those who use the deques."""

    @staticmethod
    def _copying(entries: deque[Any], hook: Callable[[], object]) -> deque[Any]:
        """`entries` in a deque that calls `hook` once it has been gone through."""

        class Copied(deque[Any]):
            def __iter__(self) -> Any:
                yield from list(super().__iter__())
                if hooks:
                    hooks.pop()()

        hooks = [hook]
        return Copied(entries)

    def test_cancel_of_what_it_has_kept(self) -> None:
        """A kept task is cancelled before the compaction forgets the tombstones: the backlog is told exactly."""
        with StatefulThreadPoolExecutor(1) as pool:
            registry, free = inside(pool), busy(pool)
            kept = pool.submit(int)

            class Gone(list[None]):
                def clear(self) -> None:
                    kept.cancel()
                    super().clear()

            registry.tombstones = Gone()
            registry.compact()
            started, go_on = threading.Event(), threading.Event()
            pool.submit(lambda: (started.set(), go_on.wait(20)))
            pool.submit(int).cancel()
            free()
            assert started.wait(10)
            assert registry.head is registry.tail
            assert len(registry.tail) == 1  # only what was cancelled
            assert pool.stats().backlog == 0
            go_on.set()

    def test_deque_that_others_change(self) -> None:
        """On free-threaded builds a deque can't always be copied in one go: it is compacted all the same."""
        with StatefulThreadPoolExecutor(1) as pool:
            registry, free = inside(pool), busy(pool)
            futures = [pool.submit(int) for _ in range(4)]
            futures[1].cancel()

            def fail() -> None:
                raise RuntimeError("deque mutated during iteration")

            registry.tail = registry.head = self._copying(registry.tail, fail)
            registry.compact()
            assert list(registry.head) == [futures[0], *futures[2:]]
            assert registry.compactor == [None]
            free()
            assert [future.result(10) for future in futures if not future.cancelled()] == [0] * 3


def test_two_views_at_once_that_cannot_be_hashed() -> None:
    """Both find no such binding, and enter theirs: in the end they share one."""
    found: list[Any] = []

    class Bindings(dict[Any, Any]):
        def values(self) -> Any:
            seen = list(super().values())
            if not found:
                found.append(None)
                run_in_thread(lambda: found.append(find_binding(self, list, ([],), None, None)))
            return seen

    bindings = Bindings()
    mine = find_binding(bindings, list, ([],), None, None)
    assert found[1] is mine
    assert list(bindings) == [mine]


@pytest.mark.parametrize("method", ["submit", "cancel", "result", "drop"])
@pytest.mark.parametrize("step", ["Workers.grow", "Registry.before_removal", "Permits.left_line", "Idle.wake_one"])
def test_finalizer_within_a_step(method: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finalizer that runs while the registry's lock is held, or in a step of the registry, may use the same pool."""
    original = getattr(*hook(step))
    calls: list[Any] = []

    def finalizer() -> None:
        if method == "submit":
            calls.append(pool.submit(int))
        elif method == "cancel":
            calls.append(unbegun.cancel())
        elif method == "result":
            calls.append(ended.result(0))
        else:
            calls.append(StatefulThreadPoolExecutor(1).submit(int))

    def staged(self: Any, *args: Any) -> Any:
        if self in parts(pool).values() and not calls and ready:
            ready.clear()
            with inside(pool).workers_lock:
                finalizer()
        return original(self, *args)

    with StatefulThreadPoolExecutor(2, max_backlog=9) as pool:
        ended = pool.submit(int)
        ended.result(10)
        with StatefulThreadPoolExecutor(1) as other:
            free = busy(other)
            unbegun = other.submit(int)
            ready = [None]
            monkeypatch.setattr(*hook(step), staged)
            future = pool.submit(int)
            pool.submit(int).cancel()
            if step == "Permits.left_line":
                inside(pool).left_line(0)
            free()
        assert future.result(10) == 0


@pytest.mark.parametrize("ends", ["worker", "canceller", "adder"])
@pytest.mark.parametrize("act", ["submit", "cancel", "result", "shutdown", "scope"])
def test_callback_that_uses_the_pool(ends: str, act: str) -> None:
    """In whatever thread it runs, a callback may use its pool."""
    done: list[object] = []

    def call_back(_: object) -> None:
        if act == "submit":
            done.append(pool.submit(int))
        elif act == "cancel":
            done.append(pool.submit(int).cancel())
        elif act == "result":
            done.append(pool.submit(int).result(10) if ends == "worker" else quick.result(10))
        elif act == "shutdown":
            pool.shutdown(wait=False)
            done.append(None)
        elif ends == "worker":
            with pool.scope() as scope:
                done.append(scope.submit(int))
        else:
            with pool.scope():
                done.append(None)

    with StatefulThreadPoolExecutor(1) as pool:
        quick = pool.submit(int)
        quick.result(10)
        free = busy(pool)
        future = pool.submit(int)
        if ends == "adder":
            quick.add_done_callback(call_back)
        else:
            future.add_done_callback(call_back)
        if ends == "canceller":
            future.cancel()
        free()
        until(lambda: done)
    assert len(done) == 1
