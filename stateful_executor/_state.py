"""One state: made by an initializer, torn down in the same thread."""

from __future__ import annotations

import inspect
import logging
import os
import random
from collections.abc import Callable, Generator
from functools import partial
from time import monotonic
from typing import Any

from ._binding import AsyncGeneratorContextManager, Binding, GeneratorContextManager
from ._naming import tell
from ._stats import Counts

logger = logging.getLogger("stateful_executor")


class State:
    """What an initializer made, and how it ends. Strictly private.

    Touched only by the thread that made it, but for `discarded`, which once set stays set.
    """

    __slots__ = (
        "_binding",
        "_generation",
        "_process",
        "_rest",
        "_started",
        "_usable",
        "discarded",
        "tasks",
        "value",
    )

    def __init__(
        self,
        value: Any,
        binding: Binding,
        rest: Callable[[], object] | None,
        generation: object,
        started: float,
    ) -> None:
        self.value: Any = value
        self._binding = binding
        self._process: int = os.getpid()
        self._rest = rest  # of an initializer that yields
        self._generation: object = generation
        self._started: float = started
        self._usable: float = 1 - 0.05 * random.random()  # noqa: S311  # no secret: spreads the ends of max_age
        self.tasks: int = 0  # that have given it back
        self.discarded: bool = False

    @classmethod
    def make(cls, binding: Binding) -> State:
        """Run the initializer of `binding` in this thread."""
        generation, started = binding.generation, monotonic()  # before: what it reads may be outdated when it returns
        value, rest = _entered(binding.initializer(*binding.initargs), binding)
        return cls(value, binding, rest, generation, started)

    def is_stale(self) -> bool:
        """Whether it is to be replaced."""
        return self.discarded or self._generation is not self._binding.generation

    def is_older_than(self, max_age: float) -> bool:
        """Whether it has been there for `max_age` seconds, or up to 5 % less, the same share each time."""
        return monotonic() - self._started >= max_age * self._usable

    def tear_down(self, counts: Counts) -> None:
        """In the thread that made it, once. What the teardown raises is logged, and kept for the binding's scope."""
        if self._is_parents():
            return
        binding = self._binding
        counts.torn_down += 1
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


def _entered(made: Any, binding: Binding) -> tuple[Any, Callable[[], object] | None]:
    """The state, and what remains to be called at its end, of what the initializer has returned."""
    enter: Callable[[], Any]
    rest: Callable[[], object]
    if isinstance(made, GeneratorContextManager):
        enter, rest = made.__enter__, partial(made.__exit__, None, None, None)
    elif binding.is_generator or inspect.isgenerator(made):
        enter, rest = partial(_begin, made, binding.name), partial(_finish, made, binding.name)
    else:
        _refuse_async(made, binding)
        return made, None
    if binding.finalizer is not None:
        raise binding.needs_no_finalizer()
    return enter(), rest


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


def _refuse_async(made: Any, binding: Binding) -> None:
    if inspect.iscoroutine(made):
        made.close()  # else Python warns that nobody has awaited it
    elif not (inspect.isasyncgen(made) or isinstance(made, AsyncGeneratorContextManager)):
        return
    raise binding.cannot_await()


# The parent's, in a forked child. Kept for ever, so that none is collected, and thereby closed, there.
_inherited: list[State] = []
