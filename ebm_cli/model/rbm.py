"""Restricted Boltzmann machine with binary units (Smolensky 1986; Hinton 2002)."""

import math
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.device.engine import Engine
from ebm_cli.functional import sigmoid, softplus, softplus_sum
from ebm_cli.model.base import (
    Bipartite,
    EnergyModel,
    Gradients,
    ModelSpec,
    Pullback,
    Site,
    Sites,
    TwoValuedSites,
    get_site,
)
from ebm_cli.model.centred import Centred, HiddenMoments
from ebm_cli.model.fixed_point import FixedPoint, fixed_point, product
from ebm_cli.model.harmonium import DiscreteHarmonium
from ebm_cli.model.harmonium_sites import HarmoniumCategories, Layers
from ebm_cli.model.hidden_units import UNITS, BinaryHidden, Name
from ebm_cli.registry import Later, register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Binary, Categorical, Discrete, Space, Spin

_STEEP = 40  # of a weight: exp(-40) is far from 0 in float32 too


class RBM(Bipartite, Centred):
    """E(v, h) = -b.v - c.h - v.W h, so the free energy is E(v) = -b.v - sum_j softplus(c_j + (v W)_j).

    Buffers `visible_offset` and `hidden_offset` are mu and lambda of the centred gradient; the energy ignores them.
    """

    called = "Bernoulli RBM"
    compiles = True
    couplings = ("W",)
    has_fixed_point = True

    def __init__(self, space: Space, hidden: int, weight_std: float, mean: Tensor, key: Key) -> None:
        super().__init__()
        self.space = space
        self.hidden = hidden
        self.W = nn.Parameter(weight_std * rng.normal((math.prod(space.shape), hidden), key))
        self.b = nn.Parameter(self.initial_bias(mean).flatten())
        self.c = nn.Parameter(torch.zeros(hidden))
        self.register_buffer("visible_offset", mean.flatten().clone())
        self.register_buffer("hidden_offset", torch.full((hidden,), 0.5))

    def initial_bias(self, mean: Tensor) -> Tensor:
        """With which units that are not coupled have the mean of the data, (*shape)."""
        return mean.logit()

    @override
    def hidden_logits(self, v: Tensor) -> Tensor:
        """c + v W, (batch, hidden)."""
        return torch.addmm(self.c, v.flatten(1), self.W)

    @override
    def visible_logits(self, h: Tensor) -> Tensor:
        """b + h W^T, (batch, sites)."""
        return torch.addmm(self.b, h, self.W.T)

    @override
    def free_energy(self, v: Tensor, hidden_logits: Tensor) -> Tensor:
        """-b.v - sum_j softplus(a_j), (batch,)."""
        return -(v.flatten(1) @ self.b) - softplus_sum(hidden_logits)

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The free energy, and its gradient from the same hidden logits."""
        logits = self.hidden_logits(x)
        return self.free_energy(x, logits), partial(self.pull, x, logits)

    @torch.no_grad()
    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """dE/dv = -b - sigmoid(a) W^T, from the same hidden logits."""
        logits = self.hidden_logits(x)
        return self.free_energy(x, logits), torch.addmm(-self.b, sigmoid(logits), self.W.T, alpha=-1).reshape(x.shape)

    @torch.no_grad()
    @override
    def centred_vjp(self, x: Tensor, n: int) -> tuple[Tensor, Pullback, HiddenMoments]:
        logits = self.hidden_logits(x)
        mean = logits[:n].sigmoid().mean(0)
        return self.free_energy(x, logits), partial(self.pull, x, logits), HiddenMoments(mean, mean)

    def pull(self, v: Tensor, hidden_logits: Tensor, weight: Tensor) -> Gradients:
        """sum_n w_n dE(v_n)/dtheta: dE/dW = -v sigmoid(a)^T, dE/db = -v, dE/dc = -sigmoid(a).

        Data and chains with weights of opposite sign make one product of it.
        """
        v = v.flatten(1)
        activity = hidden_logits.sigmoid() * -weight[:, None]
        return {"W": v.T @ activity, "b": -(weight @ v), "c": activity.sum(0)}

    @override
    def log_conditionals(self, x: Tensor, sites: Tensor) -> Tensor:
        """With z the hidden logits while v_i = 0: logit = b_i + sum_j softplus(z_j + W_ij) - softplus(z_j)."""
        v, weight = x.flatten(1)[:, sites], self.W[sites]
        off = self.hidden_logits(x)[:, None] - v[:, :, None] * weight
        logits = self.b[sites] + (softplus(off + weight) - softplus(off)).sum(2)
        return F.logsigmoid((2 * v - 1) * logits)

    @override
    def in_fixed_point(self, digits: int, engine: Engine) -> "RBM | None":
        return FixedPointRBM(self, engine.region(fixed_point)(self.W.detach(), digits))

    @override
    def sites(self, x: Tensor) -> Sites:
        """Conditionals from cached hidden logits."""
        return RBMSites(self, x)


class FixedPointRBM(RBM):
    """The same energy with W rounded to fixed point; units are binary, so its products are sums of integers."""

    def __init__(self, model: RBM, weights: FixedPoint) -> None:
        nn.Module.__init__(self)
        self.space, self.hidden = model.space, model.hidden
        self.W, self.b, self.c = model.W, model.b, model.c
        self.weights = weights

    @override
    def hidden_logits(self, v: Tensor) -> Tensor:
        """c + v W, (batch, hidden)."""
        return product(v.flatten(1), self.weights) + self.c

    @override
    def visible_logits(self, h: Tensor) -> Tensor:
        """b + h W^T, (batch, sites)."""
        return product(h, self.weights.transposed()) + self.b

    @override
    def pull(self, v: Tensor, hidden_logits: Tensor, weight: Tensor) -> Gradients:
        """As for any RBM; the activities are rounded to fixed point for dE/dW."""
        v = v.flatten(1)
        activity = sigmoid(hidden_logits) * -weight[:, None]
        digits = fixed_point(activity, len(self.weights.digits), weight.abs().max())
        return {"W": product(v.T, digits), "b": -(weight @ v), "c": activity.sum(0)}


class RBMSites(TwoValuedSites):
    """With z_j the hidden logits while v_i = 0: logit = b_i + sum_j log(1 + sigmoid(z_j) (exp(W_ij) - 1)).

    One row of W instead of two products with it, since only v_i differs between the two free energies. The term is
    max(W_ij, 0) + log(e + sigmoid(+-z_j) (1 - e)) with e = exp(-|W_ij|) and the sign of W_ij: nothing cancels. Where a
    weight is so large that e would be 0, it is softplus(z_j + W_ij) - softplus(z_j).
    """

    def __init__(self, model: RBM, x: Tensor) -> None:
        self.model = model
        self.x = x.flatten(1).clone()
        self.hidden_logits = model.hidden_logits(self.x)
        self.steep = bool(model.W.abs().max() > _STEEP)

    @override
    def logit(self, site: Site) -> Tensor:
        """b_i + sum_j softplus(z_j + W_ij) - softplus(z_j), (chains,)."""
        weight = self.model.W[site]
        off = self.hidden_logits - get_site(self.x, site)[:, None] * weight
        if self.steep:
            return self.model.b[site] + (softplus(off + weight) - softplus(off)).sum(1)
        least = (-weight.abs()).exp()
        share = torch.addcmul(least, (off * weight.sign()).sigmoid(), 1 - least)
        return self.model.b[site] + weight.relu().sum(-1) + share.log().sum(1)

    @override
    def assign(self, site: Site, value: Tensor) -> None:
        """x_site <- value, and the hidden logits follow."""
        change = value - get_site(self.x, site)
        self.hidden_logits += change[:, None] * self.model.W[site]
        super().assign(site, value)


class CategoricalRBM(RBM):
    """The same energy of one-hot visible sites v (D, K): p(v_i = k | h) = softmax over k of b_ik + (W h)_ik.

    W (D K, hidden), b (D K,). Salakhutdinov, Mnih, Hinton 2007, eq. 1-3, without their labels.
    """

    space: Categorical
    has_fixed_point = False

    @override
    def initial_bias(self, mean: Tensor) -> Tensor:
        return mean.log()

    @override
    def in_fixed_point(self, digits: int, engine: Engine) -> None:
        """There is none."""

    @override
    def log_conditionals(self, x: Tensor, sites: Tensor) -> Tensor:
        """From the free energies of all values."""
        return EnergyModel.log_conditionals(self, x, sites)

    @override
    def draw_visible(self, logits: Tensor, key: AnyKey) -> Tensor:
        """Every site from the softmax of its K logits."""
        drawn = rng.categorical(self.space.table(logits), key)
        return F.one_hot(drawn, self.space.values).to(logits.dtype).reshape(-1, *self.space.shape)

    @override
    def visible_log_z(self, logits: Tensor) -> Tensor:
        """sum_i logsumexp_k, (batch,)."""
        return self.space.table(logits).logsumexp(2).sum(1)

    @override
    def sites(self, x: Tensor) -> Sites:
        """Conditionals from cached hidden logits."""
        layers = Layers(BinaryHidden(), {}, self.W, self.b)
        return HarmoniumCategories(self.space, layers, x, self.hidden_logits(x))


@register("model", "rbm")
class RBMSpec(ModelSpec):
    """Restricted Boltzmann machine, visible units binary, spins or categorical; their bias starts at the data mean.

    `hidden_units`: binary, or the law of a `DiscreteHarmonium` (`hidden_units.py`). `visible` spin: bits are learned as
    spins.
    """

    hidden: Annotated[int, Field(ge=1)]
    hidden_units: Annotated[Name, Later("binary")]
    visible: Annotated[Literal["auto", "spin"], Later("auto")]
    weight_std: Annotated[float, Field(ge=0)]

    builds = RBM
    spaces = (Binary, Spin, Categorical)

    def __post_init__(self) -> None:
        """What some objectives need are visible and hidden bits."""
        if self.hidden_units != "binary" or self.visible == "spin":
            object.__setattr__(self, "builds", DiscreteHarmonium)
        if self.visible == "spin":
            object.__setattr__(self, "spaces", (Spin,))

    @override
    def parameters(self, space: Space) -> int:
        potential = 1 + len(UNITS[self.hidden_units].shape_names)
        return math.prod(space.shape) * (self.hidden + 1) + potential * self.hidden

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> RBM | DiscreteHarmonium:
        """W ~ N(0, weight_std^2), b = logit(mean), half of that of spins, or log(mean); all of the hidden units 0."""
        if self.hidden_units != "binary" or isinstance(space, Spin):
            assert isinstance(space, Discrete)
            return DiscreteHarmonium(space, UNITS[self.hidden_units], self.hidden, self.weight_std, mean, key)
        kind = CategoricalRBM if isinstance(space, Categorical) else RBM
        return kind(space, self.hidden, self.weight_std, mean, key)
