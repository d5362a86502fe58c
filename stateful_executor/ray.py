"""`StatefulRayExecutor`: the same pool on a Ray cluster; each worker is an actor. Needs the extra `ray`.

The only module that imports Ray. What a remote worker is, as any pool sees it, stands in `_remote`; here is how an
actor is one.
"""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from struct import Struct
from time import monotonic, sleep
from typing import Any, TypeVarTuple, Unpack, cast, overload

from ._current import current
from ._executor import own_binding
from ._options import checked_actors, checked_backlog, checked_timeouts
from ._policy import StatePolicy
from ._remote_pool import RemoteExecutor, RemoteOptions, new_name
from ._remote_registry import UNCHECKED, RemoteRegistry
from ._server import Server
from ._startup import NotNeeded, fail, is_needed
from ._submitter import Yielding
from ._typing import TypeVar
from ._wire import Parts, Pickler, Wire
from ._worker import Worker
from .errors import WorkerLost

try:
    ray: Any = import_module("ray")  # pyright takes `import ray` for this very module
except ImportError as _exc:
    raise ImportError(
        "stateful_executor.ray needs Ray, which is not installed: pip install 'stateful-executor[ray]'"
    ) from _exc

__all__ = ["StatefulRayExecutor"]

S = TypeVar("S", default=Any, covariant=True)
Ts = TypeVarTuple("Ts")


def _as_it_is(name: str) -> Callable[..., Any]:
    """A function of Ray's without what it is wrapped in: `ray.init()`, should this process be connected no more."""
    function: Any = getattr(ray, name)
    return cast("Callable[..., Any]", getattr(function, "__wrapped__", function))


_get, _wait, _kill = map(_as_it_is, ("get", "wait", "kill"))

HEAD = Struct("<BI")  # of a request: kind, key
LARGE = 1 << 16  # bytes that are not joined with the head
DEAD = 4  # of `ActorTableData.ActorState`, which clusters of all versions agree on

# What makes a worker of an actor: one call at a time, in order, on its main thread; never run twice, and never on
# another actor that takes the place of a dead one. Without task events since Ray's head would grow with each task.
FIXED: dict[str, object] = {"max_concurrency": 1, "max_restarts": 0, "max_task_retries": 0, "enable_task_events": False}
# What would have two workers share one actor, or actors outlive their pool.
REFUSED: set[str] = {*FIXED, "concurrency_groups", "get_if_exists", "lifetime", "name"}

FIRST_LOOK, LAST_LOOK = 0.05, 1.0  # seconds between looks whether an actor that is not placed is still needed
PATIENCE = 10.0  # seconds for Ray to say that an actor has ended which it was told to kill, or to place another one


# On the cluster


class StatefulRayWorker:
    """The actor. Ray calls all methods on its main thread."""

    def __init__(self) -> None:
        self._server = Server()
        self._told_to_end: bool = False
        self._handler: Any = signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, *args: Any) -> None:
        """Ray wants this process to end, and its handler raises `SystemExit` in the task."""
        self._told_to_end = True
        if callable(self._handler):
            self._handler(*args)
        raise SystemExit

    def ready(self) -> None:
        """It is placed."""

    def start(self, setup: bytes) -> object:
        """Make the pool's own state; the reply to that."""
        return message(self._server.start(setup))

    def answer(self, request: Any) -> object:
        """The reply to a request."""
        head, parts = opened(request, HEAD.size)
        kind, key = HEAD.unpack(head)
        reply = self._server.answer(kind, key, parts)
        if self._told_to_end:
            raise SystemExit  # which is not the task's own error: its worker is lost
        return message(reply)

    def __ray_shutdown__(self) -> None:
        """Nobody refers to this actor any more, and nobody has closed it: the thread that had was cut off."""
        self._server.close()


# Both ways


def message(parts: Parts, head: bytes = b"") -> object:
    """What Ray is given: plain bytes, which it does not pickle; or what is large beside these, and not copied."""
    if len(parts) == 1 and len(parts[0]) < LARGE:
        return head + parts[0]
    return [head, *map(pickle.PickleBuffer, parts)]


def opened(given: Any, size: int = 0) -> tuple[Any, Parts]:
    """The head, of that size, and the parts. Each buffer is a copy: Ray's own can't be written to."""
    if isinstance(given, bytes):
        return given[:size], (memoryview(given)[size:],)
    head, first, *buffers = given
    return head, (first, *map(bytearray, buffers))


# Here


