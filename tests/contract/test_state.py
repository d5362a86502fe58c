"""State: made, lent, torn down."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import pytest
from states import States

from stateful_executor import InitializerError, StatefulThreadPoolExecutor, StatePolicy
from stateful_executor.errors import BrokenThreadPool


@pytest.fixture
def ledger() -> States:
    """A new ledger."""
    return States()


Kwargs = Callable[[States], dict[str, Any]]


@pytest.fixture(params=["finalizer", "generator"])
def kwargs(request: pytest.FixtureRequest) -> Kwargs:
    """The two ways to say how a state is torn down."""
    if request.param == "finalizer":
        return lambda ledger: {"initializer": ledger.make, "finalizer": ledger.tear_down}
    return lambda ledger: {"initializer": ledger.generate}


def test_shutdown_tears_down(ledger: States, kwargs: Kwargs) -> None:
    """Each state made is torn down once, in its worker's thread, when the pool ends."""
    everyone = threading.Barrier(3)
    with StatefulThreadPoolExecutor(3, **kwargs(ledger)) as pool:
        for future in [pool.with_state().submit(ledger.use, everyone.wait) for _ in range(3)]:
            future.result()
    assert len(ledger.made) == 3
    ledger.check()


def test_body_error_tears_down(ledger: States, kwargs: Kwargs) -> None:
    """Also when the `with` body raises."""
    with pytest.raises(LookupError), StatefulThreadPoolExecutor(1, **kwargs(ledger)) as pool:
        pool.submit(int)
        raise LookupError
    assert len(ledger.made) == 1
    ledger.check()


def test_task_errors_keep_the_state(ledger: States, kwargs: Kwargs) -> None:
    """A task that raises costs no state and no worker."""
    with StatefulThreadPoolExecutor(1, **kwargs(ledger)) as pool:
        view = pool.with_state()
        for error in (ValueError, SystemExit, KeyboardInterrupt, GeneratorExit):
            with pytest.raises(error):
                view.submit(_raise, error).result()
        assert view.submit(ledger.use).result() == 0
    ledger.check()


def _raise(state: object, error: type[BaseException]) -> None:
    raise error


def test_plain_tasks_get_no_state(ledger: States, kwargs: Kwargs) -> None:
    """`submit` is the standard library's, though the initializer has run before."""
    with StatefulThreadPoolExecutor(1, **kwargs(ledger)) as pool:
        assert pool.submit(lambda *args: args, 1).result() == (1,)
        assert ledger.made
    ledger.check()


def test_initargs_and_callables() -> None:
    """Any callable makes a state, with its arguments."""
    with StatefulThreadPoolExecutor(1, "", dict, ([("a", 1)],)) as pool:
        assert pool.with_state().submit(dict.copy).result() == {"a": 1}
        assert pool.with_state(partial(list, "ab")).submit(list.copy).result() == ["a", "b"]


def test_parallel_initializers() -> None:
    """States are made in parallel, outside of every lock: here each initializer waits for all the others."""
    everyone = threading.Barrier(4)
    with StatefulThreadPoolExecutor(4, initializer=everyone.wait) as pool:
        for future in [pool.submit(int) for _ in range(4)]:
            assert future.result() == 0


