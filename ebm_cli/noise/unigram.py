"""Words by how frequent they are, whatever their context."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.dataset.base import Data
from ebm_cli.noise.base import Noise, NoiseSpec
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Words


class Unigram(Noise):
    """The last word from fixed probabilities, q(w | context) = q(w)."""

    total: Tensor
    log_q: Tensor

    def __init__(self, space: Words, q: Tensor) -> None:
        super().__init__()
        self.space = space
        self.register_buffer("log_q", q.log().float())
        self.register_buffer("total", q.cumsum(0), persistent=False)

    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """Words of the context drawn like the last one."""
        return self._drawn((n, *self.space.shape), key)

    @override
    def log_prob(self, x: Tensor) -> Tensor:
        return self.log_q[x[:, -1].long()]

    @override
    def beside(self, x: Tensor, count: int, key: AnyKey) -> Tensor:
        """The rows with their last words drawn anew, `count` times each, (batch * count, words)."""
        rows = x.repeat_interleave(count, 0)
        rows[:, -1] = self._drawn((len(x), count), key).flatten()
        return rows

    def _drawn(self, shape: tuple[int, ...], key: AnyKey) -> Tensor:
        """Independent words, by bisection in the sums of q: log2 V comparisons for each."""
        u = rng.uniform(shape, key, self.total.device, torch.float64)
        words = torch.searchsorted(self.total, u * self.total[-1], right=True)
        return words.clamp_max(self.space.values - 1).to(self.log_q.dtype)


@register("noise", "unigram")
class UnigramNoise(NoiseSpec):
    """q(w) proportional to the frequency of w in the training data, smoothed, to the `power` (Mikolov et al. 2013)."""

    power: Annotated[float, Field(ge=0)]

    spaces = (Words,)

    @override
    def build(self, data: Data, key: Key) -> Noise:
        """Frequencies as `Data.smoothed_mean` has them."""
        assert isinstance(data.space, Words)
        q = data.smoothed_mean().cpu().double() ** self.power
        return Unigram(data.space, q / q.sum())
