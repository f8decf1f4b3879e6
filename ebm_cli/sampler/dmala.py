"""Discrete Langevin proposals (Zhang, Liu, Liu 2022): every site at once."""

import dataclasses
from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import Later, register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.sampler.base import Info
from ebm_cli.sampler.informed import Balance, Informed, InformedState, gains, informed, log_balanced
from ebm_cli.sampler.leap import drawn, leapt, unless_kept
from ebm_cli.space import Binary, Categorical, Space, Spin

_LEAST = 0.01  # of the mean gain of all sites, for sites that nothing pulls at


@register("sampler", "dmala")
class DiscreteLangevin(Informed):
    """q_i(x'_i | x) proportional to exp(-dE/dx_i (x'_i - x_i) / 2 - [x'_i is not x_i] / (2 step_size)), eq. 3 and 5.

    There the last term has |x'_i - x_i|^2, which is the same for bits; spins, at distance 2, and one-hot rows, at
    distance sqrt(2), would need four times and twice the step for the same moves. The first term is log g(t) with
    t = exp(-dE/dx_i (x'_i - x_i)) and `balance` sqrt; barker has g(t) = 2 t / (1 + t), min min(1, t), max max(1, t)
    (Zanella 2020).

    `scales` are factors g_i on the step size of each site, the preconditioned proposal: equal, a list,
    or by the gradient. Then a warm-up begins with equal ones, takes g_i in inverse proportion to the root mean square
    of the gains at site i over the chains, with harmonic mean 1, and keeps them from then on.

    `adjusted` accepts x' with min(1, p(x') q(x | x') / (p(x) q(x' | x))): DMALA. Without, every proposal is taken:
    DULA, which does not leave p invariant.
    """

    step_size: Annotated[float, Field(gt=0)]
    adjusted: bool
    balance: Annotated[Balance, Later("sqrt")]
    adapt: Annotated[float, Field(gt=0, lt=1)] | None
    scales: Annotated[
        Literal["equal", "gradient"] | Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)],
        Later("equal"),
    ]

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
        """Without an acceptance test there is none to aim at, and without a warm-up no gradient is looked at."""
        if self.adapt is not None and not self.adjusted:
            return f"sampler.adapt = {self.adapt}: unadjusted proposals are all accepted; set sampler.adapt=null"
        if self.scales == "gradient" and self.adapt is None:
            return "sampler.scales = gradient: found in a warm-up, which there is with sampler.adapt=0.574"
        if isinstance(self.scales, list) and len(self.scales) != space.sites:
            return f"sampler.scales: {len(self.scales)} numbers for {space.sites} sites; give one for each"
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
        return unless_kept(model.space, state.x, log_g, self._cost(log_g))

    def _cost(self, like: Tensor) -> Tensor | float:
        """1 / (2 g_i step_size), (D, 1) unless it is the same for all."""
        if not isinstance(self.scales, list):
            return 1 / (2 * self.step_size)
        return 1 / (2 * self.step_size * like.new_tensor(self.scales)[:, None])

    @override
    def found(self) -> dict[str, float]:
        """The step size, and between which factors those of the sites are."""
        if not isinstance(self.scales, list):
            return super().found()
        return super().found() | {"scales_lowest": min(self.scales), "scales_highest": max(self.scales)}

    @override
    def warmed(self, model: EnergyModel, x: Tensor, steps: int, key: Key) -> tuple[Self, Tensor]:
        """Where the scales are to be found too, the step size for equal ones first, half of the steps for each."""
        if self.scales != "gradient":
            return super().warmed(model, x, steps, key)
        equal, x = super().warmed(model, x, steps // 2, key.fold("equal"))
        scaled = dataclasses.replace(equal, scales=_scales(model, informed(model, x)))
        return scaled.warmed(model, x, steps - steps // 2, key.fold("scaled"))


def _scales(model: EnergyModel, state: InformedState) -> list[float]:
    """g_i, (D,)."""
    size = gains(model, state).double().square().mean((0, 2)).sqrt()
    least = size.mean().clamp_min(torch.finfo(size.dtype).tiny)
    size = size.clamp_min(_LEAST * least)
    found: list[float] = (size.mean() / size).tolist()
    return found
