"""Unadjusted moves that say by how much they miss the model, so that chains with weights make up for it."""

from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.sampler.informed import InformedState, informed
from ebm_cli.space import Real


class Drift(Protocol):
    """Moves x' = x + drift(dE/dx) + sigma z, z standard normal."""

    def drift(self, grad: Tensor, taken: Tensor) -> tuple[Tensor, Tensor | float]:
        """The move without noise, as `grad` (chains, *shape), and sigma, after so many steps."""
        ...


class WeighedState(NamedTuple):
    """Where chains are, with energies and gradients, and how many steps were taken."""

    at: InformedState
    taken: Tensor

    @property
    def x(self) -> Tensor:
        """Positions, (chains, *shape)."""
        return self.at.x


D = TypeVar("D", bound=Drift)


class Weighed(Sampler[EnergyModel, WeighedState], Generic[D]):
    """The moves of an unadjusted sampler, each with its `log_ratio` = log p(x') q(x | x') - log p(x) q(x' | x).

    q(x' | x) is the normal law of the move. A chain whose log w goes up by it stands for p with w whatever the length
    of the steps (Jarzynski's equality; Carbone et al. 2023, prop. 1): for s -> 0 the ratio goes to 0. It takes one
    gradient a step, and one more at the start.
    """

    spaces = (Real,)
    compiles = True

    def __init__(self, moves: D) -> None:
        self.moves = moves

    @property
    @override
    def leaves_invariant(self) -> bool:
        return False

    @override
    def init(self, model: EnergyModel, x: Tensor) -> WeighedState:
        """Energies and gradients at x."""
        return WeighedState(informed(model, x), torch.zeros((), device=x.device))

    @override
    def step(self, model: EnergyModel, state: WeighedState, key: AnyKey) -> tuple[WeighedState, Info]:
        """One move of each chain, and what it is worth."""
        old, (drift, sigma) = state.at, self.moves.drift(state.at.grad, state.taken)
        z = rng.normal(old.x.shape, key, old.x.device, old.x.dtype)
        new = informed(model, old.x + drift + sigma * z)
        back, _ = self.moves.drift(new.grad, state.taken)
        away = (old.x - new.x - back) / sigma
        log_q = (z.square() - away.square()).flatten(1).sum(1) / 2
        return WeighedState(new, state.taken + 1), {"log_ratio": old.energy - new.energy + log_q}
