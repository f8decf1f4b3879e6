"""Curves of training, from metrics.jsonl."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from ebm_cli.page.chart import Chart, Line, thinned
from ebm_cli.record import files

_LAST = 1 << 24  # bytes
_MOST_LINES = 20_000
_NOT_DRAWN = ("standard_error", "_error", "/rows", "/log_z", "log_z_low", "log_z_high", "log_weight_std",
              "bits_per_dimension", "above_independent", "weight_ess", "learning_rate")  # fmt: skip
_TOGETHER = {"energy_data": "energy", "energy_chains": "energy"}
_FIRST = ("log_likelihood", "log_pseudo_likelihood", "energy_gap", "energy", "loss", "gradient_norm")
_NOTES = {
    "energy_gap": "data minus chains, nats: about 0 where the chains follow the model",
    "energy": "mean energy, nats: of data and of chains",
    "log_likelihood": "nats a row",
    "log_pseudo_likelihood": "nats a row",
    "loss": "of one step each, and their running mean",
    "gradient_norm": "length of the gradient of one step",
    "chains_age": "transitions that the chains have made",
}
_MOST = 12  # charts
_WIDE = 100.0  # largest over smallest, from which on an axis is logarithmic
_SMOOTH = 20  # a running mean is over one part in so many


class Series(NamedTuple):
    """The numbers of one key of metrics.jsonl."""

    steps: list[float]
    values: list[float]


def read(path: Path) -> dict[str, Series]:
    """Every key that has numbers; what is not finite is left out, and lines that are no JSON."""
    found: dict[str, Series] = {}
    try:
        lines = files.read(path, "metrics.jsonl", last=_LAST).splitlines()
    except OSError:
        return {}
    for line in lines[:: 1 + len(lines) // _MOST_LINES]:
        for name, value, step in _numbers(line):
            series = found.setdefault(name, Series([], []))
            series.steps.append(step)
            series.values.append(value)
    return found


def _numbers(line: bytes) -> list[tuple[str, float, float]]:
    try:
        values = json.loads(line)
        step = float(values.pop("step"))
        return [(name, float(v), step) for name, v in values.items() if type(v) in (int, float) and math.isfinite(v)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return []


def charts(runs: Mapping[str, Mapping[str, Series]], monitored: str) -> list[Chart]:
    """Pictures of all runs, by their names: those of one figure on one picture, the watched figure first."""
    names = list(dict.fromkeys(name for run in runs.values() for name in run if not name.endswith(_NOT_DRAWN)))
    if all(run.get("loss") == run.get("energy_gap") for run in runs.values()):
        names = [name for name in names if name != "loss"]
    titles: dict[str, list[str]] = {}
    for name in names:
        titles.setdefault(_title(name), []).append(name)
    order = sorted(titles, key=lambda title: (title != _title(monitored), _rank(title), title))
    made = [_chart(title, titles[title], runs) for title in order]
    return [chart for chart in made if chart is not None][:_MOST]


def _title(name: str) -> str:
    """Without the split, so that curves on training and on validation rows are on one picture."""
    return _TOGETHER.get(name, "/".join(part for part in name.split("/") if part not in ("train", "valid", "test")))


def _rank(title: str) -> int:
    own = title.rpartition("/")[2]
    return _FIRST.index(own) if own in _FIRST else len(_FIRST)


def _chart(title: str, names: Sequence[str], runs: Mapping[str, Mapping[str, Series]]) -> Chart | None:
    lines: list[Line] = []
    for colour, (run, series) in enumerate(runs.items()):
        for number, name in enumerate(n for n in names if n in series):
            beside = f"{run} " if len(runs) > 1 else ""
            alone = len(runs) == 1
            label = f"{beside}{_said(name)}".strip()
            lines += _lines(label, series[name], colour + number if alone else colour, alone=alone, second=number > 0)
    if not any(line.y for line in lines):
        return None
    own = title.rpartition("/")[2]
    values = [y for line in lines for y in line.y if y is not None]
    wide = min(values) > 0 and max(values) > _WIDE * min(values)
    return Chart(title, lines, note=_NOTES.get(own, ""), log=wide, group="steps")


def _said(name: str) -> str:
    split = next((part for part in name.split("/") if part in ("train", "valid", "test")), "")
    return split or name.removeprefix("energy_") if name in _TOGETHER or split else name.rpartition("/")[2]


def _lines(label: str, series: Series, colour: int, *, alone: bool, second: bool) -> list[Line]:
    """The figure itself; of one that differs from step to step its running mean, and of a single run both."""
    width = len(series.values) // _SMOOTH
    raw = Line(label, *thinned(*series), colour, "dashed" if second and not alone else "")
    if width < 3 or "/" in label or not _noisy(series.values):
        return [raw]
    mean = Line(f"{label}, mean of {width}" if alone else label, *thinned(series.steps, _means(series.values, width)),
                colour, "dashed" if second and not alone else "")  # fmt: skip
    return [Line(raw.label, raw.x, raw.y, colour, "faint"), mean] if alone else [mean]


def _noisy(values: Sequence[float]) -> bool:
    """Whether it turns round at more than a third of its points."""
    turns = sum((b - a) * (c - b) < 0 for a, b, c in zip(values, values[1:], values[2:], strict=False))
    return turns > len(values) / 3


def _means(values: Sequence[float], width: int) -> list[float]:
    """Of the last `width` values, or as many as there are."""
    sums = [0.0, *accumulate(values)]
    return [(sums[end] - sums[max(0, end - width)]) / min(width, end) for end in range(1, len(sums))]
