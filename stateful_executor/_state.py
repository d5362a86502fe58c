"""The binding of an initializer, and the states that a worker has made from it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from .errors import InitializerError

if TYPE_CHECKING:
    from ._worker import Worker

logger = logging.getLogger("stateful_executor")


def name_of(fn: object) -> str:
    """What a person calls `fn`."""
    try:
        return str(fn.__qualname__)  # type: ignore[attr-defined]
    except Exception:  # a partial, say, or anything with a __getattr__ of its own
        return type(fn).__qualname__


class Binding:
    """How a kind of state is made and torn down. One object for all views with equal arguments. Strictly private.

    `holders` are the workers that have such states: each worker enters and leaves by itself (one atomic step on a
    dict); the scope that owns the binding reads it when no task that could make a state is left.
    """

    def __init__(
        self,
        initializer: Callable[..., Any],
        initargs: tuple[Any, ...] = (),
        finalizer: Callable[[Any], object] | None = None,
        errors: list[BaseException] | None = None,
    ) -> None:
        if not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r}")
        if finalizer is not None and not callable(finalizer):
            raise TypeError(f"finalizer must be a callable, not {finalizer!r}")
        self.initializer = initializer
        self.initargs: tuple[Any, ...] = tuple(initargs)
        self.finalizer = finalizer
        self.is_generator: bool = inspect.isgeneratorfunction(initializer)
        if self.is_generator and finalizer is not None:
            raise TypeError(
                f"{name_of(initializer)} is a generator function, whose rest is the teardown; "
                f"it takes no finalizer besides: put {name_of(finalizer)} after its yield"
            )
        self.name: str = name_of(initializer)
        self.errors = errors  # where a scope wants failed teardowns
        self.holders: dict[Worker, None] = {}

    def same_as(self, other: Binding) -> bool:
        """Whether both make the same kind of state. What can't be compared is another."""
        try:
            return bool(
                self.initializer == other.initializer
                and self.initargs == other.initargs
                and self.finalizer == other.finalizer
            )
        except Exception:  # arrays, say, whose comparison is no truth value
            return False

    def make(self) -> State:
        """Run the initializer in this thread."""
        made = self.initializer(*self.initargs)
        if not self.is_generator:
            return State(made, self, None)
        try:
            return State(next(made), self, made)
        except StopIteration:
            raise RuntimeError(f"the generator {self.name} ended without yielding a state") from None


def find_binding(
    bindings: dict[object, Binding],
    initializer: Callable[..., Any],
    initargs: tuple[Any, ...],
    finalizer: Callable[[Any], object] | None,
    errors: list[BaseException] | None = None,
) -> Binding:
    """The binding of equal arguments in `bindings`, or a new one entered there, in one atomic step on the dict."""
    binding = Binding(initializer, initargs, finalizer, errors)
    key: object = (initializer, binding.initargs, finalizer)
    try:
        hash(key)
    except TypeError:  # an argument that can't be hashed: equal ones have to be looked for
        for known in list(bindings.values()):
            if known.same_as(binding):
                return known
        key = binding
    return bindings.setdefault(key, binding)


class State:
    """What an initializer made, and how it ends."""

    __slots__ = ("_binding", "_generator", "value")

    def __init__(self, value: Any, binding: Binding, generator: Generator[Any, None, Any] | None) -> None:
        self.value: Any = value
        self._binding = binding
        self._generator = generator

    def tear_down(self) -> None:
        """In the thread that made it, once. What the teardown raises is logged, and kept for the binding's scope."""
        binding = self._binding
        try:
            if self._generator is not None:
                self._finish_generator(self._generator)
            elif binding.finalizer is not None:
                binding.finalizer(self.value)
        except BaseException as exc:  # also SystemExit: the worker has more to tear down
            logger.exception("teardown of the state made by %s failed", binding.name)
            if binding.errors is not None:
                binding.errors.append(exc)
        finally:
            self.value = self._generator = None

    def _finish_generator(self, generator: Generator[Any, None, Any]) -> None:
        try:
            next(generator)
        except StopIteration:
            return
        generator.close()
        raise RuntimeError(f"the generator {self._binding.name} yielded a second time")


class Slot:
    """A worker's states of one binding, one for each level of nesting. Touched by its worker's thread only."""

    __slots__ = ("_making", "_states", "binding", "lent")

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self.lent = 0
        self._states: list[State] = []
        self._making = False

    def lend(self) -> Any:
        """A state that no task of this worker holds, made now if need be; `lent -= 1` gives it back."""
        if self.lent == len(self._states):
            self._make()
        self.lent += 1
        return self._states[self.lent - 1].value

    def _make(self) -> None:
        name = self.binding.name
        if self._making:
            raise InitializerError(f"a task that {name} itself waits for can't have the state that {name} is making")
        self._making = True
        try:
            self._states.append(self.binding.make())
        except BaseException as exc:
            raise InitializerError(f"{name} raised {exc!r} instead of making a state for a task") from exc
        finally:
            self._making = False

    def tear_down(self, keep: int = 0) -> None:
        """Tear down all states but the first `keep`, the last made first."""
        while len(self._states) > keep:
            self._states.pop().tear_down()
