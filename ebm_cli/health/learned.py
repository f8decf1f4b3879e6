"""Which signs speak of what a model has yet to learn, and so of no rate that is too high."""

from collections.abc import Mapping

from ebm_cli.health.limits import LIMITS, MET

_ABOVE, _GAP, _NOW = "above", "gap", "gap_now"
_SOON = 2  # looks
_APART, _FLAT = "apart", 1.0  # nats
_IN_NATS = (f"{_GAP}_nats", f"{_APART}_nats")
_OF_THE_GAP = {_GAP, _APART, "felt"}


def learned(
    found: Mapping[str, float], before: Mapping[str, float], r_hat: float | None, *, warm: bool = False
) -> set[str]:
    """The names of such signs among the signals `found` by a look, where `before` are those of the look before.

    Data above the chains, of a model that brings that down so fast that it is within its limit in two more looks: in
    nats that are sure, or in deviations; what comes down slower does so with the rate alone. Data below them, of chains
    that meet those which begin at the data (`r_hat`, the newest `r_hat_data`): these are the model's own, so that the
    gap is its gradient, and a lower rate would leave it as it is. A gap of less than a nat of chains at temperature 1
    (`warm`), however few deviations wide the energies are: such a model is flat yet.
    """
    falls = {_ABOVE} if _soon(found, before, _ABOVE, _ABOVE) else set[str]()
    falls |= {_GAP, _APART} if _soon(found, before, _NOW, _GAP) else set()
    met = r_hat is not None and r_hat <= MET and found.get(_NOW, 0.0) < 0
    nats = [abs(found[name]) for name in _IN_NATS if name in found]
    flat = warm and len(nats) > 0 and max(nats) < _FLAT
    return falls | (_OF_THE_GAP if met or flat else set())


def _soon(found: Mapping[str, float], before: Mapping[str, float], name: str, limit: str) -> bool:
    """Whether a signal above 0 comes down, and at the pace of this look is within this limit `_SOON` looks later."""
    now, fallen = found.get(name, 0.0), before.get(name, 0.0) - found.get(name, 0.0)
    return now > 0 and fallen > 0 and now - LIMITS[limit].suspicious <= _SOON * fallen
