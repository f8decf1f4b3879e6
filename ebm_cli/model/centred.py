"""Machines of two layers whose gradient can be taken in centred coordinates."""

from abc import abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from ebm_cli.model.base import Blocked, Pullback


class HiddenMoments(NamedTuple):
    """Means over rows v of E[h | v] and of E[h^2 | v], (hidden,) each."""

    mean: Tensor
    square: Tensor


class Centred(Blocked):
    """E(v, h) = -b.v - c.h + U(h) - v.W h with W (units of v, hidden), b and c, and offsets mu of v and lambda of h.

    The energy ignores the offsets, which are buffers: means of units that are bits, unless a subclass has others.
    """

    called = "two-layer, with discrete visible units,"
    W: nn.Parameter
    b: nn.Parameter
    c: nn.Parameter
    visible_offset: Tensor
    hidden_offset: Tensor

    @abstractmethod
    def centred_vjp(self, x: Tensor, n: int) -> tuple[Tensor, Pullback, HiddenMoments]:
        """`energy_vjp` of x, and the moments of the hidden units over the first n rows."""

    def visible_variance(self) -> Tensor:
        """Of the units of v in the training data, by their means: mu (1 - mu), (units of v,)."""
        return self.visible_offset * (1 - self.visible_offset)

    def hidden_variance(self) -> Tensor:
        """Of the hidden units on the data, lambda (1 - lambda), (hidden,)."""
        return self.hidden_offset * (1 - self.hidden_offset)

    def follow(self, moments: HiddenMoments, rate: float) -> None:
        """lambda <- lambda + rate (E h - lambda)."""
        self.hidden_offset.lerp_(moments.mean, rate)
