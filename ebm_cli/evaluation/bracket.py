"""Whether a log-likelihood can be judged by: chains that count, the two ends of its bracket, the exact value."""

from collections.abc import Iterator, Mapping
from typing import Any

JUDGES = {
    "exact": "exact log-likelihood",
    "density_2d": "log-likelihood by the map",
    "log_likelihood": "bracket of the log-likelihood",
    "text_perplexity": "bracket of the log-likelihood",
    "trajectory": "log-likelihood along the checkpoints",
    "level_ratios": "log-likelihood along levels of noise",
    "ais": "log-likelihood by AIS",
    "bridge": "log-likelihood by bridge sampling",
    "dbn_bound": "lower bound on the log-likelihood",
    "dbm_bound": "lower bound on the log-likelihood",
    "latent_bound": "lower bound on the log-likelihood",
    "words": "log-likelihood of words",
    "pseudo_likelihood": "pseudo-likelihood alone, which is no likelihood",
}
"""The most trustworthy first."""
BRACKETED = ("log_likelihood", "text_perplexity")
"""Those that say how far log Z is known to lie below and above."""
LIKELIHOODS = JUDGES.keys() - {"pseudo_likelihood"}
WIDE = 1.0  # nats between the ends, from which on they are said to differ
_SURE = 2  # standard errors
_BOUNDED = {"ais": "AIS", "bridge": "bridge sampling", "trajectory": "the trajectory"}  # by RAISE
_FEW = 5  # one chain in so many
AGREEMENT = 0.05  # nats: less is the noise of the estimates
_ERROR = 0.5  # nats
_ALONE = 2.0  # effective number of chains: below, one of them is nearly the whole estimate


def few_chains(weight_ess: float, chains: int) -> str | None:
    """A sentence where few of the chains carry an estimate of Z; with one of them it may be too low by any factor."""
    if weight_ess < _ALONE:
        return (
            f"the estimate rests on one of {chains} chains ({weight_ess:.1f} count), so log Z may be far too low, and "
            "by how much is not known"
        )
    if weight_ess < chains / _FEW:
        return f"only {weight_ess:.1f} of {chains} chains carry the estimate, its interval is too narrow"
    return None


def crossed(name: str, found: Mapping[str, float]) -> float | None:
    """By how many nats RAISE lies above `<name>/log_likelihood`, where that is more than a nat and their errors.

    The error is that of the gap from row to row; that of an estimate of Z hardly matters, for Z_hat > e^a Z has a
    probability below e^-a (Markov's inequality). None where they do not cross so far.
    """
    upper, lower = (found.get(f"{of}/log_likelihood") for of in (name, "raise"))
    if upper is None or lower is None:
        return None
    by = lower - upper
    return by if by > WIDE + _SURE * found.get("ais/gap_standard_error", 0.0) else None


def doubt(name: str, found: Mapping[str, float]) -> str | None:
    """Why the figures `<name>/...` do not say how likely rows are, or None; RAISE bounds the other likelihoods."""
    if found.get(f"{name}/weight_ess", _ALONE) < _ALONE:
        return f"the estimate by evaluation={name} rests on one chain"
    by = crossed(name, found) if name in _BOUNDED else None
    if by is None:
        return None
    return f"RAISE, a lower bound, lies {by:.4g} nats above {_BOUNDED[name]}, so the two contradict each other"


def bracket(values: Mapping[str, Any]) -> str:
    """From RAISE below to AIS above; where the two cross by more than their noise they bracket nothing."""
    high, low, gap = values["ais/log_likelihood"], values["raise/log_likelihood"], values["ais/gap"]
    if abs(gap) < AGREEMENT:
        return f"both {high:.2f} nats, within {AGREEMENT}"
    return f"[{low:.2f}, {high:.2f}] nats" if gap > 0 else f"none: RAISE lies {-gap:.4g} nats above AIS"


def contradictions(values: Mapping[str, Any]) -> list[str]:
    """Where the exact value shows that the estimates are wrong, although they may agree with each other; where the log
    Z that training learned is another one; and where two estimates of log Z differ."""
    return [sentence for sentence in (_refuted(values), _learned(values)) if sentence] + list(_apart(values))


def _refuted(values: Mapping[str, Any]) -> str | None:
    if not {"exact/log_likelihood", "ais/log_likelihood"} <= values.keys():
        return None
    error = values["ais/log_likelihood"] - values["exact/log_likelihood"]
    if abs(error) <= _ERROR:
        return None
    return (
        f"ais: off the exact log-likelihood by {error:.4g} nats; its chains miss part of the model, and RAISE may miss "
        "the same part. Believe the exact value"
    )


def _learned(values: Mapping[str, Any]) -> str | None:
    """By the most trustworthy of the evaluations that have a log Z, beyond its interval."""
    names = [name for name in ("exact", "density_2d", "ais") if f"{name}/learned_log_z_error" in values]
    if not names:
        return None
    log_z, error = (values[f"{names[0]}/{key}"] for key in ("log_z", "learned_log_z_error"))
    low, high = (values.get(f"{names[0]}/log_z_{end}", log_z) for end in ("low", "high"))
    if low - _ERROR <= log_z + error <= high + _ERROR:
        return None
    return (
        f"the log Z that training learned, {log_z + error:.4g}, is {abs(error):.4g} nats off the one by {names[0]}, "
        f"{log_z:.4g}: what the objective took for the model's density is not normalised; take more steps, or a noise "
        "nearer to the data"
    )


def _apart(values: Mapping[str, Any]) -> Iterator[str]:
    """Where intervals of log Z lie apart from that of the most trustworthy of its estimates.

    Chains that have missed the same part of the model agree, so that AIS and RAISE may; others do not.
    """
    found = {
        name: [values[f"{name}/{end}"] for end in ("log_z", "log_z_low", "log_z_high")]
        for name in _ESTIMATES
        if all(f"{name}/{end}" in values for end in ("log_z", "log_z_low", "log_z_high"))
    }
    first = next(iter(found), "")
    for name in [*found][1:]:
        (here, low, high), (there, least, most) = found[first], found[name]
        apart = max(low, least) - min(high, most)
        if apart > _ERROR:
            yield (
                f"log Z {_ESTIMATES[first]}, {here:.4g} in [{low:.4g}, {high:.4g}], and {_ESTIMATES[name]}, "
                f"{there:.4g} in [{least:.4g}, {most:.4g}], are {apart:.2g} nats apart: chains of one of them miss "
                "part of the model, which makes log Z too low, so believe the higher one"
            )


_ESTIMATES = {
    "log_likelihood": "by log_likelihood", "trajectory": "by trajectory", "level_ratios": "by level_ratios",
    "bridge": "by bridge", "ais": "by ais", "running": "along the way",
}  # fmt: skip
"""Those with an interval, the most trustworthy first."""
