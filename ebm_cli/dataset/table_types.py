"""What the cells of a table's column are: text, whole numbers, others or truth values, and which there are."""

import re
from typing import Any

from ebm_cli.dataset.columns import Type, Value
from ebm_cli.dataset.table_files import Frame, library
from ebm_cli.errors import UserError

_DIGITS = r"^[+-]?[0-9]+$"
_CODE = r"^0[0-9]+$"
_WHOLE = re.compile(r"[+-]?[0-9]{1,300}")  # beyond that they are infinite for float64
_COMMA = r"^[+-]?[0-9]+,[0-9]+([eE][+-]?[0-9]+)?$"


def type_of(frame: Frame, name: str, kind: str | None, said: str) -> Type:
    """Of the cells: in text files numbers if all are, whole ones if all are written so."""
    polars, form = library(), frame.data[name].dtype
    if form == polars.String and frame.lines is not None:
        return _type_of_text(frame, name, kind, said)
    if form in (polars.String, polars.Categorical, polars.Enum):
        return "text"
    if form == polars.Boolean:
        return "truth"
    if form.is_integer():
        return _type_of_whole(frame, name, kind)
    if form.is_numeric():
        return "real"
    raise UserError(
        f"{said}: column {name!r} holds {str(form).lower()}, which is none of truth values, text and numbers; leave it "
        f"out, dataset.columns={{{name}: ignore}}, or write it as a number"
    )


def _type_of_text(frame: Frame, name: str, kind: str | None, said: str) -> Type:
    polars, series = library(), frame.data[name]
    if series.drop_nulls().str.contains(_DIGITS).all():
        return _type_of_whole(frame, name, kind)
    number = series.cast(polars.Float64, strict=False)
    others = series.is_not_null() & number.is_null()
    if not others.any():
        return "real"
    commas = series.filter(others).str.contains(_COMMA).all()
    numbers = 2 * int(number.is_not_null().sum()) >= int(series.is_not_null().sum())
    if kind == "numeric" or (kind is None and (commas or numbers)):
        refuse_number(frame, name, int(others.arg_true()[0]), said, kind)
    return "text"


def _type_of_whole(frame: Frame, name: str, kind: str | None) -> Type:
    """Of digits alone: codes are text, unless they are said to be numbers."""
    if first_code(frame, name) is None:
        return "integer"
    return "text" if kind != "numeric" else "integer" if _fit(frame.data[name].drop_nulls()).all() else "real"


def first_code(frame: Frame, name: str) -> str | None:
    """The first cell that no number would be written as, with a zero before it, or that 64 bits do not hold.

    None of columns that hold anything but digits, or that a file says are text.
    """
    polars, cells = library(), frame.data[name].drop_nulls()
    texts = cells.cast(polars.String)
    if (cells.dtype == polars.String and frame.lines is None) or not texts.str.contains(_DIGITS).all():
        return None
    codes = texts.filter(texts.str.contains(_CODE) | ~_fit(cells))
    return codes[0] if len(codes) else None


def _fit(cells: Any) -> Any:
    """Which of them 64 bits hold."""
    return cells.cast(library().Int64, strict=False).is_not_null()


def refuse_number(frame: Frame, name: str, row: int, said: str, kind: str | None) -> None:
    """Raise UserError for a cell that is no number, of a column that is of a `kind` or has been guessed to be."""
    text = frame.data[name][row]
    way = "write decimals with a point" if "," in text else "write a number, or leave the cell empty"
    other = "" if kind else f", or say what the column is, dataset.columns={{{name}: categorical}}"
    raise UserError(f"{said}, {frame.place(row)}: column {name!r} holds {text!r}, which is no number; {way}{other}")


def distinct(series: Any, form: Type) -> list[Value]:
    """The different values of cells, in their order; numbers as they are, whatever float64 holds of them."""
    polars = library()
    values: list[Value] = (series.cast(polars.String) if form == "text" else series).unique().sort().to_list()
    if isinstance(series.dtype, polars.Enum):
        return [value for value in series.dtype.categories.to_list() if value in {*values}]
    return sorted({*map(as_number, values)}) if form in ("integer", "real") else values


def as_number(cell: Any) -> int | float:
    """What a cell of a number holds: whole ones as they are."""
    whole = isinstance(cell, int) or (isinstance(cell, str) and _WHOLE.fullmatch(cell))
    return int(cell) if whole else float(cell)
