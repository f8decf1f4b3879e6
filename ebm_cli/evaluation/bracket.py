"""Whether a log-likelihood by annealing can be judged by: the chains that count, and the two ends of its bracket."""

from collections.abc import Mapping

WIDE = 1.0  # nats between the ends, from which on they are said to differ
_SURE = 2  # standard errors
_BOUNDED = {"ais": "AIS", "bridge": "bridge sampling"}  # by RAISE
_FEW = 5  # one chain in so many
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
