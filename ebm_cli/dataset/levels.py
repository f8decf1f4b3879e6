"""Are 8-bit values grey levels, of which 255 is white, or numbers that stand for something else?"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_cli.errors import UserError

_BRIGHT = 128  # images have some values from here on
_FEW = 64  # distinct values at most that codes have
_DARK = 32  # codes beside a mark of what is missing are below
_MARK = 255
_AT_ONCE = 2**20

Splits = Mapping[str, NDArray[Any]]


def check_grey(splits: Splits, said: str, ways: str) -> tuple[str, ...]:
    """Sentences that whoever trains on these uint8 splits (n, *shape) as grey levels should read.

    Raises UserError, beginning with `said` and ending with the `ways` out, where they are no grey levels: a few small
    values alone, such as 0 to 2, or beside 255 as a mark; or 0 and 1 in one split and more in another.
    """
    tops = {name: int(array.max()) for name, array in splits.items() if array.size}
    bits = [name for name, top in tops.items() if top == 1]
    if bits and max(tops.values()) > 1:
        other = max(tops, key=lambda name: tops[name])
        raise UserError(
            f"{said}: its {bits[0]} split holds 0 and 1 alone, its {other} split values to {tops[other]}, and 255 is "
            "white; store all splits in one scale"
        )
    top = max(tops.values(), default=_MARK)
    if top >= _BRIGHT and (top < _MARK or _has_middle(splits)):
        return ()
    there = np.flatnonzero(sum(_counts(array) for array in splits.values()))
    marked, codes = top == _MARK, there[there < _MARK]
    if marked and not 0 < codes.max(initial=0) < _DARK:
        return ()
    if len(codes) > _FEW:
        return (f"{said}: the largest of its uint8 values is {top} of the 255 that are white; {ways}",)
    beside = f" beside {_MARK}, perhaps a mark of what is missing" if marked else ""
    raise UserError(
        f"{said}: its uint8 values are {_listed(codes)}{beside}, as grey levels, 255 being white, nearly black; {ways}"
    )


def _has_middle(splits: Splits) -> bool:
    """Whether some of the first rows have values that are neither small nor 255."""
    first = [array[:1000] for array in splits.values()]
    return any(bool(((rows >= _DARK) & (rows < _MARK)).any()) for rows in first)


def _counts(array: NDArray[Any]) -> NDArray[np.int64]:
    """How often each of the 256 values is there."""
    flat = array.reshape(-1)
    parts = (flat[i : i + _AT_ONCE] for i in range(0, len(flat), _AT_ONCE))
    found: NDArray[np.int64] = sum((np.bincount(part, minlength=256) for part in parts), np.zeros(256, np.int64))
    return found


def _listed(values: NDArray[Any]) -> str:
    """All of a few, else their range."""
    if len(values) > 4:
        return f"{values[0]} to {values[-1]} ({len(values)} distinct)"
    *first, last = map(str, values.tolist())
    return f"{', '.join(first)} and {last} alone" if first else f"{last} alone"
