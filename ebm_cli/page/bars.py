"""Brackets of the likelihood as bars on one scale."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ebm_cli.comparison import likelihood
from ebm_cli.comparison.facts import Facts

_MARGIN = 0.05  # of the scale, on either side
_NAMES = {
    "exact": "exact",
    "density_2d": "by the map",
    "log_likelihood": "bracket",
    "ais": "AIS, errs high",
    "raise": "RAISE, errs low",
    "bridge": "bridge sampling",
    "trajectory": "along the checkpoints",
    "level_ratios": "along levels of noise",
    "dbn_bound": "lower bound",
    "dbm_bound": "lower bound",
    "latent_bound": "lower bound",
}


class Bar(NamedTuple):
    """From `left` over `width`, in percent of the scale, and what it says; `label` says of what."""

    label: str
    left: float
    width: float
    text: str
    kind: str = "bracket"  # or "point", "baseline"


class Bars(NamedTuple):
    """All on one scale, whose ends are in nats; `heading` says of which rows."""

    bars: Sequence[Bar]
    low: str
    high: str
    heading: str


def of_runs(runs: Mapping[str, Facts]) -> Bars | None:
    """A bar for each run that has a likelihood, from its lower bound to its upper one; of one run all estimates too."""
    rows: list[tuple[str, float, float, str]] = []
    for name, run in runs.items():
        rows += _of_run(name, run, alone=len(runs) == 1)
    if not rows:
        return None
    ends = [end for _, low, high, _ in rows for end in (low, high) if math.isfinite(end)]
    low, high = min(ends), max(ends)
    margin = _MARGIN * (high - low) or 1.0
    low, high = low - margin, high + margin
    units = {found.unit for run in runs.values() if (found := likelihood.judged(run.metrics))}
    heading = f"log-likelihood of held-out rows, {' and '.join(sorted(units))}"
    return Bars([_bar(row, low, high) for row in rows], f"{low:.4g}", f"{high:.4g}", heading)


def _of_run(name: str, run: Facts, *, alone: bool) -> list[tuple[str, float, float, str]]:
    found = likelihood.judged(run.metrics)
    if found is None or found.kind == "pseudo_likelihood":
        return []
    crossed = run.metrics.get("ais/gap", 0.0) < 0 and found.by == "ais"
    bounded = found.low < found.high and not (alone and crossed)
    rows = [(name if not alone else "bounds", found.low, found.high, "bracket")] if bounded else []
    if not alone:
        return rows or [(name, found.middle, found.middle, "point")]
    for key, label in _NAMES.items():
        value = run.metrics.get(f"{key}/log_likelihood", math.nan)
        rows += [(label, value, value, "point")] if math.isfinite(value) else []
    base = run.metrics.get("baseline/independent", math.nan)
    return rows + ([("independent units", base, base, "baseline")] if math.isfinite(base) else [])


def _bar(row: tuple[str, float, float, str], low: float, high: float) -> Bar:
    label, start, end, kind = row
    shown = [f"{value:.2f}" if math.isfinite(value) else "?" for value in (start, end)]
    left, right = (min(max(value, low), high) for value in (start, end))
    text = shown[0] if start == end else f"{shown[0]} to {shown[1]}"
    scale = 100 / (high - low)
    return Bar(label, round((left - low) * scale, 2), round((right - left) * scale, 2), text, kind)
