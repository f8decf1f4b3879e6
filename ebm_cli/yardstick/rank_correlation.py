"""How well one column orders rows as another does."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ebm_cli import rng

_RESAMPLES, _AT_ONCE = 1000, 2**20  # how many, and numbers in those that are ranked at once
FEWEST = 3  # rows, below which any order is likely


class Correlation(NamedTuple):
    """Spearman's rho and the ends of its 95 % interval."""

    rho: float
    low: float
    high: float


def spearman(a: NDArray[np.float64], b: NDArray[np.float64], key: rng.Key) -> Correlation | None:
    """Of rows (n,), equal values sharing their mean rank; the interval is that of 1000 resamples of the rows.

    None where there is no order: fewer than three rows, or all values of a column equal.
    """
    if len(a) < FEWEST or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    parts = [len(part) for part in np.array_split(np.arange(_RESAMPLES), 1 + _RESAMPLES * len(a) // _AT_ONCE)]
    index = (rng.integers(len(a), (rows, len(a)), key.fold(i)).numpy() for i, rows in enumerate(parts) if rows)
    drawn = np.concatenate([_rho(a[part], b[part]) for part in index])
    low, high = np.nanquantile(drawn, [0.025, 0.975])  # a resample of one row over and over has no order
    return Correlation(float(_rho(a[None], b[None])[0]), float(low), float(high))


def _rho(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's correlation of the ranks within rows (n, m), (n,); NaN where all of a row are equal."""
    from scipy.stats import rankdata

    x, y = (rankdata(part, axis=1) for part in (a, b))
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    scale = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = (x * y).sum(1) / scale
    return found
