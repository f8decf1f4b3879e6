"""Rows of the user's own in a file of one array or a table in text, with cells that are to be drawn."""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_cli.dataset import array_files, kinds
from ebm_cli.dataset.array_files import ENDINGS, Format
from ebm_cli.dataset.content import whole
from ebm_cli.errors import UserError
from ebm_cli.space import Discrete, Space, Spin, TwoValued, Words

NAMES = ("rows", "samples", "msa")
"""Arrays that are taken for the rows where several could be: `ebm sample` writes samples, alignments have msa."""

LABELS = ("labels", "label")
_MASK, _OTHERS = "mask", ("weights", "variable_type")
_SEPARATORS = ",\t;"
_FEW = 2  # columns whose numbers may be values
_Line = tuple[int, list[str]]
_LETTERS = (
    "the run is on numbers: train one with dataset=protein, or import its model anew, ebm import MODEL dataset=protein "
    "dataset.path=ALIGNMENT, or without data dataset.alphabet=protein"
)
_WAYS = {  # of runs on other data, which have no key dataset
    "fasta": _LETTERS,
    "stockholm": _LETTERS,
    "image": "the run is not on pictures: train one with dataset=image_folder",
    "mtx": "write it as an array, scipy.io.mmread(FILE).toarray()",
}
_WAY = f"name a file of an array (n, *shape), {ENDINGS}, or a table in text, .csv"


@dataclass(frozen=True)
class OwnRows:
    """Values (n, *any) as they are in the file, 0 where `missing` (n, *any) says that there is none.

    `labels` (n,) are carried along. `places` says where row i is, as "line 3", where that is not its number. `remarks`
    say what of the file was read as something else.
    """

    values: NDArray[Any]
    missing: NDArray[np.bool_]
    labels: NDArray[Any] | None = None
    places: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def place(self, row: int) -> str:
        """Where a row is in the file, in words."""
        return self.places[row] if self.places else f"row {row + 1}"


def read(path: Path, said: str, array: str | None) -> OwnRows:
    """The rows of a file; `array` names the array of a file of arrays.

    Missing are NaN among floating-point numbers, what the array `mask` of such a file has 1 for, and empty cells of a
    table. Raises UserError, beginning with `said`, with the first thing wrong.
    """
    if not path.exists():
        raise UserError(f"{said}: there is no such file")
    files, (kind, _) = array_files.of(path), kinds.found(path) or ("", "")
    if files is not None:
        return _of_arrays(files, path, said, array)
    if array is not None and kind in ("csv", "text"):
        raise UserError(f"array = {array}: {said} is no file of arrays, so it has none by name; leave it out")
    if kind in ("csv", "text"):
        return _of_table(path, said)
    raise UserError(f"{said}: {kinds.instead(path, f'its first bytes say nothing; {_WAY}', _WAY, _WAYS)}")


def with_gaps(own: OwnRows, space: Space, said: str) -> OwnRows:
    """The same with whole numbers of -1 taken for what is missing, where all values of the space begin at 0.

    Of spins and real numbers -1 is a value. Raises UserError where bits may have been written as spins.
    """
    gaps, from_zero = (own.values == -1) & ~own.missing, isinstance(space, Discrete | Words)
    if own.values.dtype.kind != "i" or not gaps.any() or not from_zero or isinstance(space, Spin):
        return own
    if isinstance(space, TwoValued) and (own.values[~own.missing & ~gaps] == 1).all():
        raise UserError(
            f"{said}: holds -1 and 1 alone, which may be spins; mark what is missing by NaN, an array mask or empty "
            "cells"
        )
    return replace(own, values=np.where(gaps, 0, own.values), missing=own.missing | gaps)


def _of_arrays(files: Format, path: Path, said: str, array: str | None) -> OwnRows:
    there = [*files.headers(path, said)]
    beside = {_MASK, *LABELS, *_OTHERS, *(key for key in there if key.endswith(("_label", "_labels", "_weights")))}
    key = array or _the_array([name for name in there if name not in beside], said)
    if key not in there:
        raise UserError(f"array = {key}: {said} has no such array; it has {', '.join(there)}")
    labels = next((name for name in (f"{key}_label", f"{key}_labels", *LABELS) if name in there), None)
    wanted = [key, *([labels] if labels else []), *([_MASK] if _MASK in there else [])]
    found = files.read(path, wanted, said, whole)
    return of_array(found[key], found.get(_MASK), found[labels] if labels else None, said, key)


def _the_array(names: list[str], said: str) -> str:
    """The one that holds the rows."""
    chosen = next((name for name in NAMES if name in names), names[0] if len(names) == 1 else None)
    if chosen is None:
        which = f"several arrays, {', '.join(names)}" if names else "no array of rows"
        raise UserError(f"{said}: has {which}; say which holds the rows, array=NAME")
    return chosen


