"""Independent units as noise: products of the exponential family, held fixed, and normal numbers within walls."""

import math

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.model.base import Normalised
from ebm_cli.model.exponential_family import GaussianProduct, product
from ebm_cli.noise.base import Noise
from ebm_cli.rng import AnyKey
from ebm_cli.space import Box, Space


class Units(Noise):
    """A model whose log Z is known, as it is: log q(x) = -E(x) - log Z."""

    def __init__(self, law: Normalised) -> None:
        super().__init__()
        self.law = law.requires_grad_(requires_grad=False)

    def sample(self, n: int, key: AnyKey) -> Tensor:
        """The model's own."""
        return self.law.sample(n, key)

    def log_prob(self, x: Tensor) -> Tensor:
        """-E(x) - log Z."""
        return -self.law.energy(x) - self.law.log_z()


class Truncated(Noise):
    """N(m_i, s_i^2) restricted to the walls a, b of a box.

    log q(x) = sum_i -(x_i - m_i)^2 / (2 s_i^2) - log s_i - log(2 pi) / 2 - log(Phi((b - m_i) / s_i) - Phi((a - m_i) /
    s_i)) within, -inf beyond; drawn by inversion of the distribution function, in float64.
    """

    m: Tensor
    s: Tensor

    def __init__(self, space: Box, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.space = space
        self.register_buffer("m", mean)
        self.register_buffer("s", std)

    def _shares(self) -> tuple[Tensor, Tensor]:
        """Phi at the lower wall, and between the walls, in float64."""
        m, s = self.m.double(), self.s.double()
        low, high = (torch.special.ndtr((wall - m) / s) for wall in (self.space.low, self.space.high))
        return low, high - low

    def sample(self, n: int, key: AnyKey) -> Tensor:
        """m + s Phi^-1(Phi(a) + u (Phi(b) - Phi(a)))."""
        low, between = self._shares()
        u = rng.uniform((n, len(self.m)), key, self.m.device, torch.float64)
        x = self.m.double() + self.s.double() * torch.special.ndtri(low + u * between)
        return self.space.nearest(x.to(self.m.dtype)).reshape(n, *self.space.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """The sum over the sites."""
        z = (x.flatten(1) - self.m) / self.s
        constant = (self._shares()[1].log() + self.s.double().log() + 0.5 * math.log(2 * math.pi)).sum()
        return self.space.allowed(-0.5 * z.square().sum(1) - constant.to(x.dtype), x)


def units(space: Space, mean: Tensor) -> Units:
    """Independent discrete units with this mean (*shape), of spins that of their bits."""
    return Units(product(space, mean))


def gaussian(space: Space, mean: Tensor, std: Tensor) -> Noise:
    """Independent normal units, (sites,) each; within the walls where there are any."""
    if isinstance(space, Box):
        return Truncated(space, mean, std)
    law = GaussianProduct(space, mean)
    law.r.data.copy_(-2 * std.log())
    return Units(law)
