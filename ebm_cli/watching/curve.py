"""A curve in letters: eight dots in each, as braille has them, or stars where a terminal has no such letters."""

import math
from collections.abc import Sequence
from itertools import pairwise

from ebm_cli.watching.look import Point

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a letter, by row and column
_TRIM = 0.02  # of the numbers at either end, which are drawn at the edge: the first steps would flatten all others


def drawn(points: Sequence[Point], width: int, height: int, *, dots: bool = True) -> list[str]:
    """Lines of a picture with the numbers of the axes, `width` letters wide, `height` + 1 lines high."""
    low, high = _range([value for _, value in points])
    marks = [number(high), *[""] * (height - 2), number(low)]
    margin = max(map(len, marks)) + 1
    inner = max(4, width - margin)
    columns = _means(points, inner * 2)
    rows = _letters(columns, (low, high), (inner, height), dots=dots)
    axis = _axis(points[0][0], points[-1][0], inner)
    return [*(f"{mark:>{margin - 1}} {row}" for mark, row in zip(marks, rows, strict=True)), " " * margin + axis]


def number(value: float) -> str:
    """Four digits of it."""
    return f"{value:.4g}"


def _range(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    cut = int(len(ordered) * _TRIM)
    low, high = ordered[cut], ordered[-1 - cut]
    margin = 0.5 * max(abs(low), 1e-9) if low == high else 0.0
    return low - margin, high + margin


def _means(points: Sequence[Point], columns: int) -> list[float | None]:
    """The mean of the numbers in each column, None where there is none."""
    first, last = points[0][0], points[-1][0]
    sums, counts = [0.0] * columns, [0] * columns
    for step, value in points:
        place = (step - first) * (columns - 1) // max(1, last - first)
        place = min(max(place, 0), columns - 1)
        sums[place] += value
        counts[place] += 1
    return [total / count if count else None for total, count in zip(sums, counts, strict=True)]


def _letters(
    columns: Sequence[float | None], within: tuple[float, float], size: tuple[int, int], *, dots: bool
) -> list[str]:
    width, height = size
    cells = [[0] * width for _ in range(height)]
    for x, y in _path(columns, within, height * 4):
        cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
    return ["".join(_letter(cell, dots=dots) for cell in row).rstrip() for row in cells]


def _letter(cell: int, *, dots: bool) -> str:
    if not cell:
        return " "
    return chr(0x2800 + cell) if dots else "*"


def _path(columns: Sequence[float | None], within: tuple[float, float], rows: int) -> list[tuple[int, int]]:
    """Every dot of the line through the means, (x, y) from the top left."""
    low, high = within
    known = [(x, _row(value, low, high, rows)) for x, value in enumerate(columns) if value is not None]
    found = known[:1]
    for (x0, y0), (x1, y1) in pairwise(known):
        count = max(x1 - x0, abs(y1 - y0))
        found += [(x0 + round((x1 - x0) * n / count), y0 + round((y1 - y0) * n / count)) for n in range(1, count + 1)]
    return found


def _row(value: float, low: float, high: float, rows: int) -> int:
    part = (value - low) / (high - low)
    return rows - 1 - min(rows - 1, max(0, math.floor(part * rows)))


def _axis(first: int, last: int, width: int) -> str:
    left, right = str(first), str(last)
    return left + right.rjust(width - len(left)) if len(left) + len(right) < width else right.rjust(width)
