"""Directions compared from their inner products, with intervals: of means of gradients over groups of chains."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Gram = NDArray[np.float64]
"""Inner products of the gradients of each group, (groups, groups)."""
_TOLD = 2.26  # standard errors on each side of a 95 % interval, by Student's t with the 9 degrees of ten groups


class Products(NamedTuple):
    """Inner products among groups of g, among those of g*, and between both; the groups are independent."""

    own: Gram
    true: Gram
    between: Gram  # of g in its rows with g* in its columns


class Interval(NamedTuple):
    """A figure, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class Bias(NamedTuple):
    """How far the mean g is from the mean g*. None where g* is not told from 0, the angle where g is not either."""

    size: Interval  # |g*|
    difference: Interval  # |g - g*|
    share: Interval | None  # |g - g*| / |g*|
    angle: Interval | None  # between both, degrees


def compared(products: Products) -> Bias:
    """The figures above, with intervals by the jackknife over groups (Efron & Tibshirani 1993, eq. 11.5).

    <a, b> of two means is estimated without bias by the products of different groups alone: a product of a group with
    itself has the noise of its chains in it, which would make every difference look large. Errors are those of squares
    and of the cosine, which are not cut off at 0 and 1, and the ends of the intervals are carried over.
    """
    count = len(products.own)
    parts = [_Lengths.of(_some(products, np.delete(np.arange(count), left))) for left in range(count)]
    whole = _Lengths.of(products)

    def found(figure: Callable[[_Lengths], float]) -> tuple[float, float]:
        return figure(whole), _error([figure(part) for part in parts])

    own, true = found(lambda at: at.own), found(lambda at: at.true)
    size, difference = _root(*true), _root(*found(lambda at: at.apart))
    if not _told(true):
        return Bias(size, difference, None, None)
    share = _root(*found(lambda at: at.apart / at.true))
    angle = _angle(*found(lambda at: at.between / math.sqrt(at.own * at.true))) if _told(own) else None
    return Bias(size, difference, share, angle)


class _Lengths(NamedTuple):
    """|g|^2, |g*|^2 and <g, g*>, each from pairs of different groups."""

    own: float
    true: float
    between: float

    @property
    def apart(self) -> float:
        """|g - g*|^2."""
        return self.own + self.true - 2 * self.between

    @classmethod
    def of(cls, products: Products) -> "_Lengths":
        return cls(*map(_across, products))


def _some(products: Products, rows: NDArray[np.int64]) -> Products:
    return Products(*(gram[np.ix_(rows, rows)] for gram in products))


def _across(gram: Gram) -> float:
    count = len(gram)
    return float(gram.sum() - gram.trace()) / (count * (count - 1))


def _error(values: list[float]) -> float:
    found = np.asarray(values)
    return float(math.sqrt((len(found) - 1) / len(found) * ((found - found.mean()) ** 2).sum()))


def _told(square: tuple[float, float]) -> bool:
    """Whether the interval of a square is above 0."""
    value, error = square
    return value > _TOLD * error and value > 0


def _root(square: float, error: float) -> Interval:
    ends = (square, square - _TOLD * error, square + _TOLD * error)
    return Interval(*(math.sqrt(max(0.0, end)) for end in ends))


def _angle(cosine: float, error: float) -> Interval:
    ends = (cosine, cosine + _TOLD * error, cosine - _TOLD * error)
    return Interval(*(math.degrees(math.acos(max(-1.0, min(1.0, end)))) for end in ends))
