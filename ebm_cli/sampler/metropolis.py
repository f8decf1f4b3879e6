"""Random-walk Metropolis (Metropolis et al. 1953)."""

from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.space import Binary, Real


class MetropolisState(NamedTuple):
    """Positions (chains, *shape) and their energies (chains,)."""

    x: Tensor
    energy: Tensor


@register("sampler", "metropolis")
class Metropolis(Sampler[EnergyModel, MetropolisState]):
    """Propose x' symmetrically, accept with probability min(1, exp(E(x) - E(x'))).

    Binary: x' flips `flips` distinct sites drawn uniformly. Real: x' = x + step_size * z, z standard normal.
    """

    flips: Annotated[int, Field(ge=1)]
    step_size: Annotated[float, Field(gt=0)]

    spaces = (Binary, Real)

    def init(self, model: EnergyModel, x: Tensor) -> MetropolisState:
        """Caches the energies."""
        return MetropolisState(x, model.energy(x))

    def step(self, model: EnergyModel, state: MetropolisState, key: Key) -> tuple[MetropolisState, Info]:
        """One proposal per chain; `acceptance` is 0 or 1 for each."""
        proposal = self.propose(model, state.x, key.fold("proposal"))
        energy = model.energy(proposal)
        u = rng.uniform(energy.shape, key.fold("accept"), energy.device, energy.dtype)
        accept = u < (state.energy - energy).exp()
        x = torch.where(accept.reshape(-1, *[1] * (proposal.dim() - 1)), proposal, state.x)
        return MetropolisState(x, torch.where(accept, energy, state.energy)), {"acceptance": accept.to(u.dtype)}

    def propose(self, model: EnergyModel, x: Tensor, key: Key) -> Tensor:
        """x' (chains, *shape) with q(x' | x) = q(x | x')."""
        if isinstance(model.space, Real):
            return x + self.step_size * rng.normal(x.shape, key, x.device, x.dtype)
        flat = x.flatten(1)
        sites = self._distinct_sites(flat, key)
        return flat.scatter(1, sites, 1 - flat.gather(1, sites)).reshape(x.shape)

    def _distinct_sites(self, flat: Tensor, key: Key) -> Tensor:
        """(chains, flips) sites without repeats: the places of the largest of D uniform numbers."""
        if self.flips == 1:
            return rng.integers(flat.shape[1], (len(flat), 1), key, flat.device)
        return rng.uniform(flat.shape, key, flat.device).topk(min(self.flips, flat.shape[1]), dim=1).indices
