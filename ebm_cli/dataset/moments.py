"""Means, standard deviations and histograms of rows of real numbers, of at most 10 000 of them."""

import math

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.dataset.base import Split
from ebm_cli.space import Box

_ROWS = 10_000


def moments(split: Split) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each coordinate, (sites,) float64 on the CPU."""
    return moments_of(some_rows(split))


def moments_of(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The same of rows (rows, sites)."""
    return rows.mean(0), rows.std(0, correction=0)


class Histogram:
    """Independent coordinates between walls, each uniform within bins of equal width.

    A bin seen k times in n rows has the probability (k + 1) / (n + K), of K = 2 n^(1/3) bins (Rice's rule).
    """

    def __init__(self, rows: Tensor, space: Box) -> None:
        self.space, self.bins = space, round(2 * len(rows) ** (1 / 3))
        place = self._place(rows)
        counts = torch.bincount(place.flatten(), minlength=place.shape[1] * self.bins)
        self.log_p_of_bins = ((counts.double() + 1) / (len(rows) + self.bins)).log()

    def log_p(self, x: Tensor) -> Tensor:
        """log density of rows x (rows, *shape), (rows,) float64 nats."""
        width = (self.space.high - self.space.low) / self.bins
        found = self.log_p_of_bins.to(x.device)[self._place(x.flatten(1))]
        return found.sum(1) - x[0].numel() * math.log(width)

    def _place(self, x: Tensor) -> Tensor:
        """Of (rows, sites), the number of its bin among those of all coordinates."""
        bins = (self.space.brightness(x) * self.bins).long().clamp(0, self.bins - 1)
        return bins + self.bins * torch.arange(x.shape[1], device=x.device)


def some_rows(split: Split) -> Tensor:
    """At most 10 000 of them, (rows, sites) float64 on the CPU."""
    index = torch.arange(min(_ROWS, len(split)), device=split.stored.device)
    return split.rows(index, rng.stream(0, "noise")).flatten(1).double().cpu()
