"""Rows of numbers in a table in text: which line names the columns, and what each cell holds."""

import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ebm_cli.dataset import text_tables
from ebm_cli.dataset.text_tables import has_decimal_comma, is_missing, is_number
from ebm_cli.errors import UserError

LABELS = ("labels", "label")
"""Columns that are carried along."""
_ROW = "row"  # the number of a row, in files that commands write
_BESIDE = (*LABELS, _ROW)
_FEW = 2  # columns whose numbers may be values
_POINT = "write decimals with a point"
_Line = tuple[int, list[str]]


class TextRows(NamedTuple):
    """Numbers (n, columns) float64, NaN where there is none, labels (n,) or None, and the place of each row."""

    values: NDArray[np.float64]
    labels: NDArray[np.str_] | None
    places: tuple[str, ...]


def read(path: Path, said: str) -> TextRows | None:
    """The rows of a file, None if it has none. Raises UserError, beginning with `said`, with the first thing wrong."""
    source = text_tables.source(path, said)
    lines = _lines(text_tables.records(source, text_tables.separator(source, said), said))
    first = next(lines, (0, []))
    names = [cell.strip() for cell in first[1]] if _are_names(first, said) else []
    text_tables.check_apart(names, said)
    label = next((names.index(name) for name in LABELS if name in names), None)
    beside = {names.index(name) for name in _BESIDE if name in names}
    labels, places, rows = [], [], []
    for number, cells in lines if names else chain([first], lines):
        if len(cells) != len(first[1]):
            due = len(first[1])
            raise UserError(f"{said}, line {number}: has {len(cells)} cells, the first line {due}; make them equal")
        if label is not None:
            labels.append(cells[label].strip())
        rows.append(np.array([_number(cell, said, number) for i, cell in enumerate(cells) if i not in beside]))
        places.append(f"line {number}")
    if not rows or not len(rows[0]):
        return None
    return TextRows(np.stack(rows), None if label is None else np.array(labels), tuple(places))


def _lines(records: Iterator[_Line]) -> Iterator[_Line]:
    """Those that are not blank."""
    return ((number, cells) for number, cells in records if len(cells) > 1 or "".join(cells).strip())


def _are_names(first: _Line, said: str) -> bool:
    """Whether the first line names the columns: by words, or by their numbers from 0, as pandas does.

    Raises UserError for one of words and other numbers, which may be a row with a slip of the pen.
    """
    line, cells = first
    others = [cell.strip() for cell in cells if cell.strip() not in _BESIDE]
    words = [cell for cell in others if not is_number(cell) and not is_missing(cell)]
    named = len(others) < len(cells)
    if (named or len(others) > _FEW) and others == [str(number) for number in range(len(others))]:
        return True
    wrong = next((cell for cell in words if has_decimal_comma(cell)), None)
    if wrong is not None:
        _number(wrong, said, line)
    if (words or named) and any(map(is_number, others)):
        which = repr(next(cell.strip() for cell in cells if cell in words or cell.strip() in _BESIDE))
        raise UserError(
            f"{said}, line {line}: has numbers and words ({which}), so it is neither a row nor the names of the "
            "columns; write numbers alone, or name each column by a word"
        )
    return bool(words) or named


def _number(cell: str, said: str, line: int) -> float:
    """The value of a cell, NaN of one that says there is none."""
    if is_missing(cell):
        return math.nan
    if is_number(cell):
        return float(cell)
    text = cell.strip()
    way = _POINT if has_decimal_comma(text) else "write numbers, and leave a cell empty that has none"
    raise UserError(f"{said}, line {line}: {text!r} is no number; {way}")
