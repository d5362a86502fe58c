"""`map` and `map_unordered`, the same for pool, scope and view."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from itertools import chain, islice

from ._current import sleep
from ._future import Future, Helper, current_helper
from ._naming import name_of
from ._numbers import whole_number
from ._parker import Deadline, Parker
from ._phases import FINISHED
from ._typing import Any, Self, TypeAlias, TypeVar, cast

T = TypeVar("T")


_silence: Callable[[Any], object] = Future._silence


class Chunk:
    """Several calls as one task. Its results are kept apart, so that a map yields those that came before an error.

    Made by the map, read by it when the task has ended; the rest is the business of whoever runs it.
    """

    def __init__(self, fn: Callable[..., Any], name: str, single: bool, inputs: list[Any]) -> None:
        self._fn = fn
        self._single = single  # one iterable, whose items need no tuple around them
        self._inputs = inputs
        self.results: list[Any] = []
        self.__qualname__ = name

    def taken(self) -> tuple[Callable[..., Any], str, bool, list[Any]]:
        """The arguments of a chunk elsewhere that is to run instead; this one forgets them."""
        taken = self._fn, self.__qualname__, self._single, self._inputs
        del self._fn, self._inputs
        return taken

    def __call__(self, *state: Any) -> None:
        fn, inputs, results = self._fn, self._inputs, self.results
        del self._fn, self._inputs
        if state:
            fn = partial(fn, *state)
        # Faster than `map`, which would take a StopIteration of `fn` for the end, too.
        if self._single:
            for item in inputs:
                results.append(fn(item))
        else:
            for args in inputs:
                results.append(fn(*args))


_Part: TypeAlias = tuple[Future[Any], Chunk | None]


class InOrder(deque[_Part]):
    """The tasks of a `map` whose results have not been asked for."""

    add = deque.append

    def next(self, _: Deadline) -> _Part:
        """The task whose result comes next; `result()` waits for it."""
        return self.popleft()

    def cancel(self) -> None:
        """Cancel what has not begun; nobody will look at what the others come to."""
        while self:
            _cancel(self.popleft()[0])


class AsTheyFinish(dict[Future[Any], "Chunk | None"]):
    """The tasks of a `map_unordered` whose results have not been asked for.

    `_arrived` is guarded by its own lock; the rest is touched by the iterating thread only, but for `_sleeper`, which
    is set back by who wakes that thread, before it does. The thread is woken by a task that ends, by the map's timeout,
    or by Ctrl-C. No end is missed:

        who               publishes            meets at (locks)  then looks at
        who ends a task   enters `_arrived`    `_arrived`        `_sleeper`
        iterating thread  sets `_sleeper`      `_arrived`        what is in there
    """

    def __init__(self) -> None:
        self._parker: Parker = Parker()
        self._sleeper: Parker | None = None  # the same while the thread sleeps, or is about to
        self._arrived: deque[Future[Any]] = deque()
        self._unbegun: deque[Future[Any]] | None = None  # for a worker that iterates; begun ones leave when first
        self._repeats: list[Future[Any]] = []  # what a user's own `submit` has given again
        self._watcher = _Watcher(weakref.ref(self))
        self._watches: bool = False  # from the first, see `watching`

    def watching(self, put: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
        """What submits for this map, by `put(watchers, fn, *args)`: to watch costs less before others see the task."""
        self._watches = True
        return partial(put, (self._watcher,))

    def add(self, part: _Part) -> None:
        """Expect the end of a task."""
        task, chunk = part
        if not self._watches and task in self:
            self._repeats.append(task)
            return
        self[task] = chunk
        if self._unbegun is not None:
            self._unbegun.append(task)
        if self._watches:
            return
        try:
            task._watch(self._watcher)
            if task.done():
                self._watcher.wake(task)
        except BaseException:
            self._watcher.wake(task)  # nobody else may; should the map go on, `result()` waits for the task
            raise

    def next(self, deadline: Deadline) -> _Part:
        """A task that has ended; in a worker of its pool, run one that has not begun rather than wait."""
        task = None
        try:
            arrived = self._arrived
            while True:  # as in `_results`
                if arrived:
                    task = arrived.popleft()
                    if self._unbegun:
                        self._forget_begun(self._unbegun)
                    if self._repeats and task in self._repeats:
                        self._repeats.remove(task)
                        arrived.append(task)
                        return task, self[task]
                    if task in self:  # as it is not the second time
                        return task, self.pop(task)
                elif not self._help(deadline):
                    self._look_for_fork()
                    if not self._sleep(deadline.left()) and not arrived:
                        raise TimeoutError(f"{len(self)} tasks of a map_unordered have not ended in time")
                continue
        finally:
            del task  # no cycle from the error of a task run here, by its traceback, to this frame

    def _help(self, deadline: Deadline) -> bool:
        left = deadline.left()
        if self._helper() is None or (left is not None and left <= 0):
            return False
        if self._unbegun is None:
            self._unbegun = deque(self)
        self._forget_begun(self._unbegun)
        # They may be of several pools, where a user's own `submit` chooses one.
        helper = current_helper(self._unbegun[0]._home) if self._unbegun else None
        if helper is None:
            return False
        helper.help(self._unbegun.popleft())
        return True

    def _helper(self) -> Helper | None:
        for task in self:
            return current_helper(task._home)
        return None

    def _forget_begun(self, unbegun: deque[Future[Any]]) -> None:
        while unbegun and not unbegun[0]._claim:
            unbegun.popleft()

    def _sleep(self, timeout: float | None) -> bool:
        helper = self._helper()
        self._sleeper = self._parker
        try:
            self._arrived.extend(())  # locks it, see above
            if self._arrived:
                return True
            return sleep(self._parker, timeout) if helper is None else helper.wait(self._parker, timeout)
        finally:
            self._sleeper = None

    def _look_for_fork(self) -> None:
        """Raise `BrokenThreadPool` in a child process, where no task will ever end."""
        for task in self:
            if task._home.forked:
                task.result()
            return

    def cancel(self) -> None:
        """Cancel what has not begun; nobody will look at what the others come to."""
        self._unbegun = None
        while self:
            _cancel(self.popitem()[0])


class _Watcher:
    """Tells a map which of its tasks have ended, if it is still there. They all have this one, and it has none."""

    __slots__ = ("_map",)

    def __init__(self, parts: weakref.ref[AsTheyFinish]) -> None:
        self._map = parts

    def wake(self, task: Future[Any]) -> None:
        parts = self._map()
        if parts is not None:
            parts._arrived.append(task)
            sleeper = parts._sleeper
            if sleeper is not None:
                parts._sleeper = None  # before it wakes, and may sleep again; others need not wake it until then
                try:
                    sleeper.wake()
                except BaseException:  # Ctrl-C, or thrown into this thread: this is called again
                    parts._sleeper = sleeper
                    raise


def map_tasks(
    submit: Callable[..., Future[Any]],
    fn: Callable[..., T],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
    parts: InOrder | AsTheyFinish,
) -> Iterator[T]:
    """Submit as many tasks as `buffersize` allows, all without one; return the iterator of results."""
    chunksize = whole_number("chunksize", chunksize, "a whole number of calls")
    if chunksize < 1:
        raise ValueError(f"chunksize must be at least 1, not {chunksize}")
    if buffersize is not None:
        if not isinstance(buffersize, int):
            raise TypeError(f"buffersize must be an integer or None, not {buffersize!r}")
        if buffersize < 1:
            raise ValueError(f"buffersize must be None or > 0, not {buffersize}")
    deadline = Deadline(timeout)
    source = _submitted(submit, fn, iterables, chunksize)
    try:
        for part in islice(source, buffersize):
            parts.add(part)
    except BaseException:
        parts.cancel()
        raise
    more = None if buffersize is None else source
    return _results(parts, more, deadline) if chunksize == 1 else _Chained.of(_chunks(parts, more, deadline))


def map_unordered(
    of: Any,
    fn: Callable[..., T],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
) -> Iterator[T]:
    """The results of the tasks of `of`, a pool, a scope or a view, as they finish; a `submit` of the user's is used."""
    parts = AsTheyFinish()
    submit = parts.watching(of._put) if of.submit == of._own_submit else of.submit
    return map_tasks(submit, fn, iterables, timeout, chunksize, buffersize, parts)


