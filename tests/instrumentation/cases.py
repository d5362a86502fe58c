"""What holds with a tool in the process: `python cases.py TOOL CASE` fails where it does not."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures.thread import BrokenThreadPool
from contextlib import suppress
from typing import Any

from entry_points import ENTRY_POINTS, EntryPoint
from threads import beside, run_in_thread
from tools import TOOLS, Sentry, Tool

from stateful_executor import StatefulThreadPoolExecutor, StatePolicy

submitted_to: list[type] = []  # the class of the executor, at each call of the standard library's `submit`


def watch_submit() -> None:
    """Before a tool patches it."""
    submit = ThreadPoolExecutor.submit

    def watched(self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        submitted_to.append(type(self))
        return submit(self, fn, *args, **kwargs)

    ThreadPoolExecutor.submit = watched  # type: ignore[method-assign]


def only_theirs_is_called(tool: Tool) -> None:
    """The tool patches the standard library's `submit`, and that is where it ends."""
    with ThreadPoolExecutor(1) as theirs, StatefulThreadPoolExecutor(1) as ours, tool.request("mine"):
        assert theirs.submit(tool.seen).result() == "mine"  # so the tool is at work
        assert ours.submit(tool.seen).result() is None
    assert submitted_to == [ThreadPoolExecutor]


def seen_in(tool: Tool, entry_point: EntryPoint, *, copy_context: bool) -> list[Any]:
    """What tasks of two requests and of none see. The first request is what starts the worker."""
    seen: list[Any] = []
    with StatefulThreadPoolExecutor(1, initializer=list, copy_context=copy_context) as pool:

        def handle(name: str) -> None:
            with tool.request(name):
                pool.submit(int).result()  # a worker, for a broadcast to reach
                seen.append(entry_point(pool, tool.seen))

        run_in_thread(lambda: handle("first"))  # for the main thread another one starts workers
        handle("second")
        return [*seen, entry_point(pool, tool.seen)]


def copied(tool: Tool) -> None:
    """Each task is part of its own request, however it was submitted."""
    for name, entry_point in ENTRY_POINTS.items():
        assert seen_in(tool, entry_point, copy_context=True) == ["first", "second", None], name


def shared(tool: Tool) -> None:
    """None is part of a request, and least of all of the one that started the worker."""
    for name, entry_point in ENTRY_POINTS.items():
        assert seen_in(tool, entry_point, copy_context=False) == [None, None, None], name


def at_once(tool: Tool) -> None:
    """Two requests at a time, with a task of each running: their spans are sent as parts of their own requests."""
    everyone = threading.Barrier(2)
    with StatefulThreadPoolExecutor(2, copy_context=True) as pool:

        def task(name: str) -> None:
            everyone.wait()
            with tool.span(f"task of {name}"):
                everyone.wait()

        def handle(name: str) -> None:
            with tool.request(name):
                pool.submit(task, name).result()

        with beside(handle, "one"):
            handle("other")
    parents = tool.parents()
    assert (parents["task of one"], parents["task of other"]) == ("one", "other")


def in_place(tool: Tool) -> None:
    """A task that another request's task waits for, and runs, is part of its own; so is the other one after that."""
    submitted = threading.Event()
    futures: list[Future[Any]] = []
    seen: list[Any] = []

    def wait_for_other() -> list[Any]:
        submitted.wait()
        return [tool.seen(), futures[0].result(), tool.seen()]

    with StatefulThreadPoolExecutor(1, copy_context=True) as pool, tool.request("first"):
        waiting = pool.submit(wait_for_other)

        def second() -> None:
            with tool.request("second"):
                futures.append(pool.submit(tool.seen))
                submitted.set()
                seen.extend(waiting.result())

        run_in_thread(second)
    assert seen == ["first", "second", "first"]


def callbacks(tool: Tool) -> None:
    """What a worker does for all requests is part of none: states, policies, and who is told of a task's end."""
    seen: list[Any] = []

    def look(*_: object) -> None:
        seen.append(tool.seen())

    policy: StatePolicy[None] = StatePolicy(check=look, reset=look)
    with StatefulThreadPoolExecutor(1, initializer=look, finalizer=look, policy=policy, copy_context=True) as pool:

        def handle(name: str) -> None:
            go_on = threading.Event()
            with tool.request(name):
                future = pool.with_state().submit(lambda _: go_on.wait())
                future.add_done_callback(look)
                go_on.set()
                future.result()

        run_in_thread(lambda: handle("first"))
        handle("second")
    assert len(seen) >= 7
    assert set(seen) == {None}


