"""Known densities on the plane, to train on and to be judged by."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.rng import Key

# Gaussians along a curve lie at most their standard deviation apart: their sum is then even to 1e-8.


class Density(ABC):
    """A normalised density on R^D, mostly the plane, nearly all of it within `reach` of the origin along every axis."""

    reach: float
    modes: Tensor | None = None
    """Centres of modes that hardly overlap, (K, D), where it has such."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (batch,) for x (batch, D)."""

    @abstractmethod
    def sample(self, n: int, key: Key) -> Tensor:
        """n independent draws, (n, D)."""


@dataclass(frozen=True, eq=False)
class Gaussians(Density):
    """Round Gaussians with one standard deviation around `centres` (M, D), of equal weights or `weights` (M,)."""

    centres: Tensor
    std: float
    reach: float
    modes: Tensor | None = None
    weights: Tensor | None = None

    @override
    def log_prob(self, x: Tensor) -> Tensor:
        """logsumexp_m of log w_m - |x - c_m|^2 / (2 std^2), less D/2 log(2 pi std^2)."""
        centres = self.centres.to(x)
        square = torch.cat([torch.cdist(part, centres).square() for part in x.split(10_000)])
        log_w = -math.log(len(centres)) if self.weights is None else self.weights.to(x).log()
        normalisation = x.shape[1] / 2 * math.log(2 * math.pi * self.std**2)
        return (log_w - square / (2 * self.std**2)).logsumexp(1) - normalisation

    @override
    def sample(self, n: int, key: Key) -> Tensor:
        if self.weights is None:
            chosen = rng.integers(len(self.centres), (n,), key.fold("centre"))
        else:
            chosen = rng.categorical(self.weights.log().expand(n, -1), key.fold("centre"))
        noise = rng.normal((n, self.centres.shape[1]), key.fold("noise"))
        return self.centres[chosen] + self.std * noise


@dataclass(frozen=True)
class Checkerboard(Density):
    """Uniform on every other of the 16 unit squares of [-2, 2]^2, scaled by `scale`."""

    scale: float

    @property
    @override
    def reach(self) -> float:  # type: ignore[override]
        return 2 * self.scale

    @override
    def log_prob(self, x: Tensor) -> Tensor:
        """-log(8 scale^2) on the squares, -inf beside them."""
        cell = (x / self.scale).floor()
        inside = (cell.sum(1) % 2 == 0) & (x.abs() < self.reach).all(1)
        return torch.where(inside, -math.log(8 * self.scale**2), -torch.inf).to(x.dtype)

    @override
    def sample(self, n: int, key: Key) -> Tensor:
        """A column and a row of the same parity, and a place in the square."""
        column = rng.integers(4, (n,), key.fold("column"))
        row = 2 * rng.integers(2, (n,), key.fold("row")) + column % 2
        corner = torch.stack([column, row], 1) - 2
        return self.scale * (corner + rng.uniform((n, 2), key.fold("place")))


class Intersection(Density):
    """p(x) = prod_i p_i(x) / Z of given densities, Z by a sum over cells of a grid."""

    def __init__(self, factors: Sequence[Density]) -> None:
        self.factors, self.reach = factors, max(factor.reach for factor in factors)
        line = torch.linspace(-self.reach, self.reach, 161, dtype=torch.float64)
        x = torch.cartesian_prod(line, line)
        each = torch.stack([factor.log_prob(x) for factor in factors])
        self.log_z = (each.sum(0).logsumexp(0) + 2 * (line[1] - line[0]).log()).item()
        self.bound = each[1:].sum(0).max().item() + 0.1  # the maximum may lie between the points

    @override
    def log_prob(self, x: Tensor) -> Tensor:
        """sum_i log p_i(x) - log Z."""
        return torch.stack([factor.log_prob(x) for factor in self.factors]).sum(0) - self.log_z

    @override
    def sample(self, n: int, key: Key) -> Tensor:
        """Draws of the first factor, each taken with a probability proportional to the product of the others."""
        taken: list[Tensor] = []
        while sum(map(len, taken)) < n:
            x = self.factors[0].sample(n, key.fold("proposal", len(taken)))
            others = torch.stack([factor.log_prob(x) for factor in self.factors[1:]]).sum(0)
            u = rng.uniform((n,), key.fold("accept", len(taken)), dtype=torch.float64)
            taken.append(x[u.log() < others.double() - self.bound])
        return torch.cat(taken)[:n]


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)