def _submitted(
    submit: Callable[..., Future[Any]], fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], chunksize: int
) -> Iterator[_Part]:
    """Submit one task for each that is asked of this iterator. Exhausted, it keeps no pool alive any more."""
    if chunksize == 1:
        for args in zip(*iterables, strict=False):
            yield submit(fn, *args), None
        return
    name, single = name_of(fn), len(iterables) == 1
    inputs = iter(iterables[0]) if single else zip(*iterables, strict=False)
    while some := list(islice(inputs, chunksize)):
        chunk = Chunk(fn, name, single, some)
        yield submit(chunk), chunk


def _results(parts: InOrder | AsTheyFinish, more: Iterator[_Part] | None, deadline: Deadline) -> Iterator[Any]:
    """Yield results, keeping none. What has not begun when this ends early is cancelled."""
    try:
        late_error: Exception | None = None
        while True:  # loops as these may stand in a `try`, after a first line of it: no jump back is conditional
            if not parts:
                break
            yield _result(parts.next(deadline)[0], deadline)
            # Only now that a result has been yielded: never more than `buffersize` tasks are ahead of the caller.
            if more is not None:
                late_error = _add_next(parts, more, late_error)
            continue
        if late_error is not None:
            raise late_error
    finally:
        late_error = None  # no cycle from an error by its traceback to this frame
        parts.cancel()


