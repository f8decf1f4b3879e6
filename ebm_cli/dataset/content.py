"""Arrays of .npz and .npy files in the bytes they need: bits are packed as they are read, large arrays are mapped."""

import math
import sys
from collections.abc import Callable, Iterator
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
    """What a file says of an array."""

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

    def taken(self, *, mapped: bool = False) -> int:
        """Bytes that reading it takes, itself and what it is converted to; `mapped`: its bits and its rows' order."""
        if mapped and self.maps:
            return math.prod(self.shape) // 8 + 8 * self.shape[0]
        converted = 0 if self.kind.itemsize == 1 or self.kind == np.float32 else 4 * math.prod(self.shape)
        return self.size + max(converted, self.size if self.by_columns else 0)

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


NO_NUMBERS = Header((), by_columns=False, kind=np.dtype(object))
"""Of what is none that can be read."""


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
    """Where the numbers of an array lie, as they are, within a file."""

    path: Path
    first: int  # byte


@dataclass(frozen=True)
class Content:
    """An array in a file that is open: what the file says of it, its rows piece after piece, or the whole of it."""

    about: Header
    pieces: Callable[[], Iterator[NDArray[Any]]]
    whole: Callable[[], NDArray[Any]]
    place: Place | None = None  # None: its numbers are packed, or lie in pieces


Reader = Callable[[Content], Any]
"""What is kept of an array."""


def of_npy(file: IO[bytes], place: Place | None) -> Content:
    """The array in a .npy file, which begins at `place`. Raises ValueError if it is none."""
    begin = file.tell()
    about = header(file)
    behind = file.tell()

    def again(first: int) -> IO[bytes]:
        file.seek(first)
        return file

    return Content(
        about,
        lambda: about.pieces(again(behind)),
        lambda: np.lib.format.read_array(again(begin), allow_pickle=False),
        place and Place(place.path, place.first + behind - begin),
    )


def of_stream(file: IO[bytes], about: Header, place: Place | None) -> Content:
    """An array whose numbers begin where a file stands, row after row."""
    behind = file.tell()

    def again() -> Iterator[NDArray[Any]]:
        file.seek(behind)
        return about.pieces(file)

    return Content(about, again, lambda: joined(again(), about), place)


def joined(rows: Iterator[NDArray[Any]], about: Header) -> NDArray[Any]:
    """Rows that come piece after piece, in one array."""
    found, first = np.empty(about.shape, about.kind), 0
    for piece in rows:
        found[first : first + len(piece)] = piece
        first += len(piece)
    return found


def whole(content: Content) -> NDArray[Any]:
    """The array, row after row."""
    return np.asarray(content.whole(), order="C")


def unpacked(content: Content) -> NDArray[Any]:
    """The array, mapped if it is large and has a place."""
    about, place = content.about, content.place
    if place is not None and about.maps:
        return np.memmap(place.path, about.kind, "c", place.first, about.shape)
    return whole(content)


def compact(content: Content) -> NDArray[Any] | Bits:
    """The same in few bytes: packed if all values are bits or spins, else `unpacked`."""
    found = _packed(content) if content.about.may_be_packed else None
    return unpacked(content) if found is None else found


def _packed(content: Content) -> Bits | None:
    """The rows, if all their values are 1 and one of 0 and -1."""
    low: int | None = None

    def bits() -> Iterator[NDArray[Any]]:
        nonlocal low
        for piece in content.pieces():
            if low is None:
                low = next((value for value in (0, -1) if (piece == value).any()), None)
            if not ((piece == 1) | (piece == (low or 0))).all():
                raise _OtherValuesError
            yield piece == 1

    try:
        found = packed_pieces(bits(), content.about.shape)
    except _OtherValuesError:
        return None
    return Bits(found, low, content.about.kind)


class _OtherValuesError(Exception):
    """There are others."""
