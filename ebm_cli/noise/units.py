"""Independent units as noise: products of the exponential family, held fixed, and normal numbers within walls."""

from torch import Tensor
from typing_extensions import override

from ebm_cli.model import truncated
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

    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        return self.law.sample(n, key)

    @override
    def log_prob(self, x: Tensor) -> Tensor:
        """-E(x) - log Z."""
        return -self.law.energy(x) - self.law.log_z()


class Truncated(Noise):
    """N(m_i, s_i^2) restricted to the walls of a box.

    log q(x) = -sum_i (x_i - m_i)^2 / (2 s_i^2) - log Z within, -inf beyond; see `truncated.log_z`.
    """

    m: Tensor
    s: Tensor

    def __init__(self, space: Box, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.space = space
        self.register_buffer("m", mean)
        self.register_buffer("s", std)

    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """By inversion of the distribution function."""
        return truncated.draws(self.space, self.m, self.s, n, key)

    @override
    def log_prob(self, x: Tensor) -> Tensor:
        z, log_z = (x.flatten(1) - self.m) / self.s, truncated.log_z(self.space, self.m, self.s)
        return self.space.allowed(-0.5 * z.square().sum(1) - log_z.to(x.dtype), x)


def units(space: Space, mean: Tensor) -> Units:
    """Independent discrete units with this mean (*shape), of spins that of their bits."""
    return Units(product(space, mean))


def gaussian(space: Space, mean: Tensor, std: Tensor) -> Noise:
    """Independent normal units, (sites,) each; within the walls where there are any."""
    if isinstance(space, Box):
        return Truncated(space, mean, std)
    return Units(GaussianProduct(space, mean, std))
