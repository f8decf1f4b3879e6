"""Units of a table's columns: bits, one-hot categories and real numbers, side by side in one vector of units."""

import math

import torch
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.functional import softplus_sum
from ebm_cli.model.base import Gradients, Normalised, Pullback
from ebm_cli.rng import AnyKey
from ebm_cli.space import Mixed, one_for_each


class MixedUnits(nn.Module):
    """Which units are what, and the laws of sites that are independent with given logits and means.

    `bits`, `reals` number units; `table` (categorical sites, largest K) the units of each categorical site, padded by
    the number of units, for which `padded` has a logit of -inf. `of_*` number the sites.
    """

    bits: Tensor
    reals: Tensor
    table: Tensor
    of_bits: Tensor
    of_reals: Tensor
    of_table: Tensor
    unit_sites: Tensor
    unit_values: Tensor
    real: Tensor

    def __init__(self, space: Mixed) -> None:
        super().__init__()
        site, value = space.places
        first = torch.tensor([0, *space.widths]).cumsum(0)[:-1]
        count = torch.tensor(space.values)
        many = count > 2
        widest = max(space.widths)
        offset = torch.arange(widest)
        inside = offset < count[many][:, None]
        found = {
            "of_bits": (count == 2).nonzero().squeeze(1),
            "of_reals": (count == 0).nonzero().squeeze(1),
            "of_table": many.nonzero().squeeze(1),
            "bits": first[count == 2],
            "reals": first[count == 0],
            "table": torch.where(inside, first[many][:, None] + offset, space.width),
            "unit_sites": site,
            "unit_values": value,
            "real": (count == 0)[site],
        }
        for name, tensor in found.items():
            self.register_buffer(name, tensor, persistent=False)

    def of(self, x: Tensor) -> Tensor:
        """The units of x (n, sites), (n, units)."""
        return one_for_each(x, self.unit_sites, self.unit_values)

    def spread(self, of_reals: Tensor, other: float | Tensor) -> Tensor:
        """(units,) with what belongs to the real sites there, and another number elsewhere."""
        found = of_reals.new_zeros(len(self.real)).index_copy(0, self.reals, of_reals)
        return torch.where(self.real, found, other)

    def discrete(self, of_units: Tensor) -> Tensor:
        """The same with 0 at real units."""
        return of_units.masked_fill(self.real, 0.0)

    def log_sum(self, logits: Tensor) -> Tensor:
        """log of the sum over all values of the discrete sites of exp(u.logits), (n,) of (n, units)."""
        return softplus_sum(logits[:, self.bits]) + self._padded(logits).logsumexp(2).sum(1)

    def draws(self, logits: Tensor, mean: Tensor, deviation: Tensor, key: AnyKey) -> Tensor:
        """x (n, sites): discrete sites by their logits (n, units), real ones N(mean (n, reals), deviation^2)."""
        x = logits.new_zeros(len(logits), len(self.of_bits) + len(self.of_reals) + len(self.of_table))
        if len(self.of_bits):
            x[:, self.of_bits] = rng.bernoulli(logits[:, self.bits], key.fold("bits")).to(x.dtype)
        if len(self.of_table):
            x[:, self.of_table] = rng.categorical(self._padded(logits), key.fold("table")).to(x.dtype)
        if len(self.of_reals):
            z = rng.normal(mean.shape, key.fold("reals"), mean.device, mean.dtype)
            x[:, self.of_reals] = mean + deviation * z
        return x

    def _padded(self, logits: Tensor) -> Tensor:
        """Those of each categorical site, (n, sites, largest K)."""
        nothing = logits.new_full((len(logits), 1), -torch.inf)
        return torch.cat([logits, nothing], 1)[:, self.table]


class MixedProduct(Normalised):
    """Independent sites: E(x) = -sum of b over the discrete units that are on + sum_i (x_i - m_i)^2 exp(r_i) / 2.

    log Z = sum over bits of softplus(b_i), over categorical sites of logsumexp(b_i), and over real ones of
    (log 2 pi - r_i) / 2.
    """

    independent = True
    compiles = True

    space: Mixed

    def __init__(self, space: Mixed, mean: Tensor, std: Tensor | None = None) -> None:
        """Of `mean` (units,) and standard deviations `std` (real sites,), 1 unless they are given."""
        super().__init__()
        self.space, self.units = space, MixedUnits(space)
        self.b = nn.Parameter(initial_bias(self.units, mean, real=False))
        self.m = nn.Parameter(mean[self.units.reals].clone())
        self.r = nn.Parameter(torch.zeros(len(self.m)) if std is None else -2 * std.log())

    @override
    def energy(self, x: Tensor) -> Tensor:
        """-b.u + sum_i (x_i - m_i)^2 exp(r_i) / 2, (batch,)."""
        off = x[:, self.units.of_reals] - self.m
        return 0.5 * (off.square() @ self.r.exp()) - self.units.of(x) @ self.units.discrete(self.b)

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The energy, and dE/db = -u, dE/dm_i = -(x_i - m_i) exp(r_i), dE/dr_i = (x_i - m_i)^2 exp(r_i) / 2."""
        u, off, precision = self.units.of(x), x[:, self.units.of_reals] - self.m, self.r.exp()

        def pull(weight: Tensor) -> Gradients:
            return {
                "b": -self.units.discrete(weight @ u),
                "m": -(weight @ off) * precision,
                "r": (weight @ off.square()) * precision / 2,
            }

        return self.energy(x), pull

    @override
    def log_z(self) -> Tensor:
        """Sums and integrals of the sites."""
        return self.units.log_sum(self.b[None])[0] + 0.5 * (math.log(2 * math.pi) - self.r).sum()

    @torch.no_grad()
    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """Every site by its own law, (n, sites)."""
        return self.units.draws(self.b.expand(n, -1), self.m.expand(n, -1), (-self.r / 2).exp(), key)


def initial_bias(units: MixedUnits, mean: Tensor, *, real: bool) -> Tensor:
    """With which units that are not coupled have this mean (units,): logits of bits, logarithms of categories, and of
    real units the mean itself, or 0."""
    found = mean.log()
    found = found.index_copy(0, units.bits, mean[units.bits].logit())
    return found.index_copy(0, units.reals, mean[units.reals] * real)