class TestViews:
    """`with_state(...)` with other initializers."""

    def test_made_when_first_needed(self, ledger: States, kwargs: Kwargs) -> None:
        """A worker makes such a state for its first task that needs it, and keeps it until it ends."""
        with StatefulThreadPoolExecutor(1) as pool:
            view = pool.with_state(**kwargs(ledger))
            pool.submit(int).result()
            assert not ledger.made
            assert {view.submit(ledger.use).result() for _ in range(10)} == {0}
            assert not ledger.torn_down
        ledger.check()

    def test_equal_arguments_share_states(self, ledger: States) -> None:
        """Views with equal initializer, initargs and finalizer share; a bound method made anew is equal too."""
        with StatefulThreadPoolExecutor(1) as pool:
            for _ in range(3):
                assert pool.with_state(ledger.make).submit(ledger.use).result() == 0
            assert pool.with_state(ledger.make, finalizer=ledger.tear_down).submit(ledger.use).result() == 1
            assert (
                pool.with_state(list, ([1],)).submit(id).result() == pool.with_state(list, ([1],)).submit(id).result()
            )
            assert pool.with_state(list, ([2],)).submit(list.copy).result() == [2]

    def test_arguments_that_cannot_be_compared(self) -> None:
        """Arguments with a comparison that is no truth value make states of their own, as arrays do."""

        class Array(list[int]):
            def __eq__(self, other: object) -> Any:
                raise ValueError("the truth value of an array is ambiguous")

            __hash__ = None  # type: ignore[assignment]

        with StatefulThreadPoolExecutor(1) as pool:
            assert pool.with_state(len, (Array(),)).submit(abs).result() == 0
            assert pool.with_state(len, (Array([1]),)).submit(abs).result() == 1

    def test_own_and_other_at_once(self, ledger: States) -> None:
        """One worker, states of three kinds, torn down in the reverse of the order in which they were made."""
        log: list[str] = []
        with StatefulThreadPoolExecutor(1, initializer=str, finalizer=lambda _: log.append("own")) as pool:
            first = pool.with_state(list, finalizer=lambda _: log.append("first"))
            second = pool.with_state(dict, finalizer=lambda _: log.append("second"))
            second.submit(dict.copy).result()
            first.submit(list.copy).result()
            assert pool.with_state().submit(str.upper).result() == ""
        assert log == ["first", "second", "own"]

    def test_scope_view_of_the_pools_state(self, ledger: States, kwargs: Kwargs) -> None:
        """`scope.with_state()` lends the pool's own state, which outlives the scope."""
        with StatefulThreadPoolExecutor(1, **kwargs(ledger)) as pool:
            for _ in range(3):
                with pool.scope() as scope:
                    future = scope.with_state().submit(ledger.use)
                assert future.result() == 0
            assert not ledger.torn_down
        ledger.check()

    def test_no_initializer(self) -> None:
        """Without an initializer there is no state to lend, and the error says what to do."""
        with StatefulThreadPoolExecutor(1) as pool, pool.scope() as scope:
            for entry_point in (pool, scope):
                with pytest.raises(ValueError, match=r"has no initializer.*give one"):
                    entry_point.with_state()
                with pytest.raises(ValueError, match="only together with an initializer"):
                    entry_point.with_state(finalizer=print)  # type: ignore[call-overload]

    def test_map(self, ledger: States, kwargs: Kwargs) -> None:
        """`view.map` passes the state first, also to the calls of a chunk."""
        with StatefulThreadPoolExecutor(2) as pool:
            view = pool.with_state(list)
            assert list(view.map(lambda state, a, b: (type(state), a + b), "ab", "cd")) == [(list, "ac"), (list, "bd")]
            assert list(view.map(lambda state, n: n, range(10), chunksize=3)) == list(range(10))


