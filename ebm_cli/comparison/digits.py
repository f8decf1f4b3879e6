"""So many digits that what differs is seen to differ, and no more than that."""

import math
from collections.abc import Iterable, Sequence

_MOST = 9  # significant digits
_SIGNIFICANT = 2  # of an error, and of how far values are apart
_FURTHER = 2  # more digits, where values would look alike without them
_LARGE, _SMALL = 1e7, 1e-4


def decimals(values: Iterable[float], errors: Iterable[float] = ()) -> int:
    """Decimals of a column: two digits of its errors, or else of the spread of its middle half and four at least.

    There are more where values that differ would look alike, as far as nine digits in all.
    """
    found = sorted({value for value in values if math.isfinite(value)})
    if all(value.is_integer() for value in found) and not [error for error in errors if error]:
        return 0
    sure = [needed(error) for error in errors if error > 0 and math.isfinite(error)]
    spread = _spread(found)
    wanted = max(sure) if sure else max(_alone(found), needed(spread) if spread else 0)
    wanted = max(wanted, min(_apart(found), wanted + _FURTHER))
    return max(0, min(wanted, _room(found)))


def needed(size: float) -> int:
    """Decimals that show two digits of a number of this size."""
    return _SIGNIFICANT - 1 - math.floor(math.log10(float(f"{size:.1e}")))


def number(value: float, places: int) -> str:
    """One value of a column; very large and very small ones with an exponent."""
    if not math.isfinite(value):
        return "not finite"
    if abs(value) >= _LARGE or (0 < abs(value) < _SMALL and round(value, places) == 0):
        return f"{value:.4g}"
    if value == 0:
        return "0"
    text = f"{value:.{places}f}"
    return text.removeprefix("-") if not text.strip("-0.") else text


def _spread(found: Sequence[float]) -> float:
    """Between the quartiles, or of all where these are equal."""
    if len(found) < 2:
        return 0.0
    quarter = len(found) // 4
    return found[-1 - quarter] - found[quarter] or found[-1] - found[0]


def _apart(found: Sequence[float]) -> int:
    """Decimals at which all of them look different."""
    for places in range(_MOST + 4):
        if len({f"{value:.{places}f}" for value in found}) == len(found):
            return places
    return 0


def _room(found: Sequence[float]) -> int:
    """Decimals up to nine significant digits of the largest."""
    largest = max((abs(value) for value in found if value), default=1.0)
    return _MOST - 1 - math.floor(math.log10(largest))


def _alone(found: Sequence[float]) -> int:
    """Four digits of the largest."""
    largest = max((abs(value) for value in found if value), default=1.0)
    return 3 - math.floor(math.log10(largest))
