"""What the reports of some steps say of a run, beside what those before them said."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ebm_cli.record.plain_json import finite

Numbers = NDArray[np.float64]
STEADY = 4
"""A mean that is so many times the spread of what it is of stays where it is."""
WORDS = 100
"""Of a document, for which nats are counted as of other rows."""
_ACCEPTANCE = ("chains_acceptance", "acceptance")  # of the run's chains, or of an objective's own
_CRITIC = "critic_norm"  # a metric of objectives in which one learns against the model
_FIRST = 5  # steps
_TOLD = 2  # standard deviations, by which nearly all rows are on their side of the middle
_LEAST, _NOTHING = 1e-6, 1e-300  # of what is divided by, so that no ratio is infinite


@dataclass(frozen=True)
class Window:
    """The numbers of consecutive steps, at least one: their names, and values (steps, numbers)."""

    names: Sequence[str]
    values: Numbers

    def of(self, name: str) -> Numbers:
        """Those of one name, (steps,)."""
        return self.values[:, self.names.index(name)]

    @cached_property
    def mean(self) -> Mapping[str, float]:
        """Of each over the steps."""
        return dict(zip(self.names, self.values.mean(0).tolist(), strict=True))

    @cached_property
    def gradient(self) -> float:
        """The median of the gradient norm, of two in the middle the higher."""
        return float(np.sort(self.of("gradient_norm"))[len(self.values) // 2])


History = Mapping[str, float]
"""What is remembered of all windows before, by name."""


def remembered(window: Window, history: History, found: Mapping[str, float]) -> dict[str, float]:
    """The history with this window, in which the signals `found` were measured: `first`, the loss of its first steps;
    `lowest`, the lowest mean loss; `gradient`, the lowest median of gradient norms; `gap`, `gap_nats` and `gap_steady`,
    the newest ones."""
    gradient, loss = window.gradient, window.mean["loss"]
    gap = {"gap": found["gap_now"]} if "gap_now" in found else {}
    if "energy_gap" in window.names:
        gap["gap_nats"], gap["gap_steady"] = _steady(window)
    return {
        "first": history["first"] if "first" in history else _beginning(window),
        "lowest": min(loss, history.get("lowest", math.inf)),
        "gradient": min(gradient, history.get("gradient", math.inf)),
        **gap,
    }


class About(NamedTuple):
    """Of steps: rows in a batch, words of a row in the mean (0: not documents), whether they are of the last tenth."""

    batch: int
    words: float = 0.0
    late: bool = False


LATE = 0.9
"""The share of a run after which its models change slowly enough for a gap to be counted in nats too."""


@np.errstate(over="ignore", invalid="ignore")  # energies of a run that diverges
def measured(window: Window, history: History, about: About) -> dict[str, float]:
    """The signals of a window of steps; `history` is that of the windows before it.

    `acceptance`: the mean, of the run's chains or of those that the objective has. `swaps`: the lowest of the means.
    `gradient`: median gradient norm over the lowest such median before. `zero`: the share of steps whose gradient is 0.
    Beside these `_gap`, or of objectives without chains `_loss`, unless a critic has it rise as it learns, or it is a
    gap of data and chains of their own.
    """
    found = {"zero": float((window.of("gradient_norm") == 0).mean())}
    if {"energy_gap", "energy_data"} <= {*window.names}:
        found |= _gap(window, history, about) | _in_nats(window, history, about) | _above(window, about)
        found |= _felt(window, found) if about.late or "gap" in history else {}
    elif not {_CRITIC, "energy_gap"} & {*window.names}:
        found |= _loss(window, history)
    if history.get("gradient"):
        found["gradient"] = window.gradient / history["gradient"]
    moved = next((window.mean[name] for name in _ACCEPTANCE if name in window.names), None)
    found |= {} if moved is None else {"acceptance": moved}
    swaps = [mean for name, mean in window.mean.items() if name.startswith("chains_swap_")]
    return finite(found | ({"swaps": min(swaps)} if swaps else {}))


def _gap(window: Window, history: History, about: About) -> dict[str, float]:
    """`gap_now`: mean energy_gap in standard deviations of the energy of a row, sqrt(batch) times that of energy_data
    from step to step; of documents, whose energies differ as their lengths do, sqrt(batch / 2) times that of
    energy_gap, where the lengths cancel. `gap`: the same, or that of the window before if it was nearer to 0: what does
    not stay is no sign. A window of steps on the same rows has none."""
    same = _between(window.of("energy_gap")) / math.sqrt(2) if about.words else _between(window.of("energy_data"))
    spread = same * math.sqrt(about.batch)
    if not spread:
        return {}
    gap = window.mean["energy_gap"] / spread
    return {"gap_now": gap} | ({"gap": min(gap, history["gap"], key=abs)} if "gap" in history else {})


def _in_nats(window: Window, history: History, about: About) -> dict[str, float]:
    """`gap_nats`: mean energy_gap, or that of the window before if it was nearer to 0; `words`. In the last tenth of
    the run `gap_steady` too: the mean over the standard deviation from step to step, or that of the window before if
    that was lower."""
    nats, steady = _steady(window)
    found = {"gap_nats": min(nats, history.get("gap_nats", nats), key=abs)}
    found |= {"words": about.words} if about.words else {}
    return found | ({"gap_steady": min(steady, history.get("gap_steady", steady))} if about.late else {})


def _steady(window: Window) -> tuple[float, float]:
    """Mean energy_gap, and the size of that over its standard deviation over the steps."""
    mean, spread = window.mean["energy_gap"], float(window.of("energy_gap").std())
    return mean, abs(mean) / max(spread, _LEAST * abs(mean), _NOTHING)


def _above(window: Window, about: About) -> dict[str, float]:
    """`above`: mean energy_gap less four of its standard errors, nats, of documents for each 100 words: how far data
    lie above the chains. For any distribution q of chains log Z >= H(q) - E_q[E] (Gibbs' inequality), so for discrete x
    the data have a log-likelihood of at most -gap - H(q). While small steps raise it, the gap is below 0: with energies
    -theta.T(x) and steps of -eta g the gap is theta.g, and over t steps its mean is
    (|theta_0|^2 - |theta_t|^2) / (2 eta t) + eta / 2 mean |g|^2, whose second part is what too long a step adds."""
    gaps = window.of("energy_gap")
    surely = float(gaps.mean() - STEADY * gaps.std() / math.sqrt(len(gaps)))
    return {"above": surely / max(1.0, about.words / WORDS)}


def _felt(window: Window, found: Mapping[str, float]) -> dict[str, float]:
    """`felt`: mean energy_gap over the temperature of the chains (1, or that of their noise), where it tells data from
    chains (`gap` beyond 2): chains at temperature T feel no energies that differ by much less than T."""
    heat = window.mean.get("chains_temperature", 1.0)
    if not heat or abs(found.get("gap", found.get("gap_now", 0.0))) < _TOLD:
        return {}
    return {"felt": abs(window.mean["energy_gap"]) / heat}


def _loss(window: Window, history: History) -> dict[str, float]:
    """`rise`: how far the mean loss is above that of the first steps of the run, over 1 + the size of that. `loss`: how
    far above the lowest mean before, over how far it had come down by then, or over its spread within the window where
    that is more."""
    loss = window.mean["loss"]
    first = history["first"] if "first" in history else _beginning(window)
    found = {"rise": (loss - first) / (1 + abs(first))}
    if "lowest" not in history:
        return found
    fallen = max(first - history["lowest"], float(window.of("loss").std()))
    return found | ({"loss": (loss - history["lowest"]) / fallen} if fallen else {})


def _beginning(window: Window) -> float:
    """The mean of the first steps, or that of the first alone, before any update, where it was lower."""
    first = window.of("loss")[:_FIRST]
    return float(min(first.mean(), first[0]))


def _between(values: Numbers) -> float:
    """Standard deviation of numbers of steps by their differences from one step to the next, free of any trend."""
    steps = values[1:] - values[:-1]
    return math.sqrt(float(steps @ steps) / (2 * len(steps))) if len(steps) else 0.0
