"""How far a model is above independent units, and the sentence that says so."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from ebm_cli.evaluation.bracket import BRACKETED, JUDGES, LIKELIHOODS, doubt

_SURE = 2  # standard errors
_NOTHING = 0.01  # nats: less is rounding


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
    below, beyond = _bracket(name, found)
    by = JUDGES["exact" if name in BRACKETED and not below + beyond else name]
    return Above(middle, middle - below - _SURE * error, middle + beyond + _SURE * error, error, by)


def _bracket(name: str, found: Mapping[str, float]) -> tuple[float, float]:
    """By how much the log-likelihood may be lower and higher, as log Z is known between bounds, nats."""
    if name == "ais":
        return abs(found.get("ais/gap", 0.0)), 0.0
    if name not in BRACKETED:
        return 0.0, 0.0
    log_z, low, high = (found[f"{name}/log_z{end}"] for end in ("", "_low", "_high"))
    return high - log_z, log_z - low


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
