"""The user's own data: arrays of any shape in a file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from ebm_cli.dataset import array_files
from ebm_cli.dataset.array_files import UNNAMED
from ebm_cli.dataset.array_splits import SPLIT_NAMES, AsRead, read_parts
from ebm_cli.dataset.base import Arrays, GreyDataset, Raw, Values
from ebm_cli.dataset.content import Bits, compact, file_rows, unpacked
from ebm_cli.dataset.held_out import hold_out
from ebm_cli.dataset.pieces import as_bytes, ends, every
from ebm_cli.dataset.stored import PackedRows
from ebm_cli.dataset.tables import check_resolution, standardised
from ebm_cli.errors import UserError
from ebm_cli.registry import Later, register

MOST = 65_536
"""Categories of a site."""
_BYTE = 256
_SMALL = (np.int8, np.uint8, np.int16)  # which torch and float32 hold as well
_BITS = ("bernoulli", "ising")


@register("dataset", "array", formerly="npz")
class Array(GreyDataset):
    """Your own arrays from one file: .npz, .npy, HDF5 (.h5), MATLAB (.mat), .idx, or a folder of .idx files.

    Which it is its first bytes say. Names: train (n, *shape); if you like, valid (or val) and test of the same row
    shape; labels NAME_label (n,), integers; weights NAME_weights (n,), how often rows of train are drawn relative to
    the others. NAME_data, x_NAME, NAME_labels and y_NAME do too. `array` names another that holds train; so do samples,
    with labels, weights and variable_type (as rbms has them), and the only array of a file. Of .idx files the names
    say train, val, or t10k or test; those of one dimension are labels. Rows of MATLAB are the first axis there.

    A test and a validation split that the file lacks are drawn from train, always the same rows: the share `held_out`
    for testing, then that share of the remainder for validation.

    With `categories` K, or variable_type categorical, all values are integers below K, each a category. Otherwise, all
    values 0 or 1, or all -1 or 1: binary; else uint8, or floats all in [0, 1]: grey; any other numbers, and those of
    variable_type continuous: real, as float32. All splits together decide. A few small values in uint8, such as 0 to 2,
    are refused: they may be codes. With `standardise` grey and other numbers are real, each column less the mean and
    divided by the standard deviation of the training rows; samples and log-likelihoods are of the data as they were.

    Four million bits or more are packed, eight to a byte. Other arrays of 64 MB or more stay in their file, which must
    not change meanwhile, and rows are read as they are needed, in the type they have there: of .npy and .idx files, of
    .npz files that are not compressed and of HDF5 files without chunks, numbers with the lowest byte first, in rows.
    """

    path: str | None
    array: Annotated[str | None, Later()]
    held_out: Annotated[float, Field(gt=0, le=0.5)]
    categories: Annotated[int, Field(ge=2, le=MOST)] | None
    standardise: bool
    values = None
    codes_are = (
        "set dataset.categories to their number if they are categories 0, 1, ...; else store bits as 0 and 1, grey "
        "levels as 0 to 255 or as floats in [0, 1], and other numbers as floats"
    )

    @override
    def read(self) -> Raw:
        """The file's splits. Raises UserError naming the file, the key and the first thing wrong with it."""
        if self.path is None:
            raise UserError("dataset.path = null: name the file of arrays, dataset.path=FILE")
        said = f"dataset.path = {self.path}"
        parts = read_parts(Path(self.path).expanduser(), said, unpacked if self.categories else compact, self.array)
        found = [part.values for part in parts.splits.values()]
        categories = self.categories or (_top(found) + 1 if parts.kind == "categorical" else 0)
        spins = any(array.low == -1 if isinstance(array, Bits) else ends(array)[0] < 0 for array in found)
        values, arrays = _converted(found, parts.kind, categories, said)
        standard = values in ("grey", "real") and self.standardise
        if standard:
            arrays = [array.plain() if isinstance(array, Bits) else array for array in found]
        final = {
            name: replace(part, values=_in_file(array, values))
            for (name, part), array in zip(parts.splits.items(), arrays, strict=True)
        }
        for name in ("test", "valid"):
            if name not in final:
                final["train"], final[name] = hold_out(final["train"], name, self.held_out, said)
        rows, units = {name: part.values for name, part in final.items()}, None
        if standard:
            values, (units, rows) = "real", standardised(rows, said)
        elif values == "real" and not isinstance(found[0], Bits):
            check_resolution(found[0], said)
        weights = {"train": final["train"].weights}  # of rows held out they have no meaning
        train, valid, test = (
            Arrays(rows[name], final[name].labels, weights.get(name)) for name in ("train", "valid", "test")
        )
        remarks = (*parts.remarks, *self._unused(found))
        return Raw(
            values, train, valid, test, categories=categories, remarks=remarks, spins=spins and values == "binary",
            units=units,
        )  # fmt: skip

    @override
    def bytes_to_read(self) -> int:
        """By the headers in the file; 0 where it cannot be read, of which `read` says why."""
        names = (*SPLIT_NAMES, UNNAMED, "samples", *([self.array] if self.array else []))
        return 0 if self.path is None else array_files.size(Path(self.path).expanduser(), names)

    def _unused(self, arrays: list[Any]) -> tuple[str, ...]:
        """A remark on categories beyond the largest one there is."""
        top = _top(arrays) if self.categories else 0
        if not self.categories or top + 1 == self.categories:
            return ()
        return (f"dataset.categories = {self.categories}: {top} is the largest there is, so the others never occur",)


