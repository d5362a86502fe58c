"""What is sent to a worker and back: as a copy, or with an error for that task alone, raised where it can be mended."""

import multiprocessing
import os
import pickle
import sys
import threading
import types
from array import array
from collections.abc import Iterator
from typing import Any, Self

import kinds
import pytest
from kinds import Gate, Kind, begin, held, push

from stateful_executor import StatefulProcessPoolExecutor
from stateful_executor._pipe import Gone, HandlePipe, Pipe


@pytest.fixture(scope="module", params=kinds.REMOTE, ids=str)
def pool(request: pytest.FixtureRequest) -> Iterator[StatefulProcessPoolExecutor[kinds.State]]:
    """One for all: no task of these harms it."""
    if request.param is kinds.RAY:
        request.getfixturevalue("cluster")
    with request.param.make(1, begin, pickler=pickle) as pool:
        assert pool.submit(kinds.add, 1).result() == 2  # its thread is there before the first test
        yield pool


@pytest.fixture(autouse=True)
def no_process_left() -> None:
    """The pool outlives each test."""


Pool = StatefulProcessPoolExecutor[kinds.State]


# What can't be sent


def test_function(pool: Pool) -> None:
    """A lambda is refused where it is submitted, by whatever door; the backlog has nothing of it."""
    submitted = pool.stats().submitted
    for door in pool.submit, pool.with_state().submit, pool.broadcast, pool.with_state().broadcast:
        with pytest.raises(pickle.PicklingError, match=r"lambda.*pickler=cloudpickle"):
            door(lambda *_: None)
    with pytest.raises(pickle.PicklingError, match="lambda"):
        pool.map(lambda _: None, [1])
    with pytest.raises(pickle.PicklingError, match="lambda"):
        pool.map(lambda _: None, [1], chunksize=2)
    assert pool.stats().submitted == submitted


def test_argument(pool: Pool) -> None:
    """The error names the task, and says what is wrong."""
    with pytest.raises(pickle.PicklingError, match=r"add.*generator"):
        pool.submit(kinds.add, (_ for _ in ()))  # type: ignore[arg-type]


def test_pool_as_argument(pool: Pool) -> None:
    """It says what to do instead."""
    with pytest.raises(pickle.PicklingError, match="make a pool where it is needed"):
        pool.submit(kinds.add, pool)  # type: ignore[arg-type]
    with pytest.raises(pickle.PicklingError, match=r"take its result\(\)"):
        pool.submit(kinds.add, pool.submit(kinds.add, 1))  # type: ignore[arg-type]


def test_initializer(pool: Pool) -> None:
    """Where the pool, or the view, is made."""
    with pytest.raises(pickle.PicklingError, match=r"initializer.*lambda"):
        StatefulProcessPoolExecutor(1, lambda: None)
    with pytest.raises(pickle.PicklingError, match=r"initializer.*lambda"):
        pool.with_state(lambda: None)
    with pool.scope() as scope, pytest.raises(pickle.PicklingError, match="initializer list"):
        scope.with_state(list, ((_ for _ in ()),))


def make_generator() -> Any:
    return (_ for _ in ())


def test_result(pool: Pool) -> None:
    """That task fails, and the next one does not."""
    with pytest.raises(pickle.PicklingError, match="result of make_generator, a generator"):
        pool.submit(make_generator).result()
    assert pool.submit(kinds.add, 1).result() == 2


def test_chunk_with_such_a_result(pool: Pool) -> None:
    """The chunk fails."""
    with pytest.raises(pickle.PicklingError, match="result of return_generator"):
        list(pool.map(return_generator, [1, 2], chunksize=2))


def return_generator(_: int) -> Any:
    return make_generator()


class Unloadable:
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return refuse_to_load, ()


def refuse_to_load() -> None:
    raise OSError("not here")


def return_unloadable() -> Unloadable:
    return Unloadable()


def test_not_unpickled(pool: Pool) -> None:
    """An argument over there, or a result over here: that task fails, and says where."""
    with pytest.raises(pickle.UnpicklingError, match=r"in its worker.*not here"):
        pool.submit(kinds.add, Unloadable()).result()  # type: ignore[arg-type]
    with pytest.raises(pickle.UnpicklingError, match=r"returned can't be unpickled here.*not here"):
        pool.submit(return_unloadable).result()
    assert pool.submit(kinds.add, 1).result() == 2


def test_function_that_is_not_there(pool: Pool) -> None:
    """Of a module that the worker can't import."""
    module = types.ModuleType("nowhere")
    exec("def f(): pass", module.__dict__)  # noqa: S102
    sys.modules["nowhere"] = module
    try:
        future = pool.submit(module.f)
    finally:
        del sys.modules["nowhere"]
    with pytest.raises(pickle.UnpicklingError, match="No module named 'nowhere'"):
        future.result()


