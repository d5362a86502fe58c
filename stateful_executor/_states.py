"""All states of one worker, and what others may ask it to do with them."""

from __future__ import annotations

from collections.abc import Callable

from ._binding import Binding, Holder
from ._current import current
from ._slot import Slot
from ._state import Teardowns
from ._stats import ONE, Counts
from ._typing import Any, cast

_NONE_LENT: dict[Slot, int] = {}  # never written


class Request:
    """Something asked of a worker, answered in its thread: between tasks, or while a task of its waits."""

    def answer(self, owner: Owner) -> None:
        """In the worker's thread."""
        raise NotImplementedError

    def done(self) -> None:
        """There is nothing left to do, as the worker has ended, or has done it."""


class Owner(Holder):
    """Base of a worker, as far as its states are concerned."""

    states: States

    def ask(self, request: Request) -> None:
        """Have `request` answered in the worker's thread; from any thread."""
        raise NotImplementedError


def owners(binding: Binding) -> list[Owner]:
    """The workers that have, or had, states of `binding`, as of now."""
    return cast("list[Owner]", list(binding.holders.copy()))  # nobody but an owner enters, see `States.slot`


class States:
    """What one worker owns. Strictly private.

    `slots`
        the worker's states by binding, in the order made. Written by its own thread, read by all; guarded by the
        dict's own lock.
    `teardowns`
        of the states that have left their slots. Made with the first slot, since most workers own nothing.
    `overflow`
        a slot may have states for deeper levels of nesting, to be torn down when the outermost task has ended.
    `base_depth`
        how many states of each slot are lent to tasks further out than the innermost one.

    All but `slots` is touched by the worker's own thread only.
    """

    __slots__ = ("_counts", "base_depth", "overflow", "slots", "teardowns")

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.teardowns: Teardowns | None = None
        self.slots: dict[Binding, Slot] = {}
        self.overflow: bool = False
        self.base_depth: dict[Slot, int] = _NONE_LENT

    def slot(self, binding: Binding) -> Slot:
        """Where the states of `binding` are; RuntimeError when those of its scope have been torn down."""
        try:
            return self.slots[binding]
        except KeyError:
            pass
        owner = cast("Owner", current.worker)  # nobody else touches this
        binding.holders[owner] = None
        if binding.lifetime is not None and binding.lifetime.over:
            if self.teardowns is None or binding not in self.teardowns.under_way:
                binding.holders.pop(owner, None)
            raise RuntimeError(f"the scope of this view has ended, and with it the states made by {binding.name}")
        # To make either may start a collection, whose finalizers run tasks, which may make the same.
        teardowns = Teardowns(self._counts)
        if self.teardowns is None:
            self.teardowns = teardowns  # one step with the look
        slot = Slot(binding, self._counts, self.teardowns)
        return self.slots.setdefault(binding, slot)

    def call_bound(
        self, binding: Binding, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call `fn(state, *args, **kwargs)` inside a task, with a state that no task of this worker holds."""
        try:
            slot = self.slots[binding]
        except KeyError:
            slot = self.slot(binding)
        outer = slot.lent
        state = error = None
        try:
            if outer or slot.needs_attention:
                state = slot.lend()
                if slot.lent > 1:
                    self.overflow = True
            else:  # as `Slot.lend` does
                slot.lent = 1
                state = slot.states[0].value
            return fn(state, *args, **kwargs)
        except BaseException as exc:
            error = exc
            raise
        finally:
            try:
                if slot.lent > outer:
                    if slot.needs_attention:
                        slot.take_back(error)
                    else:
                        slot.lent -= 1
            except BaseException:  # thrown into this thread
                if slot.lent > outer:
                    slot.lent = outer
                    slot.states[outer].discarded = True
                    slot.needs_attention += ONE
                raise
            finally:
                del error, state  # no cycle from it by its traceback to this frame

    def lent_now(self, binding: Binding) -> Slot | None:
        """The slot of `binding`, if a state of it is lent to the task, or bound function, that calls this."""
        slot = self.slots.get(binding)
        return None if slot is None or slot.lent == self.base_depth.get(slot, 0) else slot

    def drop_overflow(self) -> None:
        """Tear down what was made for deeper levels of nesting: between tasks, a worker has one state a binding."""
        self.overflow = False
        for slot in list(self.slots.values()):
            slot.drop_overflow()

    def tear_down(self, binding: Binding) -> None:
        """Tear down this worker's states of `binding`."""
        teardowns = self.teardowns
        if teardowns is not None:
            late = teardowns.under_way[binding] = []
            try:
                self._tear_down(binding, teardowns, late)
            finally:
                del teardowns.under_way[binding]
                teardowns.late += late
        binding.holders.pop(cast("Owner", current.worker), None)
        if teardowns is not None:
            teardowns.call_late()

    def _tear_down(self, binding: Binding, teardowns: Teardowns, late: list[Callable[[], None]]) -> None:
        while (slot := self.slots.get(binding)) is not None:  # a teardown may have led to another one
            slot.drop_states()
            late += slot.calls_when_free
            del self.slots[binding]
            teardowns.run()
        teardowns.run()  # what was cut off the last time

    def tear_down_all(self) -> None:
        """Tear down all states of this worker, the last made first."""
        while self.slots:  # a teardown may have led to new ones
            for binding in reversed(list(self.slots)):
                self.tear_down(binding)
        if self.teardowns is not None:
            self.teardowns.run()  # what was cut off before
            self.teardowns.call_late()

    def take_back_cut_off(self) -> None:
        """A task inside another one was cut off: its states, and what it had called with others, are torn down."""
        for slot in list(self.slots.values()):
            lent = self.base_depth.get(slot, 0)
            if slot.lent > lent:
                slot.take_back_cut_off(lent)


class TearDown(Request):
    """Tear down the worker's states of a scope's own binding, and tell the end of that scope.

    `todo` holds the requests of that end which have not been answered. Guarded by the dict's own lock: who answers
    leaves it, then wakes the end, which looks at it.
    """

    def __init__(self, wake: Callable[[], object], todo: dict[Request, None], binding: Binding) -> None:
        self._wake = wake
        self._todo = todo
        self._binding = binding
        todo[self] = None

    def answer(self, owner: Owner) -> None:
        """As `Request` has it."""
        teardowns = owner.states.teardowns
        late = None if teardowns is None else teardowns.under_way.get(self._binding)
        if late is not None:  # asked inside that very teardown, which waits for something
            late.append(self.done)
            return
        slot = owner.states.slots.get(self._binding)
        if slot is not None and slot.in_use():  # by a bound function, in a task that is not the scope's
            slot.when_free(lambda: self.answer(owner))
            return
        owner.states.tear_down(self._binding)
        self.done()

    def done(self) -> None:
        """As `Request` has it."""
        self._todo.pop(self, None)
        self._wake()


class Replace(Request):
    """Tear down the worker's states of a binding that were made before `discard_all`."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding

    def answer(self, owner: Owner) -> None:
        """As `Request` has it."""
        slot = owner.states.slots.get(self._binding)
        if slot is not None:
            slot.drop_stale()
