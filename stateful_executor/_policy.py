"""When a state is replaced by a new one."""

from __future__ import annotations

from collections.abc import Callable

from ._numbers import in_seconds, whole_number
from ._typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    from ._dataclass import dataclass

S = TypeVar("S", default=Any, contravariant=True)


@dataclass(frozen=True)
class StatePolicy(Generic[S]):
    """When a worker's state is checked, reset, and replaced by a new one: the life cycle of a good connection pool.

    Given to the pool, for its own state, or to `with_state()`. A state that is replaced is torn down at once, in the
    worker's thread; the new one is made when a task next needs it. All hooks run in the thread of the worker that owns
    the state, outside of every lock, and one at a time for each state. They may submit tasks to the pool, and wait for
    them: a task that needs such a state is lent another one meanwhile. Age is measured from the moment at which the
    initializer was called.

    Parameters:
        check: Called with the state before each task. When it raises or returns `False` (any other value, None
            included, means that the state is good) the state is replaced, once: when the new one fails too, the task
            does, with the error of the check, or with `InitializerError` when that returned `False`. The next task
            tries again. Failed checks are logged (logger `stateful_executor`, level INFO).
        reset: Called with the state after each task, failed ones too, before the task's result is visible; not when
            the task discarded the state. When it raises, which is logged as a warning, the state is replaced; the
            task's result stays what it was.
        discard_on: An exception type, a tuple of them, or a predicate that is called with the exception: a task that
            fails so has its state replaced, before its error is visible. A predicate that raises, which is logged,
            counts as true.
        max_tasks: After how many tasks a state is replaced. A chunk of a map is one task.
        max_age: After how many seconds a state is replaced. Looked at when the state is lent, so that a state that
            nobody uses stays as it is. For each state it is shortened at random by up to 5 %, so that workers which
            started together don't all make a new state at the same time.

    Raises:
        TypeError: `check` or `reset` can't be called, `discard_on` is none of what it may be, or `max_tasks` is no
            integer.
        ValueError: `max_tasks` is less than 1, or `max_age` is not above 0.

    The hooks are those that psycopg_pool (`check`, `reset`, `max_lifetime`) and SQLAlchemy's pool (`pool_pre_ping`,
    `reset_on_return`, `pool_recycle`) have for connections.

    .. versionadded:: 0.1
    """

    check: Callable[[S], object] | None = None
    reset: Callable[[S], object] | None = None
    discard_on: type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], object] | None = None
    max_tasks: int | None = None
    max_age: float | None = None

    def __post_init__(self) -> None:
        for name, hook in ("check", self.check), ("reset", self.reset):
            if hook is not None and not callable(hook):
                raise TypeError(f"{name} must be a callable that takes the state, or None, not {hook!r}")
        if not (self.discard_on is None or callable(self.discard_on) or _are_exceptions(self.discard_on)):
            raise TypeError(
                "discard_on must be an exception type, a tuple of them, a predicate that takes an exception, or None, "
                f"not {self.discard_on!r}"
            )
        if isinstance(self.discard_on, type) and not issubclass(self.discard_on, BaseException):
            raise TypeError(f"discard_on must be a type of exceptions, which {self.discard_on!r} is not")
        if self.max_tasks is not None:
            meaning = "a whole number of tasks, or None for no limit"
            object.__setattr__(self, "max_tasks", whole_number("max_tasks", self.max_tasks, meaning))
            if self.max_tasks < 1:
                raise ValueError(f"max_tasks must be at least 1 task, or None for no limit, not {self.max_tasks}")
        if self.max_age is not None:
            meaning = "a number of seconds above 0, or None for no limit"
            object.__setattr__(self, "max_age", in_seconds("max_age", self.max_age, meaning))
            if not 0 < self.max_age < float("inf"):
                raise ValueError(f"max_age must be {meaning}, not {self.max_age}")

    def discards(self, error: BaseException) -> bool:
        """Whether a task that failed with `error` has its state replaced. Raises what the predicate raises."""
        if self.discard_on is None:
            return False
        if isinstance(self.discard_on, (type, tuple)):
            return isinstance(error, self.discard_on)
        return bool(self.discard_on(error))


def _are_exceptions(kinds: object) -> bool:
    return isinstance(kinds, tuple) and all(
        isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds
    )
