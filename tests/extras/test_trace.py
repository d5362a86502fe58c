"""`trace.record`: what is written down of tasks, states, submitters and scopes; and that nothing of it stays."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from child import run_well
from inside import inside
from threads import beside, run_in_thread, until

from stateful_executor import InitializerError, Scope, StatefulThreadPoolExecutor, StatePolicy, trace
from stateful_executor.trace import Recording, Span

Pool = StatefulThreadPoolExecutor[Any]


def kinds(recording: Recording) -> Counter[str]:
    return Counter(span.kind for span in recording.spans())


def of_kind(recording: Recording, kind: str) -> list[Span]:
    return [span for span in recording.spans() if span.kind == kind]


def tasks(recording: Recording) -> list[Span]:
    return of_kind(recording, "task")


def fail(*_: object) -> None:
    raise LookupError


def nothing(*_: object, **__: object) -> None:
    pass


# Tasks


def test_each_task_with_its_name_its_worker_and_its_times() -> None:
    with StatefulThreadPoolExecutor(2, "w") as pool, trace.record(pool) as recording:
        for future in [pool.submit(nothing) for _ in range(100)]:
            future.result()
        assert isinstance(pool.submit(fail).exception(), LookupError)
    spans = tasks(recording)
    assert Counter(span.name for span in spans) == {"nothing": 100, "fail": 1}
    assert {span.lane for span in spans} <= {"w_0", "w_1"}
    assert all(0 <= span.submitted <= span.begin <= span.end for span in spans)
    assert [span.name for span in spans if span.failed] == ["fail"]
    assert not any(span.depth or span.open for span in spans)
    assert recording.spans() == sorted(recording.spans(), key=lambda span: span.begin)


def test_the_wait_in_the_backlog() -> None:
    """Of two tasks for one worker, the second waits until the first has ended."""
    go_on = threading.Event()
    with StatefulThreadPoolExecutor(1) as pool, trace.record(pool) as recording:
        pool.submit(go_on.wait)
        until(lambda: tasks(recording))  # it has begun
        last = pool.submit(nothing)
        assert [(span.kind, span.open) for span in recording.spans()] == [("task", True), ("queued", False)]
        go_on.set()
        last.result()  # else the recording may end before it begins
    first, second = tasks(recording)
    assert second.submitted < first.end <= second.begin
    assert (first.name, second.name) == ("Event.wait", "nothing")
    assert not of_kind(recording, "queued")


def test_in_place() -> None:
    """With one worker a task runs inside the one that waits for it; with a full backlog, in the one that submits it."""
    with StatefulThreadPoolExecutor(1, max_backlog=1) as pool, trace.record(pool) as recording:

        def outer() -> None:
            pool.submit(nothing).result()

        def submits() -> None:
            pool.submit(nothing)
            pool.submit(fail).exception()

        pool.submit(outer).result()
        pool.submit(submits).result()
    depths = {span.name.rpartition(".")[2]: span.depth for span in tasks(recording) if span.name != "nothing"}
    assert depths == {"outer": 0, "submits": 0, "fail": 1}
    outer_span, inner = tasks(recording)[:2]
    assert outer_span.begin <= inner.begin <= inner.end <= outer_span.end
    assert inner.depth == 1


def test_a_task_that_runs_is_open_with_those_around_it() -> None:
    inside_it, go_on = threading.Event(), threading.Event()

    def inner() -> None:
        inside_it.set()
        go_on.wait(20)

    with StatefulThreadPoolExecutor(1) as pool, trace.record(pool) as recording:
        pool.submit(lambda: pool.submit(inner).result())
        inside_it.wait(20)
        assert [(span.depth, span.open) for span in recording.spans()] == [(0, True), (1, True)]
        go_on.set()
    assert [(span.depth, span.open) for span in tasks(recording)] == [(0, False), (1, False)]


@pytest.mark.parametrize("copy_context", [False, True])
def test_names(copy_context: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Those of the functions, whatever is around them; logs of errors have them, too."""

    def around(fn: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: fn(*args)

    with StatefulThreadPoolExecutor(1, copy_context=copy_context, task_decorator=around, initializer=list) as pool:
        with trace.record(pool) as recording:
            pool.submit(nothing, keyword=1).result()
            pool.submit(functools.partial(nothing, 1)).result()
            pool.with_state().submit(nothing, 1).result()
            list(pool.map(nothing, range(10), chunksize=5))
            for future in pool.broadcast(nothing):
                future.result()
            with caplog.at_level(logging.ERROR):
                pool.submit(fail)
                until(lambda: (gc.collect() and caplog.records) or caplog.records)
    assert Counter(span.name for span in tasks(recording)) == {"nothing": 6, "fail": 1}
    assert "fail" in caplog.text


def test_the_result_and_the_arguments_are_not_kept() -> None:
    class Big:
        pass

    with StatefulThreadPoolExecutor(1) as pool, trace.record(pool) as recording:
        big = Big()
        ref = weakref.ref(big)
        pool.submit(lambda kept=big: [kept]).result()
        del big
        until(lambda: gc.collect() is not None and ref() is None)
    assert len(tasks(recording)) == 1


# States


def test_the_life_of_a_state() -> None:
    def connect() -> Iterator[object]:
        yield object()

    policy = StatePolicy(check=nothing, reset=nothing, discard_on=LookupError)
    pool = StatefulThreadPoolExecutor(1, "w", initializer=connect, policy=policy)
    with trace.record(pool) as recording, pool:
        view = pool.with_state()
        view.submit(nothing).result()
        view.submit(fail).exception()
        view.submit(nothing).result()
    assert [(span.kind, span.name.rpartition(".")[2]) for span in recording.spans()] == [
        ("make", "connect"),
        ("check", "connect"),
        ("task", "nothing"),
        ("reset", "connect"),
        ("check", "connect"),
        ("task", "fail"),
        ("discard", "connect"),
        ("teardown", "connect"),
        ("make", "connect"),
        ("check", "connect"),
        ("task", "nothing"),
        ("reset", "connect"),
        ("teardown", "connect"),
        ("leave", ""),
    ]
    assert {span.lane for span in recording.spans()} == {"w_0"}


def test_what_fails_of_a_state() -> None:
    made = []

    def connect() -> object:
        made.append(None)
        if len(made) == 2:
            raise OSError
        return object()

    def check(_: object) -> bool:
        return len(made) != 1

    pool = StatefulThreadPoolExecutor(1, initializer=connect, finalizer=fail, policy=StatePolicy(check=check))
    with trace.record(pool) as recording, pool:
        assert pool.with_state().submit(nothing).exception() is not None
        pool.with_state().submit(nothing).result()
    failed = [span.kind for span in recording.spans() if span.failed]
    assert failed == ["check", "teardown", "make", "teardown"]


def test_states_of_views_and_scopes() -> None:
    with StatefulThreadPoolExecutor(1) as pool, trace.record(pool) as recording:
        with pool.scope() as scope:
            scope.with_state(list).submit(nothing)
            scope.with_state(dict).submit(fail).exception()
            pool.submit(pool.with_state(set).bind(nothing)).result()
    assert Counter(span.name for span in of_kind(recording, "make")) == {"list": 1, "dict": 1, "set": 1}
    assert {span.name for span in of_kind(recording, "teardown")} == {"list", "dict"}
    (block,) = of_kind(recording, "scope")
    assert (block.name, block.lane, block.failed) == (threading.current_thread().name, "", False)
    assert all(block.begin <= span.begin <= span.end <= block.end for span in of_kind(recording, "teardown"))


# Submitters and scopes


def blocked_by(submit: Callable[[Pool], object], **options: Any) -> list[Span]:
    """The waits for a place in the backlog that `submit` leads to, when there is none."""
    go_on = threading.Event()
    with StatefulThreadPoolExecutor(1, max_backlog=1, **options) as pool, trace.record(pool) as recording:
        pool.submit(go_on.wait)
        until(lambda: pool.stats().running)
        pool.submit(nothing)
        with beside(lambda: (until(lambda: pool.stats().blocked_submitters), go_on.set())):
            submit(pool)
    return of_kind(recording, "blocked")


def test_a_blocked_submit() -> None:
    (span,) = blocked_by(lambda pool: pool.submit(nothing).result())
    assert span.name == threading.current_thread().name
    assert 0 < span.begin < span.end


def test_a_blocked_asubmit() -> None:
    async def main(pool: Pool) -> None:
        await (await pool.asubmit(nothing))

    assert len(blocked_by(lambda pool: asyncio.run(main(pool)))) == 1


def test_scopes() -> None:
    async def main(pool: Pool) -> None:
        async with pool.scope() as scope:
            scope.submit(nothing)

    with StatefulThreadPoolExecutor(1) as pool, trace.record(pool) as recording:
        with pool.scope() as scope:
            scope.submit(nothing)
            assert isinstance(scope, Scope)
        asyncio.run(main(pool))
        with pytest.raises(ExceptionGroup), pool.scope(fail_fast=True, timeout=20) as scope:
            scope.submit(fail)
    assert [span.failed for span in of_kind(recording, "scope")] == [False, False, True]


# On and off


def test_off_is_as_never_recorded() -> None:
    """Nothing is left in the pool, its workers and its states; nor was anything there before."""

    def look(pool: Pool) -> list[object]:
        worker = next(iter(inside(pool).workers))
        states = inside(worker).states
        slots = list(inside(worker).slots.values())
        return [
            inside(pool).decorate,
            inside(pool).new_worker,
            inside(pool).left_line,
            "scope" in vars(pool),
            type(states),
            [type(slot) for slot in slots],
            [type(state) for slot in slots for state in inside(slot).states],
        ]

    with StatefulThreadPoolExecutor(1, initializer=list, max_backlog=2) as pool:
        pool.with_state().submit(nothing).result()
        before = look(pool)
        assert before[0] is None
        with trace.record(pool) as recording:
            pool.with_state().submit(nothing).result()
            pool.submit(nothing).result()
            assert all(now != then for now, then in zip(look(pool), before, strict=True))
        recording.stop()
        pool.submit(nothing).result()  # the worker has looked at what was asked of it
        assert look(pool) == before
        recorded = recording.spans()
        pool.with_state().submit(nothing).result()
        assert recording.spans() == recorded
        assert "stopped" in repr(recording)


def test_a_pool_at_work_can_be_recorded() -> None:
    """Its states are known from then on, and those who are idle."""
    with StatefulThreadPoolExecutor(1, "w", initializer=list) as pool:
        view = pool.with_state()
        view.submit(nothing).result()
        with trace.record(pool) as recording:
            until(lambda: recording._logs.all)
            view.discard_all()
            view.submit(nothing).result()
    assert [span.kind for span in recording.spans()] == ["discard", "teardown", "make", "task"]


def test_one_recording_at_a_time() -> None:
    with StatefulThreadPoolExecutor(1) as pool:
        with trace.record(pool), pytest.raises(ValueError, match="recorded already: stop that recording first"):
            trace.record(pool)
        with trace.record(pool) as again:
            pool.submit(nothing).result()
    assert len(tasks(again)) == 1


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="must be a StatefulThreadPoolExecutor, not 3"):
        trace.record(3)  # type: ignore[arg-type]
    with StatefulThreadPoolExecutor(1) as pool:
        with pytest.raises(ValueError, match="limit must be at least 1 event, not 0"):
            trace.record(pool, limit=0)
        with pytest.raises(TypeError, match="limit"):
            trace.record(pool, limit="many")  # type: ignore[arg-type]