class TestExclusive:
    """A state is lent to one task at a time."""

    def test_stress(self, ledger: States, kwargs: Kwargs, nervous: None) -> None:
        """Many tasks from several threads, on a few workers: never two at once on one state."""
        with StatefulThreadPoolExecutor(4, **kwargs(ledger)) as pool:
            view = pool.with_state()

            def submit_many() -> None:
                for future in [view.submit(ledger.use) for _ in range(500)]:
                    future.result()

            threads = [threading.Thread(target=submit_many) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        ledger.check()

    def test_reentrance_gets_another_state(self, ledger: States, kwargs: Kwargs) -> None:
        """A task run inside one that holds the worker's state is lent a second one, torn down with the outer task."""
        with StatefulThreadPoolExecutor(1, **kwargs(ledger)) as pool:
            view = pool.with_state()

            def outer(state: int, levels: int) -> list[int]:
                inner: list[int] = []
                if levels:
                    ledger.use(state, lambda: inner.extend(view.submit(outer, levels - 1).result()))
                return [state, *inner]

            assert view.submit(outer, 3).result() == [0, 1, 2, 3]
            assert sorted(ledger.torn_down) == [1, 2, 3]  # before the result was visible
            assert view.submit(outer, 1).result() == [0, 4]
            assert view.submit(ledger.use).result() == 0
        ledger.check()

    def test_inline_on_a_full_backlog(self, ledger: States, kwargs: Kwargs) -> None:
        """A task that a submit runs at once, the backlog being full, is lent another state as well."""
        with StatefulThreadPoolExecutor(1, max_backlog=1, **kwargs(ledger)) as pool:
            view = pool.with_state()

            def outer(state: int) -> list[int]:
                futures = [view.submit(ledger.use) for _ in range(3)]
                return [state, *(future.result() for future in futures)]

            assert view.submit(outer).result() == [0, 1, 1, 1]
        ledger.check()


class TestFailure:
    """DESIGN: a pool whose initializer never succeeded is broken; one that has worked never breaks."""

    def test_broken(self, caplog: pytest.LogCaptureFixture) -> None:
        """Each pending task gets an error of its own, with the original as its cause; a cancelled one is left alone."""
        begun, go_on = threading.Event(), threading.Event()
        original = ConnectionError("no route to host")

        def connect() -> None:
            begun.set()
            go_on.wait()
            raise original

        with StatefulThreadPoolExecutor(1, initializer=connect) as pool:
            futures = [pool.submit(int) for _ in range(4)]
            begun.wait()
            assert futures[1].cancel()
            go_on.set()
            errors = [future.exception() for future in futures if not future.cancelled()]
            assert [type(error) for error in errors] == [BrokenThreadPool] * 3
            assert len({id(error) for error in errors}) == 3
            assert all(error is not None and error.__cause__ is original for error in errors)
            with pytest.raises(BrokenThreadPool, match="no route to host") as caught:
                pool.submit(int)
            assert caught.value.__cause__ is original
            with pytest.raises(BrokenThreadPool), pool.scope() as scope:
                scope.submit(int)
        assert [(record.name, record.levelno) for record in caplog.records] == [
            ("concurrent.futures", logging.CRITICAL)
        ]

    def test_broken_with_a_callback_that_exits(self) -> None:
        """A callback's SystemExit keeps no other task from its error."""
        go_on = threading.Event()

        def fail() -> None:
            go_on.wait()
            raise ValueError

        with StatefulThreadPoolExecutor(1, initializer=fail) as pool:
            futures = [pool.submit(int) for _ in range(3)]
            futures[0].add_done_callback(lambda _: _raise(None, SystemExit))
            go_on.set()
            assert [type(future.exception(10)) for future in futures] == [BrokenThreadPool] * 3

    def test_start_that_fails_while_a_task_is_cancelled(self) -> None:
        """A task waits in the backlog, where it can be cancelled, while the initializer is tried again for it."""
        hold_begun, go_on, again, retry = (threading.Event() for _ in range(4))
        starts = iter([None, lambda: _raise(None, OSError), lambda: (again.set(), retry.wait())])

        def start() -> None:
            step = next(starts)
            if step is not None:
                step()

        with StatefulThreadPoolExecutor(2, initializer=start) as pool:
            pool.submit(lambda: (hold_begun.set(), go_on.wait()))
            hold_begun.wait()
            assert isinstance(pool.submit(int).exception(10), InitializerError)
            future = pool.submit(int)
            again.wait()
            assert pool._work_queue.qsize() == 1
            assert future.cancel()
            retry.set()
            assert pool.submit(int).result(10) == 0
            go_on.set()

    def test_broken_wakes_blocked_submits(self) -> None:
        """A submit that waits for a place raises too."""
        go_on = threading.Event()
        blocked = threading.Event()

        def fail() -> None:
            go_on.wait()
            raise ValueError

        caught: list[BaseException] = []

        def submit() -> None:
            blocked.set()
            try:
                pool.submit(int)
            except BrokenThreadPool as exc:
                caught.append(exc)

        with StatefulThreadPoolExecutor(1, initializer=fail, max_backlog=1) as pool:
            pool.submit(int)
            thread = threading.Thread(target=submit)
            thread.start()
            blocked.wait()
            go_on.set()
            thread.join()
        assert len(caught) == 1

    def test_one_that_worked_never_breaks(self) -> None:
        """A second worker can't start: one task fails for it, the next tries again."""
        starts = iter([None, OSError("first"), OSError("second"), None])
        begun, in_two = threading.Event(), threading.Barrier(2)

        def start() -> None:
            outcome = next(starts)
            if outcome is not None:
                raise outcome

        def hold() -> None:
            begun.set()
            in_two.wait()

        with StatefulThreadPoolExecutor(2, initializer=start) as pool:
            busy = pool.submit(hold)
            begun.wait()
            causes = []
            for _ in range(2):
                with pytest.raises(InitializerError) as caught:
                    pool.submit(int).result()
                causes.append(str(caught.value.__cause__))
            assert causes == ["first", "second"]
            pool.submit(in_two.wait).result()  # by the second worker, which has started now
            busy.result()

    def test_a_views_initializer_fails(self) -> None:
        """The task that needed the state fails, with the original error as the cause; the next one tries again."""
        outcomes = iter([ValueError("not yet"), KeyboardInterrupt("nor now"), None])

        def make() -> str:
            outcome = next(outcomes)
            if outcome is not None:
                raise outcome
            return "made"

        with StatefulThreadPoolExecutor(1) as pool:
            view = pool.with_state(make)
            for error in (ValueError, KeyboardInterrupt):
                with pytest.raises(InitializerError, match="make raised") as caught:
                    view.submit(str.upper).result()
                assert type(caught.value.__cause__) is error
            assert view.submit(str.upper).result() == "MADE"
            assert view.submit(str.upper).result() == "MADE"

    def test_generator_without_yield(self) -> None:
        """A generator function that yields nothing is told so."""

        def nothing() -> Generator[int]:
            if False:
                yield 0

        with StatefulThreadPoolExecutor(1) as pool:
            with pytest.raises(InitializerError) as caught:
                pool.with_state(nothing).submit(int).result()
            assert "ended without yielding a state" in str(caught.value.__cause__)

    def test_tasks_of_the_initializer(self) -> None:
        """Tasks that an initializer submits and waits for run without the state that it is making."""

        def make() -> int:
            with pytest.raises(InitializerError, match="itself waits for"):
                pool.with_state().submit(abs).result()
            return pool.submit(pow, 2, 5).result()

        with StatefulThreadPoolExecutor(1, initializer=make) as pool:
            assert pool.with_state().submit(lambda state: state).result() == 32

    @pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
    def test_failing_teardown(self, error: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
        """It is logged, and the worker's other states are torn down all the same."""
        done: list[str] = []

        def fail(state: object) -> None:
            raise error("teardown")

        with StatefulThreadPoolExecutor(1, initializer=str, finalizer=done.append) as pool:
            pool.with_state(list, finalizer=fail).submit(list.copy).result()
        assert done == [""]
        assert [(record.name, record.exc_info and record.exc_info[0]) for record in caplog.records] == [
            ("stateful_executor", error)
        ]

    def test_generator_that_yields_twice(self, caplog: pytest.LogCaptureFixture) -> None:
        """A second yield is an error of the teardown; the generator is closed."""
        closed: list[bool] = []

        def twice() -> Generator[int]:
            try:
                yield 1
                yield 2
            finally:
                closed.append(True)

        with StatefulThreadPoolExecutor(1, initializer=twice) as pool:
            pool.submit(int).result()
        assert closed == [True]
        assert "yielded a second time" in caplog.text


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"initializer": 3}, TypeError, "initializer must be a callable, not 3"),
        ({"initializer": str, "finalizer": 3}, TypeError, "finalizer must be a callable, not 3"),
        ({"finalizer": print}, ValueError, "finalizer print has no state"),
        ({"initializer": States().generate, "finalizer": print}, TypeError, "yields the state.*takes no finalizer"),
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0, not 0"),
        ({"max_workers": 1.5}, TypeError, "not 1.5"),
        ({"max_backlog": 0}, ValueError, "max_backlog must be at least 1 task.*not 0"),
        ({"max_backlog": 1, "submit_timeout": -1}, ValueError, "submit_timeout must be at least 0 seconds"),
        ({"submit_timeout": 1}, ValueError, "give max_backlog too"),
        ({"initializer": str, "policy": 3}, TypeError, "policy must be a StatePolicy, not 3"),
        ({"policy": StatePolicy()}, ValueError, "StatePolicy.* has no state to look after"),
        ({"idle_timeout": -1}, ValueError, "idle_timeout must be at least 0 seconds"),
        ({"idle_timeout": float("nan")}, ValueError, "idle_timeout must be at least 0 seconds"),
        ({"exit_timeout": -1}, ValueError, "exit_timeout must be at least 0 seconds, or None to wait for ever, not -1"),
        ({"exit_timeout": float("nan")}, ValueError, "exit_timeout must be at least 0 seconds"),
        ({"retries": None}, TypeError, "retries"),
    ],
)
def test_wrong_arguments(kwargs: dict[str, Any], error: type[Exception], text: str) -> None:
    """The constructor says what is wrong, with the value and the remedy."""
    with pytest.raises(error, match=text):
        StatefulThreadPoolExecutor(**kwargs)


