"""When states are replaced: policies, `discard`, `discard_all`; and `bind` and `get`, the other ways to a state.

A `lend` is opened with a policy on the pool, on a view or on a scope's view, with a finalizer or a generator. When it
closes, it checks that each state made was torn down once, in its own thread, and that the pool's figures say so.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any

import pytest
import states
import threads
from inside import CLOCKS, hook, inside

from stateful_executor import InitializerError, StatefulThreadPoolExecutor, StatePolicy, StateView

Pool = StatefulThreadPoolExecutor[Any]
SOON = 10  # seconds; what takes longer has gone wrong
until = partial(threads.until, patience=SOON)
FAILURES = [ValueError, SystemExit, KeyboardInterrupt]


def in_thread(fn: Callable[[], object]) -> threading.Thread:
    """Run `fn` in another thread, which must not hang."""
    thread = threading.Thread(target=fn, daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> bool:
    thread.join(SOON)
    return not thread.is_alive()


def same(state: Any, *_: object) -> Any:
    return state


def fail(state: object, error: BaseException | type[BaseException] = ValueError) -> None:
    raise error


def caught(fn: Callable[[], object]) -> BaseException | None:
    try:
        fn()
    except BaseException as exc:
        return exc
    return None


def worker_of(pool: Pool) -> Any:
    """The only one."""
    (worker,) = map(inside, inside(pool).workers)
    return worker


def waits(pool: Pool) -> None:
    """Wait until the only worker sleeps in a wait of the library's."""
    until(lambda: worker_of(pool).parker is not None)


def rest(pool: Pool) -> None:
    """Wait until every worker has done all there was to do, messages included."""
    until(
        lambda: (
            pool.stats().idle == pool.stats().workers
            and not any(inside(worker).inbox for worker in inside(pool).workers)
        )
    )


class States(states.States):
    """Tests add to `log`."""

    def __init__(self) -> None:
        super().__init__()
        self.before_make: Callable[[], object] = int
        self.others = 0  # states of other kinds in the same pool

    def make(self) -> int:
        self.before_make()
        return super().make()

    def live(self) -> set[int]:
        with self.lock:
            return self.made.keys() - self.torn_down.keys()

    def note(self, what: str, answer: object = None) -> Callable[..., Any]:
        """A hook that notes that it was called, with which state."""

        def hook(number: int) -> object:
            self.log.append(f"{what} {number}")
            return answer

        return hook

    def since(self) -> list[str]:
        """What has happened since this was last called."""
        log, self.log = self.log, []
        return log

    def check_all(self, pool: Pool) -> None:
        self.check()
        stats = pool.stats()
        assert stats.states_made == stats.states_torn_down == len(self.made) + self.others
        assert stats.submitted == stats.completed + stats.failed + stats.cancelled


@pytest.fixture
def states() -> States:
    return States()


Opened = AbstractContextManager[tuple[Pool, StateView[int]]]
Lend = Callable[..., Opened]


def opener(states: States, entry_point: str, kind: str) -> Lend:
    """Open a pool with a view of `states`; see above."""

    @contextmanager
    def opened(policy: StatePolicy[int] | None = None, workers: int = 1, **kwargs: Any) -> Iterator[Any]:
        own: dict[str, Any] = {"initializer": states.generate, "policy": policy}
        if kind == "finalizer":
            own |= {"initializer": states.make, "finalizer": states.tear_down}
        if entry_point == "pool":
            with StatefulThreadPoolExecutor(workers, **own, **kwargs) as pool:
                yield pool, pool.with_state()
        elif entry_point == "view":
            with StatefulThreadPoolExecutor(workers, **kwargs) as pool:
                yield pool, pool.with_state(**own)
        else:
            with StatefulThreadPoolExecutor(workers, **kwargs) as pool:
                with pool.scope() as scope:
                    yield pool, scope.with_state(**own)
                assert not states.live()
        states.check_all(pool)

    return opened


@pytest.fixture(params=[("pool", "generator"), ("view", "finalizer"), ("scope", "generator")], ids="-".join)
def lend(request: pytest.FixtureRequest, states: States) -> Lend:
    """Through each entry point, and with both ways to tear down."""
    return opener(states, *request.param)


@pytest.fixture
def simple(states: States) -> Lend:
    """Through one entry point, where entry points make no difference."""
    return opener(states, "view", "finalizer")


def records(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int, type | None]]:
    return [(r.name, r.levelno, r.exc_info[0] if r.exc_info else None) for r in caplog.records]


