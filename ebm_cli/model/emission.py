"""Laws of the sites of x given a code z: what the numbers that a decoder gives for each site mean."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.functional import softplus
from ebm_cli.model import truncated
from ebm_cli.rng import AnyKey
from ebm_cli.space import Binary, Box, Space

_EDGE = 0.01  # a mean that begins at a wall or at a sure bit begins so far within
_BROAD = 0.2  # of the width of a box, the deviation that its sites begin with


class Emission(nn.Module, ABC):
    """p(x | z): sites are independent given what the decoder gives, (batch, outputs)."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space

    @property
    def outputs(self) -> int:
        """How many numbers it wants of the decoder."""
        return self.space.sites

    @abstractmethod
    def first(self, mean: Tensor) -> Tensor:
        """What the decoder gives as it begins, (outputs,), for data of this mean (sites,)."""

    @abstractmethod
    def log_prob(self, x: Tensor, given: Tensor) -> Tensor:
        """log p(x | z), (batch,), of x (batch, *shape); of real x a density."""

    @abstractmethod
    def mean(self, given: Tensor) -> Tensor:
        """The middle of each site's law, (batch, *shape): the mean, in a box that of the law before it is cut off."""

    @abstractmethod
    def draw(self, given: Tensor, key: AnyKey) -> Tensor:
        """x ~ p(x | z), (batch, *shape)."""


class BernoulliEmission(Emission):
    """p(x_i = 1 | z) = sigmoid(l_i)."""

    @override
    def first(self, mean: Tensor) -> Tensor:
        return mean.clamp(_EDGE, 1 - _EDGE).logit()

    @override
    def log_prob(self, x: Tensor, given: Tensor) -> Tensor:
        """sum_i x_i l_i - softplus(l_i)."""
        return (x.flatten(1) * given - softplus(given)).sum(1)

    @override
    def mean(self, given: Tensor) -> Tensor:
        return given.sigmoid().reshape(-1, *self.space.shape)

    @override
    def draw(self, given: Tensor, key: AnyKey) -> Tensor:
        return rng.bernoulli(given, key).to(given.dtype).reshape(-1, *self.space.shape)


class NormalEmission(Emission):
    """x_i = m_i + s_i e_i, e_i normal, s_i^2 = least^2 + exp(2 r_i): r is a parameter, or the decoder gives it too."""

    def __init__(self, space: Space, least: float, *, by_code: bool) -> None:
        super().__init__(space)
        self.least = least
        self.r = None if by_code else nn.Parameter(torch.full((space.sites,), _first_r(space)))

    @property
    @override
    def outputs(self) -> int:
        """m of all sites, then r of all sites."""
        return self.space.sites * (2 if self.r is None else 1)

    def law(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """m and s, (batch, sites)."""
        middle, r = given.chunk(2, 1) if self.r is None else (given, self.r)
        m = self._middle(middle)
        return m, ((2 * r).exp() + self.least**2).sqrt().expand_as(m)

    def _middle(self, middle: Tensor) -> Tensor:
        """m of what the decoder gives for it."""
        return middle

    def _of_mean(self, mean: Tensor) -> Tensor:
        """What the decoder gives where m is this: the inverse of `_middle`."""
        return mean

    def _log_mass(self, m: Tensor, s: Tensor) -> Tensor:
        """log of the integral of exp(-(x - m)^2 / (2 s^2)), (batch, sites)."""
        return s.log() + 0.5 * math.log(2 * math.pi)

    @override
    def first(self, mean: Tensor) -> Tensor:
        middle = self._of_mean(mean)
        return torch.cat([middle, torch.full_like(mean, _first_r(self.space))]) if self.r is None else middle

    @override
    def log_prob(self, x: Tensor, given: Tensor) -> Tensor:
        """-sum_i ((x_i - m_i)^2 / (2 s_i^2) + log mass_i)."""
        m, s = self.law(given)
        return -(0.5 * ((x.flatten(1) - m) / s).square() + self._log_mass(m, s)).sum(1)

    @override
    def mean(self, given: Tensor) -> Tensor:
        return self.law(given)[0].reshape(-1, *self.space.shape)

    @override
    def draw(self, given: Tensor, key: AnyKey) -> Tensor:
        m, s = self.law(given)
        return (m + s * rng.normal(m.shape, key, m.device, m.dtype)).reshape(-1, *self.space.shape)


def _first_r(space: Space) -> float:
    """Of standard deviations 1, or of a part of a box."""
    return math.log(_BROAD * (space.high - space.low)) if isinstance(space, Box) else 0.0


class TruncatedEmission(NormalEmission):
    """The same cut off at the walls of a box, between which its mass is 1; m_i is between them, sigmoid of l_i."""

    space: Box

    @override
    def _middle(self, middle: Tensor) -> Tensor:
        return self.space.of_unit(middle.sigmoid())

    @override
    def _of_mean(self, mean: Tensor) -> Tensor:
        return self.space.brightness(mean).clamp(_EDGE, 1 - _EDGE).logit()

    @override
    def _log_mass(self, m: Tensor, s: Tensor) -> Tensor:
        return truncated.log_mass(self.space, m, s).to(m.dtype)

    @override
    def draw(self, given: Tensor, key: AnyKey) -> Tensor:
        """By inversion of the distribution function."""
        m, s = self.law(given)
        return truncated.drawn(self.space, m, s, key).reshape(-1, *self.space.shape)


def emission(space: Space, least: float, *, by_code: bool) -> Emission:
    """Of bits, real numbers or points of a box; `by_code`: deviations of real x are functions of the code."""
    if isinstance(space, Binary):
        return BernoulliEmission(space)
    return (TruncatedEmission if isinstance(space, Box) else NormalEmission)(space, least, by_code=by_code)