def gaussians8() -> Density:
    """Eight on a circle of radius 2.8, six standard deviations apart."""
    centres = _polar(torch.full((8,), 2.8), torch.arange(8) * math.pi / 4)
    return Gaussians(centres, 0.35, 4.5, centres)


def gaussians25() -> Density:
    """Five by five, six standard deviations apart."""
    line = 1.5 * torch.arange(-2.0, 3.0)
    centres = torch.cartesian_prod(line, line)
    return Gaussians(centres, 0.25, 4.5, centres)


def rings() -> Density:
    """Three circles with masses as their circumferences."""
    parts = [torch.arange(80 * k) * 2 * math.pi / (80 * k) for k in (1, 2, 3)]
    return Gaussians(
        torch.cat([_polar(torch.full_like(t, k), t) for k, t in zip((1, 2, 3), parts, strict=True)]), 0.1, 4
    )


def moons() -> Density:
    """Two half circles of radius 2, one inside the other."""
    t = torch.linspace(0, math.pi, 60)
    upper = _polar(torch.full_like(t, 2), t) - torch.tensor([1.0, 0.5])
    return Gaussians(torch.cat([upper, -upper]), 0.15, 4)


def spirals() -> Density:
    """Two arms of one and a half turns, evenly along their length."""
    t = torch.linspace(0, 1, 180).sqrt() * 3 * math.pi
    arm = _polar(0.35 * t, t)
    return Gaussians(torch.cat([arm, -arm]), 0.1, 4.5)


def pinwheel() -> Density:
    """Five arms that bend; the distance from the middle is normal along each, at 60 of its quantiles."""
    level = (torch.arange(60) + 0.5) / 60
    radius = 2 + 0.6 * math.sqrt(2) * torch.special.erfinv(2 * level - 1)
    arms = [_polar(radius, 2 * math.pi * k / 5 + 0.5 * radius) for k in range(5)]
    return Gaussians(torch.cat(arms), 0.15, 5)


def checkerboard() -> Density:
    """Eight squares of side 1.5."""
    return Checkerboard(1.5)


def annulus() -> Density:
    """A wide ring of radius 2.5."""
    t = torch.arange(48) * 2 * math.pi / 48
    return Gaussians(_polar(torch.full_like(t, 2.5), t), 0.4, 4.5)


def stripes() -> Density:
    """Three upright stripes, 2 apart."""
    columns, rows = torch.tensor([-2.0, 0.0, 2.0]), torch.linspace(-3, 3, 20)
    return Gaussians(torch.cartesian_prod(columns, rows), 0.33, 4.5)


def band() -> Density:
    """The upper half, as a band along the line y = 2."""
    line = torch.linspace(-3, 3, 12)
    return Gaussians(torch.stack([line, torch.full_like(line, 2.0)], 1), 0.7, 4.5)


def crossing() -> Density:
    """Where annulus, stripes and band meet: three spots."""
    return Intersection([annulus(), stripes(), band()])


KINDS = {
    "gaussians8": gaussians8,
    "gaussians25": gaussians25,
    "rings": rings,
    "moons": moons,
    "spirals": spirals,
    "pinwheel": pinwheel,
    "checkerboard": checkerboard,
    "annulus": annulus,
    "stripes": stripes,
    "band": band,
    "crossing": crossing,
}