# Errors


class Strict(Exception):
    """Its constructor can't be called with its `args`."""

    def __init__(self, a: int, *, b: int) -> None:
        super().__init__(f"{a} and {b}")
        self.a = a
        self.b = b


class Holding(ValueError):
    """Holds what can't be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text, make_generator())
        self.generator = make_generator()
        self.text = text


def raise_error(how: str) -> None:
    if how == "strict":
        raise Strict(1, b=2)
    if how == "holding":
        raise Holding("text")
    if how == "group":
        raise ExceptionGroup("two", [LookupError(1), Strict(1, b=2)])
    if how == "chained":
        try:
            raise_error("strict")
        except Strict:
            raise LookupError("after") from None
    if how == "noted":
        error = LookupError("noted")
        error.add_note("a note")
        raise error

    class Local(LookupError):
        pass

    raise Local("local", 2)


def test_error_without_its_constructor(pool: Pool) -> None:
    """It is of its own class, with its arguments and attributes."""
    error = pool.submit(raise_error, "strict").exception()
    assert isinstance(error, Strict)
    assert (str(error), error.a, error.b) == ("1 and 2", 1, 2)


def test_error_that_holds_something(pool: Pool) -> None:
    """What can't be pickled is described, or left out."""
    error = pool.submit(raise_error, "holding").exception()
    assert isinstance(error, Holding)
    assert error.text == "text"
    assert error.args[0] == "text"
    assert error.args[1].startswith("<generator")
    assert not hasattr(error, "generator")


def test_error_of_a_class_that_can_not_be_sent(pool: Pool) -> None:
    """It is of the next class that can, and says what it was."""
    error = pool.submit(raise_error, "local").exception()
    assert type(error) is LookupError
    assert error.args == ("local", 2)
    assert "Local, which was raised, can't be pickled" in error.__notes__[0]


def test_group_with_such_an_error(pool: Pool) -> None:
    """Each of its errors is sent for itself."""
    error = pool.submit(raise_error, "group").exception()
    assert isinstance(error, ExceptionGroup)
    assert [str(inner) for inner in error.exceptions] == ["1", "1 and 2"]
    assert isinstance(error.exceptions[1], Strict)


def test_notes(pool: Pool) -> None:
    """They come along."""
    error = pool.submit(raise_error, "noted").exception()
    assert error is not None
    assert error.__notes__ == ["a note"]


def test_traceback(pool: Pool) -> None:
    """The remote traceback is the cause; it begins with the task's function."""
    error = pool.submit(raise_error, "strict").exception()
    assert error is not None
    lines = str(error.__cause__).splitlines()
    assert "in raise_error" in lines[3]
    assert lines[-1 - (lines[-1] == '"""')].endswith("Strict: 1 and 2")


# Copies


class Buffered:
    """Has its bytes sent beside the pickle, as an array of numpy does."""

    def __init__(self, data: bytearray | memoryview) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Buffered, (pickle.PickleBuffer(self.data),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Buffered) and bytes(self.data) == bytes(other.data)

    __hash__ = None  # type: ignore[assignment]


def echo(thing: Any) -> Any:
    return thing


def overwrite(thing: Buffered) -> Buffered:
    thing.data[0] = 1
    return thing


@pytest.mark.parametrize("size", [0, 1, 100, 65_518, 65_519, 65_520, 1 << 20, 9_000_000])
def test_sizes(pool: Pool, size: int) -> None:
    """Whatever the size, in one piece or beside the pickle."""
    assert pool.submit(echo, b"x" * size).result() == b"x" * size
    thing = [Buffered(bytearray(size)), Buffered(bytearray(b"y" * 10)), "z" * size]
    assert pool.submit(echo, thing).result() == thing


def test_many_buffers(pool: Pool) -> None:
    """More than a system call takes."""
    things = [Buffered(bytearray(b"%d" % number)) for number in range(3000)]
    assert pool.submit(echo, things).result() == things


def test_buffers_can_be_written(pool: Pool) -> None:
    """As those that were sent."""
    thing = Buffered(bytearray(10))
    came = pool.submit(overwrite, thing).result()
    came.data[1] = 2
    assert bytes(came.data[:2]) == b"\1\2"
    assert thing == Buffered(bytearray(10))


def test_changed_after_submit(gate: Gate, remote: Kind) -> None:
    """The task has what there was when it was submitted."""
    with remote.make(1) as pool:
        things = [Buffered(bytearray(10)), Buffered(bytearray(1 << 20))]
        numbers = array("i", [1])
        with held(pool, gate):
            futures = [pool.submit(echo, thing) for thing in things]
            other = pool.submit(echo, numbers)
            numbers[0] = 2
            for thing in things:
                thing.data[0] = 1
        assert [future.result().data[0] for future in futures] == [0, 0]
        assert other.result()[0] == 1


