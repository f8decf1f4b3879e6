"""The user's own data: arrays of any shape in one .npz file, or one array in an .npy file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.dataset import kinds
from ebm_cli.dataset.arrays import Bits, compact, file_rows, whole
from ebm_cli.dataset.base import Arrays, GreyDataset, Raw, Values
from ebm_cli.dataset.files import Reader, npz_keys, npz_size, read_npy, read_npz
from ebm_cli.dataset.pieces import as_bytes, count, every, put_last
from ebm_cli.dataset.stored import FileRows, PackedRows
from ebm_cli.dataset.tables import check_resolution, standardised
from ebm_cli.errors import UserError
from ebm_cli.registry import register

SPLITS = ("train", "valid", "val", "test")
LABELS = tuple(f"{name}_label" for name in SPLITS)
UNNAMED = "arr_0"  # as numpy.savez calls the first array without a name
AsRead = NDArray[Any] | Bits
_NAMED = 5  # arrays named in a remark
_IS = ("is", "are")
_SMALL = (np.int8, np.uint8, np.int16)  # which torch and float32 hold as well


@dataclass(frozen=True)
class FileSplit:
    """One split of the file: an array, or the same in fewer bytes; `key` is its name there."""

    key: str
    values: Any
    labels: NDArray[np.int64] | None

    def cut(self, kept: NDArray[np.int64], last: NDArray[np.int64]) -> tuple["FileSplit", "FileSplit"]:
        """Its rows `kept` and its rows `last`, both ascending, in the memory of its own, which changes."""
        labels = (None, None) if self.labels is None else (self.labels[kept], self.labels[last])
        parts = zip(_cut(self.values, kept, last), labels, strict=True)
        train, held_out = (FileSplit(self.key, values, of_part) for values, of_part in parts)
        return train, held_out


def _cut(values: Any, kept: NDArray[np.int64], last: NDArray[np.int64]) -> tuple[Any, Any]:
    if isinstance(values, FileRows):
        return values.part(torch.from_numpy(kept)), values.part(torch.from_numpy(last))
    put_last(values.bytes.numpy() if isinstance(values, PackedRows) else values, kept, last)
    first, rest = slice(len(kept)), slice(len(kept), None)
    return (values.part(first), values.part(rest)) if isinstance(values, PackedRows) else (values[first], values[rest])


@register("dataset", "npz")
class Npz(GreyDataset):
    """Your own arrays from one .npz file, or one from an .npy file, which holds train.

    Keys: train (n, *shape); if you like, valid (or val) and test of the same row shape, and train_label, valid_label
    (or val_label), test_label (n,) of integers. A test and a validation split that the file lacks are drawn from
    train, always the same rows: the share `held_out` for testing, then that share of the remainder for validation.

    A file of one array without a name (arr_0) holds train. With `categories` K all values are integers below K, each a
    category. Otherwise, all values 0 or 1, or all -1 or 1: binary; else uint8, or floats all in [0, 1]: grey; any other
    numbers: real, as float32. All splits together decide. A few small values in uint8, such as 0 to 2, are refused:
    they may be codes. With `standardise` grey and other numbers are real, each column less the mean and divided by the
    standard deviation of the training rows; samples and log-likelihoods are of the data as they were.

    Four million bits or more are packed, eight to a byte. Other arrays of 64 MB or more stay in their file, which must
    not change meanwhile, and rows are read as they are needed: those of .npy files and of .npz files that are not
    compressed, of numbers with the lowest byte first, in rows.
    """

    path: str | None
    held_out: Annotated[float, Field(gt=0, le=0.5)]
    categories: Annotated[int, Field(ge=2, le=256)] | None
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
            raise UserError("dataset.path = null: name the .npz file, dataset.path=FILE")
        said = f"dataset.path = {self.path}"
        parts, remarks = read_parts(Path(self.path).expanduser(), said, whole if self.categories else compact)
        found = [part.values for part in parts.values()]
        spins = any(array.low == -1 if isinstance(array, Bits) else array.min() < 0 for array in found)
        values, arrays = self._converted(found, said)
        standard = values in ("grey", "real") and self.standardise
        if standard:
            arrays = [array.plain() if isinstance(array, Bits) else array for array in found]
        else:
            arrays = [file_rows(array) if isinstance(array, np.memmap) else array for array in arrays]
        final = {
            name: FileSplit(part.key, array, part.labels)
            for (name, part), array in zip(parts.items(), arrays, strict=True)
        }
        for name in ("test", "valid"):
            if name not in final:
                final["train"], final[name] = hold_out(final["train"], name, self.held_out, said)
        rows, units = {name: part.values for name, part in final.items()}, None
        if standard:
            values, (units, rows) = "real", standardised(rows, said)
        elif values == "real" and not isinstance(parts["train"].values, Bits):
            check_resolution(parts["train"].values, said)
        train, valid, test = (Arrays(rows[name], final[name].labels) for name in ("train", "valid", "test"))
        remarks += self._unused(arrays)
        return Raw(
            values,
            train,
            valid,
            test,
            categories=self.categories or 0,
            remarks=remarks,
            spins=spins and values == "binary",
            units=units,
        )

    @override
    def bytes_to_read(self) -> int:
        """By the headers in the file; 0 where it cannot be read, of which `read` says why."""
        return 0 if self.path is None else npz_size(Path(self.path).expanduser(), (*SPLITS, *LABELS, UNNAMED))

    def _converted(self, arrays: list[Any], said: str) -> tuple[Values, list[Any]]:
        if self.categories is None:
            return convert(arrays, said)
        return "categorical", [*self._numbered(arrays, said)]

    def _unused(self, arrays: list[NDArray[Any]]) -> tuple[str, ...]:
        """A remark on categories beyond the largest one there is."""
        top = max(int(array.max()) for array in arrays) if self.categories else 0
        if not self.categories or top + 1 == self.categories:
            return ()
        return (f"dataset.categories = {self.categories}: {top} is the largest there is, so the others never occur",)

    def _numbered(self, arrays: list[NDArray[Any]], said: str) -> list[NDArray[np.uint8]]:
        """Numbers of categories, each checked to be one."""
        for array in arrays:
            low, high = array.min(), array.max()
            if low < 0 or high >= self.categories or not every(array, lambda part: part == np.floor(part)):
                raise UserError(
                    f"{said}: has values from {low:g} to {high:g}, dataset.categories = {self.categories} are the "
                    f"integers 0 to {cast(int, self.categories) - 1}; number the categories from 0 and set it to how "
                    "many there are"
                )
        return [array.astype(np.uint8, copy=False) for array in arrays]


def read_parts(path: Path, said: str, read: Reader) -> tuple[dict[str, FileSplit], tuple[str, ...]]:
    """The splits in the file by their names train, valid and test, each checked by itself and against train.

    Beside them remarks on what the file is taken for.
    """
    arrays, remarks = _arrays(path, said, read)
    for one, other in (("valid", "val"), ("valid_label", "val_label")):
        if one in arrays and other in arrays:
            raise UserError(f"{said}: has both {one} and {other}; leave out one of them")
    parts: dict[str, FileSplit] = {}
    for key in SPLITS:
        if key in arrays:
            check_values(arrays[key], key, arrays["train"], said)
            labels = read_labels(arrays, key, said)
            parts["valid" if key == "val" else key] = FileSplit(key, arrays[key], labels)
    return parts, remarks


def _arrays(path: Path, said: str, read: Reader) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The arrays that are read, train among them, and remarks on what is there beside them."""
    if path.is_file() and (kinds.found(path) or ("",))[0] == "npy":
        return {"train": read_npy(path, said, read)}, (f"{said}: its one array is taken for train",)
    arrays = read_npz(path, SPLITS, said, read) | read_npz(path, LABELS, said)
    there = npz_keys(path)
    if "train" not in arrays and there == [UNNAMED]:
        found = read_npz(path, (UNNAMED,), said, read)
        return {"train": found[UNNAMED]}, (f"{said}: its one array, {UNNAMED}, is taken for train",)
    if "train" not in arrays:
        raise UserError(f"{said}: has no key train; it has {', '.join(there) or 'none'}")
    known = {*SPLITS, *(f"{key}_label" for key in SPLITS if key in arrays)}
    others = [key for key in there if key not in known and not _label_of_valid(key, arrays)]
    if not others:
        return arrays, ()
    which = f"{', '.join(others[:_NAMED])}{', ...' if len(others) > _NAMED else ''} {_IS[len(others) > 1]} not read"
    return arrays, (f"{said}: {which}; keys that are: {', '.join((*SPLITS, *LABELS))}",)


