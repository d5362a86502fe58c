"""The states of views in remote workers: each is known to our own worker, and ends, as a state of that one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, cast

from ._binding import Binding, Lifetime, find_binding
from ._current import current
from ._policy import StatePolicy
from ._remote import Handle, is_lost
from ._states import Owner, Request
from ._submitter import StateOptions
from ._wire import MAKE, OWN, TEAR_DOWN, Parts, Wire
from .errors import WorkerLost

_keys = count(OWN + 1)


def here(handles: Binding) -> Handle:
    """The handle lent to the task that calls this."""
    return cast("Handle", cast("Owner", current.worker).states.slots[handles].lent_last().value)


def dump_binding(wire: Wire, binding: Binding) -> Parts:
    """How the states of `binding` are made and torn down, for a server. What can't be pickled is told to the caller."""
    made_of = binding.initializer, binding.initargs, binding.finalizer, binding.policy
    return wire.dump_for_later(made_of, lambda: f"the initializer {binding.name}, or what goes with it,")


class RemoteState:
    """A state of a view in one remote worker. Immutable."""

    __slots__ = ("_handle", "_handles", "key")

    def __init__(self, handles: Binding, key: int, handle: Handle) -> None:
        self._handles = handles
        self._handle = handle
        self.key = key

    def is_there(self) -> bool:
        """The check: whether it is in the worker that there is, and not in one that was lost."""
        return self._handle is here(self._handles)

    def tear_down(self) -> None:
        """The finalizer, which raises what the user's raised; with a lost worker the state is gone already."""
        if self._handle.alive():
            self._handle.request(TEAR_DOWN, self.key)


class MakeState:
    """The initializer of a view's states. Equal to others of the same arguments, so that views share their states.

    Immutable. `key` names the states in requests.
    """

    def __init__(self, handles: Binding, wire: Wire, initializer: Callable[..., Any], options: StateOptions) -> None:
        checked = Binding(initializer, *options)
        self._same = (initializer, checked.initargs, *options[1:])
        self._handles = handles
        self._parts = dump_binding(wire, checked)
        self.key: int = next(_keys)
        self.__qualname__ = checked.name

    def __call__(self) -> RemoteState:
        handle = here(self._handles)
        handle.request(MAKE, self.key, self._parts)
        return RemoteState(self._handles, self.key, handle)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MakeState) and self._handles is other._handles and self._same == other._same

    def __hash__(self) -> int:
        return hash(self._same)


POLICY: StatePolicy[RemoteState] = StatePolicy(check=RemoteState.is_there, discard_on=is_lost)


class Renew(Request):
    """Have the pool's own state replaced if it is older than the last `discard_all`."""

    def __init__(self, handles: Binding, own: Binding) -> None:
        self._handles = handles
        self._own = own

    def answer(self, owner: Owner) -> None:
        """As `Request` has it."""
        slot = owner.states.slots.get(self._handles)
        for state in [] if slot is None or slot.lent else slot.states:  # one that is lent renews after its task
            handle: Handle = state.value
            if handle.alive():
                try:
                    handle.renew_if_stale(self._own)
                except WorkerLost:
                    return  # as it was about to be asked


def key_of(binding: Binding) -> int:
    """What names the states of a view's `binding` in requests."""
    return cast("MakeState", binding.initializer).key


def view_binding(
    bindings: dict[object, Binding],
    handles: Binding,
    wire: Wire,
    initializer: Callable[..., Any],
    options: StateOptions,
    lifetime: Lifetime | None = None,
) -> Binding:
    """`find_binding` for a view of remote states. What can't be pickled is told to the caller."""
    make = MakeState(handles, wire, initializer, options)
    return find_binding(bindings, make, (), RemoteState.tear_down, POLICY, lifetime)
