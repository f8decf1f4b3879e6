"""What samplers share that propose by the gradient of the energy: one call of energy and gradient for each proposal."""

import math
from typing import Literal, NamedTuple, assert_never, cast

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.functional import softplus
from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.adaptation import Adapting
from ebm_cli.space import Categorical, TwoValued

Balance = Literal["sqrt", "barker", "min", "max"]


class InformedState(NamedTuple):
    """Positions (chains, *shape), their energies (chains,) and dE/dx (chains, *shape)."""

    x: Tensor
    energy: Tensor
    grad: Tensor


def informed(model: EnergyModel, x: Tensor) -> InformedState:
    """The state at positions x."""
    return InformedState(x, *model.energy_and_grad(x))


class Informed(Adapting[EnergyModel, InformedState]):
    """A sampler that keeps energies and gradients from proposal to proposal, and whose step a warm-up can find."""

    @override
    def init(self, model: EnergyModel, x: Tensor) -> InformedState:
        """Energies and gradients at x."""
        return informed(model, x)


def gains(model: EnergyModel, state: InformedState) -> Tensor:
    """First-order f(x') - f(x), f = -E, of every x' that differs from x in one site; (chains, D, moves of a site).

    Two values: d_i = -dE/dx_i (x'_i - x_i), one move a site; with x_i in {0, 1} it is (2 x_i - 1) dE/dx_i (Grathwohl
    et al. 2021, eq. 3), and exact where E is linear in each site. K values: d_ik = -(dE/dx_ik - x_i.dE/dx_i), K moves,
    of which the one to the present value gains nothing.
    """
    space = model.space
    if isinstance(space, Categorical):
        slope = space.table(-state.grad)
        return slope - slope.gather(2, space.numbers(state.x)[:, :, None])
    return (-state.grad * (cast(TwoValued, space).flipped(state.x) - state.x)).flatten(1)[:, :, None]


def log_balanced(half: Tensor, balance: Balance) -> Tensor:
    """log g(t) from half = log(t) / 2, t = p(x') / p(x): sqrt(t), barker 2 t / (1 + t), min(1, t) or max(1, t).

    All have g(t) = t g(1 / t), so that moves drawn in proportion to g leave p nearly invariant by themselves (Zanella
    2020, sec. 2.2), and g(1) = 1.
    """
    match balance:
        case "sqrt":
            return half
        case "barker":
            return math.log(2) - softplus(-2 * half)
        case "min":
            return 2 * half.clamp_max(0)
        case "max":
            return 2 * half.clamp_min(0)
    assert_never(balance)


def accept(
    state: InformedState, proposal: InformedState, log_ratio: Tensor, key: AnyKey
) -> tuple[InformedState, Tensor]:
    """The proposal with probability min(1, exp(log_ratio)), else the state; and 1 or 0 for each chain.

    log_ratio = log p(x') q(x | x') - log p(x) q(x' | x), (chains,); one that is nan is a rejection.
    """
    taken = accepted(log_ratio, key)
    wide = taken.reshape(-1, *[1] * (state.x.dim() - 1))
    x, grad = (torch.where(wide, new, old) for new, old in ((proposal.x, state.x), (proposal.grad, state.grad)))
    energy = torch.where(taken, proposal.energy, state.energy)
    return InformedState(x, energy, grad), taken.to(log_ratio.dtype)


def accepted(log_ratio: Tensor, key: AnyKey) -> Tensor:
    """True with probability min(1, exp(log_ratio)), (chains,) bool; where that is nan, False."""
    return rng.uniform(log_ratio.shape, key, log_ratio.device, log_ratio.dtype) < log_ratio.exp()