def test_the_oldest_events_are_dropped() -> None:
    with StatefulThreadPoolExecutor(1) as pool, trace.record(pool, limit=10) as recording:
        for name in ("first", "second"):
            nothing.__qualname__ = name
            list(pool.map(nothing, range(10)))
        nothing.__qualname__ = "nothing"
    assert [span.name for span in recording.spans()] == ["second"] * 10
    assert recording._timeline().is_cut


def test_it_keeps_no_pool_alive() -> None:
    pool: Pool = StatefulThreadPoolExecutor(1, "w")
    recording = trace.record(pool)
    pool.submit(nothing).result()
    with pool.scope() as scope:
        scope.submit(nothing)
    ref = weakref.ref(pool)
    del pool, scope
    until(lambda: gc.collect() is not None and ref() is None)
    until(lambda: of_kind(recording, "leave"))  # it has ended by itself
    assert kinds(recording) == {"task": 2, "scope": 1, "leave": 1}


def test_a_number_that_two_workers_had_is_one_lane() -> None:
    with StatefulThreadPoolExecutor(1, "w", idle_timeout=0.001) as pool, trace.record(pool) as recording:
        for _ in range(2):
            pool.submit(nothing).result()
            until(lambda: pool.stats().workers == 0)
        until(lambda: len(of_kind(recording, "leave")) == 2)
    (lane,) = recording._timeline().lanes
    assert lane.name == "w_0"
    assert len(lane.alive) == 2
    assert lane.alive[0][1] <= lane.alive[1][0]


