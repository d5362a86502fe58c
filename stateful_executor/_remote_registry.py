"""What a pool of remote workers shares with its own: it accepts tasks as calls that are pickled already."""

from __future__ import annotations

import _thread
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ._binding import Binding
from ._current import current
from ._future import Future, new_task
from ._group import Group
from ._map import Chunk
from ._naming import name_of
from ._policy import StatePolicy
from ._registry import Registry
from ._remote import Handle, Start, StartWorker, is_lost
from ._remote_state import RemoteState, key_of
from ._states import Owner, owners
from ._task import Watcher
from ._wire import CALL, CHUNK, NO_STATE, OWN, Parts, Wire

T = TypeVar("T")

# What becomes of a remote worker that is lost: see `Binding.is_there`. What can be replaced at once, whatever happens,
# is looked at once more right before it is sent a task.
UNCHECKED: StatePolicy[Handle] = StatePolicy(discard_on=is_lost)
CHECKED: StatePolicy[Handle] = StatePolicy(check=Handle.alive, discard_on=is_lost)


def _nothing(_: object) -> None:
    """A task that has a state made."""


class Call:
    """A task's call, pickled where it was submitted; what our own worker runs. Strictly private.

    Written by the submitter, then by whoever runs it. `future` is set when the task has been accepted.
    """

    __slots__ = ("_binding", "_chunk", "_fn", "_key", "_needs", "_own", "_parts", "future")

    def __init__(
        self,
        fn: Callable[..., Any],
        parts: Parts,
        key: int,
        binding: Binding | None,
        own: Binding | None,
        needs: list[Binding],
    ) -> None:
        self._fn = fn  # for its name
        self._chunk: Chunk | None = fn if isinstance(fn, Chunk) else None
        self._parts = parts
        self._key = key
        self._binding = binding  # of the view whose state it gets
        self._own = own
        self._needs = needs  # of the views that were sent along
        self.future: Future[Any] | None = None

    def again(self) -> Call:
        """The same call for another worker."""
        return Call(self._fn, self._parts, self._key, self._binding, self._own, self._needs)

    def __getattr__(self, name: str) -> Any:
        if name == "__qualname__":
            return name_of(self._fn)
        raise AttributeError(name)

    def __call__(self, handle: Handle) -> Any:
        states = cast("Owner", current.worker).states
        for binding in self._needs:
            states.call_bound(binding, _nothing, (), {})
        if self._binding is not None:
            return states.call_bound(self._binding, self._run_with, (handle,), {})
        if self._key == OWN and self._own is not None:
            handle.renew_if_stale(self._own)
        return self._run(handle, self._key)

    def _run_with(self, state: RemoteState, handle: Handle) -> Any:
        return self._run(handle, state.key)

    def _run(self, handle: Handle, key: int) -> Any:
        parts, self._parts = self._parts, ()
        value, error = handle.call(self, CALL if self._chunk is None else CHUNK, key, parts)
        try:
            if self._chunk is not None:
                self._chunk.results += value or ()
                value = None
            if error is not None:
                raise error
            return value
        finally:
            error = None  # no cycle from it by its traceback to this frame


class RemoteRegistry(Registry):
    """The registry of a pool of remote workers. Strictly private.

    `views`
        the bindings of views that were pickled as part of a task, by the thread that submits it. Each thread enters
        and takes out its own.
    The rest is written once.
    """

    __slots__ = ("handles", "own", "views", "wire")

    handles: Binding  # how our workers make their remote ones
    own: Binding | None  # how those make the pool's own state: for its arguments only, no worker of ours holds one
    views: dict[int, list[Binding]]
    wire: Wire

    def prepare(self, start: Start, wire: Wire, own: Binding | None, policy: StatePolicy[Handle]) -> None:
        """The rest of the constructor."""
        self.wire = wire
        self.own = own
        self.views = {}
        self.handles = Binding(StartWorker(start, wire, own), (), Handle.close, policy)
        self.handles.is_there = Handle.alive
        if own is not None:
            own.holders = self.handles.holders

    def put(
        self,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        binding: Binding | None = None,
        scope: Group | None = None,
        task: Future[T] | None = None,
        watchers: tuple[Watcher] | None = None,
    ) -> Future[T]:
        """As `Registry.put`, which this makes a call for."""
        if task is not None:  # of `aput`, and so of a call
            return Registry.put(self, fn, args, kwargs, binding, scope, task)
        call = self._call(fn, args, kwargs, binding)
        future: Future[T] = Registry.put(self, call, (), {}, self.handles, scope, None, watchers)
        call.future = future
        return future

    async def aput(
        self,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        binding: Binding | None = None,
        scope: Group | None = None,
    ) -> Future[T]:
        """As `Registry.aput`."""
        call = self._call(fn, args, kwargs, binding)
        future: Future[T] = await Registry.aput(self, call, (), {}, self.handles, scope)
        call.future = future
        return future

    def maker(
        self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], binding: Binding | None = None
    ) -> Callable[[], Future[T]]:
        """As `Registry.maker`."""
        call = self._call(fn, args, kwargs, binding)

        def make() -> Future[T]:
            one = call.again()
            one.future = future = new_task(self, one, (), {}, self.handles)
            return future

        return make

    def _call(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], binding: Binding | None
    ) -> Call:
        """Pickle a call, in the thread that submits it."""
        thing = fn.taken() if isinstance(fn, Chunk) else (fn, args, kwargs)
        parts = self.wire.dump_for_later(thing, lambda: f"the task {name_of(fn)}, or an argument of it,")
        needs = self._taken_views() if self.views else []
        if binding is None:
            return Call(fn, parts, NO_STATE, None, None, needs)
        if binding is self.own:
            return Call(fn, parts, OWN, None, binding, needs)
        return Call(fn, parts, key_of(binding), binding, None, needs)

    def send_view(self, binding: Binding) -> None:
        """A view with the states of `binding` is being pickled in this thread, most likely as part of a task."""
        self.views.setdefault(_thread.get_ident(), []).append(binding)

    def _taken_views(self) -> list[Binding]:
        return self.views.pop(_thread.get_ident(), [])

    def there(self) -> list[Owner]:
        """The workers that have a remote one, as of now."""
        return [
            owner
            for owner in owners(self.handles)
            if (slot := owner.states.slots.get(self.handles)) is not None and slot.states
        ]

    def kill_worker(self, future: object) -> bool:
        """Kill the worker that runs the task of `future`, if one does."""
        for owner in owners(self.handles):
            slot = owner.states.slots.get(self.handles)
            for state in [] if slot is None else slot.states.copy():
                handle: Handle | None = state.value  # None once it is torn down
                if handle is not None:
                    for call in handle.running.copy():
                        if cast("Call", call).future is future:
                            return _kill(handle, call)
        return False


def _kill(handle: Handle, call: object) -> bool:
    try:
        handle.running.remove(call)
        handle.kill()
    except ValueError:  # it has ended in this moment
        return False
    except BaseException:  # Ctrl-C between the two
        handle.kill()
        raise
    return True