def of_array(values: NDArray[Any], mask: Any, labels: Any, said: str, key: str) -> OwnRows:
    """Rows of an array (n, *any) that messages call `key`, with its mask and labels or None. Raises UserError."""
    if values.dtype.kind not in "biuf" or values.ndim < 2 or values.size == 0:
        raise UserError(
            f"{said}: {key} has type {values.dtype} and shape {values.shape}; it must be numbers (n, *shape), one row "
            "per configuration"
        )
    missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, np.bool_)
    if mask is not None:
        missing |= _checked_mask(mask, values, said)
    return OwnRows(np.where(missing, 0, values).astype(values.dtype), missing, _checked_labels(labels, values, said))


def _checked_mask(mask: NDArray[Any], values: NDArray[Any], said: str) -> NDArray[np.bool_]:
    if mask.shape != values.shape or mask.dtype.kind not in "biu" or not np.isin(mask, (0, 1)).all():
        raise UserError(
            f"{said}: mask has type {mask.dtype} and shape {mask.shape}; it must be bool of shape {values.shape}, true "
            "for cells that are to be drawn"
        )
    return mask.astype(np.bool_)


def _checked_labels(labels: Any, values: NDArray[Any], said: str) -> NDArray[Any] | None:
    if labels is not None and labels.shape in ((len(values), 1), (1, len(values))):
        labels = labels.reshape(-1)  # as MATLAB has it
    if labels is not None and (labels.shape != (len(values),) or labels.dtype.kind not in "biufU"):
        raise UserError(
            f"{said}: its labels have type {labels.dtype} and shape {labels.shape}; they must be numbers or text of "
            f"shape {(len(values),)}, one for each row"
        )
    found: NDArray[Any] | None = labels
    return found


def _of_table(path: Path, said: str) -> OwnRows:
    """A table of numbers, whose first line may name the columns; one called label or labels is carried along."""
    lines = _lines(path, said)
    first = next(lines, (0, []))
    names = [cell.strip() for cell in first[1]] if _are_names(first[1]) else []
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{said}: two columns are called {repeated!r}; give each a name of its own")
    label = next((names.index(name) for name in LABELS if name in names), None)
    labels, places, rows = [], [], []
    for number, cells in lines if names else chain([first], lines):
        if len(cells) != len(first[1]):
            due = len(first[1])
            raise UserError(f"{said}, line {number}: has {len(cells)} cells, the first line {due}; make them equal")
        if label is not None:
            labels.append(cells.pop(label).strip())
        rows.append(np.array([_number(cell, said, number) for cell in cells]))
        places.append(f"line {number}")
    if not rows or not len(rows[0]):
        raise UserError(f"{said}: holds no row of numbers; {_WAY}")
    values = np.stack(rows)
    found = of_array(values, None, None if label is None else np.array(labels), said, "the table")
    return replace(found, values=found.values.astype(np.int64 if _whole(values) else np.float64), places=tuple(places))


def _lines(path: Path, said: str) -> Iterator[_Line]:
    """Number and cells of every line that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            separator = max(_SEPARATORS, key=first.count)
            reader = csv.reader(file, delimiter=separator, strict=True)
            for cells in reader:
                if cells and (len(cells) > 1 or cells[0].strip()):
                    yield reader.line_num, cells
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{said}: cannot be read as a table ({error}); write plain text in UTF-8") from error


def _are_names(cells: list[str]) -> bool:
    """Whether these name columns: not all are numbers, or they number the columns from 0, as pandas does."""
    if not all(map(_is_number, cells)):
        return True
    numbered = [str(number) for number in range(len(cells))]
    return len(cells) > _FEW and [cell.strip() for cell in cells] == numbered


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace("_", "?").strip() or "nan")
    except ValueError:
        return False
    return True


def _number(cell: str, said: str, line: int) -> float:
    """The value of a cell, NaN of an empty one."""
    text = cell.strip()
    try:
        return float(text.replace("_", "?")) if text else math.nan  # Python reads 1_000 as a number
    except ValueError as error:
        way = "write decimals with a point" if "," in text else "write numbers, and leave a cell empty that has none"
        raise UserError(f"{said}, line {line}: {text!r} is no number; {way}") from error


def _whole(values: NDArray[np.float64]) -> bool:
    """Whether all that is there are whole numbers, so that they may count, or number categories or grey levels."""
    there = values[~np.isnan(values)]
    return bool(there.size and (np.abs(there) < 2**53).all() and (there == np.floor(there)).all())
