"""Charts as plain data; `assets/page.js` draws them with uPlot."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_POINTS = 300  # of a line: more are not to be told apart on a screen
_DIGITS = 6


@dataclass(frozen=True)
class Line:
    """One line. `colour` is a number, lines of one run have the same; `style`: "", dashed, faint or points."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: int = 0
    style: str = ""


@dataclass(frozen=True)
class Chart:
    """`x` and `y` name the axes, `ticks` the places 0, 1, ... of an axis of words; `log`: begins logarithmic."""

    title: str
    lines: Sequence[Line]
    x: str = "step"
    note: str = ""
    log: bool = False
    ticks: Sequence[str] = ()
    group: str = ""  # charts of one group show the same place under the pointer
    shades: bool = False  # colours go from light to dark, for what follows in time or is ordered
    wide: bool = False  # as wide as the page

    def data(self) -> dict[str, Any]:
        """As JSON: the union of all x, and for each line a value or null at each of them."""
        xs = sorted({float(x) for line in self.lines for x in line.x})
        at = {x: number for number, x in enumerate(xs)}
        return {
            "title": self.title, "x": self.x, "log": self.log, "ticks": list(self.ticks), "group": self.group,
            "shades": self.shades, "positive": _positive(self.lines),
            "series": [{"label": each.label, "colour": each.colour, "style": each.style} for each in self.lines],
            "data": [_rounded(xs), *(_spread(each, at) for each in self.lines)],
        }  # fmt: skip


def _spread(line: Line, at: Mapping[float, int]) -> list[float | None]:
    found: list[float | None] = [None] * len(at)
    for x, y in zip(line.x, line.y, strict=True):
        found[at[float(x)]] = y
    return _rounded(found)


def _rounded(values: Iterable[float | None]) -> list[float | None]:
    return [None if v is None or not math.isfinite(v) else float(f"{v:.{_DIGITS}g}") for v in values]


def _positive(lines: Iterable[Line]) -> bool:
    return all(y > 0 for line in lines for y in line.y if y is not None)


def thinned(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """No more points than a screen shows: of each stretch the lowest and the highest, so that no peak is lost."""
    if len(x) <= _POINTS:
        return list(x), list(y)
    kept = {0, len(x) - 1}
    stretch = 2 * len(x) / _POINTS
    for number in range(_POINTS // 2):
        some = range(int(number * stretch), int((number + 1) * stretch))
        kept |= {min(some, key=y.__getitem__), max(some, key=y.__getitem__)}
    order = sorted(kept)
    return [x[i] for i in order], [y[i] for i in order]
