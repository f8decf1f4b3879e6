"""Random-walk Metropolis (Metropolis et al. 1953)."""

from typing import Annotated, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.adaptation import Adapting
from ebm_cli.sampler.base import Info
from ebm_cli.sampler.reflection import rebound
from ebm_cli.space import Binary, Box, Categorical, Counts, Discrete, Real, Space, Spin, TwoValued


class MetropolisState(NamedTuple):
    """Positions (chains, *shape) and their energies (chains,)."""

    x: Tensor
    energy: Tensor


@register("sampler", "metropolis")
class Metropolis(Adapting[EnergyModel, MetropolisState]):
    """Propose x' symmetrically, accept with probability min(1, exp(E(x) - E(x'))).

    Discrete: x' gives 1 to `flips` distinct sites another value, their number and then the sites drawn uniformly
    (always flipping the same number could keep the parity of sum_i x_i for ever). Documents: `flips` words at random
    places (all, if they are fewer) become any words, each equally likely. Real: x' = x + step_size * z, z
    standard normal, the way there reflected at the walls of a box.
    """

    flips: Annotated[int, Field(ge=1)]
    step_size: Annotated[float, Field(gt=0)]
    adapt: Annotated[float, Field(gt=0, lt=1)] | None

    spaces = (Binary, Spin, Categorical, Real, Box, Counts)
    compiles = True
    rejects = True

    @override
    def refusal(self, space: Space) -> str | None:
        """There are no more sites to flip than there are, and their number is no scale."""
        if isinstance(space, Discrete | Counts) and self.adapt is not None:
            return f"sampler.adapt = {self.adapt}: {space.name} data have no step_size; set sampler.adapt=null"
        if isinstance(space, Discrete) and self.flips > space.sites:
            return f"sampler.flips = {self.flips}: the data have {space.sites} sites; give at most that"
        return None

    @override
    def init(self, model: EnergyModel, x: Tensor) -> MetropolisState:
        return MetropolisState(x, model.energy(x))

    @override
    def step(self, model: EnergyModel, state: MetropolisState, key: AnyKey) -> tuple[MetropolisState, Info]:
        """One proposal per chain; `acceptance` is 0 or 1 for each."""
        proposal = self.propose(model, state.x, key.fold("proposal"))
        energy = model.energy(proposal)
        u = rng.uniform(energy.shape, key.fold("accept"), energy.device, energy.dtype)
        log_ratio = state.energy - energy
        accept = u < log_ratio.exp()
        x = torch.where(accept.reshape(-1, *[1] * (proposal.dim() - 1)), proposal, state.x)
        return MetropolisState(x, torch.where(accept, energy, state.energy)), {"acceptance": accept.to(u.dtype)}

    def propose(self, model: EnergyModel, x: Tensor, key: AnyKey) -> Tensor:
        """x' (chains, *shape) with q(x' | x) = q(x | x')."""
        return proposed(model.space, x, key, self.flips, self.step_size)


def proposed(space: Space, x: Tensor, key: AnyKey, flips: int, step_size: float) -> Tensor:
    """x' (chains, *shape) with q(x' | x) = q(x | x'), as `Metropolis` says."""
    if isinstance(space, Real):
        z = rng.normal(x.shape, key, x.device, x.dtype)
        return rebound(space, x + step_size * z, z)[0]
    if isinstance(space, Categorical):
        return _other_values(space, x, key, flips)
    if isinstance(space, Counts):
        return _other_words(x, key, flips)
    flat, bits = x.flatten(1), cast(TwoValued, space)
    if flips == 1:
        sites = rng.integers(flat.shape[1], (len(flat), 1), key, flat.device)
        return flat.scatter(1, sites, bits.flipped(flat.gather(1, sites))).reshape(x.shape)
    chosen = _chosen_sites(flat, flips, key)
    return torch.where(chosen, bits.flipped(flat), flat).reshape(x.shape)


def _other_values(space: Categorical, x: Tensor, key: AnyKey, flips: int) -> Tensor:
    """Each chosen site at one of its K - 1 other values, equally likely."""
    values = space.decode(space.table(x))
    shift = 1 + rng.integers(space.values - 1, values.shape, key.fold("value"), x.device)
    chosen = _chosen_sites(values, flips, key)
    moved = torch.where(chosen, (values + shift) % space.values, values)
    return F.one_hot(moved, space.values).to(x.dtype).reshape(x.shape)


def _other_words(x: Tensor, key: AnyKey, flips: int) -> Tensor:
    """Documents (chains, K) with `flips` of their words put at random; symmetric on the sequences with these counts."""
    number = x.sum(1).clamp_max(flips)
    put = rng.multinomial(number, torch.zeros_like(x), key.fold("put"))
    return rng.thinned(x, x.sum(1) - number, key.fold("kept")) + put


def _chosen_sites(x: Tensor, flips: int, key: AnyKey) -> Tensor:
    """Which sites of x (chains, sites) flip: those of the 1 to `flips` largest of D uniform numbers."""
    largest = rng.uniform(x.shape, key, x.device).topk(flips, dim=1).indices
    number = 1 + rng.integers(flips, (len(x), 1), key.fold("number"), x.device)
    chosen = torch.arange(flips, device=x.device) < number
    return torch.zeros(x.shape, dtype=torch.bool, device=x.device).scatter(1, largest, chosen)
