"""The binding of an initializer, and the states that a worker has made from it."""

from __future__ import annotations

import inspect
import logging
import os
import random
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from contextvars import Context
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from ._policy import StatePolicy
from ._stats import Counts
from ._waiter import here
from .errors import InitializerError

if TYPE_CHECKING:
    from ._worker import Worker

logger = logging.getLogger("stateful_executor")


def name_of(fn: object) -> str:
    """What a person calls `fn`."""
    try:
        fn = _unwrapped(fn)
        return str(fn.__qualname__)  # type: ignore[attr-defined]
    except BaseException as exc:  # anything with a __getattr__ of its own; also SystemExit: there is a task to end
        _raise_interrupt(exc)
        return _name_of_type(type(fn))


_name_of_type: Callable[[type], str] = type.__dict__["__qualname__"].__get__  # whatever the class or its own type says


def described(error: BaseException | None) -> str:
    """`repr(error)`, or what stands for it when that raises."""
    try:
        return repr(error)
    except BaseException as exc:
        _raise_interrupt(exc)
        return f"<{_name_of_type(type(error))}, whose repr raises>"


def tell(log: Callable[..., None], text: str, *args: object, exc_info: BaseException | bool | None = True) -> None:
    """`log(text, *args)` where nothing may be raised: handlers and filters are users' code."""
    try:
        log(text, *args, exc_info=exc_info, stacklevel=2)
    except BaseException as exc:
        _raise_interrupt(exc)
        with suppress(Exception):
            threading.excepthook(threading.ExceptHookArgs((type(exc), exc, exc.__traceback__, None)))


def _raise_interrupt(error: BaseException) -> None:
    """Ctrl-C is no user code's doing; in a worker, to which it does not come, KeyboardInterrupt is."""
    if isinstance(error, KeyboardInterrupt) and here.worker is None:
        raise error


def _unwrapped(fn: object) -> object:
    """`fn` without its partials, and the context that it runs in (see `TaskQueue.put`)."""
    for _ in range(100):  # a partial of itself can be made
        if not isinstance(fn, partial):
            break
        in_context = fn.args and isinstance(getattr(fn.func, "__self__", None), Context)
        fn = fn.args[0] if in_context else fn.func
    return fn


class Term:
    """How long the states of a scope live. `over` is set once, and then `holders` of its bindings are looked at."""

    __slots__ = ("errors", "over")

    def __init__(self) -> None:
        self.over: bool = False
        self.errors: list[BaseException] = []  # of their teardowns


class Binding:
    """How a kind of state is made and torn down. One object for all views with equal arguments. Strictly private.

    `holders` are the workers that have, or had, such states: each worker enters, before it looks at `era` and
    `term.over`, and leaves by itself (one atomic step on a dict). Who writes one of those two looks at `holders`
    afterwards. Hence a worker that is not found there sees what was written.
    """

    def __init__(
        self,
        initializer: Callable[..., Any],
        initargs: tuple[Any, ...] = (),
        finalizer: Callable[[Any], object] | None = None,
        policy: StatePolicy[Any] | None = None,
        term: Term | None = None,
    ) -> None:
        if not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r}")
        if finalizer is not None and not callable(finalizer):
            raise TypeError(f"finalizer must be a callable, not {finalizer!r}")
        if policy is not None and not isinstance(policy, StatePolicy):
            raise TypeError(f"policy must be a StatePolicy, not {policy!r}")
        self.initializer = initializer
        self.initargs: tuple[Any, ...] = tuple(initargs)
        self.finalizer = finalizer
        self.policy: StatePolicy[Any] | None = policy
        self.is_generator: bool = inspect.isgeneratorfunction(initializer)
        if self.is_generator and finalizer is not None:
            raise TypeError(
                f"{name_of(initializer)} is a generator function, whose rest is the teardown; "
                f"it takes no finalizer besides: put {name_of(finalizer)} after its yield"
            )
        self.name: str = name_of(initializer)
        self.term: Term | None = term  # None: as long as the workers
        self.holders: dict[Worker, None] = {}
        self.era: object = object()  # another one after each `discard_all`

    def same_as(self, other: Binding) -> bool:
        """Whether both make the same kind of state. What can't be compared is another."""
        try:
            return bool(
                self.initializer == other.initializer
                and self.initargs == other.initargs
                and self.finalizer == other.finalizer
                and self.policy == other.policy
            )
        except Exception:  # arrays, say, whose comparison is no truth value
            return False

    def make(self) -> State:
        """Run the initializer in this thread."""
        era, started = self.era, monotonic()  # before: what the initializer reads may be outdated when it returns
        generator = None
        made = self.initializer(*self.initargs)
        if self.is_generator:
            generator = made
            try:
                made = next(generator)
            except StopIteration:
                raise RuntimeError(f"the generator {self.name} ended without yielding a state") from None
        return State(made, self, generator, era, started)