def test_no_reference_is_kept(pool: Pool) -> None:
    """A worker keeps none of a task, when the next one has come."""
    assert pool.submit(echo, Counted()).result().seen == 1
    for _ in range(3):
        assert pool.submit(echo, Counted()).result().seen <= 2


class Counted:
    """Counts those that there are in the process in which it is unpickled."""

    there = 0
    seen = 0

    def __setstate__(self, _: object) -> None:
        Counted.there += 1

    def __getstate__(self) -> dict[str, Any]:
        return {"seen": Counted.there}

    def __reduce__(self) -> tuple[Any, ...]:
        return _counted, (Counted.there,)

    def __del__(self) -> None:
        Counted.there -= 1


def _counted(seen: int) -> Counted:
    counted = Counted.__new__(Counted)
    Counted.there += 1
    counted.seen = seen
    return counted


# Picklers


def test_cloudpickle(remote: Kind) -> None:
    """Lambdas and closures, as tasks, results, initializers and errors."""
    cloudpickle = pytest.importorskip("cloudpickle")
    base = 5
    with remote.make(1, lambda: [base], pickler=cloudpickle) as pool:
        assert pool.submit(lambda x: x + base, 1).result() == 6
        assert pool.submit(lambda: lambda: base).result()() == 5
        assert pool.with_state().submit(lambda state: state[0]).result() == 5
        assert pool.with_state(lambda: [6]).submit(lambda state: state[0]).result() == 6
        assert list(pool.map(lambda x: x + base, range(3), chunksize=2)) == [5, 6, 7]


class Counting:
    """A pickler that is no module."""

    def dumps(self, *args: Any, **kwargs: Any) -> bytes:
        return pickle.dumps(*args, **kwargs)

    def loads(self, *args: Any, **kwargs: Any) -> Any:
        return pickle.loads(*args, **kwargs)


def test_other_pickler() -> None:
    """Any object with both functions; a wrong one is told at once."""
    with StatefulProcessPoolExecutor(1, pickler=Counting()) as pool:
        assert pool.submit(kinds.add, 1).result() == 2
    with pytest.raises(TypeError, match="dumps and loads"):
        StatefulProcessPoolExecutor(1, pickler=object())  # type: ignore[arg-type]


# Pipes


@pytest.mark.parametrize("make", [Pipe, HandlePipe])
def test_pipe(make: type[Pipe] | type[HandlePipe]) -> None:
    """Both kinds carry messages, and tell the end of the other process. The second one is for Windows."""
    ends = multiprocessing.get_context("spawn").Pipe()
    peer, dying = os.pipe()
    one, other = (make(end, peer, True, lambda: False) for end in ends)
    for parts in (b"",), (b"x" * 100,), (b"x" * 500_000, b"y" * 70_000, b""):
        sender = threading.Thread(target=one.send, args=(1, 2, parts))
        sender.start()
        kind, key, received = other.receive()
        sender.join()
        assert (kind, key, [bytes(part) for part in received]) == (1, 2, list(parts))
    assert not one.peer_has_ended()
    one.send(1, 2, (b"last words",))
    os.close(dying)
    assert other.peer_has_ended()
    assert bytes(other.receive()[2][0]) == b"last words"
    with pytest.raises(Gone):
        other.receive()
    one.close()
    with pytest.raises(Gone):
        other.receive()
    with pytest.raises(Gone):
        other.send(1, 2, (b"x",))
    other.close()
    os.close(peer)


def test_view_elsewhere(pool: Pool) -> None:
    """A view is for the workers of its own pool, and can't submit there."""
    view = pool.with_state()
    with pytest.raises(RuntimeError, match="only be sent to the workers of that pool"):
        pickle.loads(pickle.dumps(view))
    with pytest.raises(RuntimeError, match="can't submit to"):
        pool.submit(submit_through, view).result()
    with pytest.raises(RuntimeError, match="can't submit to"):
        pool.submit(discard_all_through, view).result()
    assert pool.submit(kinds.add, 1).result() == 2


def submit_through(view: Any) -> Any:
    return view.submit(push)


def discard_all_through(view: Any) -> None:
    view.discard_all()


class Timeless:
    """A signal's handler raised while this was pickled."""

    def __reduce__(self) -> Self:
        raise InterruptedError("by a handler")


def test_what_pickling_raises_itself(pool: Pool) -> None:
    """It comes out as it is: it may be a time limit's."""
    with pytest.raises(InterruptedError):
        pool.submit(kinds.add, Timeless())  # type: ignore[arg-type]
