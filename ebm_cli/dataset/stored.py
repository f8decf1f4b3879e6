"""Rows in the bytes they need: bits eight to a byte, and rows of a file that are read as they are asked for.

Only what is taken out, a batch or a piece, becomes numbers as models get them.
"""

import math
import mmap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_cli.dataset.pieces import pieces
from ebm_cli.dataset.sparse import SparseRows

LARGE = 2**22
"""Bytes of a split of bits, one to a byte, from which on it is packed: in smaller ones there is little to save."""
_AT_ONCE = 2**20  # real numbers
_BYTES_AT_ONCE = 2**17  # and whole ones, whose sums are the same in any order


@dataclass(frozen=True)
class PackedRows:
    """Rows of bits (n, *row): value j of a row is bit j % 8, counted from the lowest, of its byte j // 8."""

    bytes: Tensor  # (n, ceil(sites / 8)) uint8
    row: tuple[int, ...]
    values: tuple[int, ...] = ()  # the bytes that were there, each once, where these are bits of grey levels

    dtype = torch.uint8
    """Of rows that are taken out."""

    def __len__(self) -> int:
        return len(self.bytes)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Some rows, (len(index), *row)."""
        shift = torch.arange(8, dtype=torch.uint8, device=self.device)
        bits = (self.bytes[index].unsqueeze(-1) >> shift) & 1
        return bits.flatten(1)[:, : math.prod(self.row)].reshape(len(index), *self.row)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, *row)."""
        return (len(self), *self.row)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.bytes.device

    def to(self, device: torch.device) -> "PackedRows":
        """The same on another device."""
        return replace(self, bytes=self.bytes.to(device))

    def part(self, rows: slice | Tensor) -> "PackedRows":
        """Some of the rows, packed too."""
        return replace(self, bytes=self.bytes[rows])


@dataclass(frozen=True)
class FileRows:
    """Rows (n, *row) that stay in a file: the bytes of all there are in it, and which are meant, in which order.

    Taken out, whole numbers below 256 may come `as_uint8`; others (x - mean) / deviation of each column with `units`.
    """

    bytes: Tensor  # (rows of the file, bytes of a row) uint8, mapped
    order: Tensor  # (n,) int64
    there: torch.dtype  # of the numbers in the file
    row: tuple[int, ...]
    as_uint8: bool = False
    units: tuple[Tensor, Tensor] | None = None  # mean and deviation, each (sites,) float64

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Some rows, (len(index), *row): bytes as they are, other numbers as float32."""
        found = self.exact(index)
        if self.units is not None:
            found = (found - self.units[0]) / self.units[1]
        return found.to(self.dtype).reshape(len(index), *self.row)

    def exact(self, index: Tensor) -> Tensor:
        """The numbers of some rows as they are in the file, (len(index), sites)."""
        return self.bytes[self.order[index]].view(self.there)

    def as_bytes(self) -> "FileRows":
        """The same rows, of whole numbers below 256."""
        return replace(self, as_uint8=True)

    @property
    def dtype(self) -> torch.dtype:
        """Of rows that are taken out."""
        plain = self.units is None and (self.as_uint8 or self.there == torch.uint8)
        return torch.uint8 if plain else torch.float32

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, *row)."""
        return (len(self), *self.row)

    @property
    def device(self) -> torch.device:
        """Where they are taken out."""
        return self.order.device

    def to(self, device: torch.device) -> "FileRows | Tensor":
        """The same, elsewhere than in main memory as numbers."""
        if device.type == "cpu":
            return self
        found = torch.empty(self.shape, dtype=self.dtype, device=device)
        first = 0
        for part in parts(self):
            found[first : first + len(part)] = part
            first += len(part)
        return found

    def part(self, rows: slice | Tensor) -> "FileRows":
        """Some of the rows, which stay in the file too."""
        return replace(self, order=self.order[rows])


_maps: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()
"""Of files whose rows stay in them, by the address of the first."""


def mapped(content: Tensor, file: mmap.mmap) -> None:
    """What was read of the rows `content` (n, bytes) can be given back, for they lie in this file."""
    _maps[content.data_ptr()] = file


def give_back(rows: FileRows) -> None:
    """What was read of their file, so far, to the system; it is read again when it is asked for."""
    file = _maps.get(rows.bytes.data_ptr())
    if file is not None and hasattr(mmap, "MADV_DONTNEED"):
        file.madvise(mmap.MADV_DONTNEED)


Stored = Tensor | SparseRows | PackedRows | FileRows


def packed(array: NDArray[Any], number: Callable[[NDArray[Any]], NDArray[Any]]) -> PackedRows:
    """`number` of every value of (n, *row), which is true or false."""
    return packed_pieces((number(piece) for piece in pieces(array)), array.shape)


def packed_pieces(bits: Iterable[NDArray[Any]], shape: tuple[int, ...]) -> PackedRows:
    """Bits (rows, *row) piece after piece, (n, *row) = `shape` together."""
    found = np.empty((shape[0], -(-math.prod(shape[1:]) // 8)), np.uint8)
    first = 0
    for piece in bits:
        found[first : first + len(piece)] = np.packbits(piece.reshape(len(piece), -1), axis=1, bitorder="little")
        first += len(piece)
    return PackedRows(torch.from_numpy(found), shape[1:])


def parts(stored: Tensor | PackedRows | FileRows) -> Iterator[Tensor]:
    """All rows in their order, some at a time."""
    if isinstance(stored, Tensor):
        yield from stored.split(_rows_at_once(stored))
        return
    for index in _indices(stored):
        yield stored[index]
        if isinstance(stored, FileRows):
            give_back(stored)


def exact_parts(stored: FileRows) -> Iterator[Tensor]:
    """The same with the numbers of the file as float64, (rows, sites)."""
    for index in _indices(stored):
        yield stored.exact(index).double()
        give_back(stored)


def _indices(stored: PackedRows | FileRows) -> Iterator[Tensor]:
    rows = _rows_at_once(stored)
    for first in range(0, len(stored), rows):
        yield torch.arange(first, min(first + rows, len(stored)), device=stored.device)


def _rows_at_once(stored: Tensor | PackedRows | FileRows) -> int:
    numbers = _AT_ONCE if stored.dtype.is_floating_point else _BYTES_AT_ONCE
    return max(1, numbers // max(1, math.prod(stored.shape[1:])))


def some(stored: Tensor | PackedRows | FileRows, index: Tensor) -> Tensor | PackedRows | FileRows:
    """Those rows, stored alike."""
    return stored[index] if isinstance(stored, Tensor) else stored.part(index)


def tensors(stored: Stored) -> list[Tensor]:
    """All that it is made of and that lies in memory."""
    if isinstance(stored, Tensor):
        return [stored]
    if isinstance(stored, SparseRows):
        return [*stored.tensors()]
    return [stored.bytes] if isinstance(stored, PackedRows) else [stored.order]
