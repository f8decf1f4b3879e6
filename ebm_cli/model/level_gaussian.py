"""The Gaussian that a family of energies over levels of noise is, but for its network."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli.process.base import Scales


class Told(NamedTuple):
    """What a family is without its network at u (rows, *shape), and what this says of the data that u comes from."""

    energy: Tensor  # -log p(u), (rows,)
    slope: Tensor  # its gradient in u
    cleaned: Tensor | None = None  # the mean of x_0 given u, site by site, (rows, *shape)
    bend: Tensor | None = None  # its derivative in u


class LevelGaussian(nn.Module):
    """-log N of u = (x - m) / (r sqrt(v_k)) at level k, for data with the correlations Q diag(l) Q^T between sites.

    The covariance of u is Q diag(a_k^2 l + s_k^2) Q^T / v_k; at the last level it is 1, as without correlations, l = 1.
    `correlated`: whether there may be any, for D^2 numbers of Q.
    """

    axes: Tensor
    precision: Tensor

    def __init__(self, sites: int, scales: Scales, *, correlated: bool) -> None:
        super().__init__()
        self.scales, self.measures = [each.float() for each in scales], correlated  # as the family has them
        if correlated:
            self.register_buffer("axes", torch.eye(sites))
            self.register_buffer("precision", torch.ones(len(scales.a), sites))

    def take(self, z: Tensor) -> None:
        """Take up the correlations of rows in units of each site's scale, (rows, sites) float64."""
        if not self.measures:
            return
        spread, axes = torch.linalg.eigh(shrunk(z))
        a, s = (each[:, None].to(z) for each in self.scales)
        precision = (a.square() + s.square()) / (a.square() * spread + s.square())
        precision[-1] = 1
        self.axes.copy_(axes)
        self.precision.copy_(precision)

    @override
    def forward(self, u: Tensor, level: Tensor) -> Tensor:
        """-log N of u (rows, *shape) at levels (rows,), (rows,)."""
        flat = u.flatten(1)
        constant = flat.shape[1] / 2 * math.log(2 * math.pi)
        if not self.measures:
            return flat.square().sum(1) / 2 + constant
        precision = self.precision[level]
        along = (flat @ self.axes).square() * precision
        return along.sum(1) / 2 - precision.log().sum(1) / 2 + constant

    def seen(self, u: Tensor, level: Tensor) -> tuple[Tensor, Tensor | None]:
        """-log N of u, and nothing that a network could not see itself."""
        return self(u, level), None

    def told(self, u: Tensor, level: Tensor) -> Told:
        """-log N of u and its slope."""
        return Told(self(u, level), self.grad(u, level))

    def grad(self, u: Tensor, level: Tensor) -> Tensor:
        """That of `forward` in u."""
        if not self.measures:
            return u
        return ((u.flatten(1) @ self.axes * self.precision[level]) @ self.axes.T).reshape(u.shape)


def shrunk(z: Tensor) -> Tensor:
    """Second moments C of rows z (rows, sites) of about unit variance, drawn towards 1 by as much as rows are few.

    (1 - p) C + p 1 with p = min(1, sum_n |z_n z_n^T - C|^2 / n^2 / |C - 1|^2), which has the least mean squared error
    (Ledoit & Wolf 2004, sec. 3.2), so that no direction in which rows happen to lie together is taken for empty.
    """
    n, sites = z.shape
    found, one = z.T @ z / n, torch.eye(sites).to(z)
    error = (z.square().sum(1).square().sum() / n - found.square().sum()) / n
    apart = (found - one).square().sum()
    share = (error / apart).clamp(0, 1) if apart > 0 else torch.ones_like(apart)
    return (1 - share) * found + share * one