def yields(torn_down: list[str]) -> Generator[str]:
    """As an initializer: the rest is the teardown."""
    try:
        yield "state"
    finally:
        torn_down.append("state")


class Yields:
    """Its instances are called, and give a generator."""

    def __call__(self, torn_down: list[str]) -> Generator[str]:
        yield from yields(torn_down)

    def method(self, torn_down: list[str]) -> Generator[str]:
        yield from yields(torn_down)


@contextmanager
def manages(torn_down: list[str]) -> Generator[str]:
    """The same, as a context manager."""
    yield from yields(torn_down)


KINDS: dict[str, Callable[[list[str]], Any]] = {
    "generator function": yields,
    "partial": partial(yields),
    "method": Yields().method,
    "callable object": Yields(),
    "returned generator": lambda torn_down: yields(torn_down),
    "context manager": manages,
    "method of a context manager": contextmanager(Yields().method),
    "returned context manager": lambda torn_down: manages(torn_down),
    "partial of a context manager": partial(manages),
}
KNOWN = ["generator function", "partial", "method", "callable object", "context manager"]


class TestWhatYields:
    """Whatever gives a generator when it is called: it yields the state, and its rest is the teardown."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("own", [True, False])
    def test_torn_down(self, kind: str, own: bool) -> None:
        """The state is what it yields, and the rest of it runs at the end."""
        torn_down: list[str] = []
        initializer = KINDS[kind]
        options: dict[str, Any] = {"initializer": initializer, "initargs": (torn_down,)} if own else {}
        with StatefulThreadPoolExecutor(1, **options) as pool:
            view = pool.with_state() if own else pool.with_state(initializer, (torn_down,))
            assert view.submit(str.upper).result() == "STATE"
            assert torn_down == []
        assert torn_down == ["state"]
        assert pool.stats().states_torn_down == 1

    @pytest.mark.parametrize("kind", KINDS)
    def test_with_a_finalizer(self, kind: str) -> None:
        """Two teardowns are an error: at once where it can be seen, else when the state is made, and nothing runs."""
        torn_down: list[str] = []
        with StatefulThreadPoolExecutor(1) as pool:
            if kind in KNOWN or "partial" in kind or "method" in kind:
                with pytest.raises(TypeError, match="takes no finalizer besides: put print after its yield"):
                    pool.with_state(KINDS[kind], (torn_down,), finalizer=print)
            else:
                future = pool.with_state(KINDS[kind], (torn_down,), finalizer=print).submit(len)
                error = future.exception()
                assert isinstance(error, InitializerError)
                assert "takes no finalizer besides" in str(error.__cause__)
        assert torn_down == []

    def test_no_yield_in_a_context_manager(self) -> None:
        """The standard library's own error is the cause."""

        @contextmanager
        def nothing() -> Generator[int]:
            if False:
                yield 0

        with StatefulThreadPoolExecutor(1) as pool:
            error = pool.with_state(nothing).submit(int).exception()
        assert isinstance(error, InitializerError)
        assert "didn't yield" in str(error.__cause__)

    def test_failing_rest_of_a_context_manager(self, caplog: pytest.LogCaptureFixture) -> None:
        """It is logged, as the error of any teardown."""

        @contextmanager
        def fails() -> Generator[int]:
            yield 0
            raise LookupError

        with StatefulThreadPoolExecutor(1, initializer=fails) as pool:
            pool.submit(int).result()
        assert "teardown of the state made by" in caplog.text
        assert pool.stats().teardown_errors == 1

    def test_an_object_with_enter_and_exit_is_a_state(self) -> None:
        """Connections, files and sessions are context managers themselves, and nobody has asked to enter them."""
        entered: list[object] = []

        class Connection:
            def __enter__(self) -> None:
                entered.append(self)

            def __exit__(self, *_: object) -> None: ...

        with StatefulThreadPoolExecutor(1, initializer=Connection) as pool:
            assert isinstance(pool.with_state().submit(lambda state: state).result(), Connection)
        assert entered == []