def _label_of_valid(key: str, arrays: dict[str, NDArray[Any]]) -> bool:
    """Whether these are labels of the validation split, which has two names."""
    return key in ("valid_label", "val_label") and ("valid" in arrays or "val" in arrays)


def check_values(array: AsRead, key: str, train: AsRead, said: str) -> None:
    """Raise UserError unless `array` is numbers of shape (n > 0, *shape) with the row shape of `train`."""
    if isinstance(array, Bits):
        _check_shape(array, key, train, said)
        return
    if array.dtype.kind not in "biuf":
        raise UserError(f"{said}: {key} has type {array.dtype}; it must be bool, integer or floating point")
    if array.ndim < 2:
        raise UserError(f"{said}: {key} has shape {array.shape}; it must be (n, *shape), one row per configuration")
    if array.size == 0:
        raise UserError(f"{said}: {key} has shape {array.shape}, so it is empty; give it rows or leave it out")
    _check_shape(array, key, train, said)
    # float32 is what models get, so a finite float64 beyond its range is no better than an infinite one.
    with np.errstate(over="ignore"):
        bad = count(array, lambda part: ~np.isfinite(part.astype(np.float32))) if array.dtype.kind == "f" else 0
    if bad:
        raise UserError(f"{said}: {key} has {bad} of {array.size} values NaN or infinite (as float32); remove them")


