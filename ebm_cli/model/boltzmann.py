"""Fully visible Boltzmann machine (Ackley, Hinton, Sejnowski 1985)."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel, ModelSpec, Site, Sites
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Binary, Space


class Boltzmann(EnergyModel):
    """E(x) = -x.W x / 2 - b.x with W symmetric and its diagonal zero.

    The parameter `W` holds each coupling once, in its strict upper triangle; the rest of it is never read, so
    dE/dW_ij = -x_i x_j (i < j) as in the paper's eq. 5, and no update can break the symmetry.
    """

    def __init__(self, space: Space, weight_std: float, mean: Tensor, key: Key) -> None:
        super().__init__()
        self.space = space
        self.W = nn.Parameter((weight_std * rng.normal((space.sites, space.sites), key)).triu(1))
        self.b = nn.Parameter(mean.flatten().logit())

    def energy(self, x: Tensor) -> Tensor:
        """-sum_{i<j} x_i W_ij x_j - b.x, (batch,)."""
        v = x.flatten(1)
        return -((v @ self.W.triu(1)) * v).sum(1) - v @ self.b

    def coupling(self) -> Tensor:
        """The symmetric matrix W of the energy, (sites, sites)."""
        upper = self.W.triu(1)
        return upper + upper.T

    def sites(self, x: Tensor) -> "BoltzmannSites":
        """Conditionals from one row of the symmetric matrix."""
        return BoltzmannSites(self, x)


class BoltzmannSites(Sites):
    """logit p(x_i = 1 | rest) = W_i.x + b_i; W_ii = 0, so x_i itself does not enter."""

    def __init__(self, model: Boltzmann, x: Tensor) -> None:
        self.coupling = model.coupling()
        self.bias = model.b
        self.x = x.flatten(1).clone()

    def logit(self, site: Site) -> Tensor:
        """W_i.x + b_i, (chains,)."""
        if isinstance(site, int):
            return torch.mv(self.x, self.coupling[site]) + self.bias[site]
        return (self.x * self.coupling[site]).sum(1) + self.bias[site]


@register("model", "boltzmann")
class BoltzmannSpec(ModelSpec):
    """Fully visible Boltzmann machine: every pair of units coupled; its bias starts at the logit of the data mean."""

    weight_std: Annotated[float, Field(ge=0)]

    builds = Boltzmann
    spaces = (Binary,)

    def build(self, space: Space, mean: Tensor, key: Key) -> Boltzmann:
        """W_ij ~ N(0, weight_std^2) for i < j, b = logit(mean)."""
        return Boltzmann(space, self.weight_std, mean, key)