def find_binding(
    bindings: dict[object, Binding],
    initializer: Callable[..., Any],
    initargs: tuple[Any, ...],
    finalizer: Callable[[Any], object] | None,
    policy: StatePolicy[Any] | None,
    term: Term | None = None,
) -> Binding:
    """The binding of equal arguments in `bindings`, or a new one entered there; the same for all who ask at once."""
    binding = Binding(initializer, initargs, finalizer, policy, term)
    try:
        return bindings.setdefault((initializer, binding.initargs, finalizer, policy), binding)
    except Exception:  # an argument that can't be hashed, or not be compared: equal ones have to be looked for
        bindings[binding] = binding
        for known in list(bindings.values()):  # after it was entered: of two entered at once the first is both's
            if known is binding:
                break
            if known.same_as(binding):
                bindings.pop(binding, None)
                return known
        return binding


class State:
    """What an initializer made, and how it ends."""

    __slots__ = ("_binding", "_era", "_generator", "_process", "_started", "_usable", "discarded", "tasks", "value")

    def __init__(
        self, value: Any, binding: Binding, generator: Generator[Any, None, Any] | None, era: object, started: float
    ) -> None:
        self.value: Any = value
        self._binding = binding
        self._generator = generator
        self._process: int = os.getpid()
        self._era: object = era
        self._started: float = started
        self._usable: float = 1 - 0.05 * random.random()  # noqa: S311  # no secret: spreads the ends of max_age
        self.tasks: int = 0  # that have given it back
        self.discarded: bool = False

    def is_stale(self) -> bool:
        """Whether it is to be replaced."""
        return self.discarded or self._era is not self._binding.era

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
            if self._generator is not None:
                self._finish_generator(self._generator)
            elif binding.finalizer is not None:
                binding.finalizer(self.value)
        except BaseException as exc:  # also SystemExit: the worker has more to tear down
            counts.teardown_errors += 1
            tell(logger.error, "teardown of the state made by %s failed", binding.name)
            if binding.term is not None:
                binding.term.errors.append(exc)
        finally:
            if not self._is_parents():  # a teardown may fork as well
                self.value = self._generator = None

    def _is_parents(self) -> bool:
        """Whether a task, or another call of the user's, has forked, and this is the child, where that went on."""
        if self._process == os.getpid():
            return False
        _inherited.append(self)
        return True

    def _finish_generator(self, generator: Generator[Any, None, Any]) -> None:
        try:
            next(generator)
        except StopIteration:
            return
        generator.close()
        raise RuntimeError(f"the generator {self._binding.name} yielded a second time")


# The parent's, in a forked child. Kept for ever, so that none is collected, and thereby closed, there.
_inherited: list[State] = []


