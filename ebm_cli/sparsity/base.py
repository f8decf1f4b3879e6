"""The seam of sparse models: when couplings are added or dropped, and which."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from ebm_cli.chains import Chains
from ebm_cli.model.base import EnergyModel, Quadratic
from ebm_cli.objective.base import Objective
from ebm_cli.space import Categorical, Discrete, Space


class Seen(NamedTuple):
    """Of every coupling the indicator that it rewards: how often it is 1 in data and chains, and its strength in nats.

    All have the shape of the couplings. `active` says which couplings there are, `possible` which there may be.
    """

    data: Tensor
    chains: Tensor
    strength: Tensor
    active: Tensor
    possible: Tensor

    @property
    def density(self) -> float:
        """Share of the possible couplings that there are."""
        return (self.active.sum() / self.possible.sum()).item()


@dataclass(frozen=True)
class Sparsity(ABC):
    """How couplings come and go. Those that there are not are 0, and no gradient moves them."""

    changes: ClassVar[bool] = True
    dense: ClassVar[bool] = True  # whether a run begins with all couplings, or with none
    needs_stop: ClassVar[bool] = False

    def refusal(self, model: type[EnergyModel], space: type[Space], objective: Objective, chains: Chains) -> str | None:
        """Why these parts have no couplings to choose among, or no chains to choose by, in one sentence, or None."""
        if not self.changes:
            return None
        if not (issubclass(model, Quadratic) and model.couplings and issubclass(space, Discrete)):
            return (
                "sparsity: wants a model of pairs of sites with values, model=potts, ising or boltzmann; leave it out"
            )
        if not (objective.negatives and chains.stored):
            return "sparsity: couplings are chosen by chains that stay; take objective=pcd, or leave sparsity out"
        return None

    @abstractmethod
    def due(self, step: int) -> bool:
        """Whether couplings change at this step, whatever the chains are like."""

    def goes_on(self, density: float) -> bool:
        """Whether couplings change where the model fits its data, and training goes on."""
        return False

    @abstractmethod
    def chosen(self, seen: Seen) -> Tensor:
        """The couplings that there are from now on, bool, in the shape of the couplings."""


def indicators(space: Space, means: Tensor, strength: Tensor) -> tuple[Tensor, Tensor, float]:
    """How often the indicator of each coupling is 1, its strength, and how often it is 1 of uniform sites.

    `means` are those of dE/d(-J): of bits and categories they are indicators, of x_i x_j and of x_i = a, x_j = b. Of
    spins s_i s_j = 2 [s_i = s_j] - 1, so that J s_i s_j is 2 J [s_i = s_j] but for a constant.
    """
    if isinstance(space, Categorical):
        return means, strength, 1 / space.values**2
    if space.name == "spin":
        return (1 + means) / 2, 2 * strength, 0.5
    return means, strength, 0.25
