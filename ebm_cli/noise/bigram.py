"""Sequences in which each value is drawn given the one before it."""

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
from ebm_cli.space import Categorical


class Bigram(Noise):
    """q(x) = q(x_1) prod_i q(x_i | x_{i-1}), q(b | a) = (n(a, b) + strength q(b)) / (n(a) + strength), n counts.

    A value after a is with probability n(a) / (n(a) + strength) one that came after a in the data, else a draw of q(b):
    no table of K^2 numbers is needed, `after` holds the pairs (n,) that there are.
    """

    log_q: Tensor
    total: Tensor
    begin: Tensor
    after: Tensor
    pairs: Tensor
    count: Tensor

    def __init__(self, space: Categorical, q: Tensor, first: Tensor, second: Tensor, strength: float) -> None:
        super().__init__()
        self.space, self.strength = space, strength
        ordered = (first * space.values + second).sort().values
        pairs, count = ordered.unique_consecutive(return_counts=True)
        begin = torch.searchsorted(ordered, torch.arange(space.values + 1) * space.values)
        self.register_buffer("log_q", q.double().log())
        self.register_buffer("total", q.double().cumsum(0), persistent=False)
        for name, part in {"begin": begin, "after": ordered % space.values, "pairs": pairs, "count": count}.items():
            self.register_buffer(name, part, persistent=False)

    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        u = rng.uniform((n, self.space.sites, 3), key, self.total.device, torch.float64)
        independent = torch.searchsorted(self.total, u[:, :, 0] * self.total[-1], right=True)
        independent = independent.clamp_max(self.space.values - 1)
        found = [independent[:, 0]]
        for site in range(1, self.space.sites):
            begin = self.begin[found[-1]]
            size = self.begin[found[-1] + 1] - begin
            place = begin + (u[:, site, 1] * size).long()
            known = u[:, site, 2] * (size + self.strength) < size
            drawn = self.after[place.clamp_max(len(self.after) - 1)]
            found.append(torch.where(known, drawn, independent[:, site]))
        return self.space.one_hot(torch.stack(found, 1), torch.float32)

    @override
    def log_prob(self, x: Tensor) -> Tensor:
        """Float32."""
        values = self.space.numbers(x)
        first, second = values[:, :-1], values[:, 1:]
        code = first * self.space.values + second
        place = torch.searchsorted(self.pairs, code).clamp_max(len(self.pairs) - 1)
        count = torch.where(self.pairs[place] == code, self.count[place], 0)
        size = self.begin[first + 1] - self.begin[first]
        share = (count + self.strength * self.log_q[second].exp()) / (size + self.strength)
        return (self.log_q[values[:, 0]] + share.log().sum(1)).float()


@register("noise", "bigram")
class BigramNoise(NoiseSpec):
    """A Markov chain along the sites: pairs of values that follow each other, smoothed towards single ones."""

    strength: Annotated[float, Field(gt=0)]

    spaces = (Categorical,)

    @override
    def build(self, data: Data, key: Key) -> Bigram:
        """Counted at all places of the training rows, single values as `Data.smoothed_mean` has them."""
        space = data.space
        assert isinstance(space, Categorical)
        assert isinstance(data.train.stored, Tensor)
        rows = data.train.stored.flatten(1).cpu().long()
        q = space.table(data.smoothed_mean().cpu()).double().mean((0, 1))
        return Bigram(space, q / q.sum(), rows[:, :-1].flatten(), rows[:, 1:].flatten(), self.strength)