class TestArguments:
    """Of `StatePolicy`, and of those who take one."""

    @pytest.mark.parametrize(
        ("kwargs", "error", "text"),
        [
            ({"check": 3}, TypeError, "check must be a callable that takes the state, or None, not 3"),
            ({"reset": "no"}, TypeError, "reset must be a callable that takes the state, or None, not 'no'"),
            ({"discard_on": 3}, TypeError, "discard_on must be an exception type, a tuple of them, a predicate.*not 3"),
            ({"discard_on": int}, TypeError, "discard_on must be a type of exceptions, which .*int.* is not"),
            ({"discard_on": (OSError, int)}, TypeError, "discard_on must be an exception type, a tuple"),
            ({"discard_on": [OSError]}, TypeError, "discard_on must be an exception type, a tuple"),
            ({"discard_on": (OSError, (KeyError,))}, TypeError, "discard_on must be an exception type, a tuple"),
            ({"discard_on": OSError()}, TypeError, "discard_on must be an exception type, a tuple"),
            ({"max_tasks": 0}, ValueError, "max_tasks must be at least 1 task, or None for no limit, not 0"),
            ({"max_tasks": -1}, ValueError, "max_tasks"),
            ({"max_tasks": 1.5}, TypeError, "not 1.5"),
            ({"max_tasks": "3"}, TypeError, "not '3'"),
            ({"max_age": 0}, ValueError, "max_age must be a number of seconds above 0, or None for no limit, not 0"),
            ({"max_age": -1}, ValueError, "max_age"),
            ({"max_age": math.nan}, ValueError, "max_age"),
            ({"max_age": math.inf}, ValueError, "max_age"),
            ({"max_age": "3"}, TypeError, "not '3'"),
        ],
    )
    def test_wrong(self, kwargs: dict[str, Any], error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            StatePolicy(**kwargs)

    def test_good(self) -> None:
        """Frozen, equal and hashed by what they say."""
        full = {"check": len, "reset": list.clear, "discard_on": (OSError, KeyError), "max_tasks": 1, "max_age": 0.5}
        assert StatePolicy(**full) == StatePolicy(**full) != StatePolicy()  # type: ignore[arg-type]
        assert hash(StatePolicy(**full)) == hash(StatePolicy(**full))  # type: ignore[arg-type]
        for name, value in full.items():
            assert getattr(StatePolicy(**{name: value}), name) == value  # type: ignore[arg-type]
            assert getattr(StatePolicy(), name) is None
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(StatePolicy(), name, value)
        for discard_on in (BaseException, (), (OSError,), lambda _: True, len):
            StatePolicy(discard_on=discard_on)  # type: ignore[arg-type]

    def test_those_who_take_one(self) -> None:
        """Each entry point refuses what is no policy, and a policy without an initializer."""
        with pytest.raises(TypeError, match="policy must be a StatePolicy, not 3"):
            StatefulThreadPoolExecutor(1, initializer=list, policy=3)  # type: ignore[call-overload]
        with pytest.raises(ValueError, match="no state to look after"):
            StatefulThreadPoolExecutor(1, policy=StatePolicy())  # type: ignore[call-overload]
        with StatefulThreadPoolExecutor(1, initializer=list) as pool, pool.scope() as scope:
            for entry_point in (pool, scope):
                with pytest.raises(TypeError, match="policy must be a StatePolicy, not <class"):
                    entry_point.with_state(list, policy=StatePolicy)  # type: ignore[call-overload]
                with pytest.raises(ValueError, match="policy only together with an initializer"):
                    entry_point.with_state(policy=StatePolicy())  # type: ignore[call-overload]

    def test_equal_policies_share_states(self, states: States) -> None:
        """Views with equal policies share, with the pool's own state too; with other policies they don't."""
        policy = partial(StatePolicy, check=len, max_tasks=100)
        with StatefulThreadPoolExecutor(1, initializer=list, policy=policy()) as pool, pool.scope() as scope:
            own = pool.with_state().submit(id).result()
            assert pool.with_state(list, policy=policy()).submit(id).result() == own
            assert scope.with_state().submit(id).result() == own
            others = [
                pool.with_state(list),
                pool.with_state(list, policy=StatePolicy()),
                pool.with_state(list, policy=policy(max_tasks=99)),
                pool.with_state(list, policy=policy(check=str)),
                scope.with_state(list, policy=policy()),  # its own
            ]
            assert len({own, *(view.submit(id).result() for view in others)}) == 6
            assert scope.with_state(list, policy=policy()).submit(id).result() == others[-1].submit(id).result()
            assert pool.stats().states_made == 6

    def test_a_policy_that_cannot_be_hashed(self) -> None:
        """It is found by comparison."""

        class Hook(list[int]):
            def __call__(self, state: object) -> None:
                pass

        with StatefulThreadPoolExecutor(1) as pool:
            views = [pool.with_state(list, policy=StatePolicy(reset=Hook([n]))) for n in (1, 1, 2)]
            first, second, third = (view.submit(id).result() for view in views)
            assert first == second != third


class TestCheck:
    """`check(state)` before a task."""

    def test_before_each_task(self, lend: Lend, states: States) -> None:
        """Once, with the state that the task then gets; failed tasks make no difference."""
        with lend(StatePolicy(check=states.note("check"))) as (_, view):
            view.submit(same).result(SOON)
            states.since()
            for then in (int, partial(fail, None), int):
                view.submit(states.use, lambda then=then: (states.log.append("task"), then())).exception(SOON)
            assert states.since() == ["check 0", "task"] * 3

    def test_not_without_a_task_that_needs_it(self, states: States) -> None:
        """The pool's own state, made at the start of a worker, has just been made, and is for no task yet."""
        with opener(states, "pool", "finalizer")(StatePolicy(check=states.note("check"))) as (pool, view):
            pool.submit(int).result(SOON)
            assert states.since() == ["make 0"]
            view.submit(same).result(SOON)
            assert states.since() == ["check 0"]

    @pytest.mark.parametrize("answer", [None, 0, 0.0, "", (), True, 1], ids=repr)
    def test_only_false_is_bad(self, simple: Lend, states: States, answer: object) -> None:
        """Other falsy values, None above all, come from functions that say nothing."""
        with simple(StatePolicy(check=states.note("check", answer))) as (_, view):
            assert [view.submit(same).result() for _ in range(2)] == [0, 0]

    def test_an_answer_that_has_no_truth_value(self, simple: Lend) -> None:
        """It is not even asked."""

        class Array:
            def __bool__(self) -> bool:
                raise ValueError("ambiguous")

            def __eq__(self, other: object) -> bool:
                raise ValueError("ambiguous")

            __hash__ = None  # type: ignore[assignment]

        with simple(StatePolicy(check=lambda _: Array())) as (_, view):
            assert [view.submit(same).result() for _ in range(2)] == [0, 0]

    @pytest.mark.parametrize("bad", [False, *FAILURES])
    def test_replaced(self, lend: Lend, states: States, bad: Any, caplog: pytest.LogCaptureFixture) -> None:
        """A state that fails is torn down, and the task runs with a new one, which was checked as well."""
        outcomes = iter([None])

        def check(number: int) -> object:
            states.log.append(f"check {number}")
            outcome = next(outcomes, None)
            if isinstance(outcome, type):
                raise outcome
            return outcome

        caplog.set_level(logging.INFO, "stateful_executor")
        with lend(StatePolicy(check=check)) as (pool, view):
            view.submit(same).result(SOON)
            states.since()
            outcomes = iter([bad])
            assert view.submit(same).result(SOON) == 1
            assert states.since() == ["check 0", "end 0", "make 1", "check 1"]
            assert view.submit(same).result(SOON) == 1
            assert pool.stats().states_discarded == 1
        assert records(caplog) == [("stateful_executor", logging.INFO, bad or None)]
        assert "make" in caplog.text or "generate" in caplog.text

    @pytest.mark.parametrize("bad", [False, *FAILURES])
    def test_replaced_once(self, lend: Lend, states: States, bad: Any) -> None:
        """When the new one fails too, so does the task, and there is no third; the next task tries again."""
        errors: list[BaseException] = []
        healthy = True

        def check(number: int) -> object:
            states.log.append(f"check {number}")
            if healthy or bad is False:
                return healthy
            errors.append(bad(number))
            raise errors[-1]

        with lend(StatePolicy(check=check)) as (pool, view):
            view.submit(same).result(SOON)
            for expected in (
                ["check 0", "end 0", "make 1", "check 1", "end 1"],
                ["make 2", "check 2", "end 2", "make 3", "check 3", "end 3"],
            ):
                states.since()
                healthy = False
                error = view.submit(states.use, partial(states.log.append, "task")).exception(SOON)
                assert states.since() == expected
                if bad is False:
                    assert isinstance(error, InitializerError)
                    assert "check returned False for a state that" in str(error)
                    assert error.__cause__ is None
                else:
                    assert error is errors[-1]
            assert pool.stats().states_discarded == 4
            assert pool.submit(int).result(SOON) == 0  # the pool is as good as ever
            healthy = True
            assert view.submit(same).result(SOON) == 4

    @pytest.mark.parametrize("bad", [False, *FAILURES])
    def test_the_first_of_a_pool(self, lend: Lend, states: States, bad: Any) -> None:
        """A check that fails from the beginning fails the tasks that need a state; it breaks no pool and no worker."""
        healthy = False

        def check(_: int) -> object:
            if healthy or bad is False:
                return healthy
            raise bad

        with lend(StatePolicy(check=check)) as (pool, view):
            error = view.submit(same).exception(SOON)
            assert type(error) is (bad or InitializerError)
            assert pool.submit(int).result(SOON) == 0
            healthy = True
            number = view.submit(same).result(SOON)
            assert states.live() == {number}

    def test_initializer_fails_meanwhile(self, lend: Lend, states: States) -> None:
        """The bad state is gone, its replacement can't be made: InitializerError, and the next task tries again."""
        healthy = True
        with lend(StatePolicy(check=lambda _: healthy)) as (pool, view):
            view.submit(same).result(SOON)
            healthy = False
            states.before_make = partial(fail, None, OSError("down"))
            for _ in range(2):
                error = view.submit(same).exception(SOON)
                assert isinstance(error, InitializerError)
                assert str(error.__cause__) == "down"
                assert not states.live()
            healthy, states.before_make = True, int
            assert view.submit(same).result(SOON) == 1
            assert pool.stats().states_discarded == 1

    def test_submits_and_waits(self, lend: Lend, states: States) -> None:
        """In the pool's only worker: a task that the check waits for gets another state, gone with the outer task."""
        checked: list[int] = []
        inner: list[int] = []

        def check(number: int) -> None:
            checked.append(number)
            assert pool.submit(int).result(SOON) == 0
            if len(checked) == 2:
                states.lent.add(number)  # is not to be lent meanwhile
                inner.append(view.submit(states.use).result(SOON))
                states.lent.remove(number)

        with lend(StatePolicy(check=check)) as (pool, view):
            states.before_make = int
            view.submit(same).result(SOON)
            checked[:] = [0]
            assert view.submit(states.use).result(SOON) == 0
            assert inner == [1]
            assert checked == [0, 0, 1]
            assert states.live() == {0}

    def test_fails_after_it_has_waited(self, simple: Lend, states: States) -> None:
        """The states that its tasks were lent meanwhile serve as the replacement, checked as well."""
        checked: list[int] = []

        def check(number: int) -> bool:
            checked.append(number)
            if checked == [0, 0]:
                view.submit(states.use).result(SOON)
                return False
            return True

        with simple(StatePolicy(check=check)) as (_pool, view):
            view.submit(same).result()
            assert view.submit(same).result() == 1
            assert checked == [0, 0, 1, 1]
            assert states.live() == {1}

    def test_no_other_hook_for_a_task_that_was_not_run(self, simple: Lend, states: States) -> None:
        """Neither `reset` nor `discard_on` has anything to do with a failed check."""
        asked: list[BaseException] = []
        healthy = True
        policy = StatePolicy(check=lambda _: healthy, reset=states.note("reset"), discard_on=asked.append)
        with simple(policy) as (_, view):
            view.submit(same).result()
            states.since()
            healthy = False
            assert isinstance(view.submit(same).exception(), InitializerError)
            assert states.since() == ["end 0", "make 1", "end 1"]
            healthy = True
        assert not asked

    def test_of_a_bound_call(self, simple: Lend, states: States) -> None:
        """Its error is raised where the function is called; a task that is content with that has not failed."""
        healthy = True

        def task() -> str:
            nonlocal healthy
            healthy = False
            with pytest.raises(InitializerError, match="returned False"):
                view.bind(same)()
            healthy = True
            return f"then {view.bind(same)()}"

        with simple(StatePolicy(check=lambda _: healthy)) as (pool, view):
            view.submit(same).result()
            assert pool.submit(task).result() == "then 2"
            assert pool.stats().states_discarded == 2


class TestReset:
    """`reset(state)` after each task."""

    def test_after_each_task(self, lend: Lend, states: States) -> None:
        """Failed ones too, with the state that the task had."""
        with lend(StatePolicy(reset=states.note("reset"))) as (_, view):
            view.submit(same).result(SOON)
            states.since()
            for then in (int, *(partial(fail, None, error) for error in FAILURES)):
                view.submit(states.use, then).exception(SOON)
                assert states.since() == ["reset 0"]

    def test_not_after_plain_tasks(self, states: States) -> None:
        with opener(states, "pool", "finalizer")(StatePolicy(reset=states.note("reset"))) as (pool, _):
            pool.submit(int).result()
            assert states.since() == ["make 0"]

    @pytest.mark.parametrize("error", [None, ValueError])
    def test_before_the_result_is_visible(self, lend: Lend, error: type[Exception] | None) -> None:
        """Nobody sees that the task has ended while its state is being reset; callbacks come afterwards."""
        resetting, go_on, called = threading.Event(), threading.Event(), threading.Event()

        def reset(_: int) -> None:
            resetting.set()
            go_on.wait(SOON)
            assert not called.is_set()

        with lend(StatePolicy(reset=reset)) as (_, view):
            future = view.submit(same if error is None else fail)
            future.add_done_callback(lambda _: called.set())
            assert resetting.wait(SOON)
            assert not future.done()
            assert future.running()
            with pytest.raises(TimeoutError):
                future.result(0)
            go_on.set()
            assert type(future.exception(SOON)) is (error or type(None))
            assert called.wait(SOON)

    def test_scope_waits_for_it(self, states: States) -> None:
        """The block ends after the reset of its last task."""
        with opener(states, "pool", "finalizer")(StatePolicy(reset=states.note("reset"))) as (pool, _):
            for _ in range(20):
                with pool.scope() as scope:
                    scope.with_state().submit(same)
                states.log.append("block ends")
        assert states.log == ["make 0", *["reset 0", "block ends"] * 20, "end 0"]

    @pytest.mark.parametrize("raises", [False, True])
    def test_not_after_discard(self, lend: Lend, states: States, raises: bool) -> None:
        """There is no use in resetting a state that is about to go."""
        with lend(StatePolicy(reset=states.note("reset"))) as (pool, view):
            view.submit(lambda _: (view.discard(), fail(None) if raises else None)).exception(SOON)
            assert states.since() == ["make 0", "end 0"]
            assert pool.stats().states_discarded == 1

    def test_not_after_discard_on(self, lend: Lend, states: States) -> None:
        with lend(StatePolicy(reset=states.note("reset"), discard_on=ValueError)) as (_, view):
            view.submit(fail).exception(SOON)
            assert states.since() == ["make 0", "end 0"]

    @pytest.mark.parametrize("error", FAILURES)
    @pytest.mark.parametrize("task_fails", [False, True])
    def test_raises(
        self, simple: Lend, states: States, error: Any, task_fails: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The state is replaced, which the log tells; the task's own outcome stays."""
        with simple(StatePolicy(reset=lambda number: fail(None, error) if number == 0 else None)) as (pool, view):
            future = view.submit(fail if task_fails else same)
            assert isinstance(future.exception(SOON), ValueError) if task_fails else future.result(SOON) == 0
            assert states.torn_down
            assert view.submit(same).result(SOON) == 1
            assert pool.stats().states_discarded == 1
            assert pool.stats().failed == task_fails
        assert records(caplog) == [("stateful_executor", logging.WARNING, error)]

    def test_submits_and_waits(self, simple: Lend, states: States) -> None:
        """In the only worker; the state that is being reset is lent to nobody meanwhile."""
        inner: list[int] = []

        def reset(number: int) -> None:
            pool.submit(int).result(SOON)
            if number == 0 and not inner:
                inner.append(-1)
                states.lent.add(number)
                inner.append(view.submit(states.use).result(SOON))
                states.lent.remove(number)

        with simple(StatePolicy(reset=reset)) as (pool, view):
            assert view.submit(states.use).result(SOON) == 0
            assert inner == [-1, 1]
            assert states.live() == {0}

    def test_of_a_chunk_and_of_bound_calls(self, simple: Lend, states: States) -> None:
        """Once for a chunk of a map, and once for each bound call, before it returns."""
        with simple(StatePolicy(reset=states.note("reset"))) as (pool, view):
            assert list(view.map(same, range(6), chunksize=3)) == [0] * 6
            assert states.since() == ["make 0", "reset 0", "reset 0"]
            pool.submit(lambda: (view.bind(same)(), states.log.append("returned"))).result()
            assert states.since() == ["reset 0", "returned"]


class TestDiscardOn:
    """Tasks that fail in certain ways have their state replaced."""

    @pytest.mark.parametrize(
        ("discard_on", "error", "replaced"),
        [
            (OSError, ConnectionError, True),  # a subclass
            (OSError, ValueError, False),
            (Exception, SystemExit, False),
            (BaseException, SystemExit, True),
            ((OSError, KeyError), KeyError, True),
            ((OSError, KeyError), ValueError, False),
            ((), ValueError, False),
            (lambda error: isinstance(error, KeyError), KeyError, True),
            (lambda error: isinstance(error, KeyError), ValueError, False),
            (lambda error: "truthy", ValueError, True),
            (lambda error: None, ValueError, False),
            (None, ValueError, False),
        ],
    )
    def test_kinds(self, simple: Lend, states: States, discard_on: Any, error: Any, replaced: bool) -> None:
        """The state is gone before the error is visible."""
        with simple(StatePolicy(discard_on=discard_on)) as (pool, view):
            assert type(view.submit(fail, error).exception(SOON)) is error
            assert states.live() == (set() if replaced else {0})
            assert view.submit(same).result(SOON) == replaced
            assert pool.stats().states_discarded == replaced

    def test_torn_down_before_the_error_is_visible(self, simple: Lend, states: States) -> None:
        with simple(StatePolicy(discard_on=ValueError)) as (_, view):
            begun = threading.Event()
            future = view.submit(lambda _: (begun.wait(SOON), fail(None)))
            future.add_done_callback(lambda _: states.log.append("visible"))
            begun.set()
            future.exception()
        assert states.log == ["make 0", "end 0", "visible"]

    def test_what_the_predicate_gets(self, simple: Lend) -> None:
        """The very exception, and nothing when the task did not fail."""
        asked: list[BaseException] = []
        error = OSError("this one")
        with simple(StatePolicy(discard_on=asked.append)) as (_, view):
            view.submit(same).result()
            assert not asked
            assert view.submit(fail, error).exception() is error
        assert len(asked) == 1
        assert asked[0] is error

    @pytest.mark.parametrize("error", FAILURES)
    def test_a_predicate_that_raises(
        self, simple: Lend, states: States, error: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It counts as true, the log tells, and the task's error is its own."""
        with simple(StatePolicy(discard_on=partial(fail, error=error))) as (_, view):
            assert type(view.submit(fail, KeyError).exception(SOON)) is KeyError
            assert not states.live()
        assert records(caplog) == [("stateful_executor", logging.WARNING, error)]

    def test_not_asked_after_discard(self, simple: Lend) -> None:
        """What is to be replaced anyway is not asked for."""
        asked: list[BaseException] = []
        with simple(StatePolicy(discard_on=asked.append)) as (_, view):
            view.submit(lambda _: (view.discard(), fail(None))).exception()
        assert not asked

    def test_a_chunk(self, simple: Lend, states: States) -> None:
        """An error in a chunk of a map is its task's."""

        def divide(number: int, n: int) -> tuple[int, float]:
            return number, 6 / n

        with simple(StatePolicy(discard_on=ZeroDivisionError)) as (_, view):
            results = view.map(divide, [1, 0, 2, 3], chunksize=2)
            assert next(results) == (0, 6.0)
            with pytest.raises(ZeroDivisionError):
                next(results)
            until(lambda: states.torn_down == {0: states.made[0]})
            assert view.submit(same).result() == 1

    def test_a_bound_call(self, simple: Lend, states: States) -> None:
        """What the function raises counts, though the task that calls it makes nothing of it."""

        def task(number: int) -> int:
            error = ConnectionError()
            with pytest.raises(ConnectionError) as caught:
                view.bind(fail)(error)
            assert caught.value is error
            assert states.since() == ["make 0", "make 1", "end 1"]
            with pytest.raises(ValueError, match=r"^$"):
                view.bind(fail)()
            return number

        with simple(StatePolicy(discard_on=OSError)) as (pool, view):
            assert view.submit(task).result() == 0
            assert states.live() == {0}
            assert pool.stats().states_discarded == 1


class TestMaxTasks:
    """A state that has served for so many tasks is replaced."""

    @pytest.mark.parametrize("limit", [1, 3])
    def test_counts_tasks(self, lend: Lend, states: States, limit: int) -> None:
        """Failed ones too; the last one's result is visible only when the state is gone, and no new one is made."""
        with lend(StatePolicy(max_tasks=limit)) as (pool, view):
            for n in range(4 * limit):
                future = view.submit(same) if n % 2 else view.submit(fail)
                future.exception(SOON)
                assert states.live() == ({n // limit} if (n + 1) % limit else set())
                assert len(states.made) == n // limit + 1
            assert pool.stats().states_discarded == 4

    def test_not_plain_tasks(self, states: States) -> None:
        with opener(states, "pool", "finalizer")(StatePolicy(max_tasks=1)) as (pool, view):
            for _ in range(3):
                pool.submit(int).result()
            assert view.submit(same).result() == 0

    def test_a_chunk_is_one_and_so_is_a_bound_call(self, simple: Lend) -> None:
        with simple(StatePolicy(max_tasks=2)) as (pool, view):
            assert list(view.map(same, range(9), chunksize=3)) == [0] * 6 + [1] * 3
            assert pool.submit(lambda: [view.bind(same)() for _ in range(4)]).result() == [1, 2, 2, 3]

    def test_reset_is_called_all_the_same(self, simple: Lend, states: States) -> None:
        """A connection is given back in order before it is closed."""
        with simple(StatePolicy(max_tasks=1, reset=states.note("reset"))) as (_, view):
            view.submit(same).result()
        assert states.log == ["make 0", "reset 0", "end 0"]

    def test_each_state_for_itself(self, simple: Lend) -> None:
        """Those of deeper levels have served less."""

        def outer(number: int) -> list[int]:
            return [number, *(view.submit(same).result() for _ in range(3))]

        with simple(StatePolicy(max_tasks=2)) as (_, view):
            assert view.submit(outer).result() == [0, 1, 1, 2]
            assert view.submit(same).result() == 0
            assert view.submit(same).result() == 3


class Clock:
    """Time as tests want it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for owner, name in CLOCKS:
        monkeypatch.setattr(owner, name, clock)
    return clock


def draw(monkeypatch: pytest.MonkeyPatch, *numbers: float) -> Iterator[float]:
    """Have the next random numbers be these, and no more of them."""
    source = iter(numbers)
    monkeypatch.setattr(*hook("State.random"), lambda: next(source))
    return source


class TestMaxAge:
    """A state that has been there for so many seconds is replaced."""

    def test_looked_at_when_lending(
        self, lend: Lend, states: States, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither a task's end nor time alone makes an end of it: the next task does, before the new one is made."""
        draw(monkeypatch, 0.0, 0.0)

        def grow_old(number: int) -> int:
            clock.now += 60
            return number

        with lend(StatePolicy(max_age=60)) as (pool, view):
            assert view.submit(grow_old).result(SOON) == 0
            for _ in range(3):
                pool.submit(int).result(SOON)
            rest(pool)
            assert states.live() == {0}
            states.since()
            assert view.submit(same).result(SOON) == 1
            assert states.since() == ["end 0", "make 1"]
            assert pool.stats().states_discarded == 1

    @pytest.mark.parametrize("share", [0.0, 0.25, 0.5, math.nextafter(1.0, 0.0)])
    def test_never_later_and_at_most_five_percent_earlier(
        self, simple: Lend, clock: Clock, monkeypatch: pytest.MonkeyPatch, share: float
    ) -> None:
        """Whatever the random number; and it is drawn once for each state."""
        draw(monkeypatch, share, share)
        with simple(StatePolicy(max_age=100)) as (_, view):
            born = clock.now
            for age in (0, 50, 94, 95 - 1e-6):
                clock.now = born + age
                assert view.submit(same).result() == 0
            clock.now = born + 100
            assert view.submit(same).result() == 1

    def test_each_state_has_its_own_share(self, simple: Lend, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between the two bounds, the random number decides, always with the same answer."""
        draw(monkeypatch, 0.0, 0.8, 0.0)
        with simple(StatePolicy(max_age=100)) as (_, view):
            for age, expected in ((0, 0), (99, 0), (99, 0), (100, 1), (195.9, 1), (196.1, 2), (196.1, 2)):
                clock.now = 1000.0 + age
                assert view.submit(same).result() == expected

    def test_real_random_numbers(self, clock: Clock) -> None:
        """Of two hundred states made at once all are there at 94.9 %, some but not all at 97.5 %, none at 100 %."""
        policy: StatePolicy[object] = StatePolicy(max_age=100)
        with StatefulThreadPoolExecutor(1) as pool:
            views = [pool.with_state(lambda n: [n], (n,), policy=policy) for n in range(200)]
            first = [view.submit(same).result() for view in views]
            left = []
            for age in (94.9, 97.5, 100):
                clock.now = 1000 + age
                now = [view.submit(same).result() for view in views]
                left.append(sum(a is b for a, b in zip(first, now, strict=True)))
        assert left[0] == 200
        assert 50 < left[1] < 150
        assert left[2] == 0

    def test_measured_from_the_initializers_call(
        self, simple: Lend, states: States, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What it read at first is as old as that."""
        draw(monkeypatch, 0.0, 0.0)

        def take_time() -> None:
            clock.now += 30

        states.before_make = take_time
        with simple(StatePolicy(max_age=60)) as (_, view):
            assert view.submit(same).result() == 0
            clock.now += 29
            assert view.submit(same).result() == 0
            clock.now += 1
            assert view.submit(same).result() == 1

    def test_not_while_lent(self, simple: Lend, states: States, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        """A task whose state has grown old meanwhile keeps it; only the states that nobody holds are looked at."""
        draw(monkeypatch, 0.0, 0.0, 0.0)

        def outer(number: int) -> list[int]:
            inner = [view.submit(states.use).result()]
            clock.now += 60
            return [number, *inner, view.submit(states.use).result()]  # the one made for this level is too old by now

        with simple(StatePolicy(max_age=60)) as (_, view):
            numbers: list[int] = []
            view.submit(lambda number: states.use(number, lambda: numbers.extend(outer(number)))).result()
            assert numbers == [0, 1, 2]
            assert states.live() == {0}

    def test_in_real_time(self, simple: Lend) -> None:
        """With the real clock."""
        with simple(StatePolicy(max_age=0.05)) as (_, view):
            assert view.submit(same).result() == 0
            time.sleep(0.06)
            assert view.submit(same).result() == 1
        with StatefulThreadPoolExecutor(1) as pool:
            forever = pool.with_state(object, policy=StatePolicy(max_age=1e9))
            assert forever.submit(id).result() == forever.submit(id).result()


class TestThreads:
    """All hooks run in the thread that made the state, one at a time for each state."""

    def test_each_hook(self, lend: Lend, states: States) -> None:
        seen: dict[str, set[bool]] = {}
        busy: set[int] = set()

        def hook(name: str, number: int) -> bool:
            seen.setdefault(name, set()).add(states.made[number] == threading.get_ident())
            assert number not in busy
            busy.add(number)
            time.sleep(0)
            busy.remove(number)
            return number % 5 != 0

        def predicate(error: BaseException) -> bool:
            return hook("discard_on", error.args[0])

        def task(number: int, n: int) -> None:
            hook("task", number)
            if n % 3 == 0:
                raise ValueError(number)

        policy = StatePolicy(
            check=partial(hook, "check"), reset=partial(hook, "reset"), discard_on=predicate, max_tasks=4
        )
        with lend(policy, workers=3) as (_, view):
            for future in [view.submit(task, n) for n in range(200)]:
                future.exception(SOON)
        assert seen == {name: {True} for name in ("check", "reset", "discard_on", "task")}

    def test_no_lock_is_held(self, lend: Lend, states: States) -> None:
        """While one worker is in a hook, everybody else goes on, and the pool may be asked about itself."""
        both = threading.Barrier(2)

        def meet(_: object) -> None:
            pool.stats()
            both.wait(SOON)

        with lend(StatePolicy(check=meet, reset=meet, discard_on=lambda e: meet(e) is None), workers=2) as (pool, view):
            futures = [view.submit(fail) for _ in range(2)]
            assert {type(future.exception(SOON)) for future in futures} == {ValueError}
            assert pool.stats().states_discarded == 2


def moody(dice: random.Random, _: object) -> bool:
    """A hook that now and then raises, or returns False."""
    chance = dice.random()
    if chance < 0.05:
        raise LookupError
    return chance > 0.1


class TestNesting:
    """Tasks inside tasks of the same worker, each with a state of its own."""

    def test_hooks_at_each_level(self, lend: Lend, states: States) -> None:
        """Each state is checked before its task and reset after it; the extra ones end with the outermost task."""

        def dive(number: int, levels: int) -> int:
            states.log.append(f"task {number}")
            return states.use(number, lambda: levels and view.submit(dive, levels - 1).result(SOON))

        with lend(StatePolicy(check=states.note("check"), reset=states.note("reset"))) as (pool, view):
            view.submit(same).result(SOON)
            states.since()
            future = view.submit(dive, 2)
            assert future.result(SOON) == 0
            assert states.since() == [
                *["check 0", "task 0"],
                *["make 1", "check 1", "task 1"],
                *["make 2", "check 2", "task 2"],
                *["reset 2", "reset 1", "reset 0"],
                *["end 2", "end 1"],
            ]
            assert pool.stats().states_discarded == 0  # they were not replaced

    def test_an_inner_task_discards(self, lend: Lend, states: States) -> None:
        """Its own state, not the outer task's; the next inner one gets a new one."""

        def inner(number: int) -> int:
            view.discard()
            return number

        def outer(number: int) -> list[int]:
            numbers = [view.submit(inner).result(SOON)]
            assert states.since()[-2:] == ["make 1", "end 1"]
            return [number, *numbers, view.submit(same).result(SOON)]

        with lend() as (pool, view):
            assert view.submit(outer).result(SOON) == [0, 1, 2]
            assert states.live() == {0}
            assert pool.stats().states_discarded == 1

    @pytest.mark.parametrize("when", ["before", "after", "both"])
    def test_the_outer_task_discards(self, lend: Lend, states: States, when: str) -> None:
        """Before or after the inner ones have come and gone: its own state ends when it ends, and not earlier."""

        def outer(number: int) -> list[int]:
            if when != "after":
                view.discard()
            numbers = [number, *(view.submit(same).result(SOON) for _ in range(2))]
            if when != "before":
                view.discard()
            assert states.live() == {0, 1}
            return numbers

        with lend() as (pool, view):
            assert view.submit(outer).result(SOON) == [0, 1, 1]
            assert 0 in states.torn_down
            assert len(states.live()) <= 1
            assert pool.stats().states_discarded == 1
            assert view.submit(same).result(SOON) != 0

    def test_plain_tasks_in_between(self, simple: Lend, states: States) -> None:
        """A plain task inside holds no state: it can't discard the outer one's, nor can what it calls by `bind`."""

        def plain() -> int:
            with pytest.raises(RuntimeError, match="this one does not"):
                view.discard()
            return view.bind(lambda number: (view.discard(), number)[1])()

        def outer(number: int) -> list[int]:
            return [number, pool.submit(plain).result()]

        with simple() as (pool, view):
            assert view.submit(outer).result() == [0, 1]
            assert states.live() == {0}

    def test_inline_on_a_full_backlog(self, simple: Lend, states: States) -> None:
        """Tasks that a submit runs at once have their states looked after in the same way."""

        def outer(number: int) -> list[int]:
            futures = [view.submit(same) for _ in range(4)]
            return [number, *(future.result() for future in futures)]

        with simple(StatePolicy(max_tasks=1), max_backlog=1) as (pool, view):
            # the first of the four waits for its turn, and is run when it is awaited
            assert sorted(view.submit(outer).result()) == [0, 1, 2, 3, 4]
            assert not states.live()
            assert pool.stats().states_discarded == 5

    def test_another_binding(self, simple: Lend, states: States) -> None:
        """States of several kinds, each discarded by the task that has it."""
        other_made: list[list[int]] = []

        def make_other() -> list[int]:
            other_made.append([])
            return other_made[-1]

        with simple() as (pool, view):
            other = pool.with_state(make_other)

            def outer(number: int) -> int:
                return other.submit(inner).result()

            def inner(state: list[int]) -> int:
                assert other.get() is state
                with pytest.raises(RuntimeError, match="holds a state made by"):
                    view.get()
                other.discard()
                return view.bind(lambda number: (view.discard(), number)[1])()

            assert view.submit(outer).result() == 1
            assert states.live() == {0}
            assert other.submit(lambda state: state is other_made[1]).result()
            states.others = 2
            assert pool.stats().states_discarded == 2

    def test_stress(self, lend: Lend, states: States, nervous: None) -> None:
        """Trees of tasks that fail, discard and wait in all ways, under a policy that has its own moods."""
        dice = random.Random(7)  # noqa: S311
        mood = partial(moody, dice)

        def tree(number: int, depth: int) -> int:
            assert view.get() == number
            states.use(number, partial(inside, depth, dice.random()))
            assert view.get() == number
            return depth

        def inside(depth: int, chance: float) -> None:
            if chance < 0.15:
                view.discard()
            elif chance < 0.2:
                view.discard_all()
            if depth:
                for child in (view.submit(tree, depth - 1), pool.submit(view.bind(tree), depth - 1)):
                    child.exception(SOON)
                with suppress(LookupError, OSError, InitializerError):
                    view.bind(tree)(depth - 1)
            if chance > 0.9:
                raise OSError

        policy = StatePolicy(check=mood, reset=mood, discard_on=mood, max_tasks=3, max_age=0.05)
        with lend(policy, workers=3) as (pool, view):
            until(lambda: view.submit(same).exception(SOON) is None)  # lest the pool be broken
            states.before_make = partial(mood, None)
            for future in [view.submit(tree, 2) for _ in range(8)]:
                future.exception(SOON)
            rest(pool)
            assert len(states.live()) <= 3
            stats = pool.stats()
            assert stats.states_made - stats.states_torn_down == len(states.live())
            states.before_make = int


class TestGet:
    """`get()` is for the task that holds the state, and `discard()` likewise."""

    def test_in_the_task(self, lend: Lend) -> None:
        """And in what it calls, through any view on the same states."""
        with lend() as (pool, view):
            assert view.submit(lambda number: (number, view.get())).result(SOON) == (0, 0)
            assert list(view.map(lambda number, _: view.get() - number, range(4), chunksize=2)) == [0] * 4
        with StatefulThreadPoolExecutor(1, initializer=list) as pool, pool.scope() as scope:
            ours, theirs = scope.with_state(), pool.with_state()
            assert ours.submit(lambda state: theirs.get() is state is pool.with_state(list).get()).result()

    def test_in_a_bound_function(self, lend: Lend) -> None:
        """The innermost state; when the call has ended, the outer one again, if there is one."""

        def bound(number: int) -> tuple[int, int]:
            return number, view.get()

        def outer(number: int) -> tuple[Any, ...]:
            return view.get(), view.bind(bound)(), view.get()

        def plain() -> tuple[int, int]:
            pair = view.bind(bound)()
            with pytest.raises(RuntimeError, match="this one does not"):
                view.get()
            return pair

        with lend() as (pool, view):
            assert view.submit(outer).result(SOON) == (0, (1, 1), 0)
            assert pool.submit(plain).result(SOON) == (0, 0)

    @pytest.mark.parametrize("method", ["get", "discard"])
    def test_in_the_wrong_places(self, lend: Lend, states: States, method: str) -> None:
        """Where the calling code holds no such state the answer is a RuntimeError, and nothing is replaced."""
        answers: list[str] = []

        def ask(*_: object) -> None:
            try:
                getattr(view, method)()
            except RuntimeError as exc:
                answers.append("pool" if "only the workers of that pool have" in str(exc) else "task")
                assert str(exc).startswith(f"{method}() is for")
            else:
                answers.append("answered")

        def inside(entry_point: Any) -> Callable[[Any], object]:
            return lambda _: entry_point.submit(ask).result(SOON)

        with StatefulThreadPoolExecutor(1) as other_pool, lend() as (pool, view):
            other = pool.with_state(list)
            states.others = 2  # with the last one
            view.submit(same).result(SOON)
            ask()
            view.submit(lambda _: ended(in_thread(ask))).result(SOON)  # a thread that the task started
            other_pool.submit(ask).result(SOON)
            view.submit(inside(other_pool)).result(SOON)
            assert answers == ["pool"] * 4
            answers.clear()
            pool.submit(ask).result(SOON)
            other.submit(ask).result(SOON)
            view.submit(inside(pool)).result(SOON)  # a plain task inside one that holds a state
            view.submit(inside(other)).result(SOON)
            begun = threading.Event()
            future = view.submit(lambda _: begun.wait(SOON))
            future.add_done_callback(ask)  # the task has ended by then, and its state was given back
            begun.set()
            future.result(SOON)
            rest(pool)
            view.submit(lambda _: (f := pool.submit(int), f.add_done_callback(ask), f.result(SOON))).result(SOON)
            assert answers == ["task"] * 6
            answers.clear()
            pool.with_state(lambda: (ask(), 1)[1]).submit(same).result(SOON)  # an initializer of something else
            assert answers == ["task"]
            assert states.live() == {0}
            assert pool.stats().states_discarded == 0

    def test_messages_say_what_to_do(self, simple: Lend) -> None:
        with simple() as (pool, view):
            with pytest.raises(RuntimeError, match=f"{inside(pool).name}.*: call it in a task of the pool"):
                view.get()
            with pytest.raises(RuntimeError, match=r"made by States\.make.*: submit it through the view"):
                pool.submit(view.discard).result()


class TestDiscard:
    """`view.discard()` in a task."""

    @pytest.mark.parametrize("policy", [None, StatePolicy()])
    def test_replaced_when_the_task_ends(self, lend: Lend, states: States, policy: StatePolicy | None) -> None:
        """Not earlier; the result is not visible before; what was discarded twice is one."""

        def task(number: int) -> int:
            view.discard()
            view.discard()
            assert states.live() == {number}
            assert view.get() == number
            return number

        with lend(policy) as (pool, view):
            for n in range(3):
                assert view.submit(task).result(SOON) == n
                assert not states.live()
            assert len(states.made) == 3  # the next one is made when it is needed
            assert pool.stats().states_discarded == 3

    def test_a_failing_task(self, lend: Lend, states: States) -> None:
        with lend() as (_, view):
            assert isinstance(view.submit(lambda _: (view.discard(), fail(None))).exception(SOON), ValueError)
            assert not states.live()

    def test_in_a_chunk(self, simple: Lend) -> None:
        """The rest of the chunk has the same state still."""

        def task(number: int, n: int) -> int:
            if n == 0:
                view.discard()
            return number

        with simple() as (_, view):
            assert list(view.map(task, range(6), chunksize=3)) == [0, 0, 0, 1, 1, 1]

    def test_of_a_bound_call(self, simple: Lend, states: States) -> None:
        """Torn down when the call ends, which may be long before the task does."""

        def task() -> list[int]:
            numbers = [view.bind(lambda number: (view.discard(), number)[1])() for _ in range(3)]
            assert not states.live()
            return numbers

        with simple() as (pool, view):
            assert pool.submit(task).result() == [0, 1, 2]

    def test_initializer_fails_afterwards(self, lend: Lend, states: States) -> None:
        """The pool's own one too: the pool has worked, so it doesn't break. Plain tasks need no state."""
        with lend() as (pool, view):
            view.submit(lambda _: view.discard()).result(SOON)
            states.before_make = partial(fail, None, OSError("down"))
            assert pool.submit(int).result(SOON) == 0
            error = view.submit(same).exception(SOON)
            assert isinstance(error, InitializerError)
            assert str(error.__cause__) == "down"
            states.before_make = int
            assert view.submit(same).result(SOON) == 1

    @pytest.mark.parametrize("entry_point", ["pool", "view"])
    @pytest.mark.parametrize("error", FAILURES)
    def test_failing_teardown(
        self, states: States, entry_point: str, error: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is logged and counted; the task's result stays, and the next task gets a new state."""

        def tear_down(number: int) -> None:
            states.tear_down(number)
            if number == 0:
                raise error

        own: dict[str, Any] = {"initializer": states.make, "finalizer": tear_down}
        with StatefulThreadPoolExecutor(1, **own if entry_point == "pool" else {}) as pool:
            view = pool.with_state(**{} if entry_point == "pool" else own)
            assert view.submit(lambda number: (view.discard(), number)[1]).result(SOON) == 0
            assert pool.stats().teardown_errors == 1
            assert view.submit(same).result(SOON) == 1
        states.check_all(pool)
        assert pool.stats().teardown_errors == 1
        assert records(caplog) == [("stateful_executor", logging.ERROR, error)]

    def test_teardown_that_submits_and_waits(self, states: States) -> None:
        """In the only worker, also for a task with such a state: it gets the replacement."""

        def tear_down(number: int) -> None:
            if number == 0:
                assert view.submit(states.use).result(SOON) == 1
            states.tear_down(number)

        with StatefulThreadPoolExecutor(1) as pool:
            view = pool.with_state(states.make, finalizer=tear_down)
            assert view.submit(lambda number: (view.discard(), number)[1]).result(SOON) == 0
            assert states.live() == {1}
            assert view.submit(states.use).result(SOON) == 1
        states.check_all(pool)


POLICIES = pytest.mark.parametrize("policy", [None, StatePolicy()], ids=["no policy", "policy"])


def together(n: int, fn: Callable[[], object]) -> None:
    """Call `fn` in `n` threads at once."""
    start = threading.Barrier(n)
    threads = [in_thread(lambda: (start.wait(SOON), fn())) for _ in range(n)]
    alive = [thread for thread in threads if not ended(thread)]
    assert not alive


class TestDiscardAll:
    """`view.discard_all()` from anywhere: no task that begins later is lent a state made before."""

    @POLICIES
    def test_idle(self, lend: Lend, states: States, policy: StatePolicy | None) -> None:
        """Their workers tear them down without a task; new ones are made when they are needed."""
        everyone = threading.Barrier(3)

        def meet() -> list[int]:
            futures = [view.submit(states.use, lambda: everyone.wait(SOON)) for _ in range(3)]
            return sorted(future.result(SOON) for future in futures)

        with lend(policy, workers=3) as (pool, view):
            assert meet() == [0, 1, 2]
            for n in (1, 2):
                rest(pool)
                view.discard_all()
                until(lambda: not states.live())
                assert len(states.made) == 3 * n
                assert meet() == [3 * n, 3 * n + 1, 3 * n + 2]
            assert pool.stats().states_discarded == 6

    @POLICIES
    @pytest.mark.parametrize("error", [None, ValueError])
    def test_lent(self, lend: Lend, states: States, policy: StatePolicy | None, error: Any) -> None:
        """It stays until its task ends, and goes before the result is visible."""
        begun, go_on = threading.Event(), threading.Event()

        def hold(number: int) -> None:
            begun.set()
            go_on.wait(SOON)
            assert view.get() == number
            if error is not None:
                raise error

        with lend(policy) as (pool, view):
            future = view.submit(states.use, lambda: hold(0))
            future.add_done_callback(lambda _: states.log.append("visible"))
            assert begun.wait(SOON)
            view.discard_all()
            view.discard_all()
            assert states.live() == {0}
            go_on.set()
            assert type(future.exception(SOON)) is (error or type(None))
            rest(pool)
            assert states.log == ["make 0", "end 0", "visible"]
            assert view.submit(same).result(SOON) == 1
            assert pool.stats().states_discarded == 1

    @POLICIES
    def test_tasks_that_wait(self, lend: Lend, states: States, policy: StatePolicy | None) -> None:
        """What was submitted before, and begins afterwards, gets a new state, too."""
        begun, go_on = threading.Event(), threading.Event()
        with lend(policy) as (pool, view):
            view.submit(same).result(SOON)
            pool.submit(lambda: (begun.set(), go_on.wait(SOON)))
            waiting = [view.submit(same), pool.submit(view.bind(same))]
            assert begun.wait(SOON)
            view.discard_all()
            assert states.live() == {0}  # its worker is busy
            go_on.set()
            assert [future.result(SOON) for future in waiting] == [1, 1]

    def test_its_worker_waits(self, simple: Lend, states: States) -> None:
        """A worker that waits in a task which holds no such state tears it down meanwhile."""
        go_on = threading.Event()
        with simple() as (pool, view), StatefulThreadPoolExecutor(1) as other:
            view.submit(same).result()
            future = pool.submit(lambda: other.submit(go_on.wait, SOON).result(SOON))
            waits(pool)
            view.discard_all()
            until(lambda: not states.live())
            assert not future.done()
            go_on.set()
            assert future.result(SOON)

    @POLICIES
    def test_from_a_task(self, lend: Lend, states: States, policy: StatePolicy | None) -> None:
        """Its own state stays as long as it does; what it submits then gets another one, at every level."""

        def deeper(number: int) -> list[int]:
            before = [number, view.submit(same).result(SOON)]
            view.discard_all()
            return [*before, view.submit(same).result(SOON), view.bind(same)(), view.get()]

        def outer(number: int) -> list[int]:
            inner = view.submit(deeper).result(SOON)
            assert states.live() == {0, 3}
            return [number, *inner, view.submit(same).result(SOON), view.get()]

        with lend(policy) as (_pool, view):
            assert view.submit(outer).result(SOON) == [0, 1, 2, 3, 3, 1, 3, 0]
            assert states.live() == {3}
            assert view.submit(same).result(SOON) == 3

    @POLICIES
    @pytest.mark.parametrize("meanwhile", ["nothing", "waits", "submits", "waits for a plain task"])
    def test_while_an_initializer_runs(
        self, lend: Lend, states: States, policy: StatePolicy | None, meanwhile: str
    ) -> None:
        """What it makes counts as made before: it serves the task that it is made for at most."""
        begun, go_on = threading.Event(), threading.Event()

        def make_slowly() -> None:
            states.before_make = int
            begun.set()
            if meanwhile == "waits":
                other.submit(go_on.wait, SOON).result(SOON)
            go_on.wait(SOON)
            if meanwhile == "submits":
                assert isinstance(view.submit(same).exception(SOON), InitializerError)
            if meanwhile == "waits for a plain task":
                pool.submit(int).result(SOON)

        states.before_make = make_slowly
        with StatefulThreadPoolExecutor(1) as other, lend(policy) as (pool, view):
            future = view.submit(same)
            assert begun.wait(SOON)
            if meanwhile == "waits":
                waits(pool)
            view.discard_all()
            if meanwhile == "waits":
                until(lambda: not worker_of(pool).inbox)
            go_on.set()
            assert future.result(SOON) <= 1  # the pool's own is made for the worker, and may go before the first task
            assert view.submit(same).result(SOON) == 1
            assert 0 in states.torn_down
            assert pool.stats().states_discarded == 1

    @POLICIES
    def test_while_an_inner_initializer_runs(self, simple: Lend, states: States, policy: StatePolicy | None) -> None:
        """The same, one level deeper, where the outer task's state is as old."""
        begun, go_on = threading.Event(), threading.Event()

        def make_slowly() -> None:
            states.before_make = int
            begun.set()
            other.submit(go_on.wait, SOON).result(SOON)

        def outer(number: int) -> list[int]:
            states.before_make = make_slowly
            return [number, *(view.submit(same).result(SOON) for _ in range(2))]

        with StatefulThreadPoolExecutor(1) as other, simple(policy) as (pool, view):
            future = view.submit(outer)
            assert begun.wait(SOON)
            waits(pool)
            view.discard_all()
            until(lambda: not worker_of(pool).inbox)
            go_on.set()
            assert future.result(SOON) == [0, 1, 2]
            assert view.submit(same).result(SOON) == 2

    @pytest.mark.parametrize("hook", ["initializer", "check", "reset", "discard_on", "finalizer"])
    def test_from_a_hook(self, states: States, hook: str) -> None:
        """Any of them may: the state at hand serves its task, if that has begun, and goes."""
        armed = hook == "initializer"

        def call(which: str, answer: object = None) -> Any:
            nonlocal armed
            if armed and which == hook:
                armed = False
                view.discard_all()
            return answer

        def tear_down(number: int) -> None:
            call("finalizer")
            states.tear_down(number)

        states.before_make = partial(call, "initializer")
        policy = StatePolicy(
            check=lambda _: call("check"),
            reset=lambda _: call("reset"),
            discard_on=lambda _: call("discard_on", answer=False),
        )
        with StatefulThreadPoolExecutor(1) as pool:
            view = pool.with_state(states.make, finalizer=tear_down, policy=policy)
            if hook != "initializer":
                assert view.submit(same).result(SOON) == 0
                armed = True
            if hook == "discard_on":
                view.submit(fail).exception(SOON)
            elif hook == "finalizer":
                view.submit(lambda _: view.discard()).result(SOON)
            else:
                assert view.submit(same).result(SOON) == 0
            assert not armed
            assert not states.live()
            assert view.submit(same).result(SOON) == 1
        states.check_all(pool)

    def test_only_its_own_kind(self, states: States) -> None:
        """Views with equal arguments, and a scope's view on the pool's own state, mean the same states."""
        with StatefulThreadPoolExecutor(1, initializer=states.make, finalizer=states.tear_down) as pool:
            with pool.scope() as scope:
                own = pool.with_state()
                others = [pool.with_state(list), scope.with_state(list), pool.with_state(list, policy=StatePolicy())]
                kept = [view.submit(same).result() for view in others]
                for n, view in enumerate(
                    (own, scope.with_state(), pool.with_state(states.make, (), finalizer=states.tear_down))
                ):
                    assert own.submit(same).result() == n
                    view.discard_all()
                assert own.submit(same).result() == 3
                others[0].discard_all()
                now = [view.submit(same).result() for view in others]
                assert [a is b for a, b in zip(kept, now, strict=True)] == [False, True, True]
                assert own.submit(same).result() == 3
            states.others = 4
        states.check_all(pool)

    def test_when_there_is_nothing_to_discard(self, simple: Lend, states: States) -> None:
        """Before the first state, twice, after the end of the pool, and of a scope's view after the scope's."""
        with simple() as (pool, view):
            view.discard_all()
            view.submit(same).result()
            rest(pool)
            view.discard_all()
            view.discard_all()
            with pool.scope() as scope:
                scopes = scope.with_state(list)
                scopes.submit(len)
            scopes.discard_all()
            states.others = 1
            rest(pool)
            assert pool.stats().states_discarded == 1
        view.discard_all()
        assert pool.stats().states_discarded == 1

    @POLICIES
    def test_from_many_threads(self, lend: Lend, states: States, policy: StatePolicy | None) -> None:
        """Each state goes once, however many ask for it at once."""
        with lend(policy, workers=2) as (pool, view):
            for n in range(20):
                view.submit(same).result(SOON)
                if n % 2:
                    rest(pool)
                together(4, view.discard_all)
                assert view.submit(same).result(SOON) not in states.torn_down
            rest(pool)
            assert pool.stats().states_discarded == len(states.torn_down)

    @pytest.mark.parametrize(
        ("moment", "policy", "expected"),
        [
            ("entered", None, [0, 0]),  # no state had been made
            ("entered", StatePolicy(), [0, 0]),
            ("about to look at the generation", None, [1, 1]),
            ("looked to lend", None, [0, 1]),  # the first task has begun
            ("looked to lend", StatePolicy(), [1, 1]),  # and will look closer
            ("looked to take back", None, [0, 1]),
            ("looked to take back", StatePolicy(), [0, 1]),
        ],
    )
    def test_staged(self, states: States, moment: str, policy: StatePolicy | None, expected: list[int]) -> None:
        """Another thread discards between two steps of the worker: its task may get the state, the next one not."""
        discards: list[bool] = []

        def discard_all(now: str) -> None:
            if now == moment and not discards:
                discards.append(ended(in_thread(view.discard_all)))

        class Holders(dict[Any, Any]):
            """Just after the worker has entered."""

            def __setitem__(self, worker: Any, value: Any) -> None:
                super().__setitem__(worker, value)
                discard_all("entered")

        class NeedsAttention(list[None]):
            """Just after the worker has looked whether there is more to do than to lend or to take back."""

            looks = iter(["looked to lend", *["looked closer"] * (policy is not None), "looked to take back"])

            def __bool__(self) -> bool:
                answer = len(self) > 0
                discard_all(next(self.looks, "later"))
                return answer

            def clear(self) -> None:
                super().clear()
                discard_all("about to look at the generation")

        with StatefulThreadPoolExecutor(1) as pool:
            view = pool.with_state(states.make, finalizer=states.tear_down, policy=policy)
            if moment == "entered":
                inside(view).holders = Holders()
            else:
                view.submit(same).result(SOON)
                rest(pool)
                careful = policy is not None or moment == "about to look at the generation"
                slot = worker_of(pool).slots[inside(view).binding]
                inside(slot).needs_attention = NeedsAttention([None] if careful else [])
            assert [view.submit(states.use).result(SOON) for _ in range(2)] == expected
            assert discards == [True]
        states.check_all(pool)

    @pytest.mark.parametrize(
        "policy", [None, StatePolicy(check=lambda _: True, reset=int)], ids=["no policy", "policy"]
    )
    @pytest.mark.parametrize("entry_point", ["pool", "view"])
    def test_hammered(self, entry_point: str, policy: StatePolicy | None, nervous: None) -> None:
        """Many threads discard, submit, bind and nest: what is submitted after a discard gets no older state."""
        ticks = itertools.count()
        wrong: list[tuple[int, int]] = []
        live: set[int] = set()
        dice = random.Random(3)  # noqa: S311

        def make() -> int:
            tick = next(ticks)
            if dice.random() < 0.2:
                pool.submit(int).result(SOON)  # lets requests be answered meanwhile
            live.add(tick)
            return tick

        def task(tick: int, discarded: int, depth: int) -> None:
            if tick <= discarded or tick not in live:
                wrong.append((tick, discarded))
            if depth:
                if dice.random() < 0.3:
                    discarded = next(ticks)
                    view.discard_all()
                view.submit(task, discarded, depth - 1).result(SOON)
                view.bind(task)(discarded, 0)

        def hammer() -> None:
            for n in range(25):
                discarded = next(ticks)
                view.discard_all()
                futures = [view.submit(task, discarded, n % 3), pool.submit(view.bind(task), discarded, 0)]
                futures += [view.submit(task, discarded, 0) for _ in range(3)]
                for future in futures:
                    future.result(SOON)

        own: dict[str, Any] = {"initializer": make, "finalizer": live.remove, "policy": policy}
        with StatefulThreadPoolExecutor(3, **own if entry_point == "pool" else {}) as pool:
            view = pool.with_state(**{} if entry_point == "pool" else own)
            together(4, hammer)
            rest(pool)
            stats = pool.stats()
            assert stats.states_made - stats.states_torn_down == len(live) <= 3
        assert not wrong
        assert not live
        stats = pool.stats()
        assert stats.states_made == stats.states_torn_down
        assert stats.failed == stats.teardown_errors == 0


class TestBind:
    """`view.bind(fn)`: the way to a state through other people's interfaces."""

    def test_the_state_of_the_worker(self, lend: Lend, states: States) -> None:
        """The one that tasks of the view get, made if need be, with arguments of all kinds."""

        def fn(number: int, *args: int, **kwargs: int) -> tuple[Any, ...]:
            return number, args, kwargs

        with lend() as (pool, view):
            bound = view.bind(fn)
            assert pool.submit(bound, 1, 2, a=3).result(SOON) == (0, (1, 2), {"a": 3})
            assert pool.submit(partial(bound, 1, a=3), 2).result(SOON) == (0, (1, 2), {"a": 3})
            assert view.submit(same).result(SOON) == 0
            assert list(pool.map(bound, range(3), chunksize=2)) == [(0, (n,), {}) for n in range(3)]
            with pool.scope() as scope:
                assert scope.submit(bound).result(SOON) == (0, (), {})
            assert states.live() == {0}

    def test_looks_like_the_function(self, simple: Lend) -> None:
        """In what other tools print of it."""

        def load(number: int) -> None:
            """Load it."""

        with simple() as (_, view):
            assert view.bind(load).__name__ == view.bind(load).__qualname__ == load.__qualname__
            assert view.bind(load).__doc__ == "Load it."
            assert view.bind(partial(load)).__name__ == load.__qualname__

    def test_error(self, lend: Lend, states: States) -> None:
        """The function's own error is raised, and costs no state."""
        with lend() as (pool, view):
            for error in FAILURES:
                assert type(pool.submit(view.bind(fail), error).exception(SOON)) is error
            assert states.live() == {0}

    def test_initializer_error(self, simple: Lend, states: States) -> None:
        states.before_make = partial(fail, None, OSError("down"))
        with simple() as (pool, view):
            error = pool.submit(view.bind(same)).exception()
            assert isinstance(error, InitializerError)
            assert str(error.__cause__) == "down"
            states.before_make = int
            assert pool.submit(view.bind(same)).result() == 0

    def test_asyncio(self, lend: Lend, states: States) -> None:
        """`loop.run_in_executor`, with the pool given or as the loop's default."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            calls = (loop.run_in_executor(pool, view.bind(pow), n) for n in range(1, 5))
            assert await asyncio.gather(*calls) == [0] * 4
            with pytest.raises(ValueError, match="from it"):
                await loop.run_in_executor(pool, partial(view.bind(fail), error=ValueError("from it")))

        with lend() as (pool, view):
            asyncio.run(main())
            assert states.live() == {0}

    def test_tqdm(self, simple: Lend, monkeypatch: pytest.MonkeyPatch) -> None:
        """`thread_map`, with this pool in the place of the standard library's, and a bar over `map`."""
        tqdm = pytest.importorskip("tqdm")
        concurrent = pytest.importorskip("tqdm.contrib.concurrent")
        monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)  # no thread
        with simple() as (pool, view):
            bound = view.bind(lambda number, n: number + n)
            assert list(tqdm.tqdm(pool.map(bound, range(20)), total=20, disable=True)) == list(range(20))
            monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor", lambda **kwargs: pool)
            assert concurrent.thread_map(bound, range(20), disable=True) == list(range(20))

    def test_outside_of_the_pool(self, lend: Lend, states: States) -> None:
        """In other threads, and in other pools' workers, there is no state to lend."""
        with StatefulThreadPoolExecutor(1, initializer=int) as other, lend() as (pool, view):
            view.submit(same).result(SOON)
            with pytest.raises(RuntimeError, match=f"same is bound to a state of {inside(pool).name}"):
                view.bind(same)()
            assert isinstance(other.submit(view.bind(same)).exception(SOON), RuntimeError)
            assert isinstance(view.submit(lambda _: other.with_state().bind(same)()).exception(SOON), RuntimeError)
            finished = pool.submit(int)
            finished.result(SOON)
            errors: list[BaseException | None] = []
            finished.add_done_callback(lambda _: errors.append(caught(view.bind(same))))  # at once, in this thread
            assert isinstance(errors[0], RuntimeError)
            assert states.live() == {0}

    def test_in_a_task_that_holds_the_state(self, lend: Lend, states: States) -> None:
        """It gets another one, which is there for the next call, and gone when the task ends."""

        def outer(number: int) -> list[int]:
            numbers = [view.bind(states.use)() for _ in range(3)]
            assert states.live() == {0, 1}
            numbers.append(view.bind(lambda number: states.use(number, lambda: numbers.append(view.bind(same)())))())
            return numbers

        with lend() as (pool, view):
            future = view.submit(lambda number: states.use(number, lambda: states.log.append(str(outer(number)))))
            assert future.result(SOON) == 0
            assert states.log[-3:] == ["[1, 1, 1, 2, 1]", "end 2", "end 1"]
            assert states.live() == {0}
            assert pool.stats().states_discarded == 0

    def test_another_kind_of_state(self, simple: Lend, states: States) -> None:
        """In a task that holds a state of another kind, it gets the worker's."""
        with simple() as (pool, view):
            other = pool.with_state(list)
            states.others = 1
            assert other.submit(lambda _: [view.bind(same)() for _ in range(2)]).result() == [0, 0]
            assert view.submit(same).result() == 0

    def test_in_a_done_callback(self, lend: Lend, states: States) -> None:
        """The task has given its state back by then, so there it is; a call inside a call gets another one."""
        begun, done = threading.Event(), threading.Event()
        numbers: list[int] = []

        def nest(number: int) -> None:
            numbers.extend([number, view.bind(same)()])

        def callback(_: object) -> None:
            view.bind(states.use)()
            view.bind(nest)()
            done.set()

        with lend() as (_pool, view):
            future = view.submit(lambda _: begun.wait(SOON))
            future.add_done_callback(callback)
            begun.set()
            assert done.wait(SOON)
            assert numbers == [0, 1]

    def test_extra_states_of_a_done_callback(self, simple: Lend, states: States) -> None:
        """They are gone when the worker is between tasks again, as if a task had needed them."""
        begun = threading.Event()

        def callback(_: object) -> None:
            view.bind(lambda _: view.bind(lambda _: view.bind(same)())())()

        with simple() as (pool, view):
            future = pool.submit(begun.wait, SOON)
            future.add_done_callback(callback)
            begun.set()
            future.result()
            rest(pool)
            assert len(states.made) == 3
            assert len(states.live()) == 1

    def test_of_a_scope(self, simple: Lend, states: States) -> None:
        """In the scope's tasks and, while the scope lasts, in others; afterwards it is an error."""
        with simple() as (pool, _):
            with pool.scope() as scope:
                view = scope.with_state(states.make, finalizer=states.tear_down)
                bound = view.bind(states.use)
                assert scope.submit(bound).result() == pool.submit(bound).result() == view.submit(same).result() == 0
            assert not states.live()
            for _ in range(2):
                error = pool.submit(bound).exception()
                assert isinstance(error, RuntimeError)
                assert str(error) == "the scope of this view has ended, and with it the states made by States.make"
            assert len(states.made) == 1
            assert not worker_of(pool).slots
            assert not inside(view).holders


class TestBindWhileAScopeEnds:
    """The call is no task of the scope's: the end waits for it all the same, and then the state is torn down."""

    @pytest.mark.parametrize("library", [False, True], ids=["waits", "waits for a future"])
    @pytest.mark.parametrize("where", ["function", "initializer", "finalizer", "check", "reset", "inner"])
    def test_the_end_waits(self, states: States, where: str, library: bool) -> None:
        """Wherever the call is just then, and whether or not its worker answers what it is asked meanwhile."""
        begun, go_on, told = threading.Event(), threading.Event(), threading.Event()
        with StatefulThreadPoolExecutor(1) as other, StatefulThreadPoolExecutor(1) as pool:

            def stay(at: str) -> None:
                if at != where or begun.is_set():
                    return
                begun.set()
                if library:
                    other.submit(go_on.wait, SOON).result(SOON)
                assert go_on.wait(SOON)

            def call(number: int) -> int:
                if where == "inner":
                    view.bind(lambda _: stay("inner"))()
                if where == "finalizer":
                    view.discard()
                stay("function")
                return number

            def tear_down(number: int) -> None:
                stay("finalizer")
                states.tear_down(number)

            states.before_make = partial(stay, "initializer")
            policy = StatePolicy(check=lambda _: stay("check"), reset=lambda _: stay("reset"))
            scope = pool.scope()
            with scope:  # only to begin with: what follows is the end of the block, in a thread of its own
                view = scope.with_state(states.make, finalizer=tear_down, policy=policy)
                future = pool.submit(lambda: (view.bind(call)(), caught(view.bind(call))))
                assert begun.wait(SOON)
                if library:
                    waits(pool)
                worker = worker_of(pool)
                ask = worker.ask
                worker.ask = lambda request: (ask(request), told.set())
                thread = in_thread(lambda: (told.wait(SOON), time.sleep(0.02), states.log.append("go"), go_on.set()))
            states.log.append("block ends")
            live = states.live()
            assert ended(thread)
            number, second = future.result(SOON)
            assert number == 0
            # The second call came while the end waited for the worker, or too late.
            assert second is None or "the scope of this view has ended" in str(second)
        assert not live
        assert states.log.index("go") < states.log.index("block ends")
        assert states.log[-1] == "block ends"
        states.check_all(pool)

    def test_a_replacement_that_waits(self, states: States) -> None:
        """A worker that replaces a state of the scope's between tasks, and waits in its teardown, is waited for."""
        begun, go_on = threading.Event(), threading.Event()

        def tear_down(number: int) -> None:
            begun.set()
            other.submit(go_on.wait, SOON).result(SOON)
            states.tear_down(number)

        with StatefulThreadPoolExecutor(1) as other, StatefulThreadPoolExecutor(1) as pool:
            told = threading.Event()
            with pool.scope() as scope:
                view = scope.with_state(states.make, finalizer=tear_down)
                view.submit(same).result()
                rest(pool)
                view.discard_all()
                assert begun.wait(SOON)
                waits(pool)
                worker = worker_of(pool)
                ask = worker.ask
                worker.ask = lambda request: (ask(request), told.set())
                thread = in_thread(lambda: (told.wait(SOON), time.sleep(0.02), go_on.set()))
            live = states.live()
            assert ended(thread)
        assert not live
        states.check_all(pool)

    def test_in_a_worker(self, states: States) -> None:
        """A task that opens a scope and calls bound functions in it holds nothing when it comes to the end."""

        def task() -> None:
            with pool.scope() as scope:
                view = scope.with_state(states.make, finalizer=states.tear_down, policy=StatePolicy(max_tasks=3))
                bound = view.bind(lambda number: states.use(number, view.bind(states.use)))
                assert [bound() for _ in range(4)] == [0, 0, 0, 2]  # the inner calls have used 1 up
            assert not states.live()

        with StatefulThreadPoolExecutor(1) as pool:
            pool.submit(task).result(SOON)
        states.check_all(pool)

    def test_a_finalizer_that_binds(self, states: States, caplog: pytest.LogCaptureFixture) -> None:
        """A teardown at the end of the scope can't have such a state; that is its error, and no more."""

        def tear_down(number: int) -> None:
            states.tear_down(number)
            view.bind(same)()

        outcome: list[BaseException | None] = []

        def run() -> None:
            nonlocal view
            with pool.scope() as scope:
                view = scope.with_state(states.make, finalizer=tear_down)
                view.submit(same).result()

        view: Any = None
        with StatefulThreadPoolExecutor(1) as pool:
            assert ended(in_thread(lambda: outcome.append(caught(run))))
            assert pool.submit(int).result(SOON) == 0
        (error,) = outcome
        assert isinstance(error, ExceptionGroup)
        assert "the scope of this view has ended" in str(error.exceptions[0])
        assert records(caplog) == [("stateful_executor", logging.ERROR, RuntimeError)]
        states.check_all(pool)
