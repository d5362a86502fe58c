"""How calls, results and errors travel between this process and a remote worker: as pickles of protocol 5."""

from __future__ import annotations

import importlib
import pickle
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Protocol, TypeAlias, cast

from ._naming import described, name_of

# The pickle, then the buffers that it refers to, which are not copied into it.
Buffer: TypeAlias = "bytes | bytearray | memoryview"
Parts: TypeAlias = "Sequence[Buffer]"

# What a request is: its kind, a key, and parts.
CALL = 1  # (fn, args, kwargs), with the state of the key
CHUNK = 2  # (fn, name, single, inputs) of a map, the same
MAKE = 3  # (initializer, initargs, finalizer, policy): make the state of the key
TEAR_DOWN = 4  # tear down the state of the key
EXPIRE = 5  # have the state of the key replaced
CLOSE = 6  # tear down all states: no more requests will come

NO_STATE = 0  # the keys of calls without a state,
OWN = 1  # with the pool's own; views count from the next one on

# What is counted over there and told with a reply: fields of `Counts`, in the order in which a state is counted.
COUNTED = ("made", "torn_down", "discarded", "teardown_errors", "seconds_making")

PACKAGE = str(Path(__file__).parent)


class Pickler(Protocol):
    """What the parameter `pickler` may be: `pickle`, `cloudpickle`, or what has these two functions."""

    @property
    def dumps(self) -> Callable[..., Any]:
        """As `pickle.dumps`, with `protocol` and `buffer_callback`."""
        ...

    @property
    def loads(self) -> Callable[..., Any]:
        """As `pickle.loads`, with `buffers`."""
        ...


class RemoteTraceback(Exception):  # as the standard library names its own
    """The traceback that an error had in the remote worker; the cause of the error that comes out of the future."""

    def __init__(self, text: str) -> None:
        super().__init__(text)

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class Wire:
    """What is sent, and back. Its fields are written once. Strictly private."""

    __slots__ = ("_dumps", "_loads", "_pickler")

    def __init__(self, pickler: Pickler) -> None:
        for name in "dumps", "loads":
            if not callable(getattr(pickler, name, None)):
                raise TypeError(f"pickler must have the functions dumps and loads, as pickle has, not {pickler!r}")
        self._pickler = pickler
        self._dumps = pickler.dumps
        self._loads = pickler.loads

    def __reduce__(self) -> tuple[Callable[..., Wire], tuple[Any]]:
        if isinstance(self._pickler, ModuleType):
            return _wire_of_module, (self._pickler.__name__,)
        return Wire, (self._pickler,)

    def dump(self, thing: object) -> Parts:
        """`thing`, to be sent at once: its buffers are not copied."""
        buffers: list[pickle.PickleBuffer] = []
        data = self._dumps(thing, protocol=5, buffer_callback=buffers.append)
        return (data, *[buffer.raw() for buffer in buffers]) if buffers else (data,)

    def dump_for_later(self, thing: object, what: Callable[[], str]) -> Parts:
        """`thing` as it is now, whatever becomes of it until it is sent; `what` says what it is, should that fail."""
        try:
            parts = self.dump(thing)
        except (pickle.PickleError, TypeError, AttributeError) as exc:
            raise _unpicklable(what(), exc) from exc
        return (parts[0], *[bytes(part) for part in parts[1:]]) if len(parts) > 1 else parts

    def load(self, parts: Parts) -> Any:
        """What was dumped."""
        return self._loads(parts[0], buffers=parts[1:])

    # Replies: the value, how it failed, and what was counted meanwhile

    def dump_reply(self, value: object, error: BaseException | None, counted: object, what: Callable[[], str]) -> Parts:
        """What a request has come to. The error in place of a value that can't be pickled."""
        if error is None:
            try:
                return self.dump((value, None, counted))
            except Exception as exc:
                error = _unpicklable(what(), exc)
                error.__cause__ = exc
                value = None
        return self._dump_failure(value, error, counted)

    def _dump_failure(self, value: object, error: BaseException, counted: object) -> Parts:
        failure = self._dump_error(error), _text_of(error)
        try:
            return self.dump((value, failure, counted))
        except Exception:  # the results that came before an error in a chunk of a map
            return self.dump(([], failure, counted))

    def load_reply(self, parts: Parts) -> tuple[Any, BaseException | None, Any]:
        """The value, the error if there was one, and what was counted."""
        try:
            value, failure, counted = self.load(parts)
        except Exception as exc:
            error = pickle.UnpicklingError(f"what a task returned can't be unpickled here: {described(exc)}")
            error.__cause__ = exc
            return None, error, None
        return value, None if failure is None else self._load_error(*failure), counted

    # Errors

    def _dump_error(self, error: BaseException) -> bytes:
        data: bytes = self._dumps(self._portable(error), protocol=5)
        return data

    def _portable(self, error: BaseException) -> object:
        """What is unpickled to `error`, or to as much of it as can be: many can be pickled, but not unpickled."""
        if self._arrives(error, type(error)):
            return error
        args = tuple(value if self._arrives(value) else described(value) for value in error.args)
        if isinstance(error, BaseExceptionGroup):
            args = error.message, [self._portable(inner) for inner in error.exceptions]
        state = {name: value for name, value in vars(error).items() if self._arrives(value)}
        for cls in type(error).__mro__:
            if cls is not type(error):
                note = f"{name_of(type(error))}, which was raised, can't be pickled"
                state = {"__notes__": [*(state.get("__notes__") or ()), note]}
            portable = _Bare(cls, args, state)
            if self._arrives(portable, cls):
                return portable
        return RuntimeError(described(error))

    def _arrives(self, thing: object, cls: type = object) -> bool:
        """Whether `thing` can be pickled, and an instance of `cls` comes of that."""
        with suppress(Exception):
            return isinstance(self._loads(self._dumps(thing, protocol=5)), cls)
        return False

    def _load_error(self, data: bytes, text: str) -> BaseException:
        try:
            error = self._loads(data)
            error.__cause__ = RemoteTraceback(text)
        except Exception as exc:
            error = RuntimeError(f"the error of a task can't be unpickled here: {described(exc)}")
            error.__cause__ = RemoteTraceback(text)
        assert isinstance(error, BaseException)
        return error


class _Bare:
    """Pickled, an exception of `cls` that is made without its constructor."""

    def __init__(self, cls: type, args: tuple[Any, ...], state: dict[str, Any]) -> None:
        self._made_of = cls, args, state

    def __reduce__(self) -> tuple[Callable[..., BaseException], tuple[Any, ...]]:
        return _remake, self._made_of


def _remake(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


def _unpicklable(what: str, error: BaseException) -> pickle.PicklingError:
    return pickle.PicklingError(
        f"{what} can't be pickled: {error}; send what can be, by the names of modules, or make the pool with "
        "pickler=cloudpickle"
    )


def _text_of(error: BaseException) -> str:
    """The traceback of `error` from the user's first frame on."""
    own: TracebackType | None = error.__traceback__
    while own is not None and own.tb_frame.f_code.co_filename.startswith(PACKAGE):
        own = own.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, own))
    except Exception:  # whatever its __str__ does
        return f"{described(error)}\n"


def _wire_of_module(name: str) -> Wire:
    return Wire(cast("Pickler", importlib.import_module(name)))
