"""How far one row of a comparison is above another, on the same held-out rows, and whether that is decided."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ebm_cli.comparison.comparable import Figure, reasons
from ebm_cli.comparison.facts import Facts, block
from ebm_cli.comparison.groups import Group, mean
from ebm_cli.comparison.likelihood import Likelihood, judged
from ebm_cli.record import rows
from ebm_cli.record.rows import Kept

_SURE = 2  # standard errors
_AGREES = 1e-3  # nats: rows whose mean is another number are of another evaluation
_UNKNOWN = "undecided"
NOTHING = "no log-likelihood"


class Difference(NamedTuple):
    """`mean` of log p of a row less that of another, nats, with its standard error, over `rows` common held-out rows.

    `paired`: row by row; else from the means alone. `verdict` is better, worse or undecided, and `why` says why not.
    """

    mean: float
    error: float
    rows: int
    paired: bool
    verdict: str
    why: str
    unit: str


class KeptRows:
    """What runs kept of rows, each file read once."""

    def __init__(self) -> None:
        self._read: dict[tuple[Path, str], tuple[str, dict[str, Kept]]] = {}

    def of(self, run: Facts, found: Likelihood) -> tuple[str, Kept] | None:
        """Fingerprint and values row by row, if the run kept those that its figure is the mean of."""
        source = run.sources[block(found.metric)]
        fingerprint, kept = self._file(run.path, source.folder)
        one = kept.get(found.metric)
        if one is None or not len(one.values) or not np.isfinite(one.values).all():
            return None
        agrees = abs(one.values.mean() - found.middle) <= _AGREES and _once(one.which)
        return (fingerprint, one) if agrees else None

    def _file(self, path: Path, folder: str) -> tuple[str, dict[str, Kept]]:
        if (path, folder) not in self._read:
            try:
                self._read[path, folder] = rows.read(path, folder)
            except (OSError, ValueError):
                self._read[path, folder] = "", {}
        return self._read[path, folder]


def difference(one: Group, other: Group, kept: KeptRows) -> Difference | str:
    """d = mean of log p_one(x_i) - log p_other(x_i), or why there is none.

    se^2 = var(d_i) / N + se^2(log Z_one) + se^2(log Z_other). Of several seeds log p is their mean for each row, and in
    place of the error of log Z stands sd^2 / n over the seeds, which holds it.
    """
    sides = [_Side.of(group) for group in (one, other)]
    if not all(side.found for side in sides):
        return NOTHING
    kinds = {each.kind for side in sides for each in side.found}
    if len(kinds) > 1:
        return "not of one kind"
    first, second = (_of_rows(side, kept) for side in sides)
    if first is not None and second is not None and first.fingerprint == second.fingerprint:
        value, error, count = _paired(first, second, sides)
        return _decided(value, error, count, sides, paired=True) if count else "no row in common"
    if reasons([each for side in sides for each in side.figures]):
        return "not comparable"
    value = _middle(sides[0]) - _middle(sides[1])
    return _decided(value, math.hypot(*map(_unpaired, sides)), 0, sides, paired=False)


class _Side(NamedTuple):
    """The runs of a group that have a log-likelihood, and what it is in each."""

    runs: tuple[Facts, ...]
    found: tuple[Likelihood, ...]

    @classmethod
    def of(cls, group: Group) -> "_Side":
        found = [(run, judged(run.metrics)) for run in group.runs]
        known = [(run, each) for run, each in found if each is not None]
        return cls(tuple(run for run, _ in known), tuple(each for _, each in known))

    @property
    def figures(self) -> list[Figure]:
        return figures(zip(self.runs, self.found, strict=True))


def figures(found: Iterable[tuple[Facts, Likelihood]]) -> list[Figure]:
    """Log-likelihoods as what stands in one column, whatever evaluations they are by."""
    return [Figure(run, block(each.metric), each.unit) for run, each in found]


def _middle(side: _Side) -> float:
    return mean([each.middle for each in side.found]).value


class _Rows(NamedTuple):
    """Which rows of the split a group has in common, their log p in each run (runs, rows), and what rows these are."""

    which: NDArray[Any]
    log_p: NDArray[Any]
    fingerprint: str


def _of_rows(side: _Side, rows_of: KeptRows) -> _Rows | None:
    """None where a run kept no rows, or the runs have no rows in common."""
    found = [rows_of.of(run, each) for run, each in zip(*side, strict=True)]
    known = [each for each in found if each is not None]
    if len(known) < len(found) or len({fingerprint for fingerprint, _ in known}) > 1:
        return None
    which = known[0][1].which
    for _, kept in known[1:]:
        which = _common(which, kept.which)
    return None if not len(which) else _Rows(which, np.stack([_at(kept, which) for _, kept in known]), known[0][0])


def _common(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Numbers of rows that both have, in some order: mostly both have all rows."""
    return one if np.array_equal(one, other) else np.intersect1d(one, other)


