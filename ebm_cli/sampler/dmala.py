"""Discrete Langevin proposals (Zhang, Liu, Liu 2022): every site at once."""

from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor

from ebm_cli import rng
from ebm_cli.functional import softplus
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.sampler.informed import InformedState, accept, flip_gains, informed
from ebm_cli.space import Binary, Spin, TwoValued


@register("sampler", "dmala")
class DiscreteLangevin(Sampler[EnergyModel, InformedState]):
    """q_i(x'_i | x) proportional to exp(-dE/dx_i (x'_i - x_i) / 2 - [x'_i is not x_i] / (2 step_size)), eq. 3 and 5.

    There the last term has (x'_i - x_i)^2, which is the same for bits; spins, at distance 2, would need four times the
    step for the same moves.

    `adjusted` accepts x' with min(1, p(x') q(x | x') / (p(x) q(x' | x))): DMALA. Without, every proposal is taken:
    DULA, which does not leave p invariant.
    """

    step_size: Annotated[float, Field(gt=0)]
    adjusted: bool

    spaces = (Binary, Spin)
    compiles = True

    @property
    def exact(self) -> bool:
        """With the test alone."""
        return self.adjusted

    def init(self, model: EnergyModel, x: Tensor) -> InformedState:
        """Caches energies and gradients."""
        return informed(model, x)

    def step(self, model: EnergyModel, state: InformedState, key: AnyKey) -> tuple[InformedState, Info]:
        """One proposal per chain; `acceptance` is 0 or 1 for each, `flips` how many sites moved."""
        space = cast(TwoValued, model.space)
        logits = self.flip_logits(model, state)
        flips = rng.bernoulli(logits, key.fold("proposal")).reshape(state.x.shape) > 0.5
        proposal = informed(model, torch.where(flips, space.flipped(state.x), state.x))
        moved = flips.flatten(1).sum(1).to(state.energy.dtype)
        if not self.adjusted:
            return proposal, {"flips": moved}
        back = self.flip_logits(model, proposal)
        sign = torch.where(flips.flatten(1), -1.0, 1.0).to(logits.dtype)
        log_ratio = state.energy - proposal.energy + (softplus(sign * logits) - softplus(sign * back)).sum(1)
        state, accepted = accept(state, proposal, log_ratio, key.fold("accept"))
        return state, {"acceptance": accepted, "flips": moved * accepted}

    def flip_logits(self, model: EnergyModel, state: InformedState) -> Tensor:
        """Log-odds of proposing another value for each site, d_i / 2 - 1 / (2 step_size)."""
        return flip_gains(model, state) / 2 - 1 / (2 * self.step_size)
