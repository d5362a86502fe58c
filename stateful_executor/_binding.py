"""How a kind of state is made and torn down: the arguments of the pool, or of `with_state()`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from types import FunctionType, MethodType

from ._naming import name_of
from ._policy import StatePolicy
from ._typing import Any

# What comparisons and hashes of users' objects raise; but not what a time limit's handler may, while they are asked.
INCOMPARABLE = (ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError)
CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR = 0x20, 0x80, 0x200  # of a function's code, as `inspect` has them


class Holder:
    """Base of whoever has states of a binding: `_states.Owner`, of which nothing need be known here."""


class Lifetime:
    """How long the states of a scope live. Strictly private.

    `over` is set once, by the thread that ends the scope, which looks through `holders` of the scope's bindings after
    that. `errors`, what the teardowns raised, is guarded by the list's own lock.
    """

    __slots__ = ("errors", "over")

    def __init__(self) -> None:
        self.over: bool = False
        self.errors: list[BaseException] = []


class Binding:
    """How a kind of state is made and torn down. One object for all views with equal arguments. Strictly private.

    `holders`
        the workers that have, or had, such states; each enters and leaves by itself. Guarded by the dict's own lock.
    `generation`
        another object after each `discard_all`: states of an older generation are stale. Of two `discard_all` at once
        either may win.
    `is_there`
        of a worker's own state that may be lost by itself: asked between tasks, so that the worker makes another one
        before it takes a task, which others may run meanwhile. Written once, before there are workers.
    The rest is written once, in `__init__`.

    No worker is missed, and none keeps a state too long:

        who                       publishes                        meets at (locks)  then looks at
        worker, before it makes   enters `holders`                 `holders`         `generation`, `lifetime.over`
        `discard_all`, scope end  sets `generation`, or `over`     `holders`         who is in there

    If the worker enters first, it is found, and told. If the other one looks first, the worker sees what it has set.
    """

    def __init__(
        self,
        initializer: Callable[..., Any],
        initargs: tuple[Any, ...] = (),
        finalizer: Callable[[Any], object] | None = None,
        policy: StatePolicy[Any] | None = None,
        lifetime: Lifetime | None = None,
    ) -> None:
        if not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r}")
        if finalizer is not None and not callable(finalizer):
            raise TypeError(f"finalizer must be a callable, not {finalizer!r}")
        if policy is not None and not isinstance(policy, StatePolicy):
            raise TypeError(f"policy must be a StatePolicy, not {policy!r}")
        self.initializer = initializer
        try:
            self.initargs: tuple[Any, ...] = tuple(initargs)
        except TypeError:
            raise TypeError(f"initargs must be a tuple of arguments for initializer, not {initargs!r}") from None
        self.finalizer = finalizer
        self.policy: StatePolicy[Any] | None = policy
        self.name: str = name_of(initializer)
        function = _called(initializer)
        if (
            _has_flag(function, CO_COROUTINE | CO_ASYNC_GENERATOR)
            or hasattr(function, "_is_coroutine_marker")  # by `inspect.markcoroutinefunction`
            or _code_of(function) is _ASYNC_CONTEXT_MANAGER
        ):
            raise self.cannot_await()
        self.is_generator: bool = _has_flag(function, CO_GENERATOR)
        if finalizer is not None and (self.is_generator or _code_of(function) is _CONTEXT_MANAGER):
            raise self.needs_no_finalizer()
        self.lifetime: Lifetime | None = lifetime  # None: that of the workers
        self.holders: dict[Holder, None] = {}
        self.generation: object = object()
        self.is_there: Callable[[Any], bool] | None = None

    def needs_no_finalizer(self) -> TypeError:
        """The error of a finalizer given with an initializer that yields."""
        return TypeError(
            f"{self.name} yields the state, and its rest is the teardown; it takes no finalizer besides: "
            f"put {name_of(self.finalizer)} after its yield"
        )

    def cannot_await(self) -> TypeError:
        """The error of an initializer that is to be awaited."""
        return TypeError(
            f"initializer {self.name} is asynchronous, and no worker has an event loop to await it in: "
            "give a plain function, which may call asyncio.run()"
        )

    def same_as(self, other: Binding) -> bool:
        """Whether both make the same kind of state. What can't be compared is another."""
        try:
            return bool(
                self.initializer == other.initializer
                and self.initargs == other.initargs
                and self.finalizer == other.finalizer
                and self.policy == other.policy
            )
        except INCOMPARABLE:  # arrays, say, whose comparison is no truth value
            return False


def _called(initializer: Callable[..., Any]) -> Callable[..., Any]:
    """What runs when `initializer` is called."""
    while isinstance(initializer, partial):
        initializer = initializer.func
    if isinstance(initializer, (FunctionType, MethodType, type)):
        return initializer
    return type(initializer).__call__


def _has_flag(function: Callable[..., Any], flag: int) -> bool:
    """As in `inspect`, which takes long to import."""
    flags = getattr(_code_of(function), "co_flags", 0)
    return isinstance(flags, int) and bool(flags & flag)


def _code_of(function: Callable[..., Any]) -> object:
    return getattr(function, "__code__", None)


@contextmanager
def _example() -> Iterator[None]:
    yield


@asynccontextmanager
async def _async_example() -> AsyncIterator[None]:
    yield


# Of every function that the decorator has made; and what such a function returns.
_CONTEXT_MANAGER, _ASYNC_CONTEXT_MANAGER = _code_of(_example), _code_of(_async_example)
GeneratorContextManager, AsyncGeneratorContextManager = type(_example()), type(_async_example())


def find_binding(
    bindings: dict[object, Binding],
    initializer: Callable[..., Any],
    initargs: tuple[Any, ...],
    finalizer: Callable[[Any], object] | None,
    policy: StatePolicy[Any] | None,
    lifetime: Lifetime | None = None,
) -> Binding:
    """The binding of equal arguments in `bindings`, or a new one entered there; the same for all who ask at once."""
    binding = Binding(initializer, initargs, finalizer, policy, lifetime)
    try:
        return bindings.setdefault((initializer, binding.initargs, finalizer, policy), binding)
    except INCOMPARABLE:  # an argument that can't be hashed, or not be compared: equal ones have to be looked for
        bindings[binding] = binding
        for known in list(bindings.values()):  # after it was entered: of two entered at once the first is both's
            if known is binding:
                break
            if known.same_as(binding):
                bindings.pop(binding, None)
                return known
        return binding
