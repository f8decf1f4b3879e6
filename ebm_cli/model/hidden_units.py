"""Hidden units of one layer: the law of each given its input, p(h) proportional to exp(a h - U(h)).

a = c + v W is the input of a unit with its bias c, U its potential. All is elementwise in a (batch, hidden). Scales are
fixed: a unit with gamma h^2 / 2 in its potential is one with h^2 / 2 whose c and W are divided by sqrt(gamma).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.functional import sigmoid, softplus
from ebm_cli.model import half_line
from ebm_cli.model.base import Gradients
from ebm_cli.rng import AnyKey
from ebm_cli.space import Binary, Discrete, Spin

Shape = Mapping[str, Tensor]
"""Parameters of the potentials beside c, by name, (hidden,) each."""

Name = Literal["binary", "spin", "gaussian", "relu", "drelu"]


class HiddenUnits(ABC):
    """Units that are independent given their inputs."""

    shape_names: ClassVar[tuple[str, ...]] = ()
    """Names of the parameters of the potential, 0 where training begins."""

    @abstractmethod
    def log_sum(self, a: Tensor, shape: Shape) -> Tensor:
        """log of the sum or integral over h of exp(a h - U(h)), in the shape of a; differentiable."""

    @abstractmethod
    def mean(self, a: Tensor, shape: Shape) -> Tensor:
        """E h, the derivative of `log_sum` in a."""

    @abstractmethod
    def square(self, a: Tensor, shape: Shape) -> Tensor:
        """E h^2."""

    @abstractmethod
    def draws(self, a: Tensor, shape: Shape, key: AnyKey) -> Tensor:
        """One h of each unit."""

    def slopes(self, a: Tensor, shape: Shape) -> Gradients:
        """Derivatives of `log_sum` in the parameters of the potential, in the shape of a, by name."""
        return {}

    def states(self, hidden: int) -> Discrete | None:
        """The space of h where it can be enumerated, or None."""
        return None


class BinaryHidden(HiddenUnits):
    """h in {0, 1}, U = 0."""

    @override
    def log_sum(self, a: Tensor, shape: Shape) -> Tensor:
        """log(1 + e^a)."""
        return softplus(a)

    @override
    def mean(self, a: Tensor, shape: Shape) -> Tensor:
        return sigmoid(a)

    @override
    def square(self, a: Tensor, shape: Shape) -> Tensor:
        return sigmoid(a)

    @override
    def draws(self, a: Tensor, shape: Shape, key: AnyKey) -> Tensor:
        return rng.bernoulli(a, key)

    @override
    def states(self, hidden: int) -> Discrete:
        return Binary((hidden,))


class SpinHidden(HiddenUnits):
    """h in {-1, 1}, U = 0."""

    @override
    def log_sum(self, a: Tensor, shape: Shape) -> Tensor:
        """log(2 cosh a)."""
        return softplus(2 * a) - a

    @override
    def mean(self, a: Tensor, shape: Shape) -> Tensor:
        return a.tanh()

    @override
    def square(self, a: Tensor, shape: Shape) -> Tensor:
        return torch.ones_like(a)

    @override
    def draws(self, a: Tensor, shape: Shape, key: AnyKey) -> Tensor:
        return 2 * rng.bernoulli(2 * a, key) - 1

    @override
    def states(self, hidden: int) -> Discrete:
        return Spin((hidden,))


class GaussianHidden(HiddenUnits):
    """h real, U = h^2 / 2: normal of mean a and variance 1. Summed out they are couplings J = W W^T between sites."""

    @override
    def log_sum(self, a: Tensor, shape: Shape) -> Tensor:
        """(a^2 + log 2 pi) / 2."""
        return 0.5 * a.square() + 0.5 * math.log(2 * math.pi)

    @override
    def mean(self, a: Tensor, shape: Shape) -> Tensor:
        return a

    @override
    def square(self, a: Tensor, shape: Shape) -> Tensor:
        return a.square() + 1

    @override
    def draws(self, a: Tensor, shape: Shape, key: AnyKey) -> Tensor:
        a = _full(a)
        return a + rng.normal(a.shape, key, a.device, a.dtype)


class ReLUHidden(HiddenUnits):
    """h >= 0, U = h^2 / 2: a normal law cut off at 0, whose mean is nearly max(a, 0) for large |a|."""

    @override
    def log_sum(self, a: Tensor, shape: Shape) -> Tensor:
        """log(Phi(a) / phi(a))."""
        return half_line.log_z(a)

    @override
    def mean(self, a: Tensor, shape: Shape) -> Tensor:
        return half_line.mean(a)

    @override
    def square(self, a: Tensor, shape: Shape) -> Tensor:
        return half_line.moments(a)[2]

    @override
    def draws(self, a: Tensor, shape: Shape, key: AnyKey) -> Tensor:
        return half_line.draws(a, key)


class DReLUHidden(HiddenUnits):
    """h real, U = g h^2 / 2 - d |h|, with g = 1 / (1 + y) where h > 0 and 1 / (1 - y) where h < 0, y = tanh(eta).

    Two half-lines (Tubiana, Cocco, Monasson 2019, double rectified linear units): theta+ = c + d and theta- = c - d in
    their terms, gamma+ and gamma- of harmonic mean 1. With d = eta = 0 the unit is Gaussian; the larger d, the more it
    has two values, and the lower, the more it stays at 0; with eta far from 0 it has one sign only.
    """

    shape_names = ("delta", "eta")

    @override
    def log_sum(self, a: Tensor, shape: Shape) -> Tensor:
        """log of the sum of both half-lines' integrals."""
        return torch.logaddexp(*(_log_half(z, g) for z, g in _halves(a, shape)))

    @override
    def mean(self, a: Tensor, shape: Shape) -> Tensor:
        (up, _), (down, _) = _moments(a, shape)
        return up - down

    @override
    def square(self, a: Tensor, shape: Shape) -> Tensor:
        (_, up), (_, down) = _moments(a, shape)
        return up + down

    @override
    def draws(self, a: Tensor, shape: Shape, key: AnyKey) -> Tensor:
        """The sign by the shares of both half-lines, then the size."""
        a = _full(a)
        (up, g_up), (down, g_down) = _halves(a, shape)
        positive = rng.bernoulli(_log_half(up, g_up) - _log_half(down, g_down), key.fold("sign")) > 0
        size = half_line.draws(torch.where(positive, up, down), key.fold("size"))
        return size * torch.where(positive, g_up.rsqrt(), -g_down.rsqrt())

    @override
    def slopes(self, a: Tensor, shape: Shape) -> Gradients:
        """In d: E |h|. In y: (g+^2 E[h^2, h > 0] - g-^2 E[h^2, h < 0]) / 2, and dy/deta = 1 - y^2."""
        (first_up, second_up), (first_down, second_down) = _moments(a, shape)
        y = shape["eta"].tanh()
        of_y = 0.5 * (second_up / (1 + y).square() - second_down / (1 - y).square())
        return {"delta": first_up + first_down, "eta": of_y * (1 - y.square())}


