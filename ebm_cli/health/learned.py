"""Which signs speak of what a model has yet to learn, and so of no rate that is too high."""

from collections.abc import Mapping

from ebm_cli.health.limits import MET

_ABOVE, _GAP, _NOW = "above", "gap", "gap_now"
_OF_THE_GAP = {_GAP, "apart", "felt"}


def learned(found: Mapping[str, float], before: Mapping[str, float], r_hat: float | None) -> set[str]:
    """The names of such signs among the signals `found` by a look, where `before` are those of the look before.

    Data above the chains, of a model that brings that down: in nats that are sure, or in deviations. Data below them,
    of chains that meet those which begin at the data (`r_hat`, the newest `r_hat_data`): these are the model's own, so
    that the gap is its gradient, and a lower rate would leave it as it is.
    """
    falls = {_ABOVE} if found.get(_ABOVE, 0.0) < before.get(_ABOVE, 0.0) else set[str]()
    falls |= {_GAP} if 0 < found.get(_NOW, 0.0) < before.get(_NOW, 0.0) else set()
    met = r_hat is not None and r_hat <= MET and found.get(_NOW, 0.0) < 0
    return falls | (_OF_THE_GAP if met else set())
