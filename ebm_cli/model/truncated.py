"""Normal laws between the walls of a box: N(m_i, s_i^2) restricted to [low, high], independently at every site.

All in float64, by the distribution function Phi. Where the mean lies below the box everything is mirrored, so that
it is the lower tail that is computed with: Phi is accurate there and rounds to 1 in the other.
"""

import math

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.rng import AnyKey
from ebm_cli.space import Box


def log_z(space: Box, m: Tensor, s: Tensor) -> Tensor:
    """log of the integral of exp(-sum_i (x_i - m_i)^2 / (2 s_i^2)) over the box, a scalar float64; m and s (sites,).

    sum_i log(Phi((high - m_i) / s_i) - Phi((low - m_i) / s_i)) + log s_i + log(2 pi) / 2. It is -inf where next to
    nothing of a law lies in the box (its walls are some 37 s beyond the mean).
    """
    return log_mass(space, m, s).sum()


def log_mass(space: Box, m: Tensor, s: Tensor) -> Tensor:
    """The same of each site alone, float64 in the shape of m and s, with derivatives."""
    _, between, _ = _shares(space, m, s)
    return between.log() + s.double().log() + 0.5 * math.log(2 * math.pi)


def draws(space: Box, m: Tensor, s: Tensor, n: int, key: AnyKey) -> Tensor:
    """n independent draws (n, *shape) in the type of m, of m and s (sites,)."""
    return drawn(space, m.expand(n, -1), s.expand(n, -1), key).reshape(n, *space.shape)


def drawn(space: Box, m: Tensor, s: Tensor, key: AnyKey) -> Tensor:
    """One draw of each law, m and s (rows, sites): m + s Phi^-1(Phi(low) + u (Phi(high) - Phi(low)))."""
    low, between, mirrored = _shares(space, m, s)
    u = rng.uniform(m.shape, key, m.device, torch.float64)
    x = m.double() + mirrored * s.double() * torch.special.ndtri(low + u * between)
    return space.nearest(x.to(m.dtype))


def _shares(space: Box, m: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Phi below the box and within it, and 1, or -1 where they are those of the mirrored law, in their shape."""
    low, high = ((wall - m.double()) / s.double() for wall in (space.low, space.high))
    below = low > 0
    low, high = torch.where(below, -high, low), torch.where(below, -low, high)
    low, high = _phi(low), _phi(high)
    return low, high - low, torch.where(below, -1.0, 1.0)


def _phi(z: Tensor) -> Tensor:
    """Phi(z), to the last digits in the lower tail too, where torch's ndtr, (1 + erf) / 2, is 0 from z = -9 on."""
    return 0.5 * torch.erfc(-z * math.sqrt(0.5))