class RayWorker:
    """An actor as a remote worker. Used by the thread that made it, but for `kill`. Strictly private.

    `_killed`
        once set it stays set; by any thread.

    Who waits in here for a reply is woken by it, or by Ray when the actor is dead (killed, say) or can't be reached any
    more. Who waits for the actor to be placed is woken by that, or looks after at most `LAST_LOOK` seconds whether it
    is still needed. `ray.shutdown()` wakes both, but for one time in some 400 (2.60.0), in which Ray never returns.
    """

    def __init__(self, launcher: Launcher) -> None:
        check_connected(launcher.name)
        self._name = launcher.name
        self._killed: bool = False
        self._actor: Any = launcher.actor_class.remote()
        self._answer: Any = self._actor.answer.remote

    def first_reply(self, setup: bytes) -> Parts:
        """That of a server which has made the pool's own state, or could not."""
        try:
            self._until_placed()
            return opened(_get(self._actor.start.remote(setup)))[1]
        except BaseException as exc:
            self._raise_if_lost("before it was ready", exc)
            raise

    def _until_placed(self) -> None:
        """Until the actor is there, or dead. `NotNeeded`: its initializer has not begun, and never will."""
        worker = cast("Worker", current.worker)
        ready = self._actor.ready.remote()
        look, give_up = FIRST_LOOK, monotonic() + PATIENCE
        while not _wait([ready], timeout=look)[0]:
            if not is_needed(worker, worker.registry):
                raise NotNeeded
            if monotonic() > give_up:
                self._fail_broadcasts(worker)
            look = min(2 * look, LAST_LOOK)

    def _fail_broadcasts(self, worker: Worker) -> None:
        """What the worker was given when it had another actor: there may never be room for this one."""
        for task in list(worker.broadcasts):
            lost = WorkerLost(
                f"an actor of {self._name} was lost before its part of a broadcast, and there is no room for another"
            )
            fail(worker.registry, task, lost)

    # As `RemoteWorker` has it

    def alive(self) -> bool:
        """As `RemoteWorker` has it."""
        return not (self._killed or self._is_dead())

    def _is_dead(self) -> bool:
        """As far as Ray has told this process: to look costs no message."""
        try:
            return not ray.is_initialized() or self._actor._get_local_state() == DEAD
        except Exception:  # Ray is being shut down here
            return True

    def call(self, kind: int, key: int, parts: Parts) -> Parts:
        """As `RemoteWorker` has it."""
        try:
            check_connected(self._name)  # at the last moment
            return opened(_get(self._answer(message(parts, HEAD.pack(kind, key)))))[1]
        except BaseException as exc:
            self._raise_if_lost(
                "while it ran a task, which may have run in full, in part or not at all, and may still run if its node "
                "is cut off; the states of that worker are gone without a teardown",
                exc,
            )
            raise  # thrown into this thread, while the task ran

    def kill(self) -> None:
        """As `RemoteWorker` has it."""
        self._killed = True
        if not self._is_dead():
            with suppress(Exception):  # as there
                _kill(self._actor)

    def close(self) -> None:
        """As `RemoteWorker` has it."""
        self.kill()
        deadline = monotonic() + PATIENCE
        while not self._is_dead() and monotonic() < deadline:
            sleep(0.001)

    def _raise_if_lost(self, when: str, error: BaseException) -> None:
        """After `error`, have the actor dead, and say so if Ray did; one that can't be reached may still be alive."""
        self.kill()
        disconnected = not ray.is_initialized()  # then Ray raises whatever comes of that
        if disconnected or isinstance(error, ray.exceptions.RayError):
            raise WorkerLost(f"an actor of {self._name} was lost {when} ({type(error).__name__})") from error


class Launcher:
    """Starts the actors of one pool. Immutable."""

    def __init__(self, actor_class: Any, name: str, setup: bytes) -> None:
        self.actor_class = actor_class
        self.name = name
        self.setup = setup

    def __call__(self) -> tuple[RayWorker, Parts]:
        """As `Start` has it."""
        worker = RayWorker(self)
        return worker, worker.first_reply(self.setup)


def check_connected(name: str) -> None:
    """RuntimeError without a cluster: Ray would start one."""
    if not ray.is_initialized():
        raise RuntimeError(f"{name} needs a Ray cluster, and this process is connected to none: call ray.init() first")
    if import_module("ray.util.client").ray.is_connected():  # there a handle does not know whether its actor is dead
        raise RuntimeError(
            f"{name} can't use a cluster through Ray Client: call ray.init() on a node of it, not ray://"
        )


def checked_options(actor_options: Mapping[str, Any] | None) -> Any:
    """The class of actors with these options, of which Ray checks the rest."""
    options = {} if actor_options is None else dict(actor_options)
    for name in options:
        if name in REFUSED:
            raise ValueError(
                f"actor_options can't have {name!r}: each worker is an actor of its own, which runs one task at a "
                "time, never runs one twice, and ends with its pool"
            )
    return _actor_class.options(**{"num_cpus": 1, **options, **FIXED})


_actor_class: Any = ray.remote(StatefulRayWorker)


class RayOptions(RemoteOptions, total=False):
    """The keywords of the constructor that have nothing to do with the state."""

    actor_options: Mapping[str, Any] | None
    pickler: Pickler | None


