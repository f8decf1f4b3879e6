"""Families of energies, one for each level of noise of a forward process: what objectives and samplers ask of them."""

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import Classifier, EnergyModel, Normalised, Pullback
from ebm_cli.model.exponential_family import product
from ebm_cli.model.rescaled import Rescaled
from ebm_cli.process.base import Scales
from ebm_cli.space import Real


class Leveled(EnergyModel):
    """E(x, k) for the levels k = 0 ... K - 1 of a process, x = m + r (a_k x_0 + s_k z) at level k, z standard normal.

    m (*shape) is the mean of the data, r (*shape) their standard deviation, of each site its own or one for all,
    x_0 = (data - m) / r; products and quotients of rows are taken site by site. The last level is the Gaussian of mean
    m and variance r_i^2 (a^2 + s^2) at the site i, with log Z = 0. As a model of rows it is level 0, E(x) = E(x, 0);
    `at` gives the others.
    """

    called = "leveled"
    own_scale = True
    of_noise: ClassVar[bool] = True  # level k is meant to be the density of data of level 0 with more noise
    mean: Tensor
    scale: Tensor
    a: Tensor
    s: Tensor

    def __init__(self, space: Real, scales: Scales, mean: Tensor, scale: float | Tensor) -> None:
        super().__init__()
        self.space = space
        self.register_buffer("mean", mean.clone())
        self.register_buffer("scale", torch.ones_like(mean) * scale)
        for name, value in scales._asdict().items():
            self.register_buffer(name, value.float(), persistent=False)

    @property
    def levels(self) -> int:
        """K."""
        return len(self.a)

    @property
    def variance(self) -> Tensor:
        """v_k = a_k^2 + s_k^2, (K,)."""
        return self.a.square() + self.s.square()

    @property
    def gain(self) -> Tensor:
        """a_k / s_k, (K,): how steep an energy of level k is beside what a network has to learn."""
        return self.a / self.s

    @property
    def log_ratio(self) -> Tensor:
        """log a_k / s_k, (K,)."""
        return (self.a / self.s).log()

    @property
    def log_volume(self) -> Tensor:
        """sum_i log r_i, a scalar float64."""
        return self.scale.double().log().sum()

    @abstractmethod
    def energy_at(self, x: Tensor, level: Tensor) -> Tensor:
        """E(x, k), (batch,), each row at a `level` (batch,) int64 of its own."""

    @abstractmethod
    def energy_and_grad_at(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """E(x, k) and dE/dx, detached."""

    def slope_at(self, x: Tensor, level: Tensor) -> Tensor:
        """dE(x, k)/dx, (batch, *shape), with its graph in the parameters."""
        x = x.detach().requires_grad_()
        (found,) = torch.autograd.grad(self.energy_at(x, level).sum(), x, create_graph=True)
        return found

    @abstractmethod
    def energy_vjp_at(self, x: Tensor, level: Tensor) -> tuple[Tensor, Pullback]:
        """E(x, k), and the map from weights w (batch,) to sum_n w_n dE(x_n, k_n)/dtheta."""

    def initial(self, above: Tensor, level: Tensor) -> Tensor | None:
        """By how much the mean of x_k given x_(k+1) (batch, *shape), k its `level`, is said to differ from that of
        Gaussian data, in units of the width of `FromAbove`, with its graph; None where nothing says so."""
        return None

    @override
    def energy(self, x: Tensor) -> Tensor:
        """E(x, 0), (batch,)."""
        return self.energy_at(x, _all_at(0, x))

    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.energy_and_grad_at(x, _all_at(0, x))

    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        return self.energy_vjp_at(x, _all_at(0, x))

    def at(self, level: int | Tensor) -> "AtLevel":
        """The model of rows at one level, or of chains each at a level of its own, (chains,) int64."""
        return AtLevel(self, level)

    def in_noise(self, level: int) -> Rescaled:
        """The model at one level of y = (x - m) / (r s_k), in which the noise has the deviation 1."""
        return Rescaled(self.at(level), self.mean, self.scale * self.s[level])

    def denoised(self, x: Tensor, level: int) -> Tensor:
        """(y - r s_k^2 dE(x, k)/dx) / a_k for y = (x - m) / r: the mean of x_0 given x (Tweedie's formula)."""
        _, grad = self.at(level).energy_and_grad(x)
        return ((x - self.mean) / self.scale - self.scale * self.s[level].square() * grad) / self.a[level]

    def last(self) -> Normalised:
        """The Gaussian of the last level."""
        return self._gaussian(self.scale * self.variance[-1].sqrt())

    def last_alike(self) -> Normalised:
        """The same of w = m + (x - m) sqrt(v_0 / v)."""
        return self._gaussian(self.scale * self.variance[0].sqrt())

    def _gaussian(self, width: Tensor) -> Normalised:
        return product(self.space, self.mean, width).to(self.mean)

    @property
    def stretch(self) -> Tensor:
        """sqrt(v_k / v_0), (K,)."""
        return (self.variance / self.variance[0]).sqrt()

    def stretched(self, w: Tensor, level: Tensor) -> Tensor:
        """x_k = m + (w - m) sqrt(v_k / v_0) of rows w (rows, *shape) at levels (rows,)."""
        return self.mean + per_row(self.stretch[level], w) * (w - self.mean)

    def noised(self, x: Tensor, level: Tensor, z: Tensor) -> Tensor:
        """m + a_k (x - m) + r s_k z for data x and standard normal z (batch, *shape)."""
        a, s = per_row(self.a[level], x), per_row(self.s[level], x)
        return self.mean + a * (x - self.mean) + self.scale * s * z

    def width(self, level: Tensor) -> Tensor:
        """r sqrt(v_k), (batch, *shape)."""
        return self.scale * per_row(self.variance[level].sqrt(), self.mean[None])


class LeveledClassifier(Leveled, Classifier):
    """E(x, k, y) for the classes y too, of which p(x, y) at level k is proportional to exp(-E(x, k, y)).

    E(x, k) = -log sum_y exp(-E(x, k, y)), and p(y | x) at level k is softmax_y(-E(x, k, y)); at the last level, where
    nothing is left of the data, all classes are equally likely.
    """

    called = "leveled classifying"

    @abstractmethod
    def joint_at(self, x: Tensor, level: Tensor) -> Tensor:
        """E(x, k, y), (batch, classes)."""

    @abstractmethod
    def joint_vjp_at(self, x: Tensor, level: Tensor) -> tuple[Tensor, Pullback]:
        """E(x, k, y), detached, and the map from weights w (batch, classes) to sum_ny w_ny dE(x_n, k_n, y)/dtheta."""

    @abstractmethod
    def slope_of(self, x: Tensor, level: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
        """-log sum_y exp(-E(x, k, y)) over the classes `among` (batch, classes) bool of each row, (batch,), and its
        gradient in x, with their graphs in the parameters where gradients are recorded."""

    @override
    def energy_at(self, x: Tensor, level: Tensor) -> Tensor:
        """-log sum_y exp(-E(x, k, y)), (batch,)."""
        return -(-self.joint_at(x, level)).logsumexp(1)

    @override
    def energy_vjp_at(self, x: Tensor, level: Tensor) -> tuple[Tensor, Pullback]:
        joint, pull = self.joint_vjp_at(x, level)
        p = (-joint).softmax(1)
        return -(-joint).logsumexp(1), lambda weight: pull(weight[:, None] * p)

    @torch.no_grad()
    @override
    def energy_and_grad_at(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        return self.slope_of(x, level, self._all(x))

    @override
    def slope_at(self, x: Tensor, level: Tensor) -> Tensor:
        return self.slope_of(x, level, self._all(x))[1]

    @override
    def energy(self, x: Tensor) -> Tensor:
        """E(x, 0), (batch,)."""
        return Leveled.energy(self, x)

    @override
    def logits(self, x: Tensor) -> Tensor:
        """-E(x, 0, y), (batch, classes)."""
        return -self.joint_at(x, _all_at(0, x))

    @override
    def of_class(self, y: int) -> "ClassLevels":
        """p(x | y) at all levels."""
        return ClassLevels(self, y)

    def _all(self, x: Tensor) -> Tensor:
        return torch.ones(len(x), self.classes, dtype=torch.bool, device=x.device)


class ClassLevels(Leveled):
    """The rows of one class y at all levels: E(x, k, y) - log classes, whose last level has log Z = 0 too."""

    def __init__(self, model: LeveledClassifier, y: int) -> None:
        assert isinstance(model.space, Real)
        super().__init__(model.space, Scales(model.a, model.s), model.mean, model.scale)
        self.model, self.y = model, y

    @override
    def energy_at(self, x: Tensor, level: Tensor) -> Tensor:
        return self.model.joint_at(x, level)[:, self.y] - self._shift

    @torch.no_grad()
    @override
    def energy_and_grad_at(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        energy, grad = self.model.slope_of(x, level, self._own(x).expand(len(x), -1))
        return energy - self._shift, grad

    @override
    def energy_vjp_at(self, x: Tensor, level: Tensor) -> tuple[Tensor, Pullback]:
        joint, pull = self.model.joint_vjp_at(x, level)
        return joint[:, self.y] - self._shift, lambda weight: pull(weight[:, None] * self._own(x))

    @property
    def _shift(self) -> float:
        return math.log(self.model.classes)

    def _own(self, x: Tensor) -> Tensor:
        """Which class is y, (1, classes) bool."""
        return torch.arange(self.model.classes, device=x.device)[None] == self.y


class AtLevel(EnergyModel):
    """p(x, k) proportional to exp(-E(x, k)) at one level k, or at one of each chain."""

    compiles = True

    def __init__(self, family: Leveled, level: int | Tensor) -> None:
        super().__init__()
        self.family, self.level, self.space = family, level, family.space

    @override
    def energy(self, x: Tensor) -> Tensor:
        """E(x, k), (batch,)."""
        return self.family.energy_at(x, self._of(x))

    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.family.energy_and_grad_at(x, self._of(x))

    @override
    def of_rows(self, rows: slice | Tensor) -> "AtLevel":
        return self if isinstance(self.level, int) else AtLevel(self.family, self.level[rows])

    def _of(self, x: Tensor) -> Tensor:
        return _all_at(self.level, x) if isinstance(self.level, int) else self.level


class Alike(EnergyModel):
    """p(x, k) as a density of w = m + (x - m) sqrt(v_0 / v_k), of one variance at all levels, of rows at a level each.

    Neighbours have most in common so: of data N(m, r^2) all levels are one and the same density.
    """

    compiles = True

    def __init__(self, family: Leveled, level: Tensor) -> None:
        super().__init__()
        self.family, self.level, self.space = family, level, family.space

    @property
    def unit(self) -> Tensor:
        """r s_k sqrt(v_0 / v_k), the deviation of the noise, (rows, *shape)."""
        s = self.family.s[self.level] / self.family.stretch[self.level]
        return self.family.scale * per_row(s, self.family.mean[None])

    @override
    def energy(self, x: Tensor) -> Tensor:
        """E(m + (w - m) sqrt(v_k / v_0), k), (batch,)."""
        return self.family.energy_at(self.family.stretched(x, self.level), self.level)

    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        energy, grad = self.family.energy_and_grad_at(self.family.stretched(x, self.level), self.level)
        return energy, per_row(self.family.stretch[self.level], x) * grad


def per_row(value: Tensor, like: Tensor) -> Tensor:
    """A number for each row, (batch,), to be multiplied with (batch, *shape)."""
    return value.reshape(-1, *[1] * (like.dim() - 1))


def _all_at(level: int, x: Tensor) -> Tensor:
    return torch.full((len(x),), level, dtype=torch.int64, device=x.device)
