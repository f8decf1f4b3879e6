"""Discrete Langevin Monte Carlo (Sun, Dai, Dai, Zhou, Schuurmans 2023): every site a jump process of its own."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info
from ebm_cli.sampler.informed import Balance, Informed, InformedState, gains, log_balanced
from ebm_cli.sampler.leap import leapt
from ebm_cli.space import Binary, Categorical, Spin


@register("sampler", "dlmc")
class DiscreteLangevinMonteCarlo(Informed):
    """Site i jumps to value v at the rate w_v = g(e^d_v), d_v the first-order gain of f = -E, for a time `step_size`.

    All sites at once. `interpolate` has q_i(v) = nu_v (1 - exp(-step_size w_v / nu_v)) for values v that the site has
    not, nu = softmax(d) over all its values, what the jumps come to in the end; of two values that is the law of the
    process itself, its rates held. `euler` has a jump with 1 - exp(-step_size W), W the sum of w over the other values,
    to v with w_v / W. Accepted with min(1, p(x') q(x | x') / (p(x) q(x' | x))).
    """

    step_size: Annotated[float, Field(gt=0)]
    solver: Literal["interpolate", "euler"]
    balance: Balance
    adapt: Annotated[float, Field(gt=0, lt=1)] | None

    spaces = (Binary, Spin, Categorical)
    compiles = True
    rejects = True

    @override
    def step(self, model: EnergyModel, state: InformedState, key: AnyKey) -> tuple[InformedState, Info]:
        """One proposal per chain; `acceptance` is 0 or 1 for each, `flips` how many sites moved."""
        return leapt(model, state, self._logits, key)

    def _logits(self, model: EnergyModel, state: InformedState) -> Tensor:
        """Of two values the log-odds of the flip, (chains, D, 1), else log q of all values, (chains, D, K)."""
        gain = gains(model, state)
        if isinstance(model.space, Categorical):
            return self._log_q(gain, model.space.table(state.x) > 0)
        gain = torch.cat([torch.zeros_like(gain), gain], 2)
        stay, flip = self._log_q(gain, torch.arange(2, device=gain.device) == 0).split(1, 2)
        return flip - stay

    def _log_q(self, gain: Tensor, present: Tensor) -> Tensor:
        """log q of every value from its gain, (chains, D, values) both; `present` says which one a site has."""
        log_rate = math.log(self.step_size) + log_balanced(gain / 2, self.balance)
        if self.solver == "euler":
            rest = log_rate.masked_fill(present, -torch.inf)
            total = rest.logsumexp(2, keepdim=True)
            return torch.where(present, -total.exp(), _log_1m_exp(total.exp()) + rest - total)
        log_nu = gain.log_softmax(2)
        jumps = (log_rate - log_nu).exp().masked_fill(present, 0.0)
        stay = (log_nu - jumps).logsumexp(2, keepdim=True)
        return torch.where(present, stay, log_nu + _log_1m_exp(jumps))


def _log_1m_exp(t: Tensor) -> Tensor:
    """log(1 - e^-t)."""
    return (-torch.expm1(-t)).log()
