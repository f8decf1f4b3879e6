"""Forward processes: x_k = a_k x + s_k z, z standard normal, at the levels k = 0 ... K - 1."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor


class Scales(NamedTuple):
    """What the data are multiplied by, a, and the deviation of what is added, s; (levels,) float64.

    Data are taken in units of their standard deviation. The signal-to-noise ratio a / s falls from level to level.
    """

    a: Tensor
    s: Tensor


class Process(ABC):
    """A component: the levels, from next to no noise to next to no data."""

    levels: int

    @abstractmethod
    def scales(self) -> Scales:
        """a_k and s_k."""

    def refusal(self) -> str | None:
        """Keys that exclude each other, in one sentence, or None."""
        return None
