"""What the modules of the installed standard library say of themselves: prose that every machine has."""

import ast
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path

_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documents() -> list[tuple[str, str]]:
    """(name, docstrings) of every module of the standard library that has some, in the order of their names.

    Modules are read, not imported; tests and installed packages are left out.
    """
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path for path in root.rglob("*.py") if not _LEFT_OUT & set(path.relative_to(root).parts[:-1]))
    found = ((_module(path.relative_to(root)), "\n\n".join(_docstrings(path))) for path in paths)
    return sorted((name, text) for name, text in found if text)


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _docstrings(path: Path) -> Iterator[str]:
    """Of the module, its classes and functions, in their order; none where this Python cannot parse the file."""
    try:
        with tokenize.open(path) as file, warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            tree = ast.parse(file.read())
    except (SyntaxError, UnicodeDecodeError):  # templates and examples of mistakes
        return
    nodes = [node for node in ast.walk(tree) if isinstance(node, _Documented)]
    for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
        text = ast.get_docstring(node)
        if text:
            yield text