def _result(task: Future[Any], deadline: Deadline) -> Any:
    try:
        if type(task) is Future and task._phase == FINISHED:  # as `Future.result` does
            return task._result
        return task.result(deadline.left())
    except BaseException:
        _cancel(task)
        raise
    finally:
        del task  # no cycle from its error by the traceback to this frame


def _chunks(
    parts: InOrder | AsTheyFinish, more: Iterator[_Part] | None, deadline: Deadline
) -> Generator[list[Any], None, None]:
    """As `_results`, but yield a list for each chunk, kept until its last result has been asked for."""
    ready: list[Any] = []
    try:
        error: Exception | None = None
        late_error: Exception | None = None
        while True:  # as in `_results`
            if not parts:
                break
            ready, error = _outcome(*parts.next(deadline), deadline)
            yield ready
            ready = []  # not to keep it while this waits for the next chunk
            if error is not None:
                raise error
            if more is not None:
                late_error = _add_next(parts, more, late_error)
            continue
        if late_error is not None:
            raise late_error
    finally:
        error = late_error = None  # as in `_results`
        ready.clear()  # ends the iteration over it
        parts.cancel()


class _Chained(chain[Any]):
    """The lists of a generator one after the other, without a step of Python's for each item of theirs."""

    _source: Generator[list[Any], None, None]

    @classmethod
    def of(cls, source: Generator[list[Any], None, None]) -> Self:
        """Of a generator that has not begun."""
        chained = cast("Self", cls.from_iterable(source))
        chained._source = source
        return chained

    def close(self) -> None:
        """As that of a generator, which `map` returns where it has no chunks."""
        self._source.close()


def _add_next(parts: InOrder | AsTheyFinish, more: Iterator[_Part], late_error: Exception | None) -> Exception | None:
    """Submit one more task, if there is one. An error comes after the results of what was submitted before it."""
    part, some = None, islice(more, 1)
    try:
        for part in some:  # noqa: B007  # no call stands here, after which a signal's handler could raise
            break
    except Exception as exc:  # from the input, or from `submit`
        return exc
    if part is not None:
        parts.add(part)
    return late_error


def _outcome(task: Future[Any], chunk: Chunk | None, deadline: Deadline) -> tuple[list[Any], Exception | None]:
    """The results of `task`, and the error that comes after them."""
    assert chunk is not None
    try:
        task.result(deadline.left())
    except BaseException as exc:
        _cancel(task)
        if isinstance(exc, Exception) and task._exception is exc:
            return chunk.results, exc
        raise  # not the task's: the time is up, or a signal's handler raised it
    finally:
        del task  # no cycle from its error by the traceback to this frame
    return chunk.results, None


def _cancel(task: Future[Any]) -> None:
    """Cancel a task that nobody will ask any more. If it has begun, and fails, its scope tells, but not the log."""
    if task.cancel():
        return
    if task.done():
        task._silence()
    else:
        task.add_done_callback(_silence)
