"""Statistics of samples against those of the training rows, drawn, for rows that are no images."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_cli import rng
from ebm_cli.dataset.base import Data, Split
from ebm_cli.record import picture
from ebm_cli.space import Categorical, Counts, Discrete, Space, TwoValued

SAMPLES = 2000  # of these at most the statistics are drawn
_ROWS, _NUMBERS = 10_000, 2**22  # of a split that are read: rows, and numbers in all of them
_PAIRED = 512  # features among which there are pairs, and that are projected
_POINTS = 4000  # of a scatter plot
_GREY, _BLUE = "0.7", "tab:blue"

Array = NDArray[np.float64]
Index = NDArray[np.int64]


def shown_by_statistics(space: Space) -> bool:
    """Whether samples say more by their statistics than one by one: no images, no points of the plane, no texts."""
    return space.pictured and not space.is_image and not picture.of_plane(space)


def features(space: Space, x: Tensor) -> Array:
    """Numbers whose means are the statistics of single sites, (n, features), of rows x (n, *shape).

    Bits; one-hot states, K in a row for each site; real numbers as the model has them; of documents the share of each
    word.
    """
    if isinstance(space, Counts):
        x = x / x.sum(1, keepdim=True)
    x = space.bits(x) if isinstance(space, TwoValued) else x
    return x.detach().flatten(1).cpu().double().numpy()


@dataclass(frozen=True)
class Statistics:
    """Means (features,), connected correlations or covariances (pairs,) and a projection (n, 2) of some rows."""

    means: Array
    pairs: Array
    plane: Array


class Against:
    """What samples are held against: the training rows, at most 10 000 and 4 million numbers of them, evenly spaced.

    Pairs are <x_i x_j> - <x_i><x_j> of features i and j of two sites, of real numbers also of one with itself, of
    documents of the roots of shares: all of them, or the 2000 that are strongest in the training rows and as many
    evenly spaced ones, among the 512 features of the greatest variance. The projection is on the first two principal
    components of these features of the training rows. As many held-out rows as there are samples show how far points
    lie off the diagonal by chance.
    """

    def __init__(self, data: Data) -> None:
        self.space = data.space
        x, weight = self._read(data.train)
        paired = self._paired(x)
        variance = weight @ (paired - weight @ paired) ** 2
        self.chosen = np.sort(np.argsort(-variance, kind="stable")[:_PAIRED])
        chosen = paired[:, self.chosen]
        covariance = _covariance(chosen, weight)
        self.first, self.second = self._pairs(covariance)
        self.centre, self.axes = weight @ chosen, _principal(covariance)
        self.train, self.rows = self.of(x, weight), len(data.train)
        self.held_out = self._read(data.valid or data.test)

    def _read(self, split: Split) -> tuple[Array, Array]:
        """Features (rows, features) of evenly spaced rows and their weights (rows,), whose sum is 1."""
        rows = min(len(split), _ROWS, max(1, _NUMBERS // math.prod(self.space.shape)))
        index = torch.from_numpy(_spaced(len(split), rows))
        x = split.rows(index.to(split.stored.device), rng.stream(0, "statistics"))
        weight = np.ones(rows) if split.weights is None else split.weights.cpu().double().numpy()[index.numpy()]
        return features(self.space, x), weight / weight.sum()

    def _paired(self, x: Array) -> Array:
        """Shares of words vary with the length of documents, most of all frequent ones; their roots hardly do."""
        return np.sqrt(x) if isinstance(self.space, Counts) else x

    def _pairs(self, covariance: Array) -> tuple[Index, Index]:
        """The two features of each pair that is drawn, as numbers among the chosen ones, in their order."""
        first, second = np.triu_indices(len(self.chosen))
        if isinstance(self.space, Discrete | Counts):
            site = self.chosen // (self.space.values if isinstance(self.space, Categorical) else 1)
            apart = site[first] != site[second]
            first, second = first[apart], second[apart]
        if len(first) > _POINTS:
            strongest = np.argsort(-abs(covariance[first, second]), kind="stable")[: _POINTS // 2]
            drawn = np.union1d(_spaced(len(first), _POINTS // 2), strongest)
            first, second = first[drawn], second[drawn]
        return first, second

    def of(self, x: Array, weight: Array) -> Statistics:
        """Those of features x (n, features) with weights (n,) whose sum is 1."""
        chosen = self._paired(x[:, self.chosen])
        pairs = _covariance(chosen, weight)[self.first, self.second]
        return Statistics(weight @ x, pairs, (chosen - self.centre) @ self.axes)

    def picture(self, x: Tensor, name: str = "samples") -> NDArray[np.uint8]:
        """Means, pairs and the projection of samples x (n, *shape) against those of the training rows."""
        x = x[:SAMPLES]
        found = self.of(features(self.space, x), np.full(len(x), 1 / len(x)))
        chance = self._by_chance(len(x))
        means, pairs = _titles(self.space)
        with picture.axes(1, 3, layout=None) as drawing:
            left, middle, right = drawing.at[0]
            left.figure.subplots_adjust(left=0.055, right=0.99, bottom=0.14, top=0.78, wspace=0.2)
            left.figure.suptitle(f"{len(x)} {name} and {self.rows} training rows", fontsize=11)
            _scatter(left, means, name, self.train.means, found.means, chance.means)
            _scatter(middle, pairs, name, self.train.pairs, found.pairs, chance.pairs)
            _plane(right, self.train.plane, found.plane, name)
        return drawing.pixels

    def _by_chance(self, n: int) -> Statistics:
        """Those of at most n held-out rows, evenly spaced."""
        x, weight = self.held_out
        index = _spaced(len(x), min(n, len(x)))
        return self.of(x[index], weight[index] / weight[index].sum())


def _spaced(n: int, count: int) -> Index:
    """`count` of the numbers 0, ..., n - 1, evenly spaced."""
    return np.arange(count) * n // count


def _titles(space: Space) -> tuple[str, str]:
    """What the means and the pairs are."""
    if isinstance(space, Counts):
        return "shares of words", "covariances of their roots"
    if isinstance(space, Categorical):
        return "frequencies of states", "connected pair correlations"
    return (
        ("frequencies of 1", "connected pair correlations")
        if isinstance(space, TwoValued)
        else ("means", "covariances")
    )


def _covariance(x: Array, weight: Array) -> Array:
    """(features, features), by weight; products in float32, whose errors nobody sees in a picture."""
    centred = ((x - weight @ x) * np.sqrt(weight)[:, None]).astype(np.float32)
    return (centred.T @ centred).astype(np.float64)


def _principal(covariance: Array) -> Array:
    """The eigenvectors (features, 2) of the greatest eigenvalues, their largest entry positive; zeros where missing."""
    from scipy.linalg import eigh  # slow to import

    size = len(covariance)
    _, vectors = eigh(covariance, subset_by_index=[max(0, size - 2), size - 1])
    vectors = vectors * np.sign(vectors[abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    return np.pad(vectors[:, ::-1], ((0, 0), (0, 2 - vectors.shape[1])))


def fit(x: Array, y: Array) -> str:
    """Correlation of y with x and slope of y over x by least squares: `r 0.980, slope 1.020`, `-` where undefined."""
    if len(x):
        x, y = x - x.mean(), y - y.mean()
    xx, yy, xy = x @ x, y @ y, x @ y
    r = f"{xy / np.sqrt(xx * yy):.3f}" if xx > 0 and yy > 0 else "-"
    return f"r {r}, slope {f'{xy / xx:.3f}' if xx > 0 else '-'}"


def _scatter(axis: Any, what: str, name: str, train: Array, found: Array, chance: Array) -> None:
    """A statistic of samples over that of the training rows, one point each, and the diagonal."""
    held_out = f"held-out rows: {fit(train, chance)}"
    axis.scatter(train, chance, s=14, color=_GREY, linewidths=0, label=held_out)
    axis.scatter(train, found, s=6, color=_BLUE, linewidths=0, label=name)
    finite = np.concatenate([train, found, chance])
    finite = finite[np.isfinite(finite)]
    ends = [finite.min(), finite.max()] if len(finite) else [0, 1]
    axis.plot(ends, ends, color="black", linewidth=0.8)
    axis.set(xlabel="in training rows", ylabel=f"in {name}", title=f"{what}\n{fit(train, found)}")
    axis.title.set_fontsize(10)
    axis.locator_params(nbins=5)
    axis.ticklabel_format(scilimits=(-2, 4))
    axis.legend(fontsize=8, loc="upper left")


def _plane(axis: Any, train: Array, samples: Array, name: str) -> None:
    """Rows on the first two principal components."""
    train = train[_spaced(len(train), min(SAMPLES, len(train)))]
    axis.scatter(*train.T, s=10, color=_GREY, linewidths=0, label="training rows")
    axis.scatter(*samples.T, s=6, color=_BLUE, linewidths=0, label=name)
    axis.set(xlabel="first principal component of training rows", ylabel="second", title="projection")
    axis.title.set_fontsize(10)
    axis.legend(fontsize=8, loc="upper right")
