"""What a network sees of a configuration at a level of noise: its numbers, waves of them, and waves of the level."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli.model.level_bounds import LevelBounds
from ebm_cli.model.level_gaussian import Told
from ebm_cli.space import Box, Real

_RATES = (0.5, 1.0, 1.5, 2.0)  # of the waves of log a / s
_CALM = 4.0  # what log a / s itself is divided by


class LevelFeatures(nn.Module):
    """u and level -> (u, sin 2^j u, cos 2^j u for j < `waves`, d, m_k): channels beside each other.

    d, of u's shape, is there if `cleaned`: what each site alone says of its data. m_k are log(a_k / s_k) / 4 and sines
    and cosines of log(a_k / s_k) at the rates 1/2, 1, 3/2, 2. u is flat or, of images, (batch, channels, height, width)
    with each number of m_k as a channel of that value. `shape` is that of one u, `log_ratio` is log a / s, (levels,).
    Within `bounds` u and d are those of the training rows, in waves too.
    """

    marks: Tensor

    def __init__(
        self, shape: tuple[int, ...], log_ratio: Tensor, waves: int, *, cleaned: bool, bounds: LevelBounds | None
    ) -> None:
        super().__init__()
        rates = torch.tensor(_RATES, dtype=torch.float64) * log_ratio[:, None].double()
        marks = torch.cat([log_ratio[:, None].double() / _CALM, rates.sin(), rates.cos()], 1)
        self.register_buffer("marks", marks.float(), persistent=False)
        self.shape, self.factors, self.cleaned = shape, [2.0**j for j in range(waves)], cleaned
        self.bounds = bounds

    @property
    def seen(self) -> Real:
        """The space of what the network sees; of images a box, the walls of which nothing keeps to."""
        first, *rest = self.shape
        shape = (first * (1 + 2 * len(self.factors) + self.cleaned) + self.marks.shape[1], *rest)
        return Box(shape, -1.0, 1.0) if rest else Real(shape)

    @override
    def forward(self, u: Tensor, level: Tensor, cleaned: Tensor | None) -> Tensor:
        """For u at the levels (batch,) int64, and d."""
        if self.bounds is not None:
            u = self.bounds.noisy(u, level)[0]
            cleaned = None if cleaned is None else self.bounds.clean(cleaned)[0]
        u = u.reshape(-1, *self.shape)
        marks = self.marks.to(u.dtype)[level]
        marks = marks.reshape(*marks.shape, *[1] * (u.dim() - 2)).expand(-1, -1, *u.shape[2:])
        waves = [wave(factor * u) for factor in self.factors for wave in (torch.sin, torch.cos)]
        beside = [] if cleaned is None else [cleaned.reshape(u.shape)]
        return torch.cat([u, *waves, *beside, marks], 1)

    def pulled(self, u: Tensor, level: Tensor, grad: Tensor, told: Told) -> Tensor:
        """The gradient in u, in its shape, of what has the gradient `grad` in the features."""
        if self.bounds is None:
            found = self._of_waves(u, grad)
        else:
            y, inside = self.bounds.noisy(u, level)
            found = inside * self._of_waves(y, grad)
        bend = self._bend(told)
        return found if bend is None else found + self._of_cleaned(grad, bend)

    def _bend(self, told: Told) -> Tensor | None:
        """dh(d)/du within bounds."""
        if self.bounds is None or told.cleaned is None or told.bend is None:
            return told.bend
        return self.bounds.clean(told.cleaned)[1] * told.bend

    def _of_waves(self, u: Tensor, grad: Tensor) -> Tensor:
        """What comes by u and its waves."""
        like, u = u, u.reshape(-1, *self.shape)
        found, *waves = grad[:, : self._own].split(u.shape[1], 1)
        for j, factor in enumerate(self.factors):
            of_sin, of_cos = waves[2 * j : 2 * j + 2]
            found = found + factor * (of_sin * (factor * u).cos() - of_cos * (factor * u).sin())
        return found.reshape(like.shape)

    def _of_cleaned(self, grad: Tensor, bend: Tensor) -> Tensor:
        """What comes by d, for dd/du."""
        return grad[:, self._own : self._own + self.shape[0]].reshape(bend.shape) * bend

    @property
    def _own(self) -> int:
        """Channels of u and its waves."""
        return self.shape[0] * (1 + 2 * len(self.factors))
