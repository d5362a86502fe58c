"""`StatePolicy` and `PoolStats` are frozen dataclasses to all who look, though none of `dataclasses` makes them."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import pprint
import sys
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest

from stateful_executor import PoolStats, StatePolicy

KEYWORDS_ONLY = {StatePolicy: False, PoolStats: True}
CLASSES = list(KEYWORDS_ONLY)


def real(cls: type[Any]) -> type[Any]:
    """The same class, as `dataclasses` makes it."""
    fields = {"__annotations__": cls.__annotations__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    defaults = {name: vars(cls)[name] for name in cls.__annotations__ if name in vars(cls)}
    post_init = {name: method for name, method in vars(cls).items() if name == "__post_init__"}
    made = type(cls.__name__, (), fields | defaults | post_init)
    return dataclasses.dataclass(frozen=True, kw_only=KEYWORDS_ONLY[cls])(made)


def some(cls: type[Any], start: int = 1) -> Any:
    """One whose fields differ."""
    if issubclass(cls, StatePolicy):
        return cls(max_tasks=start, max_age=start + 1)
    return cls(**{name: number for number, name in enumerate(PoolStats.__annotations__, start)})


def outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except Exception as exc:
        return type(exc), str(exc)


@pytest.mark.parametrize("cls", CLASSES)
class TestAsTheRealOne:
    def test_class(self, cls: type[Any]) -> None:
        """What tools ask of the class: its fields, signature, hints, and what patterns match."""
        twin = real(cls)
        assert dataclasses.is_dataclass(cls)
        assert [repr(field) for field in dataclasses.fields(cls)] == [repr(field) for field in dataclasses.fields(twin)]
        assert cls.__dataclass_params__ == twin.__dataclass_params__ or repr(cls.__dataclass_params__) == repr(
            twin.__dataclass_params__
        )
        assert inspect.signature(cls) == inspect.signature(twin)
        assert inspect.signature(cls.__init__) == inspect.signature(twin.__init__)
        assert get_type_hints(cls.__init__).keys() == get_type_hints(twin.__init__).keys()
        assert cls.__match_args__ == twin.__match_args__
        assert cls.__init__.__qualname__ == twin.__init__.__qualname__

    def test_functions(self, cls: type[Any]) -> None:
        one = some(cls)
        assert dataclasses.asdict(one) == vars(one)
        assert dataclasses.astuple(one) == tuple(vars(one).values())
        name = "max_tasks" if cls is StatePolicy else "workers"
        changed = dataclasses.replace(one, **{name: 7})
        assert vars(changed) == vars(one) | {name: 7}
        if sys.version_info >= (3, 13):
            assert copy.replace(one, **{name: 7}) == changed
        assert pprint.pformat(some(PoolStats, 10**9)).count("\n") == len(PoolStats.__annotations__) - 1

    def test_values(self, cls: type[Any]) -> None:
        """Equal and hashed by what they say, shown in full, copied and pickled."""
        one, same, other = some(cls), some(cls), some(cls, 2)
        assert one == same != other
        assert not one != same  # noqa: SIM202  # another method
        assert hash(one) == hash(same)
        assert one != vars(one)
        assert len({one, same, other}) == 2
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(one).items())
        assert repr(one) == f"{cls.__name__}({fields})"
        for copied in copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one)):
            assert copied == one
            assert vars(copied) == vars(one)

    def test_frozen(self, cls: type[Any]) -> None:
        """With the same errors, also for what is no field; a subclass may have attributes of its own."""
        one, twin = some(cls), real(cls)(**vars(some(cls)))
        for name in (*cls.__annotations__, "other"):
            assert outcome(lambda name=name: setattr(one, name, 1)) == outcome(lambda name=name: setattr(twin, name, 1))
            assert outcome(lambda name=name: delattr(one, name)) == outcome(lambda name=name: delattr(twin, name))
        assert one == some(cls)

        class Sub(cls):  # type: ignore[misc]  # a variable
            pass

        sub = some(Sub)
        sub.other = 1
        assert sub.other == 1
        del sub.other
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(sub, next(iter(cls.__annotations__)), 1)

    def test_arguments(self, cls: type[Any]) -> None:
        """Wrong ones raise the same."""
        twin = real(cls)
        for args, kwargs in [((1,) * 99, {}), ((), {"nonsense": 1}), ((), {"workers": 1}), ((1,), {"check": 1})]:
            assert outcome(lambda args=args, kwargs=kwargs: cls(*args, **kwargs)) == outcome(
                lambda args=args, kwargs=kwargs: twin(*args, **kwargs)
            )

    def test_of_a_subclass(self, cls: type[Any]) -> None:
        """One that is a dataclass has the fields of both, and the checks of the first."""
        sub = dataclasses.make_dataclass("Sub", [("more", int, 3)], bases=(cls,), frozen=True, kw_only=True)
        assert [field.name for field in dataclasses.fields(sub)] == [*cls.__annotations__, "more"]
        assert vars(some(sub)) == vars(some(cls)) | {"more": 3}
        with pytest.raises(TypeError, match="cannot inherit non-frozen"):
            dataclasses.make_dataclass("Sub", [], bases=(cls,))


def test_subclass_is_checked() -> None:
    sub = dataclasses.make_dataclass("Sub", [("more", int, 3)], bases=(StatePolicy,), frozen=True)
    with pytest.raises(ValueError, match="max_tasks must be at least 1 task"):
        sub(max_tasks=0)


def test_shows_itself_once() -> None:
    """A policy whose hook shows the policy, as a bound method of something that has it."""

    class Hook:
        policy: Any = None

        def __call__(self, state: object) -> None: ...

        def __repr__(self) -> str:
            return repr(self.policy)

    hook = Hook()
    hook.policy = StatePolicy(check=hook)
    assert repr(hook.policy) == "StatePolicy(check=..., reset=None, discard_on=None, max_tasks=None, max_age=None)"