def _top(arrays: list[Any]) -> int:
    return max(1 if isinstance(array, Bits) else int(ends(array)[1]) for array in arrays)


def _in_file(array: Any, values: Values) -> Any:
    """Rows that stay in their file as such; of categories and other numbers alike."""
    if not isinstance(array, np.memmap):
        return array
    rows = file_rows(array)
    return rows.as_bytes() if values == "categorical" else rows


def _converted(arrays: list[Any], kind: str | None, categories: int, said: str) -> tuple[Values, list[Any]]:
    """What kind of values they are, by what the file says or by themselves, and the arrays as such."""
    if categories:
        return "categorical", _numbered(arrays, categories, said)
    if kind == "continuous":
        return "real", [_numbers(array.plain() if isinstance(array, Bits) else array) for array in arrays]
    values, found = convert(arrays, said)
    if kind in _BITS and values != "binary":
        raise UserError(
            f"{said}: variable_type is {kind}, but there are values other than 0 and 1, or -1 and 1; mend the values, "
            "or take variable_type out of the file"
        )
    return values, found


def _numbered(arrays: list[Any], categories: int, said: str) -> list[NDArray[Any]]:
    """Numbers of categories, each checked to be one: bytes, which a file may keep, or beyond 256 int32 in memory."""
    if categories > MOST:
        raise UserError(f"{said}: has values to {categories - 1}; categories are 0 to {MOST - 1} at most")
    plain = [array.plain() if isinstance(array, Bits) else array for array in arrays]
    for array in plain:
        low, high = ends(array)
        if low < 0 or high >= categories or not every(array, lambda part: part == np.floor(part)):
            raise UserError(
                f"{said}: has values from {low:g} to {high:g}, dataset.categories = {categories} are the "
                f"integers 0 to {categories - 1}; number the categories from 0 and set it to how "
                "many there are"
            )
    if categories > _BYTE:
        return [np.array(array, np.int32) for array in plain]
    return [array if isinstance(array, np.memmap) else array.astype(np.uint8, copy=False) for array in plain]


def convert(arrays: Sequence[AsRead], said: str) -> tuple[Values, list[Any]]:
    """What kind of values all the splits have together, and the splits: bits, uint8, small integers or float32.

    Values of a byte each are changed in the memory they are in; arrays that are mapped stay as they are.
    """
    for low in (0, -1):
        if all(_are(array, low) for array in arrays):
            return "binary", [_bits(array) for array in arrays]
    plain = [array.plain() if isinstance(array, Bits) else array for array in arrays]
    types = {array.dtype for array in plain}
    floats = all(kind.kind == "f" for kind in types)
    if len(types) > 1 and not floats:
        # 255 would mean 1 in one split and 255 in another.
        raise UserError(f"{said}: its splits have types {', '.join(sorted(map(str, types)))}; store them all in one")
    if types == {np.dtype(np.uint8)}:
        return "grey", plain
    inside = floats and all(low >= 0 and high <= 1 for low, high in map(ends, plain))
    return "grey" if inside else "real", [_numbers(array) for array in plain]


def _are(array: AsRead, low: int) -> bool:
    """Whether all values are `low` and 1."""
    if isinstance(array, Bits):
        return array.low in (low, None)
    return every(array, lambda part: (part == low) | (part == 1))


def _bits(array: AsRead) -> NDArray[np.uint8] | PackedRows:
    if isinstance(array, Bits):
        return array.packed
    return as_bytes(array, lambda part: part > 0, owned=not isinstance(array, np.memmap))


def _numbers(array: NDArray[Any]) -> NDArray[Any]:
    """As float32, or in fewer bytes the same."""
    if isinstance(array, np.memmap):
        return array
    kind = np.float32 if array.dtype.kind == "f" else np.result_type(*map(np.min_scalar_type, map(int, ends(array))))
    return array.astype(kind if kind in _SMALL else np.float32, copy=False)
