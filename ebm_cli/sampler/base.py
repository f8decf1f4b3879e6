"""Markov kernels with one seam: `init` at positions x, `step`, and one loop that serves training, AIS and sampling."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import Key
from ebm_cli.space import Space

Info = dict[str, Tensor]
"""What one transition says of itself, (chains,) each: e.g. `acceptance`."""


class State(Protocol):
    """Chains in flight: positions (chains, *shape) and whatever a kernel caches beside them."""

    @property
    def x(self) -> Tensor:
        """Positions, (chains, *shape)."""
        ...


M = TypeVar("M", bound=EnergyModel)
S = TypeVar("S", bound=State)


class Sampler(ABC, Generic[M, S]):
    """A kernel: a frozen dataclass of step sizes and the like that keeps no state of its own.

    Caches of the model (energies, logits) are made by `init` and live for one `run`, so they never outlive a
    parameter update.
    """

    spaces: ClassVar[tuple[type[Space], ...]]
    needs: ClassVar[tuple[type[EnergyModel], ...]] = ()

    def misfit(self, space: Space) -> str | None:
        """Which key does not suit a space of this size, in one sentence, or None."""
        return None

    @abstractmethod
    def init(self, model: M, x: Tensor) -> S:
        """The state at positions x (chains, *shape)."""

    @abstractmethod
    def step(self, model: M, state: S, key: Key) -> tuple[S, Info]:
        """One transition of every chain."""

    def reversal(self) -> Self:
        """The time reversal T~(x | x') = T(x' | x) p(x) / p(x') of this kernel; a reversible kernel is its own."""
        return self


@torch.no_grad()
def run(sampler: Sampler[Any, Any], model: EnergyModel, x: Tensor, steps: int, key: Key) -> tuple[Tensor, Info]:
    """`steps` transitions from x: end positions (chains, *shape), and each piece of Info averaged over steps."""
    state = sampler.init(model, x)
    total: Info = {}
    for i in range(steps):
        state, info = sampler.step(model, state, key.fold(i))
        total = {name: value + total.get(name, 0.0) for name, value in info.items()}
    return state.x, {name: value / steps for name, value in total.items()}
