"""Exponential families on part of the real line, on the counts and on the simplex: known log Z, exact draws."""

import itertools
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import Gradients, Normalised, Pullback, Support
from ebm_cli.rng import AnyKey
from ebm_cli.space import Space

_ON_SIMPLEX = 1e-4  # by which a sum of float32 shares may miss 1


class Family(Normalised):
    """Units whose energy is finite on their family's support and +inf beyond, so that a sampler's moves stop there."""

    independent = True
    support: ClassVar[Support]
    inner: ClassVar[float] = 0.5  # a number of every support, in place of those that have no energy
    has_density: ClassVar[bool] = True
    """Whether Z is the integral of exp(-E) over R^D, and not over something without a volume."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space

    @abstractmethod
    def terms(self, v: Tensor) -> Tensor:
        """The energy of each unit, (batch, sites), for v (batch, sites) within the support."""

    @abstractmethod
    def slopes(self, v: Tensor) -> Gradients:
        """The derivative of each term in the parameter of its site, (batch, *shape of the parameter)."""

    @override
    def energy(self, x: Tensor) -> Tensor:
        """The sum of the terms, or +inf, (batch,)."""
        good = self.support.holds(x)
        return torch.where(good, self.terms(self._within(x, good)).sum(1), torch.inf)

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The energy, and the weighted sums of the slopes."""
        slopes = self.slopes(self._within(x, self.support.holds(x)))
        return self.energy(x), lambda weight: {n: torch.tensordot(weight, s, 1) for n, s in slopes.items()}

    def _within(self, x: Tensor, good: Tensor) -> Tensor:
        return torch.where(good[:, None], x.flatten(1), self.inner)


class Exponential(Family):
    """E(x) = sum_i exp(r_i) x_i on x >= 0: rates exp(r_i); log Z = -sum_i r_i."""

    support = Support("x >= 0", lambda x: (x >= 0).flatten(1).all(1))

    def __init__(self, space: Space, mean: Tensor) -> None:
        super().__init__(space)
        self.r = nn.Parameter(-_log(mean))

    @override
    def terms(self, v: Tensor) -> Tensor:
        """exp(r) x."""
        return self.r.exp() * v

    @override
    def slopes(self, v: Tensor) -> Gradients:
        """dE/dr = exp(r) x."""
        return {"r": self.terms(v)}

    @override
    def log_z(self) -> Tensor:
        """-sum_i r_i."""
        return -self.r.sum()

    @torch.no_grad()
    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """-log(1 - u) exp(-r) with u uniform, (n, *shape)."""
        u = rng.uniform((n, self.space.sites), key, self.r.device, torch.float64)
        return (-torch.log1p(-u) * (-self.r).exp()).to(self.r.dtype).reshape(n, *self.space.shape)


class Gamma(Family):
    """E(x) = sum_i exp(r_i) x_i - (a_i - 1) log x_i on x > 0: shapes a_i = exp(s_i), rates exp(r_i).

    log Z = sum_i log Gamma(a_i) - a_i r_i. It starts as an exponential distribution of the data mean.
    """

    support = Support("x > 0", lambda x: (x > 0).flatten(1).all(1))

    def __init__(self, space: Space, mean: Tensor) -> None:
        super().__init__(space)
        self.s = nn.Parameter(torch.zeros(space.sites))
        self.r = nn.Parameter(-_log(mean))

    @override
    def terms(self, v: Tensor) -> Tensor:
        """exp(r) x - (a - 1) log x."""
        return self.r.exp() * v - (self.s.exp() - 1) * v.log()

    @override
    def slopes(self, v: Tensor) -> Gradients:
        """dE/ds = -a log x, dE/dr = exp(r) x."""
        return {"s": -self.s.exp() * v.log(), "r": self.r.exp() * v}

    @override
    def log_z(self) -> Tensor:
        """sum_i log Gamma(a_i) - a_i r_i."""
        a = self.s.exp()
        return (a.lgamma() - a * self.r).sum()

    @torch.no_grad()
    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """By `log_gamma`, (n, *shape)."""
        return _positive((log_gamma(self.s.exp(), n, key) - self.r).exp(), self.r).reshape(n, *self.space.shape)