def _once(which: NDArray[Any]) -> bool:
    """Whether no number is there twice."""
    return bool((np.diff(which) > 0).all()) or len(np.unique(which)) == len(which)


def _at(kept: Kept, which: NDArray[Any]) -> NDArray[Any]:
    if np.array_equal(kept.which, which):
        return kept.values
    order = np.argsort(kept.which)
    found: NDArray[Any] = kept.values[order[np.searchsorted(kept.which, which, sorter=order)]]
    return found


def _paired(one: _Rows, other: _Rows, sides: Sequence[_Side]) -> tuple[float, float, int]:
    """The mean of d, its standard error, and of how many rows."""

    which = _common(one.which, other.which)
    columns = [_at_rows(each, which) for each in (one, other)]
    d = columns[0].mean(0) - columns[1].mean(0)
    if not len(d):
        return math.nan, math.nan, 0
    over_rows = d.var(ddof=1) / len(d) if len(d) > 1 else math.nan
    of_sides = [_between(column.mean(1), side.found) for column, side in zip(columns, sides, strict=True)]
    return float(d.mean()), math.sqrt(over_rows + sum(of_sides)), len(d)


def _at_rows(found: _Rows, which: NDArray[Any]) -> NDArray[Any]:
    """log p (runs, rows) of those rows."""
    return np.stack([_at(Kept(log_p, found.which), which) for log_p in found.log_p])


def _between(means: NDArray[Any], side: Sequence[Likelihood]) -> float:
    """Squared error of one side's mean that is common to all rows: of log Z, or from seed to seed."""
    return side[0].log_z_error ** 2 if len(side) == 1 else float(means.var(ddof=1) / len(means))


def _unpaired(side: _Side) -> float:
    """The standard error of a side's mean as if no row were common."""
    of_rows = [run.metrics.get(f"{each.by}/standard_error", math.nan) for run, each in zip(*side, strict=True)]
    seeds = mean([each.middle for each in side.found]).error
    return math.hypot(mean(of_rows).value, side.found[0].log_z_error if seeds is None else seeds)


def _decided(value: float, error: float, count: int, sides: Sequence[_Side], *, paired: bool) -> Difference:
    """Better or worse only where the brackets do not meet and the difference is beyond two of its errors."""
    verdict, why = _UNKNOWN, ""
    doubts = [each.doubtful for side in sides for each in side.found if each.doubtful]
    (low, high), (other_low, other_high) = (_ends(side.found) for side in sides)
    noise = _SURE * max(each.low_error for side in sides for each in side.found)
    if doubts:
        why = doubts[0]
    elif low <= other_high and other_low <= high:
        why = "their brackets meet"
    elif low - noise <= other_high and other_low - noise <= high:
        why = "their brackets are apart by less than two errors of RAISE"
    elif not abs(value) > _SURE * error:
        why = "within two errors"
    else:
        verdict = "better" if value > 0 else "worse"
    return Difference(value, error, count, paired, verdict, why, sides[0].found[0].unit)


def _ends(side: Sequence[Likelihood]) -> tuple[float, float]:
    """Of the mean of several."""
    return mean([each.low for each in side]).value, mean([each.high for each in side]).value
