"""Discrete Langevin proposals (Zhang, Liu, Liu 2022): every site at once."""

from typing import Annotated, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.functional import softplus
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.adaptation import Adapting
from ebm_cli.sampler.base import Info
from ebm_cli.sampler.informed import InformedState, accept, gains, informed
from ebm_cli.space import Binary, Categorical, Space, Spin, TwoValued


@register("sampler", "dmala")
class DiscreteLangevin(Adapting[EnergyModel, InformedState]):
    """q_i(x'_i | x) proportional to exp(-dE/dx_i (x'_i - x_i) / 2 - [x'_i is not x_i] / (2 step_size)), eq. 3 and 5.

    There the last term has |x'_i - x_i|^2, which is the same for bits; spins, at distance 2, and one-hot rows, at
    distance sqrt(2), would need four times and twice the step for the same moves.

    `adjusted` accepts x' with min(1, p(x') q(x | x') / (p(x) q(x' | x))): DMALA. Without, every proposal is taken:
    DULA, which does not leave p invariant.
    """

    step_size: Annotated[float, Field(gt=0)]
    adjusted: bool
    adapt: Annotated[float, Field(gt=0, lt=1)] | None

    spaces = (Binary, Spin, Categorical)
    compiles = True

    @property
    @override
    def leaves_invariant(self) -> bool:
        return self.adjusted

    @property
    @override
    def rejects(self) -> bool:
        return self.adjusted

    @override
    def refusal(self, space: Space) -> str | None:
        """Without an acceptance test there is no acceptance to aim at."""
        if self.adapt is not None and not self.adjusted:
            return f"sampler.adapt = {self.adapt}: unadjusted proposals are all accepted; set sampler.adapt=null"
        return None

    @override
    def init(self, model: EnergyModel, x: Tensor) -> InformedState:
        """Caches energies and gradients."""
        return informed(model, x)

    @override
    def step(self, model: EnergyModel, state: InformedState, key: AnyKey) -> tuple[InformedState, Info]:
        """One proposal per chain; `acceptance` is 0 or 1 for each, `flips` how many sites moved."""
        x, moved, forth = self._propose(model, state, key.fold("proposal"))
        proposal, flips = informed(model, x), moved.sum(1).to(state.energy.dtype)
        if not self.adjusted:
            return proposal, {"flips": flips}
        log_ratio = state.energy - proposal.energy + self._log_q(model, proposal, state.x, moved) - forth
        state, accepted = accept(state, proposal, log_ratio, key.fold("accept"))
        return state, {"acceptance": accepted, "flips": flips * accepted}

    def _propose(self, model: EnergyModel, state: InformedState, key: AnyKey) -> tuple[Tensor, Tensor, Tensor]:
        """x', which sites have moved (chains, sites), and log q(x' | x)."""
        logits = self._logits(model, state)
        if isinstance(model.space, Categorical):
            x = F.one_hot(rng.categorical(logits, key), model.space.values).to(logits.dtype)
            log_q = (logits.log_softmax(2) * x).sum((1, 2))
            return x.reshape(state.x.shape), (x != model.space.table(state.x)).any(2), log_q
        moved = rng.bernoulli(logits.squeeze(2), key) > 0.5
        space = cast(TwoValued, model.space)
        x = torch.where(moved.reshape(state.x.shape), space.flipped(state.x), state.x)
        return x, moved, _log_flips(logits, moved)

    def _log_q(self, model: EnergyModel, state: InformedState, x: Tensor, moved: Tensor) -> Tensor:
        """log q(x | state), which differ in the sites `moved`."""
        logits = self._logits(model, state)
        if isinstance(model.space, Categorical):
            return (logits.log_softmax(2) * model.space.table(x)).sum((1, 2))
        return _log_flips(logits, moved)

    def _logits(self, model: EnergyModel, state: InformedState) -> Tensor:
        """d / 2 - 1 / (2 step_size) of every value that a site has not; (chains, D, moves of a site).

        Two values: the log-odds of the flip. K values: the present one has 0.
        """
        logits = gains(model, state) / 2 - 1 / (2 * self.step_size)
        if isinstance(model.space, Categorical):
            return logits + model.space.table(state.x) / (2 * self.step_size)
        return logits


def _log_flips(logits: Tensor, moved: Tensor) -> Tensor:
    """log of the product of sigmoid(+-logit), + where a site has moved."""
    sign = torch.where(moved, -1.0, 1.0).to(logits.dtype)
    return -softplus(sign * logits.squeeze(2)).sum(1)