def test_recordings_come_and_go_while_tasks_do() -> None:
    """From several threads: each task of a recording is written down once, and none of the others harms it."""
    with StatefulThreadPoolExecutor(4, initializer=list, max_backlog=8) as pool:
        over = threading.Event()

        def others() -> None:
            view = pool.with_state()
            while not over.is_set():
                view.submit(nothing).result()

        def mine() -> None:
            pass

        with beside(others), beside(others):
            for _ in range(20):
                with trace.record(pool) as recording:
                    for future in [pool.submit(mine) for _ in range(50)]:
                        future.result()
                    recording.spans()
                spans = [span for span in tasks(recording) if span.name.endswith("mine")]
                assert len(spans) == 50
            over.set()
        run_in_thread(lambda: pool.submit(nothing).result())


def test_the_core_imports_nothing_of_it() -> None:
    script = """
        import sys
        pool = StatefulThreadPoolExecutor(1)
        pool.submit(int).result()
        pool.stats()
        pool.shutdown()
        optional = "stateful_executor.trace", "stateful_executor.progress"
        print(*(name for name in sys.modules if name.startswith(optional)))
    """
    assert run_well(script) == [""]


@pytest.mark.parametrize(
    ("library", "call", "extra"),
    [
        ("matplotlib", "trace.record(pool).plot('never.png')", "plot"),
        ("bokeh", "trace.record(pool).html('never.html')", "page"),
        ("rich", "import stateful_executor.progress", "progress"),
    ],
)
def test_what_to_install(library: str, call: str, extra: str) -> None:
    script = f"""
        sys.modules[{library!r}] = None
        from stateful_executor import trace
        with StatefulThreadPoolExecutor(1) as pool:
            try:
                {call}
            except ImportError as error:
                print(error)
    """
    assert f"pip install 'stateful-executor[{extra}]'" in run_well(script)[0]