class Poisson(Family):
    """E(x) = sum_i log x_i! - x_i t_i on the counts 0, 1, ...: rates exp(t_i); log Z = sum_i exp(t_i).

    Z is a sum over counts, not an integral.
    """

    support = Support("counts 0, 1, ...", lambda x: ((x >= 0) & (x == x.floor())).flatten(1).all(1))
    inner = 0.0
    has_density = False

    def __init__(self, space: Space, mean: Tensor) -> None:
        super().__init__(space)
        self.t = nn.Parameter(_log(mean))

    @override
    def terms(self, v: Tensor) -> Tensor:
        """log x! - x t."""
        return (v + 1).lgamma() - v * self.t

    @override
    def slopes(self, v: Tensor) -> Gradients:
        """dE/dt = -x."""
        return {"t": -v}

    @override
    def log_z(self) -> Tensor:
        """sum_i exp(t_i)."""
        return self.t.exp().sum()

    @torch.no_grad()
    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """By inversion: the least x with P(X <= x) > u, u uniform, (n, *shape)."""
        u = rng.uniform((n, self.space.sites), key, self.t.device, torch.float64)
        return _inverted_poisson(self.t.double().exp(), u).to(self.t.dtype).reshape(n, *self.space.shape)


class Beta(Family):
    """E(x) = -sum_i (a_i - 1) log x_i + (b_i - 1) log(1 - x_i) on 0 < x < 1: a_i = exp(s_i), b_i = exp(r_i).

    log Z = sum_i log Gamma(a_i) + log Gamma(b_i) - log Gamma(a_i + b_i). It starts with a + b = 2 at the data mean.
    """

    support = Support("0 < x < 1", lambda x: ((x > 0) & (x < 1)).flatten(1).all(1))

    def __init__(self, space: Space, mean: Tensor) -> None:
        super().__init__(space)
        self.s, self.r = (nn.Parameter(_log(2 * part)) for part in (mean, 1 - mean))

    @override
    def terms(self, v: Tensor) -> Tensor:
        """-(a - 1) log x - (b - 1) log(1 - x)."""
        return (1 - self.s.exp()) * v.log() + (1 - self.r.exp()) * torch.log1p(-v)

    @override
    def slopes(self, v: Tensor) -> Gradients:
        """dE/ds = -a log x, dE/dr = -b log(1 - x)."""
        return {"s": -self.s.exp() * v.log(), "r": -self.r.exp() * torch.log1p(-v)}

    @override
    def log_z(self) -> Tensor:
        """sum_i of the logarithms of the beta functions."""
        a, b = self.s.exp(), self.r.exp()
        return (a.lgamma() + b.lgamma() - (a + b).lgamma()).sum()

    @torch.no_grad()
    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """g / (g + h) of gamma draws g and h with shapes a and b, (n, *shape)."""
        g, h = (log_gamma(p.exp(), n, key.fold(name)) for name, p in (("a", self.s), ("b", self.r)))
        below = 1 - torch.finfo(self.s.dtype).eps
        return _positive((g - h).sigmoid(), self.s).clamp_max(below).reshape(n, *self.space.shape)


def _on_simplex(x: Tensor) -> Tensor:
    good = (x > 0).all(-1) & ((x.sum(-1) - 1).abs() < _ON_SIMPLEX)
    return good.reshape(len(x), -1).all(1)