async def awaited() -> None: ...


async def asynchronous() -> AsyncGenerator[int]:
    yield 0


class Awaited:
    async def __call__(self) -> None: ...


class TestCoroutines:
    """No worker could await them."""

    @pytest.mark.parametrize("own", [True, False])
    @pytest.mark.parametrize(
        "initializer",
        [awaited, asynchronous, Awaited(), partial(awaited), asynccontextmanager(asynchronous)],
        ids=["coroutine function", "async generator", "callable object", "partial", "async context manager"],
    )
    def test_functions(self, initializer: Any, own: bool) -> None:
        """Refused where they are given."""
        with pytest.raises(TypeError, match=r"is asynchronous, .* asyncio.run()"):
            StatefulThreadPoolExecutor(1, initializer=initializer)
        with StatefulThreadPoolExecutor(1) as pool, pytest.raises(TypeError, match="is asynchronous"):
            pool.with_state(initializer)

    @pytest.mark.parametrize(
        "returned",
        [awaited, asynchronous, asynccontextmanager(asynchronous)],
        ids=["coroutine", "generator", "manager"],
    )
    def test_what_is_returned(self, returned: Callable[[], Any]) -> None:
        """Refused when the state is made; nothing is left that was never awaited."""
        with StatefulThreadPoolExecutor(1) as pool:
            error = pool.with_state(lambda: returned()).submit(int).exception()
        assert isinstance(error, InitializerError)
        assert "is asynchronous" in str(error.__cause__)
