"""Chains that stand still, and chains that have left the numbers: how that is known, and in which words it is said."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.trajectory import TrajectoryTempering

LEAST = 1e-3
"""Share of proposals that must be taken for chains to count as moving."""

_FAR = 1e4  # nats
_OTHER = "take another sampler"
_LOWER = f"lower sampler.step_size, or {_OTHER}"


def moved(before: Tensor, after: Tensor) -> Tensor:
    """Which chains (chains, *shape) are elsewhere, (chains,) bool."""
    return (before != after).flatten(1).any(1)


def lost(x: Tensor) -> str | None:
    """A sentence if chains x (chains, *shape) are at nan or infinity, else None."""
    count = int((~x.flatten(1).isfinite().all(1)).sum())
    if not count:
        return None
    return f"{count} of {len(x)} chains have run away to what is no number (nan or infinity): {_LOWER}"


def ran_away(sampler: Sampler[Any, Any], energy_data: float, energy_chains: float) -> str | None:
    """A sentence if chains of steps that nothing rejects are where no chain of the model would go, else None.

    That is where the mean energy is no number, or far above that of the data, which is one. The largest step that such
    chains can take depends on the curvature of the energy, hence also on how fast the weights grow.
    """
    size = getattr(sampler.inner, "step_size", None)
    if size is None or sampler.inner.rejects or not math.isfinite(energy_data):
        return None
    if energy_chains - energy_data < _FAR:
        return None
    key = "sampler.step_size" if sampler.inner is sampler else "sampler.kernel.step_size"
    return (
        f"The chains have run away, for no step of theirs is rejected: start a run with a lower {key} (it is {size:g}) "
        "or a lower optimizer.lr"
    )


def advice(sampler: Sampler[Any, Any]) -> str:
    """What to do where its chains do not move as they should: of its keys, if it has one for that."""
    return _LOWER if hasattr(sampler.inner, "step_size") else _OTHER


def stuck(info: Mapping[str, float], sampler: Sampler[Any, Any]) -> list[str]:
    """Sentences on means of Info by which nothing moves: `acceptance`, and `swap_r` of replicas r and r + 1."""
    found = []
    if info.get("acceptance", 1.0) < LEAST:
        share = f"{100 * info['acceptance']:.2g} % of the proposals" if info["acceptance"] else "no proposal"
        found.append(f"{share} of the chains accepted: they stand still; {advice(sampler)}")
    rungs = [name.removeprefix("swap_") for name, taken in info.items() if name.startswith("swap_") and taken < LEAST]
    if rungs:
        along = isinstance(sampler, TrajectoryTempering)
        way = "a higher sampler.acceptance" if along else "more sampler.temperatures, or a higher sampler.beta_min"
        found.append(
            f"replicas never swapped at rung {', '.join(rungs)} of the ladder, so the hot ones are of no use to the "
            f"others; take {way}"
        )
    return found
