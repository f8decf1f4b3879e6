"""The levels of a leveled model as densities of one and the same configuration, also of some sites given the others."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import EnergyModel
from ebm_cli.model.given import Given
from ebm_cli.model.levels import Alike, Leveled
from ebm_cli.model.rescaled import Rescaled
from ebm_cli.rng import AnyKey


class LevelLadder(ABC):
    """Densities p_k of w = m + (x_k - m) sqrt(v_0 / v_k) for all levels k, so that level 0 is the model itself."""

    family: Leveled

    @abstractmethod
    def at(self, level: Tensor) -> EnergyModel:
        """Rows w at a level each, (rows,) int64."""

    @abstractmethod
    def last(self, n: int, key: AnyKey) -> Tensor:
        """n draws of the last level, (n, *shape)."""

    def inside(self, level: Tensor) -> Rescaled:
        """The same in units of the noise of each row's level, from the mean on."""
        return Rescaled(self.at(level), self.origin, self.unit(level))

    @abstractmethod
    def unit(self, level: Tensor) -> Tensor:
        """The deviation of the noise of each row's level, (rows, *shape)."""

    @property
    @abstractmethod
    def origin(self) -> Tensor:
        """What units are counted from."""


class Whole(LevelLadder):
    """Those of whole configurations."""

    def __init__(self, family: Leveled) -> None:
        self.family = family

    @property
    @override
    def origin(self) -> Tensor:
        return self.family.mean

    @override
    def at(self, level: Tensor) -> EnergyModel:
        return Alike(self.family, level)

    @override
    def unit(self, level: Tensor) -> Tensor:
        return Alike(self.family, level).unit

    @override
    def last(self, n: int, key: AnyKey) -> Tensor:
        return self.family.last_alike().sample(n, key)


class Parts(LevelLadder):
    """Those of some sites given the others, which are at every level as they are given."""

    def __init__(self, family: Leveled, given: Given) -> None:
        self.family, self.given = family, given

    @property
    @override
    def origin(self) -> Tensor:
        return torch.zeros((), device=self.given.known.device)

    @override
    def at(self, level: Tensor) -> EnergyModel:
        return Given(Alike(self.family, level), self.given.known, self.given.where)

    @override
    def unit(self, level: Tensor) -> Tensor:
        return self.given.picked(Alike(self.family, level).unit)

    @override
    def last(self, n: int, key: AnyKey) -> Tensor:
        return self.given.picked(self.family.last_alike().sample(n, key))


def ladder_of(model: EnergyModel) -> LevelLadder:
    """That of a leveled model, or of some sites of one given the others. Raises TypeError for other models."""
    if isinstance(model, Given) and isinstance(model.model, Leveled):
        return Parts(model.model, model)
    if isinstance(model, Leveled):
        return Whole(model)
    raise TypeError(f"{type(model).__name__} has no levels")
