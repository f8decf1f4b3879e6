"""The likeliest values of each site, and what the rest of them come to: all of a gradient that a chain has to keep."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.rng import AnyKey


class TopK(NamedTuple):
    """Laws q on K values: the k likeliest have their probabilities, each of the others an equal part of what is left.

    `top` (..., k) int64 are the likeliest in rising order, `log_top` (..., k) and `log_other` (...) the logarithms of
    their probabilities and of that of each other value: -inf where k = K.
    """

    top: Tensor
    log_top: Tensor
    log_other: Tensor

    def at(self, sites: Tensor) -> "TopK":
        """Of laws (chains, D, ...) those of some sites (chains, block)."""
        rows = torch.arange(len(sites), device=sites.device)[:, None]
        return TopK(*(part[rows, sites] for part in self))

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(value), (...)."""
        place = torch.searchsorted(self.top, value[..., None]).clamp_max(self.top.shape[-1] - 1)
        among = self.top.gather(-1, place).squeeze(-1) == value
        return torch.where(among, self.log_top.gather(-1, place).squeeze(-1), self.log_other)

    def drawn(self, values: int, key: AnyKey) -> Tensor:
        """A draw of each law, (...) int64, `values` being K."""
        k = self.top.shape[-1]
        if k == values:
            return self._chosen(rng.categorical(self.log_top, key.fold("top")))
        log_rest = self.log_other + math.log(values - k)
        number = rng.categorical(torch.cat([self.log_top, log_rest[..., None]], -1), key.fold("top"))
        rank = rng.integers(values - k, number.shape, key.fold("other"), number.device)
        return torch.where(number < k, self._chosen(number.clamp_max(k - 1)), self._other(rank))

    def _chosen(self, number: Tensor) -> Tensor:
        return self.top.gather(-1, number[..., None]).squeeze(-1)

    def _other(self, rank: Tensor) -> Tensor:
        """The value that has this rank, from 0, among those that are not the likeliest.

        Before the j-th of the likeliest stand top_j - j others; all of the likeliest with no more than `rank` come
        before the value.
        """
        before = self.top - torch.arange(self.top.shape[-1], device=rank.device)
        return rank + torch.searchsorted(before, rank[..., None], right=True).squeeze(-1)


def of_slopes(slope: Tensor, k: int, temperature: float) -> TopK:
    """The laws softmax(-slope / temperature), slope (..., K), with all values but the k likeliest made alike."""
    top = slope.topk(k, largest=False).indices.sort().values
    logits = -slope / temperature
    log_top = logits.gather(-1, top)
    log_rest = logits.scatter_(-1, top, -torch.inf).logsumexp(-1)
    log_z = torch.logaddexp(log_top.logsumexp(-1), log_rest)
    log_others = math.log(max(1, slope.shape[-1] - k))
    return TopK(top, log_top - log_z[..., None], log_rest - log_z - log_others)
