"""What chains of evaluation=mixing should come to, and in which units states are told apart."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import EnergyModel
from ebm_cli.space import Real, Space, TwoValued
from ebm_cli.yardstick.mmd import mmd, resolution, within


class Units(ABC):
    """How far states (chains, *shape) are apart."""

    @abstractmethod
    def of(self, x: Tensor) -> Tensor:
        """x in units in which |a - b|^2 is the distance of two states, (chains, *shape)."""

    def apart(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances, (chains, states)."""
        return (self.of(x).flatten(1)[:, None] - self.of(y).flatten(1)).square().sum(2)

    def moved(self, before: Tensor, x: Tensor) -> Tensor:
        """How far each chain has gone, (chains,)."""
        return (self.of(x) - self.of(before)).flatten(1).square().sum(1)

    def along(self, x: Tensor) -> Tensor:
        """More functions of a state that are followed, (chains, functions): none."""
        return x.new_empty(len(x), 0)


@dataclass(frozen=True)
class Bits(Units):
    """Of two values: the number of sites that differ."""

    space: TwoValued

    @override
    def of(self, x: Tensor) -> Tensor:
        return self.space.bits(x)


@dataclass(frozen=True)
class Deviations(Units):
    """Of real numbers: the squared distance in standard deviations of the reference, site by site.

    What is followed too are the coordinates along the reference's longest principal axes, where chains are slowest to
    come around whose steps are as short as its shortest one asks.
    """

    scale: Tensor  # (*shape)
    axes: Tensor  # (sites, axes)

    @override
    def of(self, x: Tensor) -> Tensor:
        return x / self.scale

    @override
    def along(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.axes


def units(space: Space, x: Tensor, axes: int) -> Units:
    """Those of a space, by states x (chains, *shape) of the reference. Raises ValueError if there are none."""
    if isinstance(space, TwoValued):
        return Bits(space)
    if not isinstance(space, Real):
        raise ValueError(f"a {space.name} space has no distances")
    scale = x.std(0)
    centred = (x - x.mean(0)).flatten(1)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh
    return Deviations(torch.where(scale > 0, scale, 1), directions[:axes].T.contiguous())


@dataclass(frozen=True)
class Reference:
    """States x (chains, *shape), also in `units`, and their energies (chains,)."""

    units: Units
    states: Tensor
    energy: Tensor
    landmarks: Tensor  # the first of x, (distances, *shape)
    within: float  # mean kernel of two of the states

    @classmethod
    def of(cls, model: EnergyModel, x: Tensor, distances: int, by: Units | None = None) -> Self:
        """At positions x."""
        by = by or units(model.space, x, distances)
        states = by.of(x)
        return cls(by, states, model.energy(x).double(), x[:distances], within(states))

    def mmd(self, x: Tensor) -> float:
        """Squared maximum mean discrepancy of other states x to these."""
        return mmd(self.units.of(x), self.states, self.within)

    def energy_error(self, energy: Tensor) -> float:
        """|mean - mean of the reference|, nats."""
        return abs(energy.double().mean() - self.energy.mean()).item()

    def errors(self, n: int) -> dict[str, float]:
        """Standard errors of discrepancy and difference of mean energies of n chains that have its law."""
        spread = self.energy.std().item() * math.sqrt(1 / n + 1 / len(self.energy))
        return {"mmd_standard_error": resolution(self.states, n), "energy_standard_error": spread}
