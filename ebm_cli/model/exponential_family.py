"""Products of independent exponential-family units: log Z is known, so they are baseline, base measure and oracle."""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model import truncated
from ebm_cli.model.base import (
    CategoricalSites,
    Gradients,
    ModelSpec,
    Normalised,
    Pullback,
    Site,
    Support,
    TwoValuedSites,
)
from ebm_cli.model.families import MEMBERS
from ebm_cli.model.mixed_units import MixedProduct
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Binary, Box, Categorical, Mixed, Real, Space, Spin, TwoValued


class BernoulliProduct(Normalised):
    """E(x) = -b.bits(x): independent units of two values with p(x_i = high) = sigmoid(b_i); log Z = sum softplus(b_i).

    bits(x) is x itself in {0, 1}^D, and (x + 1) / 2 for spins.
    """

    independent = True
    compiles = True

    space: TwoValued

    def __init__(self, space: TwoValued, mean: Tensor) -> None:
        super().__init__()
        self.space = space
        self.b = nn.Parameter(mean.flatten().logit())

    @override
    def energy(self, x: Tensor) -> Tensor:
        """-b.bits(x), (batch,)."""
        return -(self.space.bits(x).flatten(1) @ self.b)

    @torch.no_grad()
    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """dE/dx = -b / (high - low)."""
        slope = -self.b / (self.space.high - self.space.low)
        return self.energy(x), slope.expand(len(x), -1).reshape(x.shape)

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The energy, and dE/db = -bits(x)."""
        return self.energy(x), lambda weight: {"b": -(weight @ self.space.bits(x).flatten(1))}

    @override
    def log_z(self) -> Tensor:
        """sum_i softplus(b_i)."""
        return F.softplus(self.b).sum()

    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """Independent coin flips, (n, *shape)."""
        return self.space.of_bits(rng.bernoulli(self.b.expand(n, -1), key)).reshape(n, *self.space.shape)

    @override
    def sites(self, x: Tensor) -> "BernoulliSites":
        """Conditionals that do not depend on the rest."""
        return BernoulliSites(self, x)


class BernoulliSites(TwoValuedSites):
    """logit p(x_i = high | rest) = b_i."""

    def __init__(self, model: BernoulliProduct, x: Tensor) -> None:
        self.bias, self.low = model.b, model.space.low
        self.x = x.flatten(1).clone()

    @override
    def logit(self, site: Site) -> Tensor:
        """b_i, (chains,)."""
        return self.bias[site].expand(len(self.x))


class CategoricalProduct(Normalised):
    """E(x) = -b.x on one-hot x: independent sites with p(x_i = k) = softmax(b_i)_k; log Z = sum_i logsumexp b_i."""

    independent = True
    compiles = True

    space: Categorical

    def __init__(self, space: Categorical, mean: Tensor) -> None:
        super().__init__()
        self.space = space
        self.b = nn.Parameter(mean.reshape(space.sites, space.values).log())

    @override
    def energy(self, x: Tensor) -> Tensor:
        """-b.x, (batch,)."""
        return -(x.flatten(1) @ self.b.flatten())

    @torch.no_grad()
    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """dE/dx = -b."""
        return self.energy(x), -self.b.expand(len(x), -1, -1).reshape(x.shape)

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The energy, and dE/db = -x."""
        return self.energy(x), lambda weight: {"b": -(weight @ x.flatten(1)).reshape(self.b.shape)}

    @override
    def log_z(self) -> Tensor:
        """sum_i log sum_k exp(b_ik)."""
        return self.b.logsumexp(1).sum()

    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """Independent sites, (n, *shape)."""
        chosen = rng.categorical(self.b.expand(n, -1, -1), key)
        return self.space.encode(chosen).to(self.b.dtype).reshape(n, *self.space.shape)

    @override
    def sites(self, x: Tensor) -> "CategoricalProductSites":
        """Conditionals that do not depend on the rest."""
        return CategoricalProductSites(self, x)


class CategoricalProductSites(CategoricalSites):
    """logits p(x_i | rest) = b_i."""

    def __init__(self, model: CategoricalProduct, x: Tensor) -> None:
        self.b, self.x = model.b, model.space.table(x).clone()

    @override
    def logits(self, site: Site) -> Tensor:
        """b_i, (chains, K)."""
        return self.b[site].expand(len(self.x), -1)