def test_stop_again() -> None:
    """That of a recording which has ended does not end the next one."""
    with StatefulThreadPoolExecutor(1) as pool:
        first = trace.record(pool)
        first.stop()
        with trace.record(pool) as second:
            first.stop()
            pool.submit(nothing).result()
        assert [span.name for span in tasks(second)] == ["nothing"]
        assert not first.spans()


def test_what_begins_after_the_stop() -> None:
    """A task in the backlog is not recorded any more, one that runs is to its end."""
    go_on = threading.Event()
    with StatefulThreadPoolExecutor(1) as pool:
        with trace.record(pool) as recording:
            pool.submit(go_on.wait)
            until(lambda: tasks(recording))
            last = pool.submit(nothing)
        go_on.set()
        last.result()
        assert [span.name for span in tasks(recording)] == ["Event.wait"]


def test_policy_with_a_constructor_of_its_own() -> None:
    """Is copied, not made anew; errors go on naming what it calls."""

    class Own(StatePolicy[Any]):
        def __init__(self) -> None:
            super().__init__(check=functools.partial(isinstance, 1))

    with StatefulThreadPoolExecutor(1) as pool, trace.record(pool) as recording:
        view = pool.with_state(lambda: str, policy=Own())
        with pytest.raises(InitializerError, match="isinstance returned False"):
            view.submit(nothing).result(20)
    assert len(of_kind(recording, "check")) == 2


def test_scope_of_the_user() -> None:
    """What stood on the pool before stands there after."""
    pool = StatefulThreadPoolExecutor(1)
    own: Any = functools.partial(StatefulThreadPoolExecutor.scope, pool)
    pool.scope = own  # type: ignore[method-assign]
    with trace.record(pool):
        pass
    assert vars(pool)["scope"] is own
