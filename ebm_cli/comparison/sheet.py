"""A comparison as plain data, whatever form it is then written in: columns, a row for each group, sentences below."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from ebm_cli.comparison.groups import Group
from ebm_cli.comparison.paired import Difference

LIKELIHOOD, DIFFERENCE = "log_likelihood", "difference"
_NAMED = 4  # columns that are named in a sentence
Kind = Literal["run", "n", "status", "setting", "likelihood", "difference", "metric"]


class Cell(NamedTuple):
    """As a person reads it, and the number or word it is; `mark` refers to a sentence below."""

    text: str = ""
    value: float | str | None = None
    error: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class Column:
    """What stands in it, its whole name, its short one, and its cells from the first row to the last."""

    kind: Kind
    name: str
    heading: str
    cells: tuple[Cell, ...]
    compared: bool = True  # whether it is shown where not all fit


@dataclass(frozen=True)
class Sheet:
    """Everything there is to show. `left_out` are settings that go along with one that is shown."""

    title: str
    rows: tuple[Group, ...]
    columns: tuple[Column, ...]
    notes: tuple[str, ...]
    left_out: tuple[Column, ...] = ()
    marks: Mapping[str, str] = field(default_factory=dict)  # sentence by mark
    reference: str | None = None  # the row that the others are compared with
    differences: tuple[Difference | str | None, ...] = ()


def only_compared(sheet: Sheet) -> Sheet:
    """The same with the figures alone by which runs are compared first, and a sentence on the others."""
    kept = [column for column in sheet.columns if column.compared]
    others = [column for column in sheet.columns if not column.compared]
    return replace(sheet, columns=tuple(kept), notes=(*sheet.notes, *more(others)))


def more(others: Sequence[Column]) -> list[str]:
    """A sentence on columns that are not shown, if there are some."""
    names = [column.name for column in others]
    return [f"{len(names)} more: metrics=[{some(names)}], or all with format=csv"] if names else []


def some(names: Sequence[str]) -> str:
    """The first of them."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def finite(value: float | str | None) -> float | str | None:
    """As JSON can hold it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
