"""What a person is told in the end: whether anything was learned beyond independent units, and what looks wrong."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ebm_cli.evaluation.base import Result, Subject, of_split, on_split
from ebm_cli.evaluation.baseline import independent
from ebm_cli.evaluation.bracket import JUDGES, LIKELIHOODS, contradictions, doubt
from ebm_cli.evaluation.together import Findings
from ebm_cli.evaluation.units import idle_units
from ebm_cli.model.exponential_family import BernoulliProduct, CategoricalProduct, GaussianUnits
from ebm_cli.terminal import log

_SURE = 2  # standard errors
_NOTHING = 0.01  # nats: less is rounding
_FAR = 10.0  # nats
_STEADY = 4  # times its own spread


class Above(NamedTuple):
    """How far above independent units, nats, from `low` to `high`, the standard error of `middle`, and by what."""

    middle: float
    low: float
    high: float
    error: float
    by: str
    unit: str = "nats a row"


class Unknown(NamedTuple):
    """Something was measured, and cannot be judged by: why."""

    why: str


def verdict(subject: Subject, found: Mapping[str, float]) -> Result:
    """`baseline/independent`, `units/...` and sentences, from what the evaluations found, named without the split.

    Independent units are in the units of the data, as the likelihoods beside them are (`measured`).
    """
    units = idle_units(subject)
    beside = independent(subject, subject.held_out)
    metrics = dict(units.metrics)
    if beside is not None:
        metrics["baseline/independent"] = beside.mean().item() - subject.model.space.log_volume
    said, warnings = sentences(above(found), known=beside is not None)
    if isinstance(subject.model, BernoulliProduct | CategoricalProduct | GaussianUnits):
        said, warnings = (), ()  # it is what others are compared with
    return Result(metrics, said=said, warnings=(*units.warnings, *warnings))


def conclude(subject: Subject, findings: Findings, label: str) -> None:
    """Add to the findings of a split, whose keys are labelled so, and say what there is to say of them all."""
    named = of_split(findings.known, label)
    for sentence in contradictions(named):
        log.warning("%s", sentence)
    result = verdict(subject, named)
    findings.numbers |= on_split(result.metrics, label)
    for line in result.said:
        log.info("%s", line)
    for warning in result.warnings:
        log.warning("%s", warning)


def above(found: Mapping[str, float]) -> Above | Unknown | None:
    """By the most trustworthy of the evaluations, or None. RAISE below AIS widens the interval downwards.

    An estimate that cannot be judged by gives way to another likelihood, but not to what is none.
    """
    if "perplexity/unigram" in found and "perplexity/model" in found:
        why = doubt("perplexity", found)
        return _of_documents(found) if why is None else Unknown(why)
    doubts = list[str]()
    for name in JUDGES:
        if f"{name}/above_independent" not in found or (doubts and name not in LIKELIHOODS):
            continue
        why = doubt(name, found)
        if why is None:
            return _by(name, found)
        doubts.append(why)
    return Unknown(doubts[0]) if doubts else None


def _by(name: str, found: Mapping[str, float]) -> Above:
    middle, error = found[f"{name}/above_independent"], found.get(f"{name}/above_independent_error", 0.0)
    gap = abs(found.get("ais/gap", 0.0)) if name == "ais" else 0.0
    return Above(middle, middle - gap - _SURE * error, middle + _SURE * error, error, JUDGES[name])


def _of_documents(found: Mapping[str, float]) -> Above:
    """The logarithm of the ratio of the perplexities, the unigram model's to this one's."""
    unigram, model = found["perplexity/unigram"], found["perplexity/model"]
    bound = found.get("perplexity/upper_bound", model)
    high, low = math.log(unigram / min(model, bound)), math.log(unigram / max(model, bound))
    return Above(math.log(unigram / model), low, high, 0.0, "perplexity", "nats a word")


def sentences(found: Above | Unknown | None, *, known: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is said, and what is warned of; `known`: independent units of this kind of data are."""
    if found is None:
        nothing = "nothing measured how likely held-out rows are, so nothing says whether anything was learned"
        return ((f"verdict: {nothing} (ebm list evaluation)",) if known else ()), ()
    if isinstance(found, Unknown):
        return (), (f"how likely held-out rows are is not known: {found.why}",)
    error = f" ± {found.error:.2f}" if found.error else ""
    by = f"({found.by})"
    if found.low > _NOTHING:
        bracket = f", at least {found.low:.2f}" if found.low < found.middle - 2 * _SURE * found.error - 0.05 else ""
        return (f"verdict: better than independent units by {found.middle:.2f}{error} {found.unit}{bracket} {by}",), ()
    if found.high < -_NOTHING:
        return (), (f"worse than independent units, by {-found.middle:.2f}{error} {found.unit} {by}",)
    return (), (f"no better than independent units: {_between(found)} {found.unit} above them {by}",)


def _between(found: Above) -> str:
    """The ends of the interval, or one number where both are the same to two digits."""
    low, high = (f"{end:.2f}".replace("-0.00", "0.00") for end in (found.low, found.high))
    return low if low == high else f"between {low} and {high}"


def runaway(gaps: Sequence[float]) -> str | None:
    """A warning where the energy gap of the last steps is far from 0 and stays there; `gaps` as logged, or None.

    At the maximum of the likelihood data and model have the same mean energy.
    """
    late = gaps[-max(1, len(gaps) // 10) :]
    if not late:
        return None
    mean = sum(late) / len(late)
    spread = (sum((gap - mean) ** 2 for gap in late) / len(late)) ** 0.5
    if abs(mean) < _FAR or abs(mean) < _STEADY * spread:
        return None
    side = "data lie far below the chains, which lag behind the model" if mean < 0 else "chains lie far below the data"
    return (
        f"energy_gap was {mean:.4g} nats over the last steps, far from 0: {side}; take more chains.steps, another "
        "sampler, or a lower optimizer.lr"
    )
