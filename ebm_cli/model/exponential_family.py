"""Products of independent exponential-family units: log Z is known, so they are baseline, base measure and oracle."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebm_cli import rng
from ebm_cli.model.base import CategoricalSites, Gradients, ModelSpec, Normalised, Pullback, Site, TwoValuedSites
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Binary, Categorical, Real, Space, Spin, TwoValued


class BernoulliProduct(Normalised):
    """E(x) = -b.bits(x): independent units of two values with p(x_i = high) = sigmoid(b_i); log Z = sum softplus(b_i).

    bits(x) is x itself in {0, 1}^D, and (x + 1) / 2 for spins.
    """

    compiles = True

    space: TwoValued

    def __init__(self, space: TwoValued, mean: Tensor) -> None:
        super().__init__()
        self.space = space
        self.b = nn.Parameter(mean.flatten().logit())

    def energy(self, x: Tensor) -> Tensor:
        """-b.bits(x), (batch,)."""
        return -(self.space.bits(x).flatten(1) @ self.b)

    @torch.no_grad()
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """dE/dx = -b / (high - low)."""
        slope = -self.b / (self.space.high - self.space.low)
        return self.energy(x), slope.expand(len(x), -1).reshape(x.shape)

    @torch.no_grad()
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The energy, and dE/db = -bits(x)."""
        return self.energy(x), lambda weight: {"b": -(weight @ self.space.bits(x).flatten(1))}

    def log_z(self) -> Tensor:
        """sum_i softplus(b_i)."""
        return F.softplus(self.b).sum()

    def sample(self, n: int, key: AnyKey) -> Tensor:
        """Independent coin flips, (n, *shape)."""
        return self.space.of_bits(rng.bernoulli(self.b.expand(n, -1), key)).reshape(n, *self.space.shape)

    def sites(self, x: Tensor) -> "BernoulliSites":
        """Conditionals that do not depend on the rest."""
        return BernoulliSites(self, x)


class BernoulliSites(TwoValuedSites):
    """logit p(x_i = high | rest) = b_i."""

    def __init__(self, model: BernoulliProduct, x: Tensor) -> None:
        self.bias, self.low = model.b, model.space.low
        self.x = x.flatten(1).clone()

    def logit(self, site: Site) -> Tensor:
        """b_i, (chains,)."""
        return self.bias[site].expand(len(self.x))


class CategoricalProduct(Normalised):
    """E(x) = -b.x on one-hot x: independent sites with p(x_i = k) = softmax(b_i)_k; log Z = sum_i logsumexp b_i."""

    compiles = True

    space: Categorical

    def __init__(self, space: Categorical, mean: Tensor) -> None:
        super().__init__()
        self.space = space
        self.b = nn.Parameter(mean.reshape(space.sites, space.values).log())

    def energy(self, x: Tensor) -> Tensor:
        """-b.x, (batch,)."""
        return -(x.flatten(1) @ self.b.flatten())

    @torch.no_grad()
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """dE/dx = -b."""
        return self.energy(x), -self.b.expand(len(x), -1, -1).reshape(x.shape)

    @torch.no_grad()
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The energy, and dE/db = -x."""
        return self.energy(x), lambda weight: {"b": -(weight @ x.flatten(1)).reshape(self.b.shape)}

    def log_z(self) -> Tensor:
        """sum_i log sum_k exp(b_ik)."""
        return self.b.logsumexp(1).sum()

    def sample(self, n: int, key: AnyKey) -> Tensor:
        """Independent sites, (n, *shape)."""
        chosen = rng.categorical(self.b.expand(n, -1, -1), key)
        return self.space.encode(chosen).to(self.b.dtype).reshape(n, *self.space.shape)

    def sites(self, x: Tensor) -> "CategoricalProductSites":
        """Conditionals that do not depend on the rest."""
        return CategoricalProductSites(self, x)


class CategoricalProductSites(CategoricalSites):
    """logits p(x_i | rest) = b_i."""

    def __init__(self, model: CategoricalProduct, x: Tensor) -> None:
        self.b, self.x = model.b, model.space.table(x).clone()

    def logits(self, site: Site) -> Tensor:
        """b_i, (chains, K)."""
        return self.b[site].expand(len(self.x), -1)


class GaussianProduct(Normalised):
    """E(x) = sum_i (x_i - m_i)^2 exp(r_i) / 2 on R^D: variance exp(-r_i); log Z = sum_i (log 2 pi - r_i) / 2."""

    compiles = True

    def __init__(self, space: Space, mean: Tensor) -> None:
        super().__init__()
        self.space = space
        self.m = nn.Parameter(mean.flatten().clone())
        self.r = nn.Parameter(torch.zeros(space.sites))

    def energy(self, x: Tensor) -> Tensor:
        """sum_i (x_i - m_i)^2 exp(r_i) / 2, (batch,)."""
        return 0.5 * ((x.flatten(1) - self.m).square() @ self.r.exp())

    @torch.no_grad()
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """dE/dx_i = (x_i - m_i) exp(r_i)."""
        return self.energy(x), ((x.flatten(1) - self.m) * self.r.exp()).reshape(x.shape)

    @torch.no_grad()
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The energy, and dE/dm_i = -(x_i - m_i) exp(r_i), dE/dr_i = (x_i - m_i)^2 exp(r_i) / 2."""
        off, precision = x.flatten(1) - self.m, self.r.exp()

        def pull(weight: Tensor) -> Gradients:
            return {"m": -(weight @ off) * precision, "r": (weight @ off.square()) * precision / 2}

        return self.energy(x), pull

    def log_z(self) -> Tensor:
        """sum_i (log 2 pi - r_i) / 2."""
        return 0.5 * (math.log(2 * math.pi) - self.r).sum()

    def sample(self, n: int, key: AnyKey) -> Tensor:
        """m + exp(-r / 2) z with z standard normal, (n, *shape)."""
        z = rng.normal((n, self.space.sites), key, self.m.device, self.m.dtype)
        return (self.m + (-self.r / 2).exp() * z).reshape(n, *self.space.shape)


def product(space: Space, mean: Tensor) -> Normalised:
    """Independent units with this mean (*shape), of spins that of their bits."""
    if isinstance(space, Categorical):
        return CategoricalProduct(space, mean)
    return BernoulliProduct(space, mean) if isinstance(space, TwoValued) else GaussianProduct(space, mean)


@register("model", "exponential_family")
class ExponentialFamilySpec(ModelSpec):
    """Product of independent units, the baseline any model must beat: Bernoulli, categorical or Gaussian."""

    builds = Normalised
    spaces = (Binary, Spin, Categorical, Real)

    def build(self, space: Space, mean: Tensor, key: Key) -> Normalised:
        """Discrete units start at the data mean, which is their maximum likelihood; Gaussian ones with variance 1."""
        return product(space, mean)
