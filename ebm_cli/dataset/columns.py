"""The columns of a table that a model is of: their names, kinds, types and categories."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Kind = Literal["binary", "categorical", "ordinal", "numeric"]
Type = Literal["text", "integer", "real", "truth"]
Value = str | int | float | bool
MOST = 256
"""Categories of one column."""
_OF_TYPE: dict[str, tuple[type, ...]] = {"text": (str,), "integer": (int,), "real": (int, float), "truth": (bool,)}


@dataclass(frozen=True)
class Column:
    """Its kind, the type of its cells, and its categories in their order, of which numeric columns have none."""

    name: str
    kind: Kind
    type: Type
    values: tuple[Value, ...]

    @property
    def count(self) -> int:
        """Number of categories, 0 of numeric columns."""
        return len(self.values)


@dataclass(frozen=True)
class Columns:
    """Those that are modelled, in the order of the sites, and the name of the one that labels are from."""

    columns: tuple[Column, ...]
    label: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """Of those that are modelled."""
        return tuple(column.name for column in self.columns)


def as_json(columns: Columns) -> dict[str, Any]:
    """For `of_json`."""
    return dataclasses.asdict(columns)


def of_json(found: Mapping[str, Any]) -> Columns | None:
    """The columns that `as_json` wrote, or None where this is nothing that it could have written."""
    entries, label = found.get("columns"), found.get("label")
    if not isinstance(entries, list) or not (label is None or isinstance(label, str)):
        return None
    columns = [_of_entry(entry) for entry in entries]
    whole = tuple(column for column in columns if column is not None)
    return Columns(whole, label) if len(whole) == len(columns) == len({column.name for column in whole}) else None


def _of_entry(entry: Any) -> Column | None:
    if not isinstance(entry, dict) or {*entry} != {field.name for field in dataclasses.fields(Column)}:
        return None
    name, kind, form, values = entry["name"], entry["kind"], entry["type"], entry["values"]
    if not isinstance(name, str) or kind not in get_args(Kind) or form not in get_args(Type):
        return None
    fits = isinstance(values, list) and all(_fits(value, form) for value in values) and len({*values}) == len(values)
    sizes = {"binary": (2, 2), "numeric": (0, 0)}.get(kind, (2, MOST))
    return Column(name, kind, form, tuple(values)) if fits and sizes[0] <= len(values) <= sizes[1] else None


def _fits(value: Any, form: str) -> bool:
    if isinstance(value, bool) != (form == "truth") or not isinstance(value, _OF_TYPE[form]):
        return False
    return not isinstance(value, float) or math.isfinite(value)
