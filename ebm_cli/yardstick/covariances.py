"""Connected correlations of pairs of sites, C_ij(a, b) = f_ij(a, b) - f_i(a) f_j(b), of rows and of samples."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_cli.dataset.base import Split
from ebm_cli.space import Binary, Box, Categorical, Discrete, Real, Space, Spin, TwoValued

SPACES: tuple[type[Space], ...] = (Binary, Spin, Categorical, Real, Box)
_NUMBERS = 2**22  # of a strip, and of rows that are read at once

Pieces = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Rows x (n, *shape) with their weights (n,), some at a time; they are read twice."""


class Covariances(NamedTuple):
    """Of all pairs of sites i < j, strips of rows of the matrix, zero where j <= i; and the variances (columns,).

    Columns are bits, one-hot values, K in a row for each site, or real numbers. A strip has the columns from its own
    first one on, so that they take half of what the matrix does.
    """

    strips: Sequence[Tensor]
    variance: Tensor


class Agreement(NamedTuple):
    """How samples have the covariances of data: Pearson's correlation over all i < j, a, b, and the slope."""

    pearson: float
    slope: float


def of_split(split: Split) -> Covariances:
    """Of rows with their weights w, whose sum is M; of discrete sites with the pseudocount alpha = 1 / M.

    f_i = (1 - alpha) sum w x_i / M + alpha / K and f_ij = (1 - alpha) sum w x_i x_j / M + alpha / K^2, as adabmDCA has
    them, hence C_ij = (1 - alpha) (cov_ij + alpha (m_i - 1/K) (m_j - 1/K)), m being the means without it.
    """
    space, rows = split.space, max(1, _NUMBERS // math.prod(split.space.shape))
    weights = torch.ones(len(split)) if split.weights is None else split.weights.float()

    def pieces() -> Iterator[tuple[Tensor, Tensor]]:
        for number, x in enumerate(split.pieces(rows)):
            yield x, weights[number * rows :][: len(x)].to(x.device)

    mean = _mean(space, pieces)
    found = _centred(space, pieces, mean)
    if not isinstance(space, Discrete):
        return found
    alpha, beside = 1 / max(2.0, split.size), mean - 1 / space.values
    for at, strip in zip(_places(space), found.strips, strict=True):
        strip.add_(_upper(torch.outer(beside[at], beside[at.start :]), space), alpha=alpha).mul_(1 - alpha)
    return found


def of_samples(space: Space, x: Tensor) -> Covariances:
    """Of samples x (n, *shape), all of the same weight, without a pseudocount."""
    whole = [(x, torch.ones(len(x), device=x.device))]
    return _centred(space, lambda: whole, _mean(space, lambda: whole))


def agreement(space: Space, data: Covariances, samples: Covariances) -> Agreement:
    """Pearson's correlation of the two, and the slope of the line of least squares by which data give samples.

    Of discrete sites the mean over all a, b is 0, whatever the pair, so that none is taken off. NaN where all of one
    are the same.
    """
    taken = (_sums(a, b) for a, b in zip(data.strips, samples.strips, strict=True))
    x, y, xx, yy, xy = (sum(column) for column in zip(*taken, strict=True))
    if not isinstance(space, Discrete):
        pairs = space.sites * (space.sites - 1) / 2
        xx, yy, xy = xx - x * x / pairs, yy - y * y / pairs, xy - x * y / pairs
    if xx <= 0 or yy <= 0:
        return Agreement(math.nan, math.nan)
    return Agreement(xy / math.sqrt(xx * yy), xy / xx)


def ceiling(data: Covariances, samples: int) -> float:
    """What Pearson's correlation comes to, about, for so many independent samples of a model that has C exactly.

    sqrt(S / (S + N / samples)), S = sum C^2, N = sum over pairs of var_i var_j: that of an estimate of C_ij is about
    var_i var_j / samples where C is small.
    """
    signal, noise = strength(data)
    return math.sqrt(signal / (signal + noise / samples)) if signal else 0.0


def strength(data: Covariances) -> tuple[float, float]:
    """S and N of `ceiling`; N counts pairs of values of one site too, which are few."""
    signal = sum(strip.double().square().sum().item() for strip in data.strips)
    variance = data.variance.double()
    return signal, (variance.sum().square() - variance.square().sum()).item() / 2


def size(space: Space) -> int:
    """Bytes that the strips take."""
    total = math.prod(space.shape)
    return sum(4 * (at.stop - at.start) * (total - at.start) for at in _places(space))


def _sums(a: Tensor, b: Tensor) -> list[float]:
    parts = (a, b, a * a, b * b, a * b)
    return [part.sum(dtype=torch.float64).item() for part in parts]


def _columns(space: Space, x: Tensor) -> Tensor:
    """(n, columns) float32 of x (n, *shape)."""
    return (space.bits(x) if isinstance(space, TwoValued) else x).float().flatten(1)


def _width(space: Space) -> int:
    """Columns of one site."""
    return space.values if isinstance(space, Categorical) else 1


def _places(space: Space) -> list[slice]:
    """Columns of each strip, of whole sites."""
    wide, total = _width(space), math.prod(space.shape)
    step = wide * max(1, _NUMBERS // (total * wide))
    return [slice(first, min(first + step, total)) for first in range(0, total, step)]


def _mean(space: Space, pieces: Pieces) -> Tensor:
    """(columns,) float32."""
    found = [(torch.mv(_columns(space, x).double().T, w.double()), w.sum(dtype=torch.float64)) for x, w in pieces()]
    totals, weights = (torch.stack(part).sum(0) for part in zip(*found, strict=True))
    return (totals / weights).float()


def _centred(space: Space, pieces: Pieces, mean: Tensor) -> Covariances:
    """sum w (x_i - m_i) (x_j - m_j) / sum w."""
    places, total, weight = _places(space), len(mean), 0.0
    strips = [mean.new_zeros(at.stop - at.start, total - at.start) for at in places]
    variance = torch.zeros_like(mean)
    for x, w in pieces():
        away = _columns(space, x) - mean
        weighted = away * w[:, None]
        variance += (weighted * away).sum(0)
        weight += w.sum(dtype=torch.float64).item()
        for at, strip in zip(places, strips, strict=True):
            strip.addmm_(weighted[:, at].T, away[:, at.start :])
    return Covariances([_upper(strip.div_(weight), space) for strip in strips], variance / weight)


def _upper(strip: Tensor, space: Space) -> Tensor:
    """The strip, from now on with zeros where the site of the column is that of the row, or before it."""
    row, column = (torch.arange(size, device=strip.device) // _width(space) for size in strip.shape)
    return strip.masked_fill_(column <= row[:, None], 0.0)
