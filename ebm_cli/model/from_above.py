"""What a level of noise is given the next one: the recovery of less noise from more."""

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.levels import Leveled, per_row
from ebm_cli.rng import AnyKey


class FromAbove(EnergyModel):
    """p(x_k | x_(k+1)), proportional to exp(-E(x_k, k) - |(x_(k+1) - m - t (x_k - m)) / r|^2 / (2 q^2)), of rows.

    t = a_(k+1) / a_k, q^2 = s_(k+1)^2 - t^2 s_k^2 (Gao et al. 2021, eq. 7, whose y is a multiple of x_k).
    Configurations are y = (x_k - m) / (r c) with c^-2 = s_k^-2 + t^2 / q^2: where the data are spread by more than the
    noise, c is the least deviation that the density has, so that one step size suits all levels.
    """

    compiles = True

    def __init__(self, family: Leveled, above: Tensor, level: Tensor) -> None:
        super().__init__()
        self.family, self.above, self.level, self.space = family, above, level, family.space

    @property
    def shrunk(self) -> Tensor:
        """t, (rows,)."""
        return self.family.a[self.level + 1] / self.family.a[self.level]

    @property
    def noise(self) -> Tensor:
        """q^2, (rows,)."""
        s = self.family.s
        return s[self.level + 1].square() - (self.shrunk * s[self.level]).square()

    @property
    def width(self) -> Tensor:
        """r c, (rows, *shape)."""
        precision = self.family.s[self.level] ** -2 + self.shrunk.square() / self.noise
        return self.family.scale * per_row(precision**-0.5, self.above)

    @override
    def energy(self, x: Tensor) -> Tensor:
        """Of y (rows, *shape), (rows,)."""
        at = self.outside(x)
        return self.family.energy_at(at, self.level) + self._beside(at)

    @torch.no_grad()
    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        at = self.outside(x)
        energy, grad = self.family.energy_and_grad_at(at, self.level)
        pulled = per_row(self.shrunk / self.noise, at) * self._off(at) / self.family.scale
        return energy + self._beside(at), self.width * (grad - pulled)

    @override
    def of_rows(self, rows: slice | Tensor) -> "FromAbove":
        return FromAbove(self.family, self.above[rows], self.level[rows])

    def outside(self, y: Tensor) -> Tensor:
        """x_k of y."""
        return self.family.mean + self.width * y

    @property
    def start(self) -> Tensor:
        """The mean of y that chains begin around, (rows, *shape): E[y | x_(k+1)] as it would be if the data were
        N(m, r^2), and what the family's initializer says beside that."""
        below, above = (self.family.variance[self.level + i] for i in (0, 1))
        mean = per_row(self.shrunk * below / above, self.above) * (self.above - self.family.mean) / self.width
        beside = self.family.initial(self.above, self.level)
        return mean if beside is None else mean + beside

    @torch.no_grad()
    def begun(self, key: AnyKey) -> Tensor:
        """y around `start`, (rows, *shape): draws of p(x_k | x_(k+1)) as it would be if the data were N(m, r^2), or
        with an initializer of its width in N(start, 1) (Zhu et al. 2024, sec. 3.2)."""
        z = rng.normal(self.above.shape, key, self.above.device, self.above.dtype)
        if self.family.initial(self.above[:0], self.level[:0]) is not None:
            return self.start + z
        below, above = (self.family.variance[self.level + i] for i in (0, 1))
        return (
            self.start + self.family.scale * per_row((below * self.noise / above).sqrt(), self.above) / self.width * z
        )

    def _off(self, at: Tensor) -> Tensor:
        """(x_(k+1) - m - t (x_k - m)) / r."""
        off = self.above - self.family.mean - per_row(self.shrunk, at) * (at - self.family.mean)
        return off / self.family.scale

    def _beside(self, at: Tensor) -> Tensor:
        return self._off(at).flatten(1).square().sum(1) / (2 * self.noise)
