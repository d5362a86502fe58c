"""The sizes that keep the house readable, and the imports that run one way."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import stateful_executor

ROOT = Path(__file__).parents[2]
MODULES = sorted(Path(stateful_executor.__file__).parent.rglob("*.py"))
MOST_LINES = {"module": 400, "class": 300, "function": 60}
HOT = {"Runner.run": 150, "Registry.put": 70}  # a call less for each task: what that saves stands beside them

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def is_overload(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and any(ast.unparse(name) == "overload" for name in node.decorator_list)


def without_docs(node: Definition) -> int:
    """The lines of a class or a function, less its docstrings and overloads."""
    left_out: set[int] = set()
    for inner in ast.walk(node):
        if is_overload(inner):
            left_out.update(range(inner.lineno - 1, inner.end_lineno + 1))  # type: ignore[attr-defined]
        elif isinstance(inner, Definition) and ast.get_docstring(inner) is not None:
            doc = inner.body[0]
            left_out.update(range(doc.lineno, (doc.end_lineno or 0) + 1))
    return len(set(range(node.lineno, (node.end_lineno or 0) + 1)) - left_out)


def definitions(module: Path) -> Iterator[tuple[str, Definition]]:
    """All classes and functions, with their qualified names."""

    def inside(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
        for child in ast.iter_child_nodes(node):
            name = f"{prefix}{child.name}" if isinstance(child, Definition) else prefix
            if isinstance(child, Definition):
                yield name, child
                name += "."
            yield from inside(child, name)

    return inside(ast.parse(module.read_text(encoding="utf-8")), "")


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_sizes(module: Path) -> None:
    """One job a class: what grows beyond these has two, and is to be divided."""
    assert len(module.read_text(encoding="utf-8").splitlines()) <= MOST_LINES["module"]
    for name, node in definitions(module):
        kind = "class" if isinstance(node, ast.ClassDef) else "function"
        assert without_docs(node) <= HOT.get(name, MOST_LINES[kind]), f"{kind} {name} of {module.name}"


def test_hot_functions_are_there() -> None:
    """Else the exceptions above are for nobody."""
    names = {name for module in MODULES for name, _ in definitions(module)}
    assert names >= set(HOT)


@pytest.mark.parametrize("module", [module for module in MODULES if module.stem != "__init__"], ids=lambda m: m.stem)
def test_classes_say_what_they_are(module: Path) -> None:
    """Each class and each module has a docstring: what it owns, and what guards that."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for name, node in definitions(module):
        if isinstance(node, ast.ClassDef):
            assert ast.get_docstring(node), name


def test_imports_run_one_way() -> None:
    """Those for annotations too. The layers, and why each is where it is, are in pyproject.toml."""
    if importlib.util.find_spec("importlinter") is None:
        pytest.skip("import-linter is not installed")
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_names_in_the_map() -> None:
    """What ARCHITECTURE.md names is there: modules, classes, methods, and the files of the tests."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    defined = {name for module in MODULES for name, _ in definitions(module)}
    classes = {name for name in defined if name[0].isupper() and "." not in name}
    names = re.findall(r"`([\w./]+)`", text)
    assert len(names) > 40
    for name in names:
        first, _, rest = name.partition(".")
        if name.startswith("tests/"):
            assert (ROOT / name).exists(), name
        elif first in classes and rest:
            assert any(f"{cls}.{rest}" in defined for cls in (first, *bases_of(first))), name
        elif name.startswith("_"):
            assert (Path(stateful_executor.__file__).parent / f"{first}.py").exists(), name
            assert not rest or rest in defined, name


def bases_of(name: str) -> set[str]:
    """The classes of the package that a class stems from."""
    bases = {
        cls: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for module in MODULES
        for cls, node in definitions(module)
        if isinstance(node, ast.ClassDef)
    }
    found: set[str] = set()
    todo = [name]
    while todo:
        new = bases.get(todo.pop(), [])
        todo += [base for base in new if base not in found]
        found.update(new)
    return found
