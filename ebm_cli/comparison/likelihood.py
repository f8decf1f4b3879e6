"""How likely held-out rows are under a run, between which bounds, and how far log Z is uncertain."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ebm_cli.evaluation.bracket import BRACKETED, JUDGES, doubt

PER_WORD = "perplexity/log_likelihood_per_word"
_EXACT = ("exact", "density_2d", "words")
_BOUNDS = ("dbn_bound", "dbm_bound", "latent_bound")
_STANDARD = 2 * 1.959963984540054  # standard deviations between the ends of a 95 % interval


class Likelihood(NamedTuple):
    """`middle` by the evaluation `by`, the bounds `low` and `high`, the standard errors of log Z and of `low`, nats.

    `metric` names the values row by row. `doubtful` says why it cannot be judged by.
    """

    by: str
    metric: str
    middle: float
    low: float
    high: float
    log_z_error: float
    low_error: float = 0.0
    unit: str = "nats a row"
    doubtful: str | None = None

    @property
    def kind(self) -> str:
        """Values of one kind can be subtracted: a bound is no likelihood, nor is pseudo-likelihood."""
        return self.by if self.by in (*_BOUNDS, "pseudo_likelihood", "perplexity", "words") else "likelihood"


def judged(metrics: Mapping[str, float]) -> Likelihood | None:
    """By the most trustworthy evaluation that is not in doubt; by one in doubt where there is no other."""
    if math.isfinite(metrics.get("perplexity/model", math.nan)):
        return _of_documents(metrics)
    known = {name: value for name, value in metrics.items() if math.isfinite(value)}
    found = [_by(name, known) for name in JUDGES if f"{name}/log_likelihood" in known]
    sure = [each for each in found if each.doubtful is None]
    return next(iter(sure or found), None)


def _by(name: str, known: Mapping[str, float]) -> Likelihood:
    middle = known[f"{name}/log_likelihood"]
    low, high = _bounds(name, middle, known)
    gap_error = known.get("ais/gap_standard_error", 0.0) if name == "ais" else 0.0
    error = 0.0 if name in _EXACT else log_z_error(name, known)
    return Likelihood(name, f"{name}/log_likelihood", middle, low, high, error, gap_error, doubtful=doubt(name, known))


def log_z_error(place: str, known: Mapping[str, float]) -> float:
    """Standard error of the log Z found at `place`, by the width of its 95 % interval; 0 where there is none."""
    if f"{place}/log_z_low" not in known:
        return 0.0
    return (known.get(f"{place}/log_z_high", 0.0) - known[f"{place}/log_z_low"]) / _STANDARD


def _bounds(name: str, middle: float, known: Mapping[str, float]) -> tuple[float, float]:
    """RAISE and AIS; of a bound, one side alone; of Bennett's ratios their 95 % interval; else the value itself."""
    if name == "ais":
        lower = known.get("raise/log_likelihood", -math.inf)
        return min(lower, middle), max(lower, middle)
    if name in _BOUNDS:
        return middle, math.inf
    if name in (*BRACKETED, "bridge", "trajectory") and f"{name}/log_z_low" in known:
        total = middle + known[f"{name}/log_z"]
        return total - known[f"{name}/log_z_high"], total - known[f"{name}/log_z_low"]
    return middle, middle


def _of_documents(metrics: Mapping[str, float]) -> Likelihood:
    """Minus the logarithms of perplexities: `model` errs low, `upper_bound` high."""
    named = [
        metrics.get(f"perplexity/{name}", math.nan) for name in ("model", "upper_bound", "model_low", "model_high")
    ]
    middle, bound, low, high = (-math.log(value) if value > 0 else math.nan for value in named)
    error = (low - high) / _STANDARD if math.isfinite(low - high) else 0.0
    ends = (min(middle, bound), max(middle, bound)) if math.isfinite(bound) else (-math.inf, middle)
    return Likelihood("perplexity", PER_WORD, middle, *ends, error, unit="nats a word")


def shown(found: Likelihood, number: Callable[[float], str]) -> str:
    """The exact value alone, else both bounds, or the one that there is."""
    if found.low == found.high:
        return number(found.middle)
    if math.isinf(found.low):
        return f"at most {number(found.high)}"
    if math.isinf(found.high):
        return f"at least {number(found.low)}"
    return f"[{number(found.low)}, {number(found.high)}]"


def legend(found: Sequence[Likelihood]) -> list[str]:
    """How the forms are to be read that occur."""
    forms = {
        "ais": "[,] RAISE and AIS, a lower and an upper bound in the mean, the lower number first",
        **dict.fromkeys(BRACKETED, "[,] a bracket, its lower end by RAISE of rows and chains"),
        "bridge": "[,] the 95 % interval by bridge sampling",
        "trajectory": "[,] the 95 % interval along the checkpoints of the run",
        **dict.fromkeys(_BOUNDS, "at least: a lower bound"),
        "perplexity": "log p / D of documents, between the bounds on their perplexity",
    }
    known = [forms[name] for name in forms if name in {each.by for each in found if each.low < each.high}]
    exact = ["exact where a number stands alone"] if any(each.low == each.high for each in found) else []
    return [f"log-likelihood of test rows, {found[0].unit}: {'; '.join([*exact, *known])}"] if known or exact else []