def _check_shape(array: AsRead, key: str, train: AsRead, said: str) -> None:
    if array.shape[1:] != train.shape[1:]:
        raise UserError(f"{said}: rows of {key} have shape {array.shape[1:]}, those of train {train.shape[1:]}")


def read_labels(arrays: dict[str, Any], key: str, said: str) -> NDArray[np.int64] | None:
    """The labels of one split, (n,), or None. Labels of valid may be called val_label and the other way round."""
    names = ("valid_label", "val_label") if key in ("valid", "val") else (f"{key}_label",)
    for name in names:
        if name in arrays:
            labels, due = arrays[name], (len(arrays[key]),)
            if labels.dtype.kind not in "biu" or labels.shape != due:
                raise UserError(
                    f"{said}: {name} has type {labels.dtype} and shape {labels.shape}; "
                    f"it must be integers of shape {due}, one for each row of {key}"
                )
            return labels.astype(np.int64)
    return None


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
    inside = floats and all(array.min() >= 0 and array.max() <= 1 for array in plain)
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
    kind = np.float32 if array.dtype.kind == "f" else np.result_type(*map(np.min_scalar_type, _ends(array)))
    return array.astype(kind if kind in _SMALL else np.float32, copy=False)


def _ends(array: NDArray[Any]) -> tuple[int, int]:
    return int(array.min()), int(array.max())


def hold_out(
    train: FileSplit, name: str, share: float, said: str, way: str | None = None
) -> tuple[FileSplit, FileSplit]:
    """`train` without, and only, a fixed random choice of max(1, round(share * n)) of its n rows.

    Both lie in the memory of `train`, whose rows are in another order afterwards.
    Raises UserError with the `way` out (None: another key in the file) if that leaves none.
    """
    rows = len(train.values)
    out = max(1, round(share * rows))
    if out >= rows:
        way = way or f"add a key {name} to the file"
        raise UserError(f"{said}: train has too few rows to hold out {name} rows; {way}")
    order = rng.permutation(rows, rng.stream(0, "npz", name)).numpy()
    return train.cut(np.sort(order[out:]), np.sort(order[:out]))