class StatefulRayExecutor(RemoteExecutor[S]):
    """A `StatefulProcessPoolExecutor` whose processes are actors on a Ray cluster: past one machine.

    Connect to the cluster first, by `ray.init()`: this never does. Each worker is a thread of this process with one
    actor of its own, in which states are made and tasks run, on one thread, one task at a time. Whatever a pool of
    processes does, this does as well; `docs/scale.md` has what differs, line by line. Above all:

    - An actor that can't be placed yet, since the cluster is full, joins when there is room or a node comes; tasks wait
      for it only when nobody else takes them. `shutdown` does not wait for it.
    - An actor that dies, with its process or its node, fails the one task that it ran with `WorkerLost`, which is never
      run again. So does one that can't be reached; but then its task may still run over there, cut off from here,
      which no scope can wait for.
    - An actor that dies while it has nothing to do may still cost one task a `WorkerLost`, though that never began,
      when Ray has not told this process yet.
    - When this process dies, or calls `ray.shutdown()` before the pool's, its actors are killed by Ray in the middle of
      their tasks, without a teardown. Ray 2.60.0 may end this process then, should a thread of the pool just call it,
      or never return to that.
    - In a task, this pool's actors hold their CPUs: a Ray task that is started and waited for there needs others.

    `stateful_executor`, and whatever tasks consist of, must be importable on the nodes, in the versions that are here:
    Ray's `runtime_env` is a way.

    Parameters:
        max_workers: The most actors there will be, until `resize`. They start on demand.
        initializer: Called by each actor as it starts; what it returns, or yields, is that worker's state. It is
            pickled by the constructor.
        initargs: Arguments of `initializer`.
        finalizer: Called with the state in the actor, when the worker ends. What it raises is logged here.
        policy: When a worker's state is checked, reset and replaced; in the actor.
        max_backlog: As in a pool of threads.
        submit_timeout: As in a pool of threads.
        idle_timeout: After how many seconds without a task a worker tears down its states, and its actor ends.
        exit_timeout: As in a pool of threads; Ray kills what has not ended then.
        actor_options: What an actor needs, as its `options()` takes it: `{"num_cpus": 0.5, "resources": ...}`. One CPU
            by default.
        pickler: As in a pool of processes; Ray's own cloudpickle by default, as actors can't import your main module.

    Raises:
        ValueError: As in a pool of threads; or an option is not for the caller to choose, or unknown to Ray.
        TypeError: As in a pool of threads; or `pickler` has no such functions.
        pickle.PicklingError: `initializer`, or what goes with it, can't be pickled.
        RuntimeError: This process is not connected to a Ray cluster, or through Ray Client.

    .. versionadded:: 0.1
    """

    # As those of `StatefulThreadPoolExecutor`
    @overload
    def __init__(
        self: StatefulRayExecutor[None],
        max_workers: int,
        initializer: None = None,
        initargs: tuple[()] = (),
        **options: Unpack[RayOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int,
        initializer: Callable[[], Yielding[S]] = ...,
        *,
        policy: StatePolicy[S] | None = None,
        **options: Unpack[RayOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int,
        initializer: Callable[[], S] = ...,
        *,
        finalizer: Callable[[S], object] | None = None,
        policy: StatePolicy[S] | None = None,
        **options: Unpack[RayOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int,
        initializer: Callable[[*Ts], Yielding[S]],
        initargs: tuple[*Ts],
        *,
        policy: StatePolicy[S] | None = None,
        **options: Unpack[RayOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int,
        initializer: Callable[[*Ts], S],
        initargs: tuple[*Ts],
        *,
        finalizer: Callable[[S], object] | None = None,
        policy: StatePolicy[S] | None = None,
        **options: Unpack[RayOptions],
    ) -> None: ...
    def __init__(
        self,
        max_workers: int,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        finalizer: Callable[[Any], object] | None = None,
        policy: StatePolicy[Any] | None = None,
        max_backlog: int | None = None,
        submit_timeout: float | None = None,
        idle_timeout: float | None = None,
        exit_timeout: float | None = None,
        actor_options: Mapping[str, Any] | None = None,
        pickler: Pickler | None = None,
    ) -> None:
        """See the class."""
        max_workers = checked_actors(max_workers)
        max_backlog = checked_backlog(max_backlog, submit_timeout)
        timeouts = checked_timeouts(submit_timeout, idle_timeout, exit_timeout)
        actor_class = checked_options(actor_options)
        wire = Wire(ray.cloudpickle if pickler is None else pickler)
        self._bindings = {}
        own = own_binding(self._bindings, initializer, initargs, finalizer, policy)
        name = new_name(self)
        check_connected(name)
        registry = RemoteRegistry(name, max_workers, max_backlog, *timeouts)
        self._open_remote(registry, wire, own, partial(Launcher, actor_class, name), UNCHECKED)