class Dirichlet(Family):
    """E(x) = -sum_k (a_k - 1) log x_k for shares x > 0 with sum_k x_k = 1 along the last dimension: a_k = exp(s_k).

    A density with respect to the first K - 1 shares, as usual, so log Z = sum_k log Gamma(a_k) - log Gamma(sum_k a_k);
    other dimensions are independent rows. It starts with sum_k a_k = K at the data mean.
    """

    independent = False
    no_conditionals = "the sites of this family are bound to each other, and no chain moves on its support"
    support = Support("x > 0 that sum to 1 along the last dimension", _on_simplex)
    has_density = False

    def __init__(self, space: Space, mean: Tensor) -> None:
        super().__init__(space)
        self.s = nn.Parameter(_log(mean * space.shape[-1]))

    @override
    def terms(self, v: Tensor) -> Tensor:
        """-(a - 1) log x."""
        return (1 - self.s.exp()) * v.log()

    @override
    def slopes(self, v: Tensor) -> Gradients:
        """dE/ds = -a log x."""
        return {"s": -self.s.exp() * v.log()}

    @override
    def log_z(self) -> Tensor:
        """sum_k log Gamma(a_k) - log Gamma(sum_k a_k), of all rows."""
        a = self.s.exp().reshape(-1, self.space.shape[-1])
        return a.lgamma().sum() - a.sum(1).lgamma().sum()

    @torch.no_grad()
    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """Gamma draws of shapes a over their sum, (n, *shape)."""
        g = log_gamma(self.s.exp(), n, key).reshape(n, *self.space.shape)
        return _positive(g.softmax(-1), self.s)


MEMBERS: dict[str, type[Family]] = {
    "exponential": Exponential,
    "gamma": Gamma,
    "poisson": Poisson,
    "beta": Beta,
    "dirichlet": Dirichlet,
}


def log_gamma(a: Tensor, n: int, key: AnyKey) -> Tensor:
    """log g (n, sites) in float64 of g ~ Gamma(a, 1) with shapes a (sites,), by rejection (Marsaglia & Tsang 2000).

    With d = a - 1/3 and z normal, g = d (1 + z / sqrt(9 d))^3 is taken if log u < z^2 / 2 + d - g + d log(g / d), which
    nineteen of twenty are; a < 1 is g of a + 1 times u^(1/a). Every round draws for all rows, with keys of its own, and
    fills those that have none yet: a row depends on its own numbers alone.
    """
    a = a.double()
    d = torch.where(a < 1, a + 1, a) - 1 / 3
    shape = (n, len(a))
    found = torch.full(shape, torch.nan, dtype=torch.float64, device=a.device)
    for turn in itertools.count():
        z = rng.normal(shape, key.fold("normal", turn), a.device, torch.float64)
        u = rng.uniform(shape, key.fold("accept", turn), a.device, torch.float64)
        v = (1 + z / (9 * d).sqrt()).pow(3)
        taken = found.isnan() & (v > 0) & (u.log() < z.square() / 2 + d * (1 - v + v.log()))
        found = torch.where(taken, d.log() + v.log(), found)
        if not found.isnan().any():
            break
    u = 1 - rng.uniform(shape, key.fold("power"), a.device, torch.float64)
    return found + torch.where(a < 1, u.log() / a, 0.0)


def _inverted_poisson(rate: Tensor, u: Tensor) -> Tensor:
    """The least x with Q(x + 1, rate) = P(X <= x) > u, by bisection, (n, sites)."""
    low, high = torch.full_like(u, -1), (rate + 12 * rate.sqrt() + 40).ceil().expand(u.shape)
    while (high - low > 1).any():
        middle = ((low + high) / 2).floor()
        above = torch.special.gammaincc(middle + 1, rate.expand(u.shape)) > u
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return high


def _log(mean: Tensor) -> Tensor:
    """log of the means, flat, finite also where nothing was ever counted."""
    return mean.flatten().clamp_min(torch.finfo(mean.dtype).tiny).log()


def _positive(x: Tensor, like: Tensor) -> Tensor:
    """In the type of the parameters, where a positive number may round to 0."""
    return x.to(like.dtype).clamp_min(torch.finfo(like.dtype).tiny)
