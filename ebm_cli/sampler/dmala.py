"""Discrete Langevin proposals (Zhang, Liu, Liu 2022): every site at once."""

from typing import Annotated

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import Later, register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info
from ebm_cli.sampler.informed import Balance, Informed, InformedState, gains, informed, log_balanced
from ebm_cli.sampler.leap import drawn, leapt, unless_kept
from ebm_cli.space import Binary, Categorical, Space, Spin


@register("sampler", "dmala")
class DiscreteLangevin(Informed):
    """q_i(x'_i | x) proportional to exp(-dE/dx_i (x'_i - x_i) / 2 - [x'_i is not x_i] / (2 step_size)), eq. 3 and 5.

    There the last term has |x'_i - x_i|^2, which is the same for bits; spins, at distance 2, and one-hot rows, at
    distance sqrt(2), would need four times and twice the step for the same moves. The first term is log g(t) with
    t = exp(-dE/dx_i (x'_i - x_i)) and `balance` sqrt; barker has g(t) = 2 t / (1 + t), min min(1, t), max max(1, t)
    (Zanella 2020).

    `adjusted` accepts x' with min(1, p(x') q(x | x') / (p(x) q(x' | x))): DMALA. Without, every proposal is taken:
    DULA, which does not leave p invariant.
    """

    step_size: Annotated[float, Field(gt=0)]
    adjusted: bool
    balance: Annotated[Balance, Later("sqrt")]
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

    @property
    @override
    def chosen_as(self) -> str | None:
        return None if self.adjusted else "dula"

    @override
    def refusal(self, space: Space) -> str | None:
        """Without an acceptance test there is no acceptance to aim at."""
        if self.adapt is not None and not self.adjusted:
            return f"sampler.adapt = {self.adapt}: unadjusted proposals are all accepted; set sampler.adapt=null"
        return None

    @override
    def step(self, model: EnergyModel, state: InformedState, key: AnyKey) -> tuple[InformedState, Info]:
        """One proposal per chain; `acceptance` is 0 or 1 for each, `flips` how many sites moved."""
        if self.adjusted:
            return leapt(model, state, self._logits, key)
        leap = drawn(model.space, state.x, self._logits(model, state), key.fold("proposal"))
        return informed(model, leap.x), {"flips": leap.flips}

    def _logits(self, model: EnergyModel, state: InformedState) -> Tensor:
        """log g - 1 / (2 step_size) of every value that a site has not; (chains, D, moves of a site)."""
        log_g = log_balanced(gains(model, state) / 2, self.balance)
        return unless_kept(model.space, state.x, log_g, 1 / (2 * self.step_size))
