"""Fully visible Boltzmann machine (Ackley, Hinton, Sejnowski 1985)."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel, Gradients, ModelSpec, Pullback, Quadratic, Site, TwoValuedSites
from ebm_cli.model.exponential_family import BernoulliProduct
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Binary, Space


class Boltzmann(Quadratic):
    """E(x) = -x.W x / 2 - b.x with W symmetric and its diagonal zero.

    The parameter `W` holds each coupling once, in its strict upper triangle; the rest of it is never read, so
    dE/dW_ij = -x_i x_j (i < j) as in the paper's eq. 5, and no update can break the symmetry.
    """

    compiles = True
    couplings = ("W",)

    def __init__(self, space: Space, weight_std: float, mean: Tensor, key: Key) -> None:
        super().__init__()
        self.space = space
        self.W = nn.Parameter((weight_std * rng.normal((space.sites, space.sites), key)).triu(1))
        self.b = nn.Parameter(mean.flatten().logit())

    @override
    def energy(self, x: Tensor) -> Tensor:
        """-sum_{i<j} x_i W_ij x_j - b.x, (batch,)."""
        v = x.flatten(1)
        return -(_times_upper(v, self.W.triu(1)) * v).sum(1) - v @ self.b

    @override
    def slopes(self, x: Tensor, coupling: Tensor | None) -> tuple[Tensor, Tensor]:
        """The fields x W + b give both: E(x) = -x.(x W / 2 + b) and dE/dx = -(x W + b)."""
        assert coupling is not None
        v = x.flatten(1)
        inner = v @ coupling
        return -(v * (inner / 2 + self.b)).sum(1), -(inner + self.b).reshape(x.shape)

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The energy, and dE/dW_ij = -x_i x_j (i < j), dE/db = -x."""
        v = x.flatten(1)

        def pull(weight: Tensor) -> Gradients:
            return {"W": -_upper_moments(v, v * weight[:, None]).triu(1), "b": -(weight @ v)}

        return self.energy(x), pull

    @override
    def coupling(self) -> Tensor:
        """The symmetric matrix W of the energy, (sites, sites)."""
        upper = self.W.triu(1)
        return upper + upper.T

    @override
    def entries(self, name: str) -> Tensor:
        """Those of the strict upper triangle."""
        return torch.ones_like(self.W, dtype=torch.bool).triu(1)

    @override
    def log_conditionals(self, x: Tensor, sites: Tensor) -> Tensor:
        """log sigmoid(+-(x W + b)), (batch, len(sites))."""
        v = x.flatten(1)[:, sites]
        logits = x.flatten(1) @ self.coupling()[:, sites] + self.b[sites]
        return F.logsigmoid((2 * v - 1) * logits)

    @override
    def mixed_sites(
        self, base: EnergyModel, share: float | Tensor, beta: float | Tensor, x: Tensor
    ) -> "BoltzmannSites | None":
        """With independent units those of a Boltzmann machine again."""
        if not isinstance(base, BernoulliProduct):
            return None
        return BoltzmannSites(beta * self.coupling(), share * base.b + beta * self.b, x)

    @override
    def sites(self, x: Tensor) -> "BoltzmannSites":
        """Conditionals from one row of the symmetric matrix."""
        return BoltzmannSites(self.coupling(), self.b, x)


_WIDTH, _LARGE = 196, 512  # columns of a block, and sites from which on blocks are faster than the whole


def _blocks(sites: int) -> list[slice]:
    """Columns, some at a time, of which only the rows above their end need be looked at."""
    width = _WIDTH if sites >= _LARGE else sites
    return [slice(first, min(first + width, sites)) for first in range(0, sites, width)]


def _times_upper(v: Tensor, upper: Tensor) -> Tensor:
    """v U, (batch, sites), for an upper triangular U, without most of the products with its zeros."""
    return torch.cat([v[:, : part.stop] @ upper[: part.stop, part] for part in _blocks(len(upper))], 1)


def _upper_moments(v: Tensor, u: Tensor) -> Tensor:
    """The upper triangle of v^T u, (sites, sites); what is below it is not all there."""
    sites = v.shape[1]
    columns = [(v[:, : part.stop].T @ u[:, part], sites - part.stop) for part in _blocks(sites)]
    return torch.cat([F.pad(found, (0, 0, 0, below)) for found, below in columns], 1)


_BLOCK = 96  # sites solved together; 56 to 112 are equally fast at 784 sites


class BoltzmannSites(TwoValuedSites):
    """logit p(x_i = 1 | rest) = W_i.x + b_i for a symmetric W with zero diagonal: x_i itself does not enter."""

    def __init__(self, coupling: Tensor, bias: Tensor, x: Tensor) -> None:
        self.coupling = coupling
        self.bias = bias
        self.x = x.flatten(1).clone()

    @override
    def logit(self, site: Site) -> Tensor:
        """W_i.x + b_i, (chains,)."""
        if isinstance(site, int):
            return torch.mv(self.x, self.coupling[site]) + self.bias[site]
        return (self.x * self.coupling[site]).sum(1) + self.bias[site]

    @override
    def decide(self, order: Sequence[Site], threshold: Tensor) -> None:
        """The same as one site after the other; orders that go straight up or down, in blocks solved together."""
        up, down = list(range(len(order))), list(range(len(order) - 1, -1, -1))
        if isinstance(order[0], Tensor) or list(order) not in (up, down):
            super().decide(order, threshold)
            return
        level = threshold - self.bias if order[0] == 0 else threshold.flip(1) - self.bias
        blocks = [slice(first, min(first + _BLOCK, len(order))) for first in range(0, len(order), _BLOCK)]
        for block in blocks if order[0] == 0 else blocks[::-1]:
            self._solve(block, level[:, block], rising=order[0] == 0)

    def _solve(self, block: slice, level: Tensor, *, rising: bool) -> None:
        """New values of a block of sites, visited in rising or falling order, by fixed-point iteration.

        A site sees the new values of the sites visited before it and the old ones of the others: x = [t < f + x U], f
        from all that is known, U the strictly triangular part of the block's couplings that leads from earlier sites to
        later ones. Each iteration settles at least one more site, whatever the start, so the fixed point is the
        sequential result; a few settle them all.
        """
        inner, old = self.coupling[block, block], self.x[:, block]
        earlier = inner.triu(1) if rising else inner.tril(-1)
        fields = torch.addmm(self.x @ self.coupling[:, block], old, earlier, alpha=-1)
        new = old
        while True:
            found = torch.addmm(fields, new, earlier).gt_(level)  # in numbers: truth values take longer on a CPU
            if torch.equal(found, new):
                break
            new = found
        self.x[:, block] = new


@register("model", "boltzmann")
class BoltzmannSpec(ModelSpec):
    """Fully visible Boltzmann machine: every pair coupled; biases start at the logit of the data mean or at 0."""

    weight_std: Annotated[float, Field(ge=0)]
    bias: Literal["data", "zero"]

    builds = Boltzmann
    spaces = (Binary,)

    @override
    def parameters(self, space: Space) -> int:
        return space.sites**2 + space.sites

    @override
    def beside(self, space: Space) -> int:
        """The symmetric matrix and its triangle."""
        return 2 * 4 * space.sites**2

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> Boltzmann:
        """W_ij ~ N(0, weight_std^2) for i < j, b = logit(mean) or 0."""
        mean = mean if self.bias == "data" else torch.full_like(mean, 0.5)
        return Boltzmann(space, self.weight_std, mean, key)
