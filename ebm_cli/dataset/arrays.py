"""Arrays of .npz and .npy files in the bytes they need: bits are packed as they are read, large arrays are mapped."""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from ebm_cli.dataset.stored import LARGE, FileRows, PackedRows, mapped, packed_pieces, parts

MAPPED = 2**26
"""Bytes of an array from which on it stays in its file, where it lies there as it would in memory."""
_AT_ONCE = 2**18  # bytes that are read at once
_KINDS = {
    "u1": torch.uint8, "i1": torch.int8, "i2": torch.int16, "i4": torch.int32, "i8": torch.int64,
    "f2": torch.float16, "f4": torch.float32, "f8": torch.float64,
}  # fmt: skip
"""Numbers that rows are taken out of a file of."""


class Header(NamedTuple):
    """What a .npy file says of its array."""

    shape: tuple[int, ...]
    by_columns: bool  # of more than one dimension, whose columns lie together
    kind: np.dtype[Any]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.kind.itemsize

    @property
    def maps(self) -> bool:
        """Whether rows can be taken out of its file, and are, if the file is not packed."""
        native = self.kind.byteorder in ("|", "=", "<") and sys.byteorder == "little"
        return self.size >= MAPPED and not self.by_columns and native and self.kind.str[1:] in _KINDS

    @property
    def may_be_packed(self) -> bool:
        """Whether it is worth trying."""
        return math.prod(self.shape) >= LARGE and not self.by_columns and self.kind.kind in "biuf" and self._rows > 0

    @property
    def _rows(self) -> int:
        return self.shape[0] if len(self.shape) > 1 else 0

    def pieces(self, file: IO[bytes]) -> Iterator[NDArray[Any]]:
        """Rows (rows, *row) one piece after another, from a file that stands behind the header."""
        row = math.prod(self.shape[1:]) * self.kind.itemsize
        step = max(1, _AT_ONCE // max(1, row))
        for first in range(0, self.shape[0], step):
            rows = min(step, self.shape[0] - first)
            content = file.read(rows * row)
            if len(content) < rows * row:
                raise ValueError("it is cut short")
            yield np.frombuffer(content, self.kind).reshape(rows, *self.shape[1:])


def file_rows(array: "np.memmap[Any, Any]") -> FileRows:
    """The rows of an array that `compact` has mapped."""
    content = torch.from_numpy(array.reshape(len(array), -1).view(np.uint8))
    mapped(content, cast(Any, array)._mmap)
    return FileRows(content, torch.arange(len(array)), _KINDS[array.dtype.str[1:]], array.shape[1:])


def header(file: IO[bytes]) -> Header:
    """That of the array in a .npy file, which then stands behind it. Raises ValueError if it is none."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of the format, which plain numbers do not need")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, kind = read(file)
    if any(length < 0 for length in shape):
        raise ValueError(f"a shape of {shape}")
    return Header(shape, by_columns and len(shape) > 1, kind)


@dataclass(frozen=True)
class Bits:
    """An array of two values, 1 and `low`, that is packed."""

    packed: PackedRows
    low: int | None  # 0 or -1; None if all are 1
    dtype: np.dtype[Any]  # in the file

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, *row)."""
        return self.packed.shape

    def plain(self) -> NDArray[Any]:
        """The array as it is in the file."""
        found = np.empty(self.shape, self.dtype)
        first = 0
        for part in parts(self.packed):
            found[first : first + len(part)] = np.where(part.numpy() > 0, 1, self.low or 0)
            first += len(part)
        return found


class Place(NamedTuple):
    """Where a .npy file lies, as it is, within a file."""

    path: Path
    first: int  # byte


def whole(file: IO[bytes], place: Place | None = None) -> NDArray[Any]:
    """The array in a .npy file."""
    return np.asarray(np.lib.format.read_array(file, allow_pickle=False), order="C")


def compact(file: IO[bytes], place: Place | None) -> NDArray[Any] | Bits:
    """The same in few bytes: packed if all values are bits or spins, else mapped if it is large and has a place."""
    begin = file.tell()
    about = header(file)
    behind = file.tell() - begin
    found = _packed(about, file) if about.may_be_packed else None
    if found is not None:
        return found
    if place is not None and about.maps:
        return np.memmap(place.path, about.kind, "c", place.first + behind, about.shape)
    file.seek(begin)
    return whole(file)


def _packed(about: Header, file: IO[bytes]) -> Bits | None:
    """The rows that are left of a file, if all their values are 1 and one of 0 and -1."""
    low: int | None = None

    def bits() -> Iterator[NDArray[Any]]:
        nonlocal low
        for piece in about.pieces(file):
            if low is None:
                low = next((value for value in (0, -1) if (piece == value).any()), None)
            if not ((piece == 1) | (piece == (low or 0))).all():
                raise _OtherValuesError
            yield piece == 1

    try:
        found = packed_pieces(bits(), about.shape)
    except _OtherValuesError:
        return None
    return Bits(found, low, about.kind)


class _OtherValuesError(Exception):
    """There are others."""
