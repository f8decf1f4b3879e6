"""How far what a network over levels of noise sees of a configuration may go: no further than rows of data do."""

import torch
from torch import Tensor, nn

from ebm_cli.functional import softplus
from ebm_cli.process.base import Scales

_BEND = 0.1  # over which a number comes to its end
_NOISE = 3.0  # deviations of the noise that count as seen


class LevelBounds(nn.Module):
    """h(y) = l + t log(1 + exp((y - l) / t)) - t log(1 + exp((y - h) / t)), t = 0.1: y between l and h, else these.

    Of x_0, site by site, l and h are the ends of the training rows; of u = (a_k x_0 + s_k z) / sqrt(v_k) they are
    (a_k l - 3 s_k) / sqrt(v_k) and (a_k h + 3 s_k) / sqrt(v_k); `limit` from 0 at most. Before rows are taken up they
    are `limit` from 0. Beyond them a network says what it says at the end, and makes no place of low energy there.
    """

    low: Tensor
    high: Tensor

    def __init__(self, sites: int, scales: Scales, limit: float) -> None:
        super().__init__()
        a, s = (each.float() for each in scales)
        size = (a.square() + s.square()).sqrt()
        self.fades, self.spread, self.limit = (a / size)[:, None], (_NOISE * s / size)[:, None], limit
        shape = (len(a) + 1, sites)  # of u at each level, and of x_0
        self.register_buffer("low", torch.full(shape, -limit))
        self.register_buffer("high", torch.full(shape, limit))

    def take(self, z: Tensor) -> None:
        """Take up the ends of rows in units of each site's scale, (rows, sites) float64."""
        fades, spread = self.fades.to(z), self.spread.to(z)
        for ends, found, way in ((self.low, z.amin(0), -1), (self.high, z.amax(0), 1)):
            ends.copy_(torch.cat([fades * found + way * spread, found[None]]).clamp(-self.limit, self.limit))

    def noisy(self, u: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """h of u (rows, *shape) at levels (rows,), and its derivative."""
        return _between(u, self.low[level], self.high[level])

    def clean(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """h of what is taken for x_0, (rows, *shape), and its derivative."""
        return _between(d, self.low[-1], self.high[-1])


def _between(y: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    flat = y.flatten(1)
    above, beyond = (flat - low) / _BEND, (flat - high) / _BEND
    found = low + _BEND * (softplus(above) - softplus(beyond))
    return found.reshape(y.shape), (above.sigmoid() - beyond.sigmoid()).reshape(y.shape)