def _halves(a: Tensor, shape: Shape) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """z and g of h > 0, then of -h > 0: the density is exp(z t - t^2 / 2) in t = sqrt(g) |h|."""
    y, d = shape["eta"].tanh(), shape["delta"]
    return ((a + d) * (1 + y).sqrt(), 1 / (1 + y)), ((d - a) * (1 - y).sqrt(), 1 / (1 - y))


def _log_half(z: Tensor, g: Tensor) -> Tensor:
    """log of the integral over |h|."""
    return half_line.log_z(z) - 0.5 * g.log()


def _moments(a: Tensor, shape: Shape) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """E |h| and E h^2 over h > 0, and over h < 0, each times its share."""
    (up, g_up), (down, g_down) = _halves(a, shape)
    (log_up, first_up, second_up), (log_down, first_down, second_down) = half_line.moments(up), half_line.moments(down)
    logit = log_up - log_down - 0.5 * (g_up / g_down).log()
    above, below = sigmoid(logit), sigmoid(-logit)
    return (
        (above * first_up * g_up.rsqrt(), above * second_up / g_up),
        (below * first_down * g_down.rsqrt(), below * second_down / g_down),
    )


def _full(a: Tensor) -> Tensor:
    """In float32 at least."""
    return a.to(torch.promote_types(a.dtype, torch.float32))


UNITS: dict[Name, HiddenUnits] = {
    "binary": BinaryHidden(),
    "spin": SpinHidden(),
    "gaussian": GaussianHidden(),
    "relu": ReLUHidden(),
    "drelu": DReLUHidden(),
}
"""The choices of `model.hidden_units`."""
