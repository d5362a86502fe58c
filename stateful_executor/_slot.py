"""A worker's states of one kind: lend, check, take back, replace."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

from ._binding import Binding
from ._interrupts import call_last
from ._naming import described, name_of, tell
from ._policy import StatePolicy
from ._state import State, Teardowns
from ._stats import ONE, Counts
from ._typing import Any
from .errors import InitializerError

logger = logging.getLogger("stateful_executor")


class Slot:
    """A worker's states of one binding, one for each level of nesting. Strictly private.

    `states`, `lent`
        the first `lent` states are lent: the last of these to the innermost task, or call of a bound function, that has
        one.
    `needs_attention`
        empty when to lend and to take back is all there is to do; never so with a policy, nor while there is no state.
        `expire` adds to it from any thread. Guarded by the list's own lock.
    `_busy`, `_making`, `calls_when_free`
        how many of the methods below that call user code are under way, whether the initializer is, and what to do when
        nothing is in use any more. What user code waits for may run other tasks here, which find these set.

    Where an exception is thrown into the thread, `_busy` is taken back by a `finally`, without a call; and `lent` may
    be higher than the caller of `lend` knows, who looks.

    All but `needs_attention` is touched by the worker's thread only.
    """

    __slots__ = (
        "_busy",
        "_counts",
        "_making",
        "_policy",
        "_teardowns",
        "binding",
        "calls_when_free",
        "lent",
        "needs_attention",
        "states",
    )

    def __init__(self, binding: Binding, counts: Counts, teardowns: Teardowns) -> None:
        self.binding: Binding = binding
        self.lent: int = 0
        self.needs_attention: list[None] = [None]
        self.calls_when_free: list[Callable[[], None]] = []
        self._busy: int = 0
        self._policy: StatePolicy[Any] | None = binding.policy
        self._counts: Counts = counts
        self._teardowns: Teardowns = teardowns
        self.states: list[State] = []
        self._making: bool = False

    # Lending

    def lend(self) -> Any:
        """A state that no task of this worker holds, made now if need be. Taken back by `take_back`.

        `Runner.run` does this by itself where nothing is lent and `needs_attention` is empty.
        """
        policy, states = self._policy, self.states
        error = None
        self._busy += 1
        try:
            # Else there is one that is good, as most often with a policy: all that is left to do is to check it.
            if policy is None or self.lent or len(states) != 1 or self._teardowns.states or not states[0].is_good():
                self._look_at_age()
                self.drop_stale()
                if self.lent == len(states):
                    self._make()
            state = states[self.lent]
            self.lent += 1  # from here on: a task that the check waits for gets another one
            if policy is None or policy.check is None:
                return state.value
            try:
                if policy.check(state.value) is not False:
                    return state.value
            except BaseException as exc:
                error = exc
            return self._lend_another(policy.check, state, error)
        finally:
            error = None  # no cycle from it by its traceback to this frame
            self._busy -= 1
            if self.calls_when_free:
                self._look_if_free()

    def _lend_another(self, check: Callable[[Any], object], state: State, error: BaseException | None) -> Any:
        """After `state` has failed its check, with `error`: lend another one; should that fail, too, the task does."""
        try:
            self._take_back_failed(state, error)
            if self.lent == len(self.states):
                self._make()
            state = self.states[self.lent]
            self.lent += 1
            try:
                if check(state.value) is not False:
                    return state.value
                error = None
            except BaseException as exc:
                error = exc
            self._take_back_failed(state, error)
            if error is None:
                name = self.binding.name
                raise InitializerError(f"{name_of(check)} returned False for a state that {name} has just made")
            raise error
        finally:
            error = None  # as in `lend`

    def _take_back_failed(self, state: State, error: BaseException | None) -> None:
        tell(logger.info, "state made by %s failed its check, and is replaced", self.binding.name, exc_info=error)
        self.lent -= 1
        state.discarded = True
        self.drop_stale()

    def _look_at_age(self) -> None:
        if self._policy is not None and self._policy.max_age is not None:
            for state in self.states[self.lent :]:
                if not state.is_good():
                    state.discarded = True

    def _make(self) -> None:
        name = self.binding.name
        if self._making:
            raise InitializerError(f"a task that {name} itself waits for can't have the state that {name} is making")
        state = State(self.binding)
        started = monotonic()
        self._making = True
        try:
            state.make()
            self.states += (state,)
            self._counts.made += 1  # one step with the line before
        except BaseException as exc:
            if state.is_made:  # thrown into this thread just then
                self._teardowns.states += (state,)
                self._counts.made += 1
                self._teardowns.run()
            raise InitializerError(f"{name} raised {described(exc)} instead of making a state for a task") from exc
        finally:
            self._making = False
            self._counts.seconds_making += monotonic() - started

    def prepare(self) -> None:
        """Have a state, which is not lent yet."""
        self._busy += 1
        try:
            if not self.states:
                self._make()
                self.drop_stale()
        finally:
            self._busy -= 1
            self._look_if_free()

    # Taking back

    def take_back(self, error: BaseException | None) -> None:
        """Take back what was lent last, from a task that ended with `error`: reset it, or tear it down.

        `Runner.run` does this by itself where `needs_attention` is empty.
        """
        policy = self._policy
        try:
            state = self.states[self.lent - 1]
            if policy is not None:
                state.tasks += 1
                if error is not None and not state.discarded:
                    self._look_at_error(policy, state, error)
                if policy.reset is not None and not state.discarded:
                    try:
                        policy.reset(state.value)
                    except BaseException:
                        tell(logger.warning, "reset of a state made by %s raised: it is replaced", self.binding.name)
                        state.discarded = True
                if policy.max_tasks is not None and state.tasks >= policy.max_tasks:
                    state.discarded = True
            self.lent -= 1
            if policy is None or self.lent or len(self.states) != 1 or self._teardowns.states or state.is_stale():
                self.drop_stale()
        finally:
            if self.calls_when_free:
                self._look_if_free()

    def take_back_cut_off(self, lent: int) -> None:
        """Take back all but the first `lent`, from tasks that were cut off: tear them down."""
        for state in self.states[lent : self.lent]:
            state.discarded = True
        self.lent = min(self.lent, lent)
        self.expire()
        self.drop_stale()

    def _look_at_error(self, policy: StatePolicy[Any], state: State, error: BaseException) -> None:
        try:
            if policy.discards(error):
                state.discarded = True
        except BaseException:
            tell(logger.warning, "discard_on of the states made by %s raised: one is replaced", self.binding.name)
            state.discarded = True

    def lent_last(self) -> State:
        """The state lent to the innermost task that has one."""
        return self.states[self.lent - 1]

    # Replacing

    def discard_last(self) -> None:
        """Have what was lent last replaced when it is taken back."""
        self.lent_last().discarded = True
        self.expire()

    def expire(self) -> None:
        """Have the states looked at, as one was discarded, or the binding has a new generation; from any thread."""
        if self._policy is None:
            self.needs_attention.append(None)

    def drop_stale(self) -> None:
        """Tear down the states that are to be replaced and are not lent."""
        self._busy += 1
        try:
            self._look_for_stale()
        except BaseException:
            self.needs_attention += ONE  # thrown into this thread: look again next time
            raise
        finally:
            self._busy -= 1
            self._look_if_free()

    def _look_for_stale(self) -> None:
        # A collection may begin anywhere here, and a finalizer run a task that is lent a state. So `needs_attention` is
        # never empty while there is none.
        if self._policy is None:
            if self.states:
                # Before `is_stale` looks at the generation: whoever changes that later calls `expire` after it.
                self.needs_attention.clear()
            else:
                del self.needs_attention[1:]
        stale = [state for state in self.states[self.lent :] if state.is_stale()]
        lent = self.states[: self.lent]
        if self.states and (stale or self._making or self.calls_when_free or any(state.is_stale() for state in lent)):
            self.expire()  # for when they are taken back, have been made, or are gone
        # All of them before the first teardown, which may run a task that needs a state, too.
        for state in reversed(stale):
            self._discard(state)
        self._teardowns.run()

    def _discard(self, state: State) -> None:
        """Have `state` no more, unless such a task has led to its teardown."""
        entry = (state,)  # before the look: to make it may start a collection
        if state in self.states:
            self._teardowns.states += entry
            state.replaced = True
            self.states.remove(state)  # one step with the two lines before

    def drop_overflow(self) -> None:
        """Tear down the states made for deeper levels of nesting, the last made first."""
        self._busy += 1
        try:
            if len(self.states) > 1:
                self._drop_states(1)
                self._teardowns.run()
        finally:
            self._busy -= 1
            self._look_if_free()

    def drop_states(self) -> None:
        """Have no state any more; they are all in `Teardowns` after that."""
        self._drop_states(0)

    def _drop_states(self, kept: int) -> None:
        self._teardowns.states += self.states[kept:]
        del self.states[kept:]  # one step with the line before

    # In use or not

    def in_use(self) -> bool:
        """Whether a state is lent, being made or being torn down: what waits in there may have led here."""
        return bool(self.lent or self._busy)

    def when_free(self, call: Callable[[], None]) -> None:
        """Have `call` called when this is no longer in use."""
        self.calls_when_free.append(call)
        self.expire()

    def _look_if_free(self) -> None:
        while self.calls_when_free and not self.in_use():
            call_last(self.calls_when_free)
