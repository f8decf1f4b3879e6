"""Rows of a comparison: runs that differ in nothing but their seed, or in nothing that was asked for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ebm_cli.comparison import keys, likelihood
from ebm_cli.comparison.facts import Facts
from ebm_cli.comparison.keys import SEED

EACH = "run"
"""`by=run`: a row for each run."""


class Mean(NamedTuple):
    """Of `n` values, with the standard error sd / sqrt(n), sd over n - 1, where there are two or more."""

    value: float
    error: float | None
    n: int


@dataclass(frozen=True)
class Group:
    """Runs of one row. `settings` are those that all of them share."""

    name: str
    runs: tuple[Facts, ...]
    settings: Mapping[str, Any]

    def ends(self) -> tuple[float | None, float | None]:
        """The bounds of the log-likelihood, means over its runs; None where there are none."""
        found = [likelihood.judged(run.metrics) for run in self.runs]
        known = [each for each in found if each is not None]
        return (mean([e.low for e in known]).value, mean([e.high for e in known]).value) if known else (None, None)

    def mean(self, metric: str) -> Mean | None:
        """Over the runs that have it; nan if one of them is no finite number; None if none has it."""
        found = [run.metrics[metric] for run in self.runs if metric in run.metrics]
        return mean(found) if found else None


def mean(values: Sequence[float]) -> Mean:
    """With its standard error."""
    n, middle = len(values), sum(values) / len(values)
    if n < 2 or not math.isfinite(middle):
        return Mean(middle, None, n)
    variance = sum((value - middle) ** 2 for value in values) / (n - 1)
    return Mean(middle, math.sqrt(variance / n), n)


def grouped(runs: Sequence[Facts], names: Sequence[str], by: Sequence[str] | None) -> list[Group]:
    """In the order of their first runs. Raises UserError for a key in `by` that no run has."""
    settings = keys.counted(runs)
    if by is not None and list(by) == [EACH]:
        identities = [str(number) for number in range(len(runs))]
    elif by is None:
        identities = [_identity(each, [key for key in each if key != SEED]) for each in settings]
    else:
        whole = [dict(run.settings) for run in runs]
        wanted = keys.resolved(by, whole, "by")
        identities = [_identity(each, wanted) for each in whole]
        settings = [each | {key: all_of[key] for key in wanted if key in all_of} for each, all_of in
                    zip(settings, whole, strict=True)]  # fmt: skip
    members: dict[str, list[int]] = {}
    for number, identity in enumerate(identities):
        members.setdefault(identity, []).append(number)
    return [
        Group(joined([names[i] for i in some]), tuple(runs[i] for i in some), keys.shared([settings[i] for i in some]))
        for some in members.values()
    ]


def _identity(settings: Mapping[str, Any], wanted: Sequence[str]) -> str:
    return "\n".join(f"{key}={keys.shown(settings[key])}" for key in sorted(wanted) if key in settings)


def joined(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    most = 3
    more = f" and {len(names) - most + 1} more" if len(names) > most else ""
    return ", ".join(names if not more else names[: most - 1]) + more


def same_seed(groups: Sequence[Group]) -> list[str]:
    """Groups in which two runs that measured something have one seed, by name: these are no independent draws."""
    found = []
    for group in groups:
        seeds = [keys.shown(run.settings[SEED]) for run in group.runs if run.metrics and SEED in run.settings]
        if len(seeds) > len(set(seeds)):
            found.append(group.name)
    return found
