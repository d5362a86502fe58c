"""The private names of `ThreadPoolExecutor` that code in the wild reads, assigns to and overrides."""

from __future__ import annotations

import queue
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from ._binding import Binding
from ._future import Future
from ._registry import Registry
from ._typing import Any, NoReturn

# What a subclass may override in vain, in some version of Python, and what to do instead.
HOOKS = {
    "_adjust_thread_count": "workers start as they are needed; set them up with initializer=, name them with "
    "thread_name_prefix=, and give exit_timeout= where they were to be daemons",
    "_initializer_failed": "what a failed initializer raised is the cause of the BrokenThreadPool or InitializerError "
    "that tasks get",
    "prepare_context": "set workers up with initializer=, and wrap tasks with task_decorator=",
    "_work_queue": "bound it with max_backlog=; there are no priorities, so give what is urgent a pool of its own",
}


def warn_of_hooks(cls: type[PrivateNames]) -> None:
    """For `__init_subclass__`: a warning at the class statement for each of HOOKS that `cls` overrides."""
    parent = next(base for base in cls.__mro__[1:] if issubclass(base, PrivateNames))
    from inspect import getattr_static  # takes long

    for name, instead in HOOKS.items():
        if getattr_static(cls, name, None) is not getattr_static(parent, name, None):
            warnings.warn(f"{cls.__qualname__}.{name} is never used: {instead}", RuntimeWarning, stacklevel=3)


class PrivateNames(ThreadPoolExecutor):
    """Base of the pool, without fields: what others read of a `ThreadPoolExecutor`. Strictly private."""

    _registry: Registry
    _own: Binding | None

    @property
    def _threads(self) -> set[Any]:  # type: ignore[override]  # an attribute there, as all of these are
        workers = self._registry.workers
        workers.settle()
        return {worker.thread for worker in workers.live.copy()}

    @property
    def _broken(self) -> bool:  # type: ignore[override]
        return self._registry.workers.breakage is not None

    @property
    def _shutdown(self) -> bool:  # type: ignore[override]
        return self._registry.close_reason is not None

    @property
    def _thread_name_prefix(self) -> str:  # type: ignore[override]
        return self._registry.name

    @property
    def _initializer(self) -> Callable[..., Any] | None:  # type: ignore[override]
        return None if self._own is None else self._own.initializer

    @property
    def _initargs(self) -> tuple[Any, ...]:  # type: ignore[override]
        return () if self._own is None else self._own.initargs

    @property  # type: ignore[override]
    def _work_queue(self) -> WorkQueue:
        return WorkQueue(self._registry)

    @_work_queue.setter
    def _work_queue(self, _: object) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise AttributeError(f"the _work_queue of a {type(self).__name__} can't be replaced: {HOOKS['_work_queue']}")


class WorkQueue:
    """What `_work_queue` is: the tasks that have not begun, for code that counts them or takes them out.

    Nothing can be put into it, and nobody can wait for what it may get.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def qsize(self) -> int:
        """The number of tasks accepted and not begun."""
        return self._registry.backlog()

    def empty(self) -> bool:
        """Whether there are none."""
        return self.qsize() == 0

    def get(self, block: bool = True, timeout: float | None = None) -> WorkItem:  # noqa: ARG002
        """As `get_nowait`: whatever is asked for, it does not wait."""
        return self.get_nowait()

    def get_nowait(self) -> WorkItem:
        """Take out the task that would begin next, and cancel it; `queue.Empty` when there is none.

        Nobody is left to run it, so whoever waits for its future is told at once, its place in the backlog is free, and
        its scope does not wait for it. In the standard library the future stays pending until the taker cancels it, as
        most do, and for ever when he does not.
        """
        run_queue = self._registry.run_queue
        while True:
            segment = run_queue.head or run_queue.tail
            try:
                task = segment[0]
            except IndexError:
                if run_queue.has_entries():  # `head` was emptied in this moment, and there is more in `tail`
                    continue
                raise queue.Empty from None
            item = WorkItem(task)  # first: a cancelled task has forgotten its call
            taken = task._call_off(None, self._registry.counts.cancelled)
            with suppress(ValueError, IndexError):  # a worker has popped it; or does so during the search
                segment.remove(task)
                run_queue.remove_tombstone()
            if taken:
                return item


class WorkItem:
    """A task taken out of the queue. Of a view's task the arguments are those after the state."""

    def __init__(self, task: Future[Any]) -> None:
        self.future = task
        self.fn: Callable[..., Any] | None = task._fn  # in its context, and decorated, where the pool does that
        self.args = task._args
        self.kwargs: dict[str, Any] = {}
        if isinstance(self.fn, partial):  # as `Registry.put` binds keywords
            self.kwargs = self.fn.keywords
            self.fn = partial(self.fn.func, *self.fn.args) if self.fn.args else self.fn.func

    @property
    def task(self) -> tuple[Any, ...]:
        """The call, as Python 3.14 has it."""
        return self.fn, self.args, self.kwargs

    def run(self, *_: object) -> NoReturn:
        """RuntimeError: its future was cancelled when it was taken."""
        raise RuntimeError(
            f"{self.future!r} was cancelled as it was taken out of the queue, and can have no result: "
            "call fn(*args, **kwargs), or leave it to the pool's workers"
        )
