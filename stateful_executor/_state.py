"""One state: made by an initializer, torn down in the same thread."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from time import monotonic
from types import AsyncGeneratorType, CoroutineType, GeneratorType

from ._binding import AsyncGeneratorContextManager, Binding, GeneratorContextManager
from ._interrupts import call_last
from ._naming import tell
from ._stats import Counts
from ._typing import Any

logger = logging.getLogger("stateful_executor")


class State:
    """What an initializer made, and how it ends. Strictly private.

    `is_made`
        there is something to tear down: the initializer has returned the state, or yielded it.
    `replaced`
        it has left its slot so that another one takes its place; once set it stays set.
    `_teardown_begun`
        once set it stays set.

    Touched only by the thread that made it, but for `discarded`, which once set stays set.
    """

    __slots__ = (
        "_binding",
        "_generation",
        "_process",
        "_rest",
        "_teardown_begun",
        "_too_old",
        "discarded",
        "is_made",
        "replaced",
        "tasks",
        "value",
    )

    def __init__(self, binding: Binding) -> None:
        self.value: Any = None
        self._binding = binding
        self._process: int = os.getpid()
        self._rest: Callable[[], object] | None = None  # of an initializer that yields
        # Both before the initializer runs: what it reads may be outdated when it returns.
        self._generation: object = binding.generation
        max_age = None if binding.policy is None else binding.policy.max_age
        # From when on; up to 5 % early, so that those made together don't end together.
        self._too_old: float | None = None if max_age is None else monotonic() + max_age * (1 - 0.05 * _random())
        self.tasks: int = 0  # that have given it back
        self.discarded: bool = False
        self.replaced: bool = False
        self.is_made: bool = False
        self._teardown_begun: bool = False

    def make(self) -> None:
        """Run the initializer in this thread. Whatever this raises, `is_made` says whether there is a state."""
        binding = self._binding
        # A dict makes both calls: what other threads throw into this one comes after a call that stands here, but not
        # after a subscript, so no state gets lost on its way.
        self.value = defaultdict[None, Any](partial(binding.initializer, *binding.initargs))[None]
        self.is_made = True
        enter, rest, refusal = _entry(self.value, binding)
        if refusal is None and enter is None:
            return
        self.value, self.is_made = None, False
        if refusal is not None:
            raise refusal
        self.value = defaultdict[None, Any](enter)[None]
        self._rest = rest
        self.is_made = True

    def is_stale(self) -> bool:
        """Whether it is to be replaced."""
        return self.discarded or self._generation is not self._binding.generation

    def is_good(self) -> bool:
        """Whether it is neither stale nor older than the policy's `max_age`, or up to 5 % less."""
        if self._too_old is not None and monotonic() >= self._too_old:
            return False
        # Last, as a collection in that call may run a finalizer, which waits for a task that has this state discarded.
        return not self.discarded and self._generation is self._binding.generation

    def tear_down(self, counts: Counts) -> None:
        """In the thread that made it, once. What the teardown raises is logged, and kept for the binding's scope.

        Called again, it does nothing: so it may be when it was cut off.
        """
        if self._teardown_begun or self._is_parents():
            return
        binding = self._binding
        self._teardown_begun = True
        counts.torn_down += 1
        counts.discarded += self.replaced  # not sooner, see `Counts`
        try:
            if self._rest is not None:
                self._rest()
            elif binding.finalizer is not None:
                binding.finalizer(self.value)
        except BaseException as exc:  # also SystemExit: the worker has more to tear down
            counts.teardown_errors += 1
            tell(logger.error, "teardown of the state made by %s failed", binding.name)
            if binding.lifetime is not None:
                binding.lifetime.errors.append(exc)
        finally:
            if not self._is_parents():  # a teardown may fork as well
                self.value = self._rest = None

    def _is_parents(self) -> bool:
        """Whether a task, or another call of the user's, has forked, and this is the child, where that went on."""
        if self._process == os.getpid():
            return False
        _inherited.append(self)
        return True


def _random() -> float:
    """From 0 to 1, without `random`, which takes long to import."""
    return os.urandom(1)[0] / 256


def _entry(
    made: Any, binding: Binding
) -> tuple[Callable[[], Any] | None, Callable[[], object] | None, TypeError | None]:
    """Of what the initializer has returned: what yields the state, and what is left to call at its end.

    Both are None when it is the state itself. An error when it can't be one.
    """
    enter: Callable[[], Any]
    rest: Callable[[], object]
    if isinstance(made, GeneratorContextManager):
        enter, rest = made.__enter__, partial(made.__exit__, None, None, None)
    elif binding.is_generator or isinstance(made, GeneratorType):
        enter, rest = partial(_begin, made, binding.name), partial(_finish, made, binding.name)
    else:
        return None, None, _refusal(made, binding)
    return enter, rest, None if binding.finalizer is None else binding.needs_no_finalizer()


def _begin(generator: Generator[Any, Any, Any], name: str) -> Any:
    try:
        return next(generator)
    except StopIteration:
        raise RuntimeError(f"the generator {name} ended without yielding a state") from None


def _finish(generator: Generator[Any, Any, Any], name: str) -> None:
    try:
        next(generator)
    except StopIteration:
        return
    generator.close()
    raise RuntimeError(f"the generator {name} yielded a second time")


def _refusal(made: Any, binding: Binding) -> TypeError | None:
    """The error of what would have to be awaited."""
    if isinstance(made, CoroutineType):
        made.close()  # else Python warns that nobody has awaited it
    elif not isinstance(made, (AsyncGeneratorType, AsyncGeneratorContextManager)):
        return None
    return binding.cannot_await()


class Teardowns:
    """The states of one worker that have left their slot, to be torn down. Strictly private.

    `under_way`, `late`
        the bindings whose states are being torn down, with what to call after that; and what is still to be called.

    A state enters in one step with leaving its slot: `made += (state,)`, `del`, no call. It stays until its teardown is
    over, so that none is lost when an exception is thrown into the worker. Touched by the worker's thread only.
    """

    __slots__ = ("_counts", "late", "states", "under_way")

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.states: list[State] = []
        self.under_way: dict[Binding, list[Callable[[], None]]] = {}
        self.late: list[Callable[[], None]] = []

    def run(self) -> None:
        """Tear them down, the last one that entered first. A teardown may lead to others, inside it."""
        while self.states:
            state = self.states[-1]
            state.tear_down(self._counts)
            with suppress(ValueError):  # run inside that teardown as well
                self.states.remove(state)

    def call_late(self) -> None:
        """After a teardown: call what was to wait for it."""
        while self.late:
            call_last(self.late)


# The parent's, in a forked child. Kept for ever, so that none is collected, and thereby closed, there.
_inherited: list[State] = []
