"""Rows of a file that are held out of training: in the memory they were read to, or in the file they stay in."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ebm_cli import rng
from ebm_cli.dataset.pieces import put_last
from ebm_cli.dataset.stored import FileRows, PackedRows
from ebm_cli.errors import UserError


@dataclass(frozen=True)
class FileSplit:
    """One split of the file: an array, or the same in fewer bytes; `key` is its name there."""

    key: str
    values: Any
    labels: NDArray[np.int64] | None
    weights: NDArray[np.float64] | None = None

    def cut(self, kept: NDArray[np.int64], last: NDArray[np.int64]) -> tuple["FileSplit", "FileSplit"]:
        """Its rows `kept` and its rows `last`, both ascending, in the memory of its own, which changes."""
        values = _cut(self.values, kept, last)
        of_rows = [(None, None) if of is None else (of[kept], of[last]) for of in (self.labels, self.weights)]
        train, held_out = (FileSplit(self.key, *part) for part in zip(values, *of_rows, strict=True))
        return train, held_out


def _cut(values: Any, kept: NDArray[np.int64], last: NDArray[np.int64]) -> tuple[Any, Any]:
    if isinstance(values, FileRows):
        return values.part(torch.from_numpy(kept)), values.part(torch.from_numpy(last))
    put_last(values.bytes.numpy() if isinstance(values, PackedRows) else values, kept, last)
    first, rest = slice(len(kept)), slice(len(kept), None)
    return (values.part(first), values.part(rest)) if isinstance(values, PackedRows) else (values[first], values[rest])


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
