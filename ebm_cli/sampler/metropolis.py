"""Random-walk Metropolis (Metropolis et al. 1953)."""

from typing import Annotated, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.adaptation import Adapting
from ebm_cli.sampler.base import Info
from ebm_cli.space import Binary, Box, Categorical, Discrete, Real, Space, Spin, TwoValued


class MetropolisState(NamedTuple):
    """Positions (chains, *shape) and their energies (chains,)."""

    x: Tensor
    energy: Tensor


@register("sampler", "metropolis")
class Metropolis(Adapting[EnergyModel, MetropolisState]):
    """Propose x' symmetrically, accept with probability min(1, exp(E(x) - E(x'))).

    Discrete: x' gives 1 to `flips` distinct sites another value, their number and then the sites drawn uniformly
    (always flipping the same number could keep the parity of sum_i x_i for ever). Real: x' = x + step_size * z, z
    standard normal.
    """

    flips: Annotated[int, Field(ge=1)]
    step_size: Annotated[float, Field(gt=0)]
    adapt: Annotated[float, Field(gt=0, lt=1)] | None

    spaces = (Binary, Spin, Categorical, Real, Box)
    compiles = True

    def misfit(self, space: Space) -> str | None:
        """There are no more sites to flip than there are, and their number is no scale."""
        if isinstance(space, Discrete) and self.adapt is not None:
            return f"sampler.adapt = {self.adapt}: {space.name} data have no step_size; set sampler.adapt=null"
        if isinstance(space, Discrete) and self.flips > space.sites:
            return f"sampler.flips = {self.flips}: the data have {space.sites} sites; give at most that"
        return None

    def init(self, model: EnergyModel, x: Tensor) -> MetropolisState:
        """Caches the energies."""
        return MetropolisState(x, model.energy(x))

    def step(self, model: EnergyModel, state: MetropolisState, key: AnyKey) -> tuple[MetropolisState, Info]:
        """One proposal per chain; `acceptance` is 0 or 1 for each."""
        proposal = self.propose(model, state.x, key.fold("proposal"))
        energy = model.energy(proposal)
        u = rng.uniform(energy.shape, key.fold("accept"), energy.device, energy.dtype)
        log_ratio = state.energy - energy
        accept = u < model.space.allowed(log_ratio, proposal).exp()
        x = torch.where(accept.reshape(-1, *[1] * (proposal.dim() - 1)), proposal, state.x)
        return MetropolisState(x, torch.where(accept, energy, state.energy)), {"acceptance": accept.to(u.dtype)}

    def propose(self, model: EnergyModel, x: Tensor, key: AnyKey) -> Tensor:
        """x' (chains, *shape) with q(x' | x) = q(x | x')."""
        if isinstance(model.space, Real):
            return x + self.step_size * rng.normal(x.shape, key, x.device, x.dtype)
        if isinstance(model.space, Categorical):
            return self._other_values(model.space, x, key)
        flat, space = x.flatten(1), cast(TwoValued, model.space)
        if self.flips == 1:
            sites = rng.integers(flat.shape[1], (len(flat), 1), key, flat.device)
            return flat.scatter(1, sites, space.flipped(flat.gather(1, sites))).reshape(x.shape)
        chosen = self._chosen_sites(len(flat), flat.shape[1], key, flat.device)
        return torch.where(chosen, space.flipped(flat), flat).reshape(x.shape)

    def _other_values(self, space: Categorical, x: Tensor, key: AnyKey) -> Tensor:
        """Each chosen site at one of its K - 1 other values, equally likely."""
        values = space.decode(space.table(x))
        shift = 1 + rng.integers(space.values - 1, values.shape, key.fold("value"), x.device)
        chosen = self._chosen_sites(len(x), space.sites, key, x.device)
        moved = torch.where(chosen, (values + shift) % space.values, values)
        return F.one_hot(moved, space.values).to(x.dtype).reshape(x.shape)

    def _chosen_sites(self, chains: int, sites: int, key: AnyKey, device: torch.device) -> Tensor:
        """Which sites flip, (chains, sites): those of the 1 to `flips` largest of D uniform numbers."""
        largest = rng.uniform((chains, sites), key, device).topk(self.flips, dim=1).indices
        number = 1 + rng.integers(self.flips, (chains, 1), key.fold("number"), device)
        chosen = torch.arange(self.flips, device=device) < number
        return torch.zeros(chains, sites, dtype=torch.bool, device=device).scatter(1, largest, chosen)
