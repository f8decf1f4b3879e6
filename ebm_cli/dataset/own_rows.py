"""Rows of the user's own in a file of one array or a table in text, with cells that are to be drawn."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_cli.dataset import array_files, kinds, text_rows, text_tables
from ebm_cli.dataset.array_files import ENDINGS, Format
from ebm_cli.dataset.content import whole
from ebm_cli.dataset.text_rows import LABELS
from ebm_cli.errors import UserError
from ebm_cli.space import Discrete, Space, Spin, TwoValued, Words

NAMES = ("rows", "samples", "msa")
"""Arrays that are taken for the rows where several could be: `ebm sample` writes samples, alignments have msa."""

_MASK, _OTHERS = "mask", ("weights", "variable_type")
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
    files, is_text = array_files.of(path), text_tables.is_one(path)
    if files is not None:
        return _of_arrays(files, path, said, array)
    if array is not None and is_text:
        raise UserError(f"array = {array}: {said} is no file of arrays, so it has none by name; leave it out")
    if is_text:
        return _of_table(path, said)
    if path.is_dir():
        raise UserError(f"{said}: is a folder, and the run is not on pictures (dataset=image_folder); {_WAY}")
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
    headers = files.headers(path, said)
    there = [*headers]
    beside = {_MASK, *LABELS, *_OTHERS, *(key for key in there if key.endswith(("_label", "_labels", "_weights")))}
    others = [name for name in headers if name not in beside]
    numbers = [name for name in others if headers[name].kind.kind in "biuf"]
    key = array or _the_array([name for name in NAMES if name in others][:1] or numbers or others, said)
    if key not in there:
        raise UserError(f"array = {key}: {said} has no such array; it has {', '.join(there)}")
    labels = next((name for name in (f"{key}_label", f"{key}_labels", *LABELS) if name in there), None)
    wanted = [key, *([labels] if labels else []), *([_MASK] if _MASK in there else [])]
    found = files.read(path, wanted, said, whole)
    return of_array(found[key], found.get(_MASK), found[labels] if labels else None, said, key)


def _the_array(names: list[str], said: str) -> str:
    """The one that holds the rows."""
    if len(names) != 1:
        which = f"several arrays, {', '.join(names)}" if names else "no array of rows"
        raise UserError(f"{said}: has {which}; say which holds the rows, array=NAME")
    return names[0]


def of_array(values: NDArray[Any], mask: Any, labels: Any, said: str, key: str) -> OwnRows:
    """Rows of an array (n, *any) that messages call `key`, with its mask and labels or None. Raises UserError."""
    if values.dtype.kind in "biuf" and values.ndim > 1 and not values.size:
        raise UserError(f"{said}: {key} has shape {values.shape}, so it is empty; give it rows")
    if values.dtype.kind not in "biuf" or values.ndim < 2:
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
    found = text_rows.read(path, said)
    if found is None:
        raise UserError(f"{said}: holds no row of numbers; {_WAY}")
    rows = of_array(found.values, None, found.labels, said, "the table")
    kind = np.int64 if _whole(found.values) else np.float64
    return replace(rows, values=rows.values.astype(kind), places=found.places)


def _whole(values: NDArray[np.float64]) -> bool:
    """Whether all that is there are whole numbers, so that they may count, or number categories or grey levels."""
    there = values[~np.isnan(values)]
    return bool(there.size and (np.abs(there) < 2**53).all() and (there == np.floor(there)).all())
