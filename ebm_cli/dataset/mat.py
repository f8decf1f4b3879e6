"""Arrays of MATLAB files of version 5 to 7. Their sizes are looked at here before scipy, which believes them, reads."""

import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ebm_cli.dataset.content import Content, Header, Reader
from ebm_cli.dataset.files import DEFLATES, naming
from ebm_cli.dataset.pieces import pieces
from ebm_cli.device import memory

_HEAD = 128  # bytes before the first array
_ENOUGH = 4096  # bytes of an array that its name and shape are within
_MATRIX, _COMPRESSED = 14, 15
_KINDS = {
    6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8",
}  # fmt: skip
"""Types of numbers by the numbers of MATLAB's classes."""
_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
"""Bytes of a number by the type it is stored in."""
_LOGICAL, _COMPLEX = 2, 8  # flags
_WAY = "save plain numeric arrays, save('FILE.mat', 'X', '-v7')"


class _Element(NamedTuple):
    """What begins at a place of the bytes of an array."""

    kind: int
    size: int
    first: int  # byte of its values
    next: int  # byte of the next element


def headers(path: Path, said: str) -> dict[str, Header]:
    """What the file says of its arrays by their names. Raises UserError if it declares more than it can hold."""
    with naming(said, _WAY), path.open("rb") as file:
        return dict(_headers(file, path.stat().st_size))


def read(path: Path, keys: Sequence[str], said: str, reader: Reader) -> dict[str, Any]:
    """Those of the arrays that the file has. Raises UserError, beginning with `said`, if one cannot be read."""
    from scipy.io import loadmat  # slow to import
    from scipy.io.matlab import MatReadError

    there = headers(path, said)
    with naming(said, _WAY) as reading:
        present = [key for key in keys if key in there]
        for reading.key in present:
            if there[reading.key].kind.hasobject:
                raise ValueError("it is no array of real numbers")
        memory.check_room(sum(there[key].taken() + there[key].size for key in present), said)
        try:
            arrays = loadmat(path, variable_names=present, mat_dtype=True) if present else {}
        except (MatReadError, TypeError, KeyError, IndexError, NotImplementedError) as error:
            raise ValueError(str(error) or type(error).__name__) from error
        return {key: reader(_content(arrays.pop(key))) for key in present}


def _content(array: Any) -> Content:
    about = Header(array.shape, array.ndim > 1, array.dtype)
    return Content(about, lambda: pieces(array), lambda: array)


def _headers(file: IO[bytes], length: int) -> Iterator[tuple[str, Header]]:
    head = file.read(_HEAD)
    order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
    if order is None:
        raise ValueError("it is cut short")
    first = _HEAD
    while first < length:
        file.seek(first)
        tag = _numbers(file.read(8), order)
        if len(tag) < 2 or tag[1] > length - first - 8:
            raise ValueError("it is cut short")
        kind, size = tag
        content = file.read(min(size, _ENOUGH))
        if kind == _COMPRESSED:
            content = zlib.decompressobj().decompress(content, _ENOUGH)
            yield _header(content[8:], DEFLATES * size, order)
        elif kind == _MATRIX:
            yield _header(content, size, order)
        first += 8 + size


def _header(content: bytes, room: int, order: str) -> tuple[str, Header]:
    """Name, shape and type of an array that may take so many bytes."""
    flags = _element(content, 0, order)
    shape = _element(content, flags.next, order)
    name = _element(content, shape.next, order)
    about = _numbers(content[flags.first : flags.first + 4], order)[0]
    lengths = _numbers(content[shape.first : shape.first + shape.size], order)
    called = content[name.first : name.first + name.size].decode("latin-1")
    kind, flag = _KINDS.get(about & 0xFF), about >> 8
    if kind is None or flag & _COMPLEX:
        return called, Header(tuple(lengths), by_columns=False, kind=np.dtype(object))
    values = _element(content, name.next, order)
    declared = math.prod(lengths) * _BYTES.get(values.kind, 0)
    if declared != values.size or declared > room:
        raise ValueError(f"{called} declares {math.prod(lengths)} numbers, which its {values.size} bytes do not hold")
    return called, Header(tuple(lengths), len(lengths) > 1, np.dtype(np.bool_ if flag & _LOGICAL else kind))


def _element(content: bytes, first: int, order: str) -> _Element:
    """The tag of what begins at a byte; small values stand in the tag itself."""
    tag = _numbers(content[first : first + 8], order)
    if len(tag) < 2:
        raise ValueError("it is cut short")
    kind, size = tag
    if kind >> 16:
        return _Element(kind & 0xFFFF, kind >> 16, first + 4, first + 8)
    return _Element(kind, size, first + 8, first + 8 + -(-size // 8) * 8)


def _numbers(content: bytes, order: str) -> list[int]:
    return [int(number) for number in np.frombuffer(content[: len(content) // 4 * 4], f"{order}u4")]
