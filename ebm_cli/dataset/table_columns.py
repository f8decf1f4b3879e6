"""From the cells of a table's columns to numbers: what kind a column is, by what it holds or is said to be."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_cli.dataset.columns import MOST, Column, Columns, Kind, Type, Value
from ebm_cli.dataset.table_files import Frame, library
from ebm_cli.errors import UserError, nearest

Wanted = Mapping[str, str | Sequence[Value]]
FEW = 10
"""Whole numbers of so many different values at most are taken for ordinal ones."""

_WHOLE = r"^[+-]?(0|[1-9][0-9]*)$"
_COMMA = r"^[+-]?[0-9]+,[0-9]+([eE][+-]?[0-9]+)?$"
_IGNORE = "ignore"
_NAMED = 8  # columns, or categories, that a message names


def found(frame: Frame, wanted: Wanted, label: str | None, said: str) -> Columns:
    """The columns of a table, those that are `wanted` as they are said to be. Raises UserError."""
    names = frame.data.columns
    for name in [*wanted, *([] if label is None else [label])]:
        if name not in names:
            key = "dataset.label" if name == label and name not in wanted else "dataset.columns"
            close = nearest(name, names) or f"; it has {listed(names)}"
            raise UserError(f"{key}: {said} has no column {name!r}{close}")
    kept = [name for name in names if name != label and wanted.get(name) != _IGNORE]
    if not kept:
        raise UserError(f"dataset.columns: leaves no column of {said} to model; name fewer to ignore")
    return Columns(tuple(_column(frame, name, wanted.get(name), said) for name in kept), label)


def listed(names: Sequence[Any]) -> str:
    """Some of them, separated by commas."""
    more = f", ... ({len(names)} in all)" if len(names) > _NAMED else ""
    return ", ".join(map(str, names[:_NAMED])) + more


def _column(frame: Frame, name: str, wanted: str | Sequence[Value] | None, said: str) -> Column:
    kind = "ordinal" if isinstance(wanted, Sequence) and not isinstance(wanted, str) else wanted
    series, here = frame.data[name].drop_nulls(), f"{said}: column {name!r}"
    if not len(series):
        raise UserError(f"{here} has no value in any row; leave it out, dataset.columns={{{name}: ignore}}")
    form = _type(frame, name, kind, said)
    if kind == "numeric" and form in ("text", "truth"):
        raise UserError(f"dataset.columns: {name} is said to be numeric, and holds {series[0]!r}; call it categorical")
    distinct = _distinct(series, form)
    kind = kind or _guessed(form, len(distinct), len(series))
    if kind == "numeric":
        if len(distinct) < 2:
            raise UserError(_constant(here, name, distinct[0]))
        return Column(name, "numeric", form, ())
    if kind is None:
        raise UserError(
            f"{here} holds {len(distinct)} different texts in {len(series)} rows, which are no categories; leave it "
            f"out, dataset.columns={{{name}: ignore}}"
        )
    order = wanted if isinstance(wanted, Sequence) and not isinstance(wanted, str) else None
    return _categories(here, Column(name, _checked(kind, name), form, tuple(distinct)), order)


def _checked(kind: str, name: str) -> Kind:
    known: tuple[Kind, ...] = ("binary", "categorical", "ordinal")
    for one in known:
        if kind == one:
            return one
    raise UserError(
        f"dataset.columns: {name} is said to be {kind}; kinds are binary, categorical, ordinal (or a list of its "
        "values in their order), numeric and ignore"
    )


def _categories(here: str, column: Column, order: Sequence[Value] | None) -> Column:
    values, name = column.values, column.name
    if len(values) < 2 and order is None:
        raise UserError(_constant(here, name, values[0]))
    if order is not None:
        values = tuple(_as_type(value, column.type) for value in order)
        unknown = [value for value in column.values if value not in values]
        if unknown or len({*values}) < len(values) or len(values) < 2:
            what = (
                f"lacks {unknown[0]!r}, which the column holds"
                if unknown
                else "must hold each value once, two at least"
            )
            raise UserError(f"dataset.columns: the list of {name} {what}")
    if column.kind == "binary" and len(values) != 2:
        raise UserError(f"dataset.columns: {name} is said to be binary, and has {len(values)} values: {listed(values)}")
    if len(values) > MOST:
        raise UserError(
            f"{here} has {len(values)} categories, {MOST} are the most; leave it out, "
            f"dataset.columns={{{name}: ignore}}, or call it numeric if it is"
        )
    return Column(name, column.kind, column.type, values)


def _as_type(value: Value, form: Type) -> Value:
    """A value of a list on the command line, which reads 1 as a number and yes as a truth, as the column has it."""
    if form == "text":
        return str(value)
    return value


def _constant(here: str, name: str, value: Value) -> str:
    return f"{here} is {value!r} in every row, which says nothing; leave it out, dataset.columns={{{name}: ignore}}"


def _guessed(form: Type, distinct: int, rows: int) -> str | None:
    """The kind of a column by its type and how many different values it has; None of texts that are all but all new.

    Two values: binary. Text: categorical, up to 256 values, from 20 on no more than half as many as there are rows.
    Whole numbers of ten values at most: ordinal. All other numbers: numeric.
    """
    if distinct == 2 or form == "truth":
        return "binary"
    if form == "text":
        return "categorical" if distinct <= MOST and (distinct <= 20 or 2 * distinct <= rows) else None
    return "ordinal" if form == "integer" and distinct <= FEW else "numeric"


def _type(frame: Frame, name: str, kind: str | None, said: str) -> Type:
    """Of the cells: in text files numbers if all are, whole ones if all are written so."""
    polars, form = library(), frame.data[name].dtype
    if form == polars.String and frame.lines is not None:
        return _type_of_text(frame, name, kind, said)
    if form in (polars.String, polars.Categorical, polars.Enum):
        return "text"
    if form == polars.Boolean:
        return "truth"
    if form.is_numeric():
        return "integer" if form.is_integer() else "real"
    raise UserError(
        f"{said}: column {name!r} holds {str(form).lower()}, which is none of truth values, text and numbers; leave it "
        f"out, dataset.columns={{{name}: ignore}}, or write it as a number"
    )


def _type_of_text(frame: Frame, name: str, kind: str | None, said: str) -> Type:
    polars, series = library(), frame.data[name]
    if series.drop_nulls().str.contains(_WHOLE).all():
        return "integer"
    number = series.cast(polars.Float64, strict=False)
    others = series.is_not_null() & number.is_null()
    if not others.any():
        return "real"
    commas = series.filter(others).str.contains(_COMMA).all()
    numbers = 2 * int(number.is_not_null().sum()) >= int(series.is_not_null().sum())
    if kind == "numeric" or (kind is None and (commas or numbers)):
        _refuse_number(frame, name, int(others.arg_true()[0]), said, kind)
    return "text"


def _refuse_number(frame: Frame, name: str, row: int, said: str, kind: str | None) -> None:
    text = frame.data[name][row]
    way = "write decimals with a point" if "," in text else "write a number, or leave the cell empty"
    other = "" if kind else f", or say what the column is, dataset.columns={{{name}: categorical}}"
    raise UserError(f"{said}, {frame.place(row)}: column {name!r} holds {text!r}, which is no number; {way}{other}")


def _distinct(series: Any, form: Type) -> list[Value]:
    """The different values of cells, in their order."""
    polars = library()
    cells = series.cast(polars.String) if form == "text" else series
    if form in ("integer", "real") and cells.dtype == polars.String:
        cells = cells.cast(polars.Int64 if form == "integer" else polars.Float64, strict=False).drop_nulls()
    ordered = cells.unique().sort()
    values: list[Value] = ordered.to_list()
    if isinstance(series.dtype, polars.Enum):
        return [value for value in series.dtype.categories.to_list() if value in {*values}]
    return values


def coded(frame: Frame, column: Column, said: str) -> NDArray[np.float64]:
    """The numbers of categories, or the numbers that cells hold, NaN where there is none, (rows,).

    Raises UserError with the place of the first cell that is none of them.
    """
    polars, series = library(), frame.data[column.name]
    if series.null_count() == len(series):  # whatever the type that a file or a frame gives to cells that are not there
        return np.full(len(series), np.nan)
    if column.type in ("integer", "real"):
        values = _numbers(frame, column, said)
        return values if column.kind == "numeric" else _looked_up(frame, column, values, said)
    if series.dtype not in (polars.String, polars.Boolean) and not isinstance(
        series.dtype, polars.Categorical | polars.Enum
    ):
        raise UserError(f"{said}: column {column.name!r} holds {str(series.dtype).lower()}, the run's is {column.type}")
    texts = series.cast(polars.String)
    truths = series.dtype == polars.Boolean  # which text spells as it likes
    spelled = [str(value).lower() if truths or isinstance(value, bool) else str(value) for value in column.values]
    place = {text: float(number) for number, text in enumerate(spelled)}
    codes = texts.replace_strict(place, default=None, return_dtype=polars.Float64)
    unknown = texts.is_not_null() & codes.is_null()
    if unknown.any():
        _refuse_unknown(frame, column, int(unknown.arg_true()[0]), said)
    found: NDArray[np.float64] = codes.to_numpy().astype(np.float64)
    return found


def _numbers(frame: Frame, column: Column, said: str) -> NDArray[np.float64]:
    polars, series = library(), frame.data[column.name]
    if series.dtype == polars.String:
        number = series.cast(polars.Float64, strict=False)
        others = series.is_not_null() & number.is_null()
        if others.any():
            _refuse_number(frame, column.name, int(others.arg_true()[0]), said, column.kind)
    elif series.dtype.is_numeric():
        number = series.cast(polars.Float64)
    else:
        raise UserError(f"{said}: column {column.name!r} holds {str(series.dtype).lower()}, the run's has numbers")
    found: NDArray[np.float64] = number.to_numpy().astype(np.float64)
    with np.errstate(over="ignore"):
        wild = np.flatnonzero(np.isinf(found.astype(np.float32)))
    if len(wild):
        cell = series[int(wild[0])]
        raise UserError(
            f"{said}, {frame.place(int(wild[0]))}: column {column.name!r} holds {cell}, which is no finite number as "
            "float32; leave the cell empty, or rescale the column"
        )
    return found


def _looked_up(frame: Frame, column: Column, values: NDArray[np.float64], said: str) -> NDArray[np.float64]:
    known = np.array(column.values, np.float64)
    order = np.argsort(known)
    place = order[np.searchsorted(known, values, sorter=order).clip(0, len(known) - 1)]
    unknown = np.flatnonzero(~np.isnan(values) & (known[place] != values))
    if len(unknown):
        _refuse_unknown(frame, column, int(unknown[0]), said)
    return np.where(np.isnan(values), np.nan, place.astype(np.float64))


def _refuse_unknown(frame: Frame, column: Column, row: int, said: str) -> None:
    cell = frame.data[column.name][row]
    raise UserError(
        f"{said}, {frame.place(row)}: column {column.name!r} holds {cell!r}, which is none of the categories that the "
        f"run knows: {listed(column.values)}"
    )
