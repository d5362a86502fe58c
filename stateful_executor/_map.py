"""`map`, the same for every door: pool, scope and view."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from ._future import Future
from ._state import name_of
from ._waiter import Deadline

T = TypeVar("T")


class _Chunk:
    """Several calls as one task. Its results are kept apart, so that a map yields those that came before an error."""

    def __init__(self, fn: Callable[..., Any], calls: list[tuple[Any, ...]]) -> None:
        self._fn = fn
        self._calls = calls
        self.results: deque[Any] = deque()
        self.__qualname__ = name_of(fn)

    def __call__(self, *state: Any) -> None:
        fn, calls = self._fn, self._calls
        del self._fn, self._calls
        for args in calls:
            self.results.append(fn(*state, *args))


def map_tasks(
    submit: Callable[..., Future[Any]],
    fn: Callable[..., T],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
) -> Iterator[T]:
    """Submit as many tasks as `buffersize` allows, all without one; return the iterator of results."""
    if chunksize < 1:
        raise ValueError(f"chunksize must be at least 1, not {chunksize}")
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError(f"buffersize must be an integer or None, not {buffersize!r}")
    if buffersize is not None and buffersize < 1:
        raise ValueError(f"buffersize must be None or greater than 0, not {buffersize}")
    deadline = Deadline(timeout)
    source = _submitted(submit, fn, iterables, chunksize)
    tasks: deque[tuple[Future[Any], _Chunk | None]] = deque()
    try:
        tasks.extend(islice(source, buffersize))
    except BaseException:
        _cancel(tasks)  # nobody will ever see their results
        raise
    return _results(tasks, source, deadline)


def _submitted(
    submit: Callable[..., Future[Any]], fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], chunksize: int
) -> Iterator[tuple[Future[Any], _Chunk | None]]:
    """Submit one task for each that is asked of this iterator. Exhausted, it keeps no pool alive any more."""
    calls = zip(*iterables, strict=False)
    if chunksize == 1:
        for args in calls:
            yield submit(fn, *args), None
    else:
        while some := list(islice(calls, chunksize)):
            chunk = _Chunk(fn, some)
            yield submit(chunk), chunk


def _results(
    tasks: deque[tuple[Future[Any], _Chunk | None]],
    source: Iterator[tuple[Future[Any], _Chunk | None]],
    deadline: Deadline,
) -> Iterator[Any]:
    """Yield results in order, keeping none. What has not begun when this ends early is cancelled."""
    late_error: Exception | None = None
    try:
        while tasks:
            ready, error = _outcome(*tasks.popleft(), deadline)
            while ready:
                yield ready.popleft()
            if error is not None:
                raise error
            try:
                # Only now that a result has been yielded: never more than `buffersize` tasks are ahead of the caller.
                tasks.extend(islice(source, 1))
            except Exception as exc:  # from the input or from `submit`: it comes after what was submitted before it
                late_error = exc
        if late_error is not None:
            raise late_error
    finally:
        error = late_error = None  # no cycle from an error by its traceback to this frame
        _cancel(tasks)


def _outcome(task: Future[Any], chunk: _Chunk | None, deadline: Deadline) -> tuple[deque[Any], Exception | None]:
    """The results of `task`, and the error that comes after them."""
    try:
        result = task.result(deadline.left())
        return (deque([result]) if chunk is None else chunk.results), None
    except Exception as exc:
        task.cancel()
        return (deque() if chunk is None else chunk.results), exc
    except BaseException:
        task.cancel()
        raise
    finally:
        del task  # no cycle from its error by the traceback to this frame


def _cancel(tasks: deque[tuple[Future[Any], _Chunk | None]]) -> None:
    for task, _ in tasks:
        task.cancel()
    tasks.clear()
