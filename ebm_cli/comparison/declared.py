"""What evaluations declare of their figures, from the source text, so that torch need not be imported."""

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_FOLDER = Path(__file__).parents[1] / "evaluation"
_LAST = 90


class Declared(NamedTuple):
    """Where its lines stand, likelihoods first, and which figures several runs are compared by."""

    standing: int = _LAST
    compared: tuple[str, ...] = ()


@cache
def declared(evaluation: str) -> Declared:
    """Of an evaluation of the package; the usual of any other."""
    path = _FOLDER / f"{evaluation}.py"
    if not evaluation.isidentifier() or not path.is_file():
        return Declared()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and _registered(node.decorator_list, evaluation):
            values = _values(node.body)
            compared = tuple(values.get("compared", ()))
            return Declared(values.get("standing", _LAST), compared)
    return Declared()


def _registered(decorators: Iterable[ast.expr], evaluation: str) -> bool:
    calls = [each for each in decorators if isinstance(each, ast.Call)]
    return any(isinstance(a, ast.Constant) and a.value == evaluation for call in calls for a in call.args)


def _values(body: Iterable[ast.stmt]) -> dict[str, Any]:
    """Class attributes that are plain values."""
    found = {}
    for statement in body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            if name in ("standing", "compared"):
                found[name] = ast.literal_eval(statement.value)
    return found
