"""What runs in a remote worker: makes states and runs tasks. The only code there that sees what is the user's."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NoReturn, cast

from ._binding import Binding, Lifetime
from ._current import current
from ._map import Chunk
from ._naming import described, name_of
from ._parker import Parker
from ._registry import Registry
from ._states import Owner, Request, States
from ._stats import Counts
from ._view import StateView
from ._wire import CALL, CHUNK, CLOSE, COUNTED, EXPIRE, MAKE, NO_STATE, OWN, TEAR_DOWN, Parts, Wire
from .errors import InitializerError

logger = logging.getLogger("stateful_executor")

_figures_of: Callable[[Counts], tuple[float, ...]] = attrgetter(*COUNTED)


class Home:
    """Stands in a remote worker for the pool, which is elsewhere."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _refuse(self, *_: object) -> NoReturn:
        raise RuntimeError(
            f"a task can't submit to {self.name}, its own pool, which is in another process: return what is to be done "
            "next, and submit it there"
        )

    put = maker = _refuse

    async def aput(self, *_: object) -> NoReturn:
        """As `put`."""
        self._refuse()


class Server(Owner):
    """A remote worker, as its pool's requests see it. Used by one thread only, which runs the user's code as well.

    `_bindings` are those of the states there are, by their keys in requests; `_told` is what the pool has been told of
    `_counts`, or counts itself.
    """

    def __init__(self) -> None:
        self.registry: object = None
        self._wire: Wire
        self._counts = Counts()
        self._told: tuple[float, ...] = _figures_of(self._counts)
        self.states = States(self._counts)
        self._bindings: dict[int, Binding] = {}

    def start(self, setup: bytes) -> Parts:
        """Make the pool's own state, if it has one. `setup` is what `setup_of` returned."""
        self._wire, name, own = pickle.loads(setup)  # noqa: S301  # by our own parent
        self.registry = Home(name)
        current.worker = self
        return self.answer(MAKE, OWN, own) if own is not None else self._wire.dump((None, None, None))

    def answer(self, kind: int, key: int, parts: Parts) -> Parts:
        """Do what a request asks for, and return the reply to it."""
        if kind in (CALL, CHUNK):
            return self._call(kind, key, parts)
        error = None
        try:
            if kind == MAKE:
                self._make(key, parts)
            elif kind == EXPIRE:
                self._bindings[key].generation = object()
                self.states.slot(self._bindings[key]).expire()
                self.states.slot(self._bindings[key]).drop_stale()
            elif kind == TEAR_DOWN:
                error = self._tear_down(self._bindings.pop(key))
            elif kind == CLOSE:
                error = self.close(quiet=True)
        except InitializerError as exc:
            error = exc.__cause__
        except BaseException as exc:
            error = exc
        counted = self._changes()
        return self._wire.dump_reply(None, error, counted if kind == EXPIRE else None, lambda: "None")

    # Tasks

    def _call(self, kind: int, key: int, parts: Parts) -> Parts:
        value = error = None
        fn: Callable[..., Any] | None = None
        try:
            fn, args, kwargs = self._loaded(kind, parts)
            if key == NO_STATE:
                value = fn(*args, **kwargs)
            else:
                value = self.states.call_bound(self._bindings[key], fn, args, kwargs)
        except BaseException as exc:  # also SystemExit, which ends no worker of threads either
            error = exc
        try:
            if self.states.overflow:
                self.states.drop_overflow()
            if isinstance(fn, Chunk):
                value = fn.results
            return self._wire.dump_reply(
                value, error, self._changes(), lambda: f"the result of {name_of(fn)}, a {name_of(type(value))},"
            )
        finally:
            error = None  # no cycle from it by its traceback to this frame

    def _loaded(self, kind: int, parts: Parts) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        try:
            loaded = self._wire.load(parts)
        except Exception as exc:
            raise pickle.UnpicklingError(
                f"a task can't be unpickled in its worker: {described(exc)}; what it consists of must be importable "
                "there by name, or the pool made with pickler=cloudpickle"
            ) from exc
        return loaded if kind == CALL else (Chunk(*loaded), (), {})

    # States

    def _make(self, key: int, parts: Parts) -> None:
        initializer, initargs, finalizer, policy = self._wire.load(parts)
        binding = Binding(initializer, initargs, finalizer, policy, Lifetime())
        self._bindings[key] = binding
        self.states.slot(binding).prepare()

    def _tear_down(self, *bindings: Binding, quiet: bool = True) -> BaseException | None:
        """What the teardowns raised, which is the pool's to log."""
        errors: list[BaseException] = []
        disabled, logger.disabled = logger.disabled, quiet
        try:
            for binding in reversed(bindings):
                assert binding.lifetime is not None
                binding.lifetime.errors.clear()
                self.states.tear_down(binding)
                errors += binding.lifetime.errors
        finally:
            logger.disabled = disabled
        return errors[0] if len(errors) == 1 else BaseExceptionGroup("teardowns failed", errors) if errors else None

    def close(self, quiet: bool = False) -> BaseException | None:
        """Tear down all states, the last made first; `quiet` when what they raise is told to the pool."""
        error = self._tear_down(*self._bindings.values(), quiet=quiet)
        self._bindings.clear()
        return error

    def view(self, key: int) -> StateView[Any]:
        """The view whose states have `key`."""
        try:
            return ViewHere(cast("Any", self), self._bindings[key])
        except KeyError:
            raise RuntimeError(f"a view came to a worker of {self._home.name} without its state") from None

    # Counts

    def _changes(self) -> tuple[float, ...] | None:
        """What was counted since this was last asked for."""
        figures, told = _figures_of(self._counts), self._told
        if figures == told:
            return None
        self._told = figures
        return tuple(now - then for now, then in zip(figures, told, strict=True))

    # As a worker

    @property
    def _home(self) -> Home:
        return cast("Home", self.registry)

    @property
    def _registry(self) -> Registry:
        return cast("Registry", self.registry)

    def sleep(self, parker: Parker, timeout: float | None) -> bool:
        """As `CurrentWorker` has it: a task waits for a pool of its own."""
        return parker.park(timeout)

    def ask(self, request: Request) -> NoReturn:
        """Nobody has this worker for an owner but itself."""
        raise NotImplementedError


class ViewHere(StateView[Any]):
    """A view that came to a remote worker with a task: for `get`, `discard` and bound functions."""

    def discard_all(self) -> NoReturn:
        """RuntimeError: other workers can't be reached from here."""
        cast("Home", self._registry)._refuse()


def setup_of(wire: Wire, name: str, own: Parts | None) -> bytes:
    """What a worker of the pool `name` is started with; `own` is how the pool's own state is made."""
    return pickle.dumps((wire, name, None if own is None else tuple(own)), protocol=5)


def view_here(pool: str, key: int) -> StateView[Any]:
    """What a view of the pool of that name is unpickled to."""
    server = current.worker
    if not isinstance(server, Server) or cast("Home", server.registry).name != pool:
        raise RuntimeError(f"a view of {pool} can only be sent to the workers of that pool, with a task")
    return server.view(key)
