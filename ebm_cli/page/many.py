"""What the page has on many runs: a leaderboard, the swept keys beside the figure that tells runs apart, the curves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ebm_cli.comparison import leader
from ebm_cli.comparison.groups import EACH
from ebm_cli.comparison.making import Asked, compared
from ebm_cli.comparison.sheet import Column, Sheet
from ebm_cli.page import bars, curves
from ebm_cli.page.bars import Bars
from ebm_cli.page.chart import Chart, Line
from ebm_cli.page.one import Seen

_MOST_CURVES = 20
_MOST_LINES = 200
_MOST_KEYS = 8
_WIDE = 100.0  # largest over smallest of a key, from which on its axis is logarithmic


@dataclass(frozen=True)
class Board:
    """`order`: the runs in the order of the sheet's rows. `metric`: the heading of the figure that charts show.

    `said`: which run is the best, and what else is to be known of all of them.
    """

    sheet: Sheet
    said: Sequence[str]
    order: Sequence[Seen]
    metric: str
    parallel: Chart | None
    against: Sequence[Chart]
    curves: Sequence[Chart]
    bars: Bars | None


def board(runs: Sequence[Seen], title: str, said: Sequence[str] = ()) -> Board:
    """All of them side by side. `said` is what their search says of them, if they are of one."""
    sheet = compared([run.facts.path for run in runs], Asked(by=(EACH,)), title)
    by_path = {run.facts.path: run for run in runs}
    order = [by_path[row.runs[0].path] for row in sheet.rows]
    figure = _figure(sheet)
    settings = [column for column in sheet.columns if column.kind == "setting"]
    few = {run.name: run for run in order[:_MOST_CURVES]}
    monitored = next((run.monitored for run in order if run.monitored), "")
    best = leader.sentence(sheet.rows)
    return Board(
        sheet,
        said or ([best] if best else []),
        order,
        figure.heading if figure else "",
        _parallel(order, settings, figure) if figure and settings else None,
        [_against(key, figure) for key in settings[:_MOST_KEYS]] if figure else [],
        curves.charts({name: run.series for name, run in few.items()}, monitored),
        bars.of_runs({name: run.facts for name, run in few.items()}),
    )


def _figure(sheet: Sheet) -> Column | None:
    """The likelihood, or else the first figure that runs are compared by and in which they differ."""
    kinds = ("likelihood", "metric")
    found = [column for kind in kinds for column in sheet.columns if column.kind == kind and column.compared]
    return next((column for column in found if len({*_values(column)} - {None}) > 1), None)


def _values(column: Column) -> list[float | None]:
    return [_number(cell.value) for cell in column.cells]


def _number(value: Any) -> float | None:
    """Also of a setting, which the table has as text."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _placed(column: Column) -> tuple[list[float | None], list[str]]:
    """A place for each row, and the words at 0, 1, ... where they are no numbers."""
    numbers = _values(column)
    if all(number is not None for number, cell in zip(numbers, column.cells, strict=True) if cell.text):
        return numbers, []
    words = list(dict.fromkeys(cell.text for cell in column.cells))
    return [float(words.index(cell.text)) for cell in column.cells], words


def _against(key: Column, figure: Column) -> Chart:
    """The figure of each run over its value of a key; values stand evenly spaced."""
    at, words = _placed(key)
    pairs = [(x, y) for x, y in zip(at, _values(figure), strict=True) if x is not None and y is not None]
    places = {x: float(number) for number, x in enumerate(sorted({x for x, _ in pairs}))}
    ticks = [words[int(x)] if words else f"{x:g}" for x in places]
    several = _layers([(places[x], y) for x, y in pairs])
    lines = [Line(figure.heading, [x for x, _ in layer], [y for _, y in layer], 0, "points") for layer in several]
    return Chart(f"{figure.heading} against {key.heading}", lines, x=key.heading, ticks=ticks)


def _layers(pairs: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Points over one place lie in different layers, since a line has one value at each place."""
    layers: list[list[tuple[float, float]]] = []
    for pair in sorted(pairs):
        free = next((layer for layer in layers if pair[0] not in {x for x, _ in layer}), None)
        if free is None:
            layers.append(free := [])
        free.append(pair)
    return layers


def _parallel(order: Sequence[Seen], settings: Sequence[Column], figure: Column) -> Chart:
    """A line for each run through its values of all keys to its figure; each axis is as long as its values need."""
    axes = [*settings[:_MOST_KEYS], figure]
    scaled, ticks = zip(*map(_scaled, axes), strict=True)
    ranked = sorted(range(len(order)), key=lambda row: _rank(scaled[-1][row]))[-_MOST_LINES:]
    lines = [
        Line(order[row].name, list(range(len(axes))), [axis[row] for axis in scaled], colour)
        for colour, row in enumerate(ranked)
    ]
    note = "a line for each run, through its values to the figure on the right; shades follow the figure"
    return Chart("all keys at once", lines, x="", ticks=ticks, shades=True, note=note, wide=True)


def _rank(value: float | None) -> float:
    return -1.0 if value is None else value


def _scaled(column: Column) -> tuple[list[float | None], str]:
    """Values from 0 to 1, and what stands below the axis."""
    found, words = _placed(column)
    known = [value for value in found if value is not None]
    if not known:
        return found, column.heading
    low, high = min(known), max(known)
    ends = f"{words[0]} … {words[-1]}" if words else f"{low:.4g} … {high:.4g}"
    logarithmic = not words and low > 0 and high > _WIDE * low
    move = math.log if logarithmic else float
    width = move(high) - move(low) or 1.0
    return [None if v is None else (move(v) - move(low)) / width for v in found], f"{column.heading}\n{ends}"
