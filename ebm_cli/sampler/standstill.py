"""Chains that stand still, and chains that have left the numbers: how that is known, and in which words it is said."""

from collections.abc import Mapping

from torch import Tensor

LEAST = 1e-3
"""Share of proposals that must be taken for chains to count as moving."""

_LOWER = "lower sampler.step_size, or take another sampler"


def moved(before: Tensor, after: Tensor) -> Tensor:
    """Which chains (chains, *shape) are elsewhere, (chains,) bool."""
    return (before != after).flatten(1).any(1)


def lost(x: Tensor) -> str | None:
    """A sentence if chains x (chains, *shape) are at nan or infinity, else None."""
    count = int((~x.flatten(1).isfinite().all(1)).sum())
    if not count:
        return None
    return f"{count} of {len(x)} chains have run away to what is no number (nan or infinity): {_LOWER}"


def stuck(info: Mapping[str, float]) -> list[str]:
    """Sentences on means of Info by which nothing moves: `acceptance`, and `swap_r` of replicas r and r + 1."""
    found = []
    if info.get("acceptance", 1.0) < LEAST:
        share = f"{100 * info['acceptance']:.2g} % of the proposals" if info["acceptance"] else "no proposal"
        found.append(f"{share} of the chains accepted: they stand still; {_LOWER}")
    rungs = [name.removeprefix("swap_") for name, taken in info.items() if name.startswith("swap_") and taken < LEAST]
    if rungs:
        found.append(
            f"replicas never swapped at rung {', '.join(rungs)} of the ladder, so the hot ones are of no use to the "
            "others; take more sampler.temperatures, or a higher sampler.beta_min"
        )
    return found
