"""The levels of a leveled model as densities of one and the same configuration, also of some sites given the others."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import EnergyModel, Normalised
from ebm_cli.model.given import Given
from ebm_cli.model.levels import Leveled, Unshrunk
from ebm_cli.model.rescaled import Rescaled
from ebm_cli.rng import AnyKey


class LevelLadder(NamedTuple):
    """The Gaussian of the last level, and the levels from the one below it down to level 0; each in units of its noise.

    All are densities of w = m + (x_k - m) a_0 / a_k, so that level 0 is the model itself.
    """

    base: Normalised
    models: Sequence[EnergyModel]
    inside: Sequence[Rescaled]


def ladder_of(model: EnergyModel) -> LevelLadder:
    """That of a leveled model; of some sites of one given the others those sites at every level, the others as given.

    Raises TypeError for other models.
    """
    if isinstance(model, Given) and isinstance(model.model, Leveled):
        family, models = model.model, _levels(model.model)
        given = [Given(each, model.known, model.where) for each in models]
        nothing = torch.zeros((), device=model.known.device)
        inside = [Rescaled(each, nothing, level.unit) for each, level in zip(given, models, strict=True)]
        return LevelLadder(GivenGaussian(family.last_unshrunk(), model), given, inside)
    if not isinstance(model, Leveled):
        raise TypeError(f"{type(model).__name__} has no levels")
    models = _levels(model)
    return LevelLadder(model.last_unshrunk(), models, [Rescaled(each, model.mean, each.unit) for each in models])


def _levels(model: Leveled) -> list[Unshrunk]:
    return [model.unshrunk(level) for level in range(model.levels - 2, -1, -1)]


class GivenGaussian(Normalised):
    """Some sites of independent ones given the others, which tell nothing of them."""

    def __init__(self, whole: Normalised, given: Given) -> None:
        super().__init__()
        self.whole, self.given, self.space = whole, given, given.space

    @override
    def energy(self, x: Tensor) -> Tensor:
        """Of whole configurations, (batch,)."""
        return self.whole.energy(self.given.filled(x))

    @override
    def log_z(self) -> Tensor:
        """Of whole configurations: the energy has the sites that are given too."""
        return self.whole.log_z()

    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        return self.given.picked(self.whole.sample(n, key))
