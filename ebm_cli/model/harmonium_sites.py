"""Chains of a harmonium in the middle of a sweep over its visible sites."""

from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import CategoricalSites, Site, TwoValuedSites, get_site
from ebm_cli.model.hidden_units import HiddenUnits, Shape
from ebm_cli.space import Categorical, TwoValued


class Layers(NamedTuple):
    """Hidden units with the parameters of their potential, W (units of v, hidden) and b (units of v,)."""

    units: HiddenUnits
    potential: Shape
    W: Tensor
    b: Tensor

    def log_sum(self, a: Tensor) -> Tensor:
        """sum_j Gamma_j(a_j) over the last dimension."""
        return self.units.log_sum(a, self.potential).sum(-1)


class HarmoniumSites(TwoValuedSites):
    """With a_j the inputs without site i: logit = (high - low) b_i + sum_j Gamma(a_j + high W_ij) - Gamma(a_j + low
    W_ij)."""

    def __init__(self, space: TwoValued, layers: Layers, x: Tensor, inputs: Tensor) -> None:
        self.layers, self.low, self.high = layers, space.low, space.high
        self.x, self.inputs = x.flatten(1).clone(), inputs

    @override
    def logit(self, site: Site) -> Tensor:
        weight = self.layers.W[site]
        off = self.inputs - get_site(self.x, site)[:, None] * weight
        up, down = (self.layers.log_sum(off + value * weight) for value in (self.high, self.low))
        return (self.high - self.low) * self.layers.b[site] + up - down

    @override
    def assign(self, site: Site, value: Tensor) -> None:
        """x_site <- value, and the inputs follow."""
        self.inputs += (value - get_site(self.x, site))[:, None] * self.layers.W[site]
        super().assign(site, value)


class HarmoniumCategories(CategoricalSites):
    """With a_j the inputs without site i: logits_k = b_ik + sum_j Gamma(a_j + W_ikj)."""

    def __init__(self, space: Categorical, layers: Layers, x: Tensor, inputs: Tensor) -> None:
        self.layers, self.x, self.inputs = layers, space.table(x).clone(), inputs
        self.W, self.b = layers.W.reshape(space.sites, space.values, -1), layers.b.reshape(space.sites, space.values)

    @override
    def logits(self, site: Site) -> Tensor:
        weight = self.W[site].expand(len(self.x), -1, -1)
        off = self.inputs - torch.einsum("ck,ckh->ch", self._value(site), weight)
        return self.b[site] + self.layers.log_sum(off[:, None] + weight)

    @override
    def assign(self, site: Site, value: Tensor) -> None:
        """x_site <- value, and the inputs follow."""
        weight = self.W[site].expand(len(self.x), -1, -1)
        self.inputs += torch.einsum("ck,ckh->ch", value - self._value(site), weight)
        super().assign(site, value)

    def _value(self, site: Site) -> Tensor:
        if isinstance(site, int):
            return self.x[:, site]
        return self.x[torch.arange(len(self.x), device=site.device), site]