class GaussianUnits(Normalised):
    """E(x) = sum_i (x_i - m_i)^2 exp(r_i) / 2, standard deviations s_i = exp(-r_i / 2), 1 unless they are given."""

    independent = True
    compiles = True

    def __init__(self, space: Space, mean: Tensor, std: Tensor | None = None) -> None:
        super().__init__()
        self.space = space
        self.m = nn.Parameter(mean.flatten().clone())
        self.r = nn.Parameter(torch.zeros(space.sites) if std is None else -2 * std.flatten().log())

    @override
    def energy(self, x: Tensor) -> Tensor:
        """sum_i (x_i - m_i)^2 exp(r_i) / 2, (batch,)."""
        return 0.5 * ((x.flatten(1) - self.m).square() @ self.r.exp())

    @torch.no_grad()
    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """dE/dx_i = (x_i - m_i) exp(r_i)."""
        return self.energy(x), ((x.flatten(1) - self.m) * self.r.exp()).reshape(x.shape)

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The energy, and dE/dm_i = -(x_i - m_i) exp(r_i), dE/dr_i = (x_i - m_i)^2 exp(r_i) / 2."""
        off, precision = x.flatten(1) - self.m, self.r.exp()

        def pull(weight: Tensor) -> Gradients:
            return {"m": -(weight @ off) * precision, "r": (weight @ off.square()) * precision / 2}

        return self.energy(x), pull


class GaussianProduct(GaussianUnits):
    """Gaussian units on R^D: log Z = sum_i (log 2 pi - r_i) / 2."""

    @override
    def log_z(self) -> Tensor:
        """sum_i (log 2 pi - r_i) / 2."""
        return 0.5 * (math.log(2 * math.pi) - self.r).sum()

    def push(self, z: Tensor) -> Tensor:
        """m + exp(-r / 2) z for z (n, sites), (n, *shape), differentiable in z and the parameters."""
        return (self.m + (-self.r / 2).exp() * z).reshape(len(z), *self.space.shape)

    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """`push` of standard normal numbers."""
        return self.push(rng.normal((n, self.space.sites), key, self.m.device, self.m.dtype))


class TruncatedProduct(GaussianUnits):
    """Gaussian units between the walls of a box, beyond which their density is 0; log Z as `truncated.log_z`."""

    space: Box

    @override
    def log_z(self) -> Tensor:
        """The integral of exp(-E) is over the box alone."""
        return truncated.log_z(self.space, self.m, (-self.r / 2).exp()).to(self.m.dtype)

    @torch.no_grad()
    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """By inversion of the distribution function, (n, *shape)."""
        return truncated.draws(self.space, self.m, (-self.r / 2).exp(), n, key)


def product(space: Space, mean: Tensor, std: Tensor | None = None) -> Normalised:
    """Independent units of this space with this mean (*shape), of spins that of their bits; log Z is over the space.

    Of real numbers Gaussian ones, of standard deviations `std` (None: 1), in a box between its walls: mean and standard
    deviation are then those of the law before it is cut off. Of mixed sites the mean is that of their units and `std`
    that of the real ones.
    """
    if isinstance(space, Mixed):
        return MixedProduct(space, mean, std)
    if isinstance(space, Categorical):
        return CategoricalProduct(space, mean)
    if isinstance(space, TwoValued):
        return BernoulliProduct(space, mean)
    return TruncatedProduct(space, mean, std) if isinstance(space, Box) else GaussianProduct(space, mean, std)


_SPACES: dict[str, tuple[type[Space], ...]] = {
    "auto": (Binary, Spin, Categorical, Real, Mixed),
    "bernoulli": (Binary, Spin),
    "categorical": (Categorical,),
}  # of the others: Real


@register("model", "exponential_family")
class ExponentialFamilySpec(ModelSpec):
    """Product of independent units, the baseline any model must beat and the ground truth of estimators of log Z.

    `family` auto is Bernoulli, categorical or Gaussian units by the space; the others are those of `families.py`. Draws
    are exact; chains of Poisson and Dirichlet units never move, since no step of real numbers stays on their support.
    """

    family: Literal[
        "auto", "bernoulli", "categorical", "gaussian", "exponential", "gamma", "poisson", "beta", "dirichlet"
    ]

    builds = Normalised
    spaces = (Binary, Spin, Categorical, Real, Mixed)

    def __post_init__(self) -> None:
        """The family decides whether grey data are taken as bits."""
        object.__setattr__(self, "spaces", _SPACES.get(self.family, (Real,)))

    @property
    @override
    def support(self) -> Support | None:
        if self.family not in MEMBERS:
            return None
        says, holds = MEMBERS[self.family].support
        return Support(f"model.family = {self.family}: takes {says}", holds)

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> Normalised:
        """Units of the data mean: its maximum likelihood where that is all a unit has; Gaussian ones of variance 1."""
        made: Callable[[Space, Tensor], Normalised] = MEMBERS.get(self.family, product)
        return made(space, mean)
