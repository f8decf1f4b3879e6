"""Large arrays a piece at a time, so that what is looked at or moved needs no copy of the whole."""

import mmap
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

_BYTES = 2**20

Test = Callable[[NDArray[Any]], NDArray[Any]]


def pieces(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The rows of an array (n, *shape) in order, views of at most a megabyte each, or one row.

    What was read of a mapped array is given back to the system piece by piece.
    """
    step = rows_of(array)
    for first in range(0, len(array), step):
        yield array[first : first + step]
        if isinstance(array, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
            cast(Any, array)._mmap.madvise(mmap.MADV_DONTNEED)


def ends(array: NDArray[Any]) -> tuple[Any, Any]:
    """The least and the greatest value."""
    found = [(piece.min(), piece.max()) for piece in pieces(array)]
    return min(low for low, _ in found), max(high for _, high in found)


def rows_of(array: NDArray[Any]) -> int:
    """Rows of a piece."""
    return max(1, _BYTES * len(array) // max(1, array.nbytes))


def every(array: NDArray[Any], holds: Test) -> bool:
    """Whether `holds`, value by value, is true throughout; the first piece where it is not ends the search."""
    return all(bool(holds(piece).all()) for piece in pieces(array))


def count(array: NDArray[Any], holds: Test) -> int:
    """Of how many values `holds` is true."""
    return sum(int(holds(piece).sum()) for piece in pieces(array))


def as_bytes(array: NDArray[Any], number: Test, *, owned: bool = False) -> NDArray[np.uint8]:
    """`number` of every value as uint8; if `array` is `owned` and its values take a byte each, in its own memory."""
    found = array.view(np.uint8) if owned and array.itemsize == 1 else np.empty(array.shape, np.uint8)
    step = rows_of(array)
    for first in range(0, len(array), step):
        found[first : first + step] = number(array[first : first + step])
    return found


def put_last(array: NDArray[Any], kept: NDArray[np.int64], last: NDArray[np.int64]) -> None:
    """Order the rows of `array` anew in its own memory: those numbered `kept`, then those numbered `last`.

    Both ascend, and each row is in one of them; the rows `last` alone are copied meanwhile.
    """
    end = array[last]
    step = rows_of(array)
    for first in range(0, len(kept), step):  # kept[i] >= i: no row is written over before it has moved
        array[first : min(first + step, len(kept))] = array[kept[first : first + step]]
    array[len(kept) :] = end
