"""`StatefulProcessPoolExecutor`: arguments, and what only a pool of processes can do; the rest is any pool's."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from functools import partial
from multiprocessing.context import BaseContext
from typing import Any, TypeVarTuple, Unpack, overload

from ._executor import own_binding
from ._options import checked_backlog, checked_processes, checked_timeouts
from ._policy import StatePolicy
from ._process import Launcher
from ._remote_pool import RemoteExecutor, RemoteOptions, new_name
from ._remote_registry import CHECKED, RemoteRegistry
from ._submitter import Yielding
from ._typing import TypeVar
from ._wire import Pickler, Wire

S = TypeVar("S", default=Any, covariant=True)
Ts = TypeVarTuple("Ts")


class ProcessPoolOptions(RemoteOptions, total=False):
    """The keywords of the constructor that have nothing to do with the state."""

    mp_context: str | BaseContext
    pickler: Pickler


class StatefulProcessPoolExecutor(RemoteExecutor[S]):
    """A `StatefulThreadPoolExecutor` whose workers are processes: past the GIL, with the same surface and meaning.

    Each worker is a thread of this process with one child process of its own, in which states are made and tasks run:
    initializers, tasks and finalizers all on the child's main thread. One task at a time is sent there, so what has not
    begun can always be cancelled. What differs from threads:

    - Tasks and results are pickled: tasks by `submit`, in the caller's frame, so that what is wrong with them is raised
      there, and what the caller changes afterwards does not matter. Buffers of pickle protocol 5 (arrays) are sent
      without being joined. A result that can't be pickled fails its task; an error that can't be arrives as much of it
      as can, and with the traceback that it had there as its cause.
    - A worker that dies, be it by SIGKILL, a crash in native code, or `os._exit` in a task, fails the one task that
      it ran with `WorkerLost`, which is never run again. The next task finds a new worker with new states. The states
      of the dead one are gone without a teardown.
    - When this process is killed, its workers end after the task that they run, and tear down their states.
    - `kill_worker` ends a task that hangs.
    - A task can't submit to its own pool, nor wait for it: the pool can't be sent to it.
    - Ctrl-C comes to the caller, as with threads; workers are left alone, and finish what they run.
    - `done` callbacks, and the unpickling of results, run in threads of this process.

    Parameters:
        max_workers: The most processes there will be, until `resize`; as many as there are CPUs by default. They start
            on demand.
        initializer: Called by each worker process as it starts; what it returns, or yields, is that worker's state. It
            is pickled by the constructor.
        initargs: Arguments of `initializer`.
        finalizer: Called with the state in the worker process, when the worker ends. What it raises is logged here.
        policy: When a worker's state is checked, reset and replaced; in the worker process.
        max_backlog: As in a pool of threads.
        submit_timeout: As in a pool of threads.
        idle_timeout: After how many seconds without a task a worker tears down its states, and its process ends.
        exit_timeout: As in a pool of threads; but the processes of workers that have not ended then are killed.
        mp_context: The start method of `multiprocessing`, or a context of it. With "forkserver" and "spawn", the main
            module is imported by workers, so what makes pools in it belongs under `if __name__ == "__main__":`. With
            "fork" it need not be, but a child that was forked while other threads held locks may hang.
        pickler: What has the functions `dumps` and `loads` of the module `pickle`; `cloudpickle` can send lambdas,
            closures, and what is defined in a notebook.

    Raises:
        ValueError: As in a pool of threads; or there is no such start method.
        TypeError: As in a pool of threads; or `pickler` has no such functions.
        pickle.PicklingError: `initializer`, or what goes with it, can't be pickled.
        RuntimeError: A worker process that imports the main module came here: that lacks the guard.

    .. versionadded:: 0.1
    """

    # As those of `StatefulThreadPoolExecutor`
    @overload
    def __init__(
        self: StatefulProcessPoolExecutor[None],
        max_workers: int | None = None,
        initializer: None = None,
        initargs: tuple[()] = (),
        **options: Unpack[ProcessPoolOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[[], Yielding[S]] = ...,
        *,
        policy: StatePolicy[S] | None = None,
        **options: Unpack[ProcessPoolOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[[], S] = ...,
        *,
        finalizer: Callable[[S], object] | None = None,
        policy: StatePolicy[S] | None = None,
        **options: Unpack[ProcessPoolOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[[*Ts], Yielding[S]],
        initargs: tuple[*Ts],
        policy: StatePolicy[S] | None = None,
        **options: Unpack[ProcessPoolOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[[*Ts], S],
        initargs: tuple[*Ts],
        finalizer: Callable[[S], object] | None = None,
        policy: StatePolicy[S] | None = None,
        **options: Unpack[ProcessPoolOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None,
        initializer: Callable[[*Ts], Yielding[S]],
        initargs: tuple[*Ts],
        *,
        policy: StatePolicy[S] | None = None,
        **options: Unpack[ProcessPoolOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None,
        initializer: Callable[[*Ts], S],
        initargs: tuple[*Ts],
        *,
        finalizer: Callable[[S], object] | None = None,
        policy: StatePolicy[S] | None = None,
        **options: Unpack[ProcessPoolOptions],
    ) -> None: ...
    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        finalizer: Callable[[Any], object] | None = None,
        policy: StatePolicy[Any] | None = None,
        max_backlog: int | None = None,
        submit_timeout: float | None = None,
        idle_timeout: float | None = None,
        exit_timeout: float | None = None,
        mp_context: str | BaseContext = "forkserver",
        pickler: Pickler = pickle,
    ) -> None:
        refuse_while_main_is_imported()
        max_workers = checked_processes(max_workers)
        max_backlog = checked_backlog(max_backlog, submit_timeout)
        timeouts = checked_timeouts(submit_timeout, idle_timeout, exit_timeout)
        context = checked_context(mp_context)
        wire = Wire(pickler)
        self._bindings = {}
        own = own_binding(self._bindings, initializer, initargs, finalizer, policy)
        registry = RemoteRegistry(new_name(self), max_workers, max_backlog, *timeouts)
        self._open_remote(registry, wire, own, partial(Launcher, context, registry.name), CHECKED)


def checked_context(mp_context: str | BaseContext) -> BaseContext:
    """What processes are started by."""
    if isinstance(mp_context, BaseContext):
        return mp_context
    try:
        return multiprocessing.get_context(mp_context)
    except (ValueError, TypeError):
        methods = ", ".join(map(repr, multiprocessing.get_all_start_methods()))
        raise ValueError(
            f"mp_context must be one of {methods}, or a context of multiprocessing, not {mp_context!r}"
        ) from None


def refuse_while_main_is_imported() -> None:
    """Raise in a process of `multiprocessing` that has got here by importing the main module."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "a worker process imports the main module, and would make a pool of its own in there: put the code that "
            'makes pools under `if __name__ == "__main__":`'
        )
