"""How Sphinx builds this folder: `sphinx-build -W -b html docs docs/_build` (extra `docs`); needs no network."""

import inspect
import re
from importlib.metadata import version as version_of
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.inspect import stringify_signature

import stateful_executor
from stateful_executor._future import Future

stateful_executor.Future = Future  # which users get but don't import, so that the reference has it

project = "stateful_executor"
author = "the authors of stateful_executor"
project_copyright = author
version = release = version_of("stateful-executor")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_search_summary = False  # which browsers refuse to fetch from the file system
toc_object_entries_show_parents = "hide"

myst_heading_anchors = 3

# The reference: names as users import them, a parameter a line where there are many.
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
autodoc_member_order = "bysource"
autodoc_mock_imports = ["ray"]  # which is heavy
autodoc_preserve_defaults = True  # as in the source: `pickle`, not where that is
napoleon_numpy_docstring = False
napoleon_use_rtype = False
default_role = "py:obj"  # see `Name`


class Name(PyXRefRole):
    """What stands in single backticks in docstrings: code, and a link when it is a name that the reference has."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        if re.fullmatch(r"~?[A-Za-z_][\w.]*(\(\))?", self.text) is None:
            return [nodes.literal(self.rawtext, self.text)], []
        return super().run()

    def process_link(self, *args: Any) -> tuple[str, str]:
        title, target = super().process_link(*args)
        return title, target.removesuffix("()")


# What users get but don't make.
MADE_BY_METHODS = {"Bar", "Figures", "Future", "PoolStats", "Recording", "Scope", "Span", "StateView"}


def as_written(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str] | None:
    """A signature with its annotations as they stand in the source: Sphinx would spell out where each type is from."""
    if what not in {"class", "method", "function"}:
        return None
    if what == "class" and obj.__name__ in MADE_BY_METHODS:
        return "", ""
    found = inspect.signature(obj.__init__ if what == "class" else obj)
    if what != "function":
        found = found.replace(parameters=list(found.parameters.values())[1:])
    text = stringify_signature(found, unqualified_typehints=True)
    arguments, _, result = text.partition(" -> ")
    return arguments, "" if what == "class" else result


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-signature", as_written)
    for module in "_pool", "_process_pool", "_submitter":  # signatures as they are implemented, not a dozen overloads
        analyzer = ModuleAnalyzer.for_module(f"stateful_executor.{module}")
        analyzer.analyze()
        analyzer.overloads.clear()
    # "Tasks accepted: the sum of" is no type of a field.
    GoogleDocstring._consume_inline_attribute = lambda self: ("", self._consume_to_end())
    app.add_role_to_domain("py", "obj", Name(), override=True)
