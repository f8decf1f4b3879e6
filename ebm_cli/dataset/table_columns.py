"""From the cells of a table's columns to numbers: what kind a column is, by what it holds or is said to be."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_cli.dataset import table_types
from ebm_cli.dataset.columns import MOST, Column, Columns, Kind, Type, Value
from ebm_cli.dataset.table_files import Frame, library
from ebm_cli.errors import UserError, nearest

Wanted = Mapping[str, str | Sequence[Value]]
FEW = 10
"""Whole numbers of so many different values at most are taken for ordinal ones."""

_STEPS = 100  # of float64, that a column ranges over at least
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
    form = table_types.type_of(frame, name, kind, said)
    if kind == "numeric" and form in ("text", "truth"):
        raise UserError(f"dataset.columns: {name} is said to be numeric, and holds {series[0]!r}; call it categorical")
    distinct = table_types.distinct(series, form)
    kind = kind or _guessed(form, len(distinct), len(series))
    if kind == "numeric":
        _check_numbers(here, name, distinct)
        return Column(name, "numeric", form, ())
    if kind is None:
        raise UserError(_no_categories(frame, name, here, (len(distinct), len(series))))
    order = wanted if isinstance(wanted, Sequence) and not isinstance(wanted, str) else None
    return _categories(here, Column(name, _checked(kind, name), form, tuple(distinct)), order)


def _check_numbers(here: str, name: str, distinct: Sequence[Any]) -> None:
    """Raise UserError where all are the same, or float64, in which columns are standardised, hardly tells them apart.

    Whole numbers are compared exactly.
    """
    low, high = distinct[0], distinct[-1]
    if low == high and math.isfinite(low):
        raise UserError(_constant(here, name, low))
    step = float(np.spacing(max(abs(float(low)), abs(float(high)))))
    if high - low < _STEPS * step:
        raise UserError(
            f"{here} goes from {low} to {high}, where float64 has steps of {step:g} and does not tell them apart; "
            f"subtract {low} from each before, or leave it out, dataset.columns={{{name}: ignore}}"
        )


def _no_categories(frame: Frame, name: str, here: str, counts: tuple[int, int]) -> str:
    """What to say of texts that are all but all new, some of which may be codes in digits."""
    of, code = "texts", table_types.first_code(frame, name)
    way = f"leave it out, dataset.columns={{{name}: ignore}}"
    if code is not None:
        of, way = f"codes, such as {code}", f"{way}, or say that they are numbers, dataset.columns={{{name}: numeric}}"
    return f"{here} holds {counts[0]} different {of} in {counts[1]} rows, which are no categories; {way}"


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


def coded(frame: Frame, column: Column, said: str) -> NDArray[np.float64]:
    """The numbers of categories, or the numbers that cells hold, NaN where there is none, (rows,).

    Raises UserError with the place of the first cell that is none of them.
    """
    polars, series = library(), frame.data[column.name]
    if series.null_count() == len(series):  # whatever the type that a file or a frame gives to cells that are not there
        return np.full(len(series), np.nan)
    if column.type in ("integer", "real"):
        values = _numbers(frame, column, said)
        return values if column.kind == "numeric" else _looked_up(frame, column, said)
    words = series.dtype in (polars.String, polars.Boolean) or isinstance(
        series.dtype, polars.Categorical | polars.Enum
    )
    if not words and not series.dtype.is_integer():
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
            table_types.refuse_number(frame, column.name, int(others.arg_true()[0]), said, column.kind)
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


def _looked_up(frame: Frame, column: Column, said: str) -> NDArray[np.float64]:
    """Of numbers, exactly."""
    polars, series = library(), frame.data[column.name]
    place = {value: float(number) for number, value in enumerate(column.values)}
    series = series.cast(polars.Float64) if series.dtype.is_decimal() else series
    cells = series.unique().drop_nulls().to_list()
    codes = series.replace_strict(
        {cell: place.get(table_types.as_number(cell)) for cell in cells}, default=None, return_dtype=polars.Float64
    )
    unknown = series.is_not_null() & codes.is_null()
    if unknown.any():
        _refuse_unknown(frame, column, int(unknown.arg_true()[0]), said)
    found: NDArray[np.float64] = codes.to_numpy().astype(np.float64)
    return found


def _refuse_unknown(frame: Frame, column: Column, row: int, said: str) -> None:
    cell = frame.data[column.name][row]
    raise UserError(
        f"{said}, {frame.place(row)}: column {column.name!r} holds {cell!r}, which is none of the categories that the "
        f"run knows: {listed(column.values)}"
    )
