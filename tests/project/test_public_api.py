"""What users import: names, docs, modules, signatures."""

import asyncio
import importlib.metadata
import inspect
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from inside import SET_LATER, Task, inside, new_task

import stateful_executor
import stateful_executor.errors
from stateful_executor import StatefulThreadPoolExecutor

ROOT = Path(__file__).parents[2]
PUBLIC = stateful_executor.__all__
ERRORS = [name for name in PUBLIC if issubclass(getattr(stateful_executor, name), BaseException)]


def test_all_is_sorted() -> None:
    """In the order in which a person looks for a name."""
    assert sorted(PUBLIC) == PUBLIC
    assert len(set(PUBLIC)) == len(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_type_hints(name: str) -> None:
    """Tools that look types up at runtime find them; `asyncio` is imported by those who use it."""
    cls = getattr(stateful_executor, name)
    for method, function in inspect.getmembers(cls, inspect.isfunction):
        if function.__module__.startswith("stateful_executor") and (method == "__init__" or method[0] != "_"):
            assert "return" in get_type_hints(function, localns={"asyncio": asyncio})


def test_all_is_complete() -> None:
    """What the package binds without an underscore, submodules and imports aside, is what `__all__` lists."""
    bound = {
        name
        for name, value in vars(stateful_executor).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and getattr(value, "__module__", "").partition(".")[0] == "stateful_executor"
    }
    assert bound == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring(name: str) -> None:
    """Each public name has a docstring of its own, which tells since when it is there."""
    doc = vars(getattr(stateful_executor, name)).get("__doc__")
    assert doc
    assert ".. versionadded:: " in doc


@pytest.mark.parametrize("name", PUBLIC)
def test_methods_have_docstrings(name: str) -> None:
    """Each public method that the class defines itself has a docstring."""
    members = vars(getattr(stateful_executor, name)).items()
    bare = [
        member
        for member, value in members
        if not member.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod))
        and not inspect.getdoc(value)
    ]
    assert not bare


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    """Errors show where to import them from, and are what people catch already."""
    error = getattr(stateful_executor, name)
    assert error.__module__ == "stateful_executor"
    assert error is getattr(stateful_executor.errors, name)
    assert issubclass(error, RuntimeError)


def test_broken_pool_is_the_standard_librarys() -> None:
    """Code that catches the standard library's error catches ours."""
    assert stateful_executor.errors.BrokenThreadPool is BrokenThreadPool
    assert issubclass(BrokenThreadPool, BrokenExecutor)


def test_version() -> None:
    """The version is that of the installed package, and there is no other name like it."""
    try:
        installed = importlib.metadata.version("stateful-executor")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package runs from its source tree, without metadata")
    assert stateful_executor.__version__ == installed


def test_other_names() -> None:
    """A name that is not there is missed in the usual way."""
    with pytest.raises(AttributeError, match="'stateful_executor' has no attribute 'nonsense'"):
        stateful_executor.nonsense  # type: ignore[attr-defined]  # noqa: B018


# What a bare import may load beyond the standard library's pool. Anything more costs each program that imports this.
IMPORTED = {"__future__", "_contextvars", "_typing", "contextvars"}
# What few programs need, and those import when they do. Not more: Ctrl-C in the midst of that leaves half a module to
# other threads.
SELDOM = ("_asyncio", "_process", "_process_pool", "_remote", "_wire")


def test_imports() -> None:
    """A bare import loads next to nothing besides `concurrent.futures.thread` and this package."""
    script = (
        "import sys, concurrent.futures.thread; before = set(sys.modules); import stateful_executor;"
        "print(*set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    imported = set(done.stdout.split())
    own = {module for module in imported if module.partition(".")[0] == "stateful_executor"}
    assert imported - own <= IMPORTED
    assert own.isdisjoint(f"stateful_executor.{module}" for module in SELDOM)


def test_ray_is_not_installed() -> None:
    """The error says what to install."""
    script = "import sys; sys.modules['ray'] = None; import stateful_executor.ray"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.endswith("which is not installed: pip install 'stateful-executor[ray]'\n")


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of `function`, without annotations."""
    return [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
    ]


def test_futures_are_alike() -> None:
    """`submit` makes them by itself, for speed: it fills in what `new_task` does."""
    with StatefulThreadPoolExecutor(1) as pool:
        go_on = threading.Event()
        pool.submit(go_on.wait)
        made = new_task(inside(pool).home, int, (1,), {"key": 2}, None), pool.submit(int, 1, key=2)
        slots = [{name for name in Task.__slots__ if hasattr(task, name)} for task in made]
        assert made[1].cancel()
        go_on.set()
    assert slots[0] == slots[1]
    assert set(Task.__slots__) - slots[0] == SET_LATER


@pytest.mark.parametrize("name", ["__init__", "submit", "map", "shutdown"])
def test_signature(name: str) -> None:
    """The standard library's parameters come first, the same in name, kind and default; ours are keywords."""
    theirs = parameters(getattr(ThreadPoolExecutor, name))
    ours = parameters(getattr(StatefulThreadPoolExecutor, name))
    if theirs[-1].kind is inspect.Parameter.VAR_KEYWORD and name == "__init__":
        theirs.pop()  # 3.14 takes anything here, for subclasses
    assert ours[: len(theirs)] == theirs
    for extra in ours[len(theirs) :]:
        assert extra.kind is inspect.Parameter.KEYWORD_ONLY
        assert extra.default is not inspect.Parameter.empty


@pytest.mark.parametrize("name", PUBLIC)
def test_readme(name: str) -> None:
    """The README mentions each public name."""
    assert name in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PUBLIC)
def test_reference(name: str) -> None:
    """The reference has each public name, with each method that users can call."""
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.rst"))
    found = re.search(rf"^\.\. auto(?:class|exception):: {name}\n(.*?)(?=^\.\. |\Z)", pages, re.DOTALL | re.MULTILINE)
    assert found
    cls = getattr(stateful_executor, name)
    ours = [cls] if name == "StatefulProcessPoolExecutor" else [c for c in cls.__mro__ if "stateful_" in c.__module__]
    methods = {
        member
        for base in ours
        for member, value in vars(base).items()
        if member[0] != "_" and (inspect.isfunction(value) or isinstance(value, property))
    }
    assert methods <= set(re.findall(r"auto(?:method|property):: (\w+)", found[1]))
