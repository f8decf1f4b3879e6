"""Independent sites, each of its own law, that a family of energies over levels of noise is, but for its network."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ebm_cli.model.level_gaussian import Told
from ebm_cli.process.base import Scales


class LevelMarginals(nn.Module):
    """-log prod_i sum_j p_ij N(u_i; a_k c_ij / sqrt(v_k), (a_k^2 w_ij^2 + s_k^2) / v_k) of u = (x - m) / (r sqrt(v_k)).

    That is the law of noisy data at level k if those of the sites are independent mixtures of `count` normal laws, and
    one wide one for what no row has shown; at the last level all are N(0, 1).
    """

    measures = True
    height: Tensor
    centre: Tensor
    sharpness: Tensor
    a: Tensor
    s: Tensor

    def __init__(self, sites: int, scales: Scales, count: int) -> None:
        super().__init__()
        self.scales, self.count = [each.float() for each in scales], count  # as the family has them
        shape = (len(scales.a), count + 1, sites)  # laws are added up fastest so
        self.register_buffer("height", torch.full(shape, -math.log(count + 1)))  # log p sharpness
        self.register_buffer("centre", torch.zeros(shape))  # a c / sqrt(v)
        self.register_buffer("sharpness", torch.ones(shape))  # sqrt(v / (a^2 w^2 + s^2))
        for name, value in scales._asdict().items():
            self.register_buffer(name, value.float()[:, None], persistent=False)

    def take(self, z: Tensor) -> None:
        """Take up the laws of rows in units of each site's scale, (rows, sites) float64."""
        share, centre, width = (each.T for each in mixtures(z, self.count))
        a, s = (each[:, None, None].to(z) for each in self.scales)
        whole = (a.square() + s.square()).sqrt()
        centre, sharpness = a * centre / whole, whole / (a.square() * width.square() + s.square()).sqrt()
        centre[-1], sharpness[-1] = 0, 1
        self.height.copy_(share.log() + sharpness.log())
        self.centre.copy_(centre)
        self.sharpness.copy_(sharpness)

    def seen(self, u: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """-log p of u (rows, *shape) at levels (rows,), (rows,); and the mean of x_0 given u, (rows, *shape)."""
        far, share, energy = self._each(u, level)
        return energy, self._cleaned(u, (share * far * self.sharpness[level]).sum(1), level)

    def told(self, u: Tensor, level: Tensor) -> Told:
        """`seen`, with the slopes of both in closed form."""
        far, share, energy = self._each(u, level)
        sharpness = self.sharpness[level]
        slopes = far * sharpness
        slope = (share * slopes).sum(1)
        bend = (share * (sharpness.square() - (slopes - slope[:, None]).square())).sum(1)
        v, s = self.a[level].square() + self.s[level].square(), self.s[level].square()
        bent = (v - s * bend) / (v.sqrt() * self.a[level])
        return Told(energy, slope.reshape(u.shape), self._cleaned(u, slope, level), bent.reshape(u.shape))

    def _each(self, u: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How far u is from each law in its deviations, and p(j | u), (rows, count + 1, sites); and -log p(u)."""
        flat = u.flatten(1)
        far = (flat[:, None] - self.centre[level]) * self.sharpness[level]
        log_each = self.height[level] - far.square() / 2
        top = log_each.detach().amax(1, keepdim=True)
        each = (log_each - top).exp()
        whole = each.sum(1, keepdim=True)
        constant = flat.shape[1] / 2 * math.log(2 * math.pi)
        return far, each / whole, constant - (whole.log() + top).flatten(1).sum(1)

    def _cleaned(self, u: Tensor, slope: Tensor, level: Tensor) -> Tensor:
        """(sqrt(v) u - s^2 slope / sqrt(v)) / a, slope (rows, sites) that of -log p (Tweedie's formula)."""
        v, s = self.a[level].square() + self.s[level].square(), self.s[level].square()
        return ((v * u.flatten(1) - s * slope) / (v.sqrt() * self.a[level])).reshape(u.shape)


class Mixtures(NamedTuple):
    """Shares, centres and deviations of normal laws, (sites, laws) float64 each."""

    share: Tensor
    centre: Tensor
    width: Tensor


def mixtures(z: Tensor, count: int) -> Mixtures:
    """The law of each column of rows z (rows, sites), of about unit variance: `count` normal laws and a wide one.

    By expectation maximisation (Dempster, Laird & Rubin 1977) from laws at evenly spaced quantiles, none narrower than
    level 0 sees. The wide one has the share of one row more than there are, for values that none of them has.
    """
    if len(z) > _ROWS:  # all over them, whatever order they are in
        z = z[((torch.arange(_ROWS, device=z.device) * _GOLDEN) % 1 * len(z)).long()]
    parts = [_fitted(columns, count) for columns in z.split(_SITES_AT_ONCE, 1)]
    share, centre, width = (torch.cat(each) for each in zip(*parts, strict=True))
    wide, one = 1 / (len(z) + 1), torch.ones_like(share[:, :1])
    return Mixtures(
        torch.cat([(1 - wide) * share, wide * one], 1),
        torch.cat([centre, 0 * one], 1),
        torch.cat([width, _WIDE * one], 1),
    )


def _fitted(z: Tensor, count: int) -> Mixtures:
    places = (torch.arange(count, dtype=z.dtype, device=z.device) + 0.5) / count
    centre = torch.quantile(z, places, dim=0).T
    laws = Mixtures(torch.full_like(centre, 1 / count), centre, torch.full_like(centre, 1 / count))
    for _ in range(_ROUNDS):
        laws = _maximised(z[:, :, None], laws)
    return laws


def _maximised(z: Tensor, laws: Mixtures) -> Mixtures:
    """One round for z (rows, sites, 1); a law that no row is near stays where it is."""
    share, centre, width = laws
    of = (share.log() - width.log() - ((z - centre) / width).square() / 2).softmax(2)
    rows = of.sum(0) + _KEPT
    moved = ((of * z).sum(0) + _KEPT * centre) / rows
    spread = ((of * (z - moved).square()).sum(0) + _KEPT * width.square()) / rows
    return Mixtures(rows / rows.sum(1, keepdim=True), moved, spread.sqrt().clamp_min(_NARROW))


_ROWS = 2000
_GOLDEN = (5**0.5 - 1) / 2
_SITES_AT_ONCE = 64
_ROUNDS = 40
_KEPT = 1e-3  # rows, that a law has beside those near it
_NARROW, _WIDE = 0.02, 10.0  # deviations of laws, in units of the site's