class Slot:
    """A worker's states of one binding, one for each level of nesting.

    The first `lent` of them are lent: the last one to the innermost task, or call of a bound function, that has one.
    All fields are touched by the worker's thread only, but for `due`, to which `expire` adds in any thread, and which
    its own lock guards.
    """

    __slots__ = ("_busy", "_counts", "_making", "_policy", "_when_free", "binding", "due", "lent", "states")

    def __init__(self, binding: Binding, counts: Counts) -> None:
        self.binding: Binding = binding
        self.lent: int = 0
        # Not empty when there is more to do than to lend and to take back: always with a policy, and without a state.
        self.due: list[None] = [None]
        self._when_free: list[Callable[[], None]] = []
        self._busy: int = 0  # how many of the methods below, which call user code, are under way
        self._policy: StatePolicy[Any] | None = binding.policy
        self._counts: Counts = counts
        self.states: list[State] = []
        self._making: bool = False

    # Lending

    def lend(self) -> Any:
        """A state that no task of this worker holds, made now if need be. Taken back by `lent -= 1`, or `take_back`."""
        if self.due or self.lent == len(self.states):
            return self._lend_with_care()
        self.lent += 1
        return self.states[self.lent - 1].value

    def _lend_with_care(self) -> Any:
        error = None
        self._busy += 1
        try:
            self._look_at_age()
            self.drop_stale()
            for _ in range(2):  # a state that fails its check is replaced once
                if self.lent == len(self.states):
                    self._make()
                state = self.states[self.lent]
                self.lent += 1  # from here on: a task that the check waits for gets another one
                error = self._check(state)
                if error is None:
                    return state.value
                self.lent -= 1
                state.discarded = True
                self.drop_stale()
            raise error  # type: ignore[misc]  # there was one
        finally:
            error = None  # no cycle from it by its traceback to this frame
            self._no_longer_busy()

    def _look_at_age(self) -> None:
        policy = self._policy
        if policy is not None and policy.max_age is not None:
            for state in self.states[self.lent :]:
                if state.is_older_than(policy.max_age):
                    state.discarded = True

    def _make(self) -> None:
        name = self.binding.name
        if self._making:
            raise InitializerError(f"a task that {name} itself waits for can't have the state that {name} is making")
        self._making = True
        started = monotonic()
        try:
            self.states.append(self.binding.make())
        except BaseException as exc:
            raise InitializerError(f"{name} raised {described(exc)} instead of making a state for a task") from exc
        finally:
            self._making = False
            self._counts.seconds_making += monotonic() - started
        self._counts.made += 1

    def _check(self, state: State) -> BaseException | None:
        """What is wrong with `state`."""
        check = None if self._policy is None else self._policy.check
        if check is None:
            return None
        name = self.binding.name
        try:
            if check(state.value) is not False:
                return None
        except BaseException as exc:
            tell(logger.info, "state made by %s failed its check, and is replaced", name)
            return exc
        tell(logger.info, "state made by %s failed its check, and is replaced", name, exc_info=None)
        return InitializerError(f"{name_of(check)} returned False for a state that {name} has just made")

    def prepare(self) -> None:
        """Have a state, which is not lent yet."""
        self._busy += 1
        try:
            if not self.states:
                self._make()
                self.drop_stale()
        finally:
            self._no_longer_busy()

    # Taking back

    def take_back(self, error: BaseException | None) -> None:
        """Take back what was lent last, from a task that ended with `error`: reset it, or tear it down."""
        self._busy += 1
        if self._policy is not None:
            self._look_after_task(self._policy, self.states[self.lent - 1], error)
        self.lent -= 1
        self.drop_stale()
        self._no_longer_busy()

    def _look_after_task(self, policy: StatePolicy[Any], state: State, error: BaseException | None) -> None:
        name = self.binding.name
        state.tasks += 1
        if error is not None and not state.discarded:
            try:
                state.discarded = policy.discards(error)
            except BaseException:
                tell(logger.warning, "discard_on of the states made by %s raised: one is replaced", name)
                state.discarded = True
        if policy.reset is not None and not state.discarded:
            try:
                policy.reset(state.value)
            except BaseException:
                tell(logger.warning, "reset of a state made by %s raised: it is replaced", name)
                state.discarded = True
        if policy.max_tasks is not None and state.tasks >= policy.max_tasks:
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
        """Have the states looked at, since one was discarded, or the binding's era has changed; from any thread."""
        if self._policy is None:
            self.due.append(None)

    def drop_stale(self) -> None:
        """Tear down the states that are to be replaced and are not lent."""
        self._busy += 1
        # A collection may begin anywhere here, and a finalizer run a task that is lent a state: `due` is never empty
        # while there is none.
        if self._policy is None:
            if self.states:
                self.due.clear()  # before the look at the era: when that changes later, so does this
            else:
                del self.due[1:]
        stale = [state for state in self.states[self.lent :] if state.is_stale()]
        lent = self.states[: self.lent]
        if self.states and (stale or self._making or self._when_free or any(state.is_stale() for state in lent)):
            self.expire()  # for when they are taken back, have been made, or are gone
        # All of them before the first teardown, which may run a task that needs a state, too.
        for state in [state for state in stale if self._forget(state)]:
            state.tear_down(self._counts)
            self._counts.discarded += 1
        self._no_longer_busy()

    def _forget(self, state: State) -> bool:
        """Have `state` no more. False when such a task has led to its teardown."""
        try:
            self.states.remove(state)
        except ValueError:
            return False
        return True

    def drop_extras(self) -> None:
        """Tear down the states made for deeper levels of nesting, the last made first."""
        self._busy += 1
        while len(self.states) > 1:
            self.states.pop().tear_down(self._counts)
        self._no_longer_busy()

    def tear_down(self) -> None:
        """Tear down all states, the last made first."""
        while self.states:
            self.states.pop().tear_down(self._counts)

    # In use or not

    def in_use(self) -> bool:
        """Whether a state is lent, being made or being torn down: what waits in there may have led here."""
        return bool(self.lent or self._busy)

    def when_free(self, call: Callable[[], None]) -> None:
        """Have `call` called when this is no longer in use."""
        self._when_free.append(call)
        self.expire()

    def _no_longer_busy(self) -> None:
        self._busy -= 1
        while self._when_free and not self.in_use():
            self._when_free.pop(0)()
