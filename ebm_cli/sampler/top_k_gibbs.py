"""Blocked Gibbs sampling by gradients for large alphabets: proposals from the likeliest values of a few sites."""

import math
from typing import Annotated, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.sampler.informed import accepted
from ebm_cli.sampler.top_k import TopK, of_slopes
from ebm_cli.space import Categorical, Space

_NUMBERS = 2**20  # of one-hot rows that are formed at once, 4 MB of them in float32


class TopKState(NamedTuple):
    """Numbers of the values (chains, D) int64 in place of one-hot rows, energies (chains,) and what sites propose."""

    values: Tensor
    energy: Tensor
    law: TopK
    space: Categorical

    @property
    def x(self) -> Tensor:
        """One-hot, (chains, *shape), made anew each time."""
        return self.space.one_hot(self.values, self.energy.dtype)


@register("sampler", "top_k_gibbs")
class TopKGibbs(Sampler[EnergyModel, TopKState]):
    """Propose new values of `block` sites, all sets equally likely, each site's with its own q_i(k | x).

    With the gains d_ik = -(dE/dx_ik - x_i.dE/dx_i) of f = -E to first order, q_i(. | x) is softmax(d_i / temperature)
    at the `top` likeliest values; what is left of it is the same for each of the others. Accepted with
    min(1, exp(f(x') - f(x)) prod_i q_i(x_i | x') / q_i(x'_i | x)) over the sites of the block, so that p is invariant
    whatever `top`. For temperature 1, `top` null and an energy linear in each site (Potts) a block of one site is Gibbs
    sampling at a random site, and always accepted; temperature 2 is the balanced proposal of Gibbs-with-Gradients
    (Grathwohl et al. 2021, eq. 3) for the value of a site. There the site too is drawn by the gains.

    Between steps a chain keeps no one-hot row and no gradient, D K numbers each, but `top` values of each site; a step
    makes both for some chains after the others, so that its memory hardly grows with K.
    """

    block: Annotated[int, Field(ge=1)]
    top: Annotated[int, Field(ge=1)] | None
    temperature: Annotated[float, Field(gt=0)]

    spaces = (Categorical,)
    rejects = True

    @override
    def refusal(self, space: Space) -> str | None:
        """A block has no more sites than there are."""
        if self.block > space.sites:
            return f"sampler.block = {self.block}: the data have {space.sites} sites; give at most that"
        return None

    @override
    def init(self, model: EnergyModel, x: Tensor) -> TopKState:
        """Caches energies and what each site proposes."""
        assert isinstance(model.space, Categorical)
        return self._state(model, model.space, model.space.numbers(x), x.dtype)

    @override
    def step(self, model: EnergyModel, state: TopKState, key: AnyKey) -> tuple[TopKState, Info]:
        """One proposal per chain; `acceptance` is 0 or 1 for each."""
        space = state.space
        u = rng.uniform(state.values.shape, key.fold("sites"), state.values.device)
        sites = u.topk(self.block, 1).indices
        law = state.law.at(sites)
        new = law.drawn(space.values, key.fold("values"))
        values = state.values.scatter(1, sites, new)
        proposal = self._state(model, space, values, state.energy.dtype)
        back = proposal.law.at(sites).log_prob(state.values.gather(1, sites))
        log_ratio = state.energy - proposal.energy + (back - law.log_prob(new)).sum(1)
        taken = accepted(log_ratio, key.fold("accept"))
        return _chosen(taken, proposal, state), {"acceptance": taken.to(log_ratio.dtype)}

    def _state(self, model: EnergyModel, space: Categorical, values: Tensor, dtype: torch.dtype) -> TopKState:
        at_once = max(1, _NUMBERS // math.prod(space.shape))
        parts = [slice(i, i + at_once) for i in range(0, len(values), at_once)]
        found = [self._asked(model.of_rows(part), space.one_hot(values[part], dtype)) for part in parts]
        energy, *law = (torch.cat(part) for part in zip(*found, strict=True))
        return TopKState(values, energy, TopK(*law), space)

    def _asked(self, model: EnergyModel, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Energies of x and the laws of its sites."""
        space = cast(Categorical, model.space)
        energy, grad = model.energy_and_grad(x)
        most = space.values if self.top is None else min(self.top, space.values)
        return energy, *of_slopes(space.table(grad), most, self.temperature)


def _chosen(taken: Tensor, proposal: TopKState, state: TopKState) -> TopKState:
    """The proposal where it is taken, else the state."""

    def chosen(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(taken.reshape(-1, *[1] * (old.dim() - 1)), new, old)

    law = TopK(*(chosen(new, old) for new, old in zip(proposal.law, state.law, strict=True)))
    return TopKState(chosen(proposal.values, state.values), chosen(proposal.energy, state.energy), law, state.space)