def after_the_span(tool: Tool) -> None:
    """What a task sees that begins when its submitter's span has ended; what docs/recipes advises if that is less."""
    hold, pool = threading.Event(), StatefulThreadPoolExecutor(1, copy_context=True)
    with pool:
        pool.submit(hold.wait)
        with tool.request("first"):
            future = pool.submit(tool.seen)
            advised = submit_for_later(tool, pool)
        hold.set()
        assert future.result() == tool.after_the_span
        assert advised.result() == "first"


def submit_for_later(tool: Tool, pool: StatefulThreadPoolExecutor[None]) -> Future[Any]:
    if tool.after_the_span == "first":
        return pool.submit(tool.seen)
    if isinstance(tool, Sentry):
        with tool.sdk.isolation_scope():
            return pool.submit(tool.seen)

    from ddtrace.trace import Context, tracer

    def in_trace(context: Context, fn: Callable[[], Any]) -> Any:
        tracer.context_provider.activate(context)
        return fn()

    return pool.submit(in_trace, tracer.current_trace_context(), tool.seen)


def scopes_are_shared(tool: Sentry) -> None:
    """A copied context holds the same Sentry scopes: others of the request see a task's tags and open spans."""
    theirs = ("of a task", ("first", "of a task"))
    assert seen_beside(tool, lambda task: task) == {"another task": theirs, "the submitter": theirs}


def scopes_are_isolated(tool: Sentry) -> None:
    """What docs/recipes advises for that."""
    own = (None, "first")
    assert seen_beside(tool, tool.sdk.isolation_scope()) == {"another task": own, "the submitter": own}


def seen_beside(tool: Sentry, decorate: Callable[[Callable[[], None]], Callable[[], None]]) -> dict[str, Any]:
    """What others of its request see while a task has set a tag and opened a span."""
    in_span, go_on = threading.Event(), threading.Event()

    def task() -> None:
        tool.sdk.set_tag("task", "of a task")
        with tool.span("of a task"):
            in_span.set()
            go_on.wait()

    def look() -> tuple[Any, Any]:
        return tool.event()["tags"].get("task"), tool.seen()

    with StatefulThreadPoolExecutor(2, copy_context=True) as pool, tool.request("first"):
        future = pool.submit(decorate(task))
        in_span.wait()
        seen = {"another task": pool.submit(look).result(), "the submitter": look()}
        go_on.set()
        future.result()
    assert tool.parents()["of a task"] == "first"
    return seen


def errors(tool: Sentry) -> None:
    """Sentry gets what is logged, once and as part of no request; the rest is for who takes it from its future."""
    logging.getLogger().addHandler(logging.NullHandler())  # else they are on stderr as well
    with StatefulThreadPoolExecutor(1, copy_context=True) as pool, tool.request("first"):
        assert isinstance(pool.submit(divmod, 1, 0).exception(), ZeroDivisionError)
        with suppress(ZeroDivisionError):
            next(pool.map(divmod, [1], [0]))
        pool.submit(int, "nobody takes this error")
        pool.submit(int).result()  # the worker has forgotten the one before
        kept = [pool.submit(int, "nor this one")]
        wait(kept)
        pool.submit(int).result()
    with StatefulThreadPoolExecutor(1, initializer=open, initargs=("/nowhere/file",)) as broken, tool.request("second"):
        kept.clear()  # in another request than its own
        assert isinstance(broken.submit(int).exception(), BrokenThreadPool)
    events = [event for event in tool.sent if "exception" in event]
    assert [event["exception"]["values"][-1]["type"] for event in events] == [
        "ValueError",
        "ValueError",
        "FileNotFoundError",
    ]
    assert not any(event.get("tags") for event in events)


COMMON: list[Callable[[Any], None]] = [
    only_theirs_is_called,
    copied,
    shared,
    at_once,
    in_place,
    callbacks,
    after_the_span,
]
CASES: dict[str, list[Callable[[Any], None]]] = {tool: [*COMMON] for tool in TOOLS}
CASES["sentry"] += [scopes_are_shared, scopes_are_isolated, errors]


def main(tool: str, name: str) -> None:
    watch_submit()
    (case,) = (case for case in CASES[tool] if case.__name__ == name)
    ready = TOOLS[tool]()
    submitted_to.clear()
    case(ready)
    assert StatefulThreadPoolExecutor not in submitted_to


if __name__ == "__main__":
    main(*sys.argv[1:])
