"""Temperatures at which replicas exchange equally often, and how many of them are wanted (Syed et al. 2021)."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_LEAST = 1e-4  # of a rejection: a pair that has refused no swap still is a step
_MARGIN = 1.05
_WANTED = 0.5  # the rejection at which a given number of replicas makes most round trips
MOST = 256  # temperatures that are chosen


def geometric(beta_min: float, count: int) -> tuple[float, ...]:
    """beta_r = beta_min^((R - r) / (R - 1)) of R = `count`, rising to 1."""
    return tuple(beta_min ** (1 - r / (count - 1)) for r in range(count))


def barriers(rejected: Sequence[float]) -> NDArray[np.float64]:
    """Lambda at each beta, (R,): the sum of the rejections of the pairs below it."""
    return np.concatenate([[0.0], np.maximum(rejected, _LEAST).cumsum()])


def respaced(betas: Sequence[float], rejected: Sequence[float], count: int) -> tuple[float, ...]:
    """beta_k = Lambda^-1(k Lambda / (R - 1)), k = 0 ... R - 1, of R = `count`: all pairs reject alike (algorithm 2).

    Lambda(beta) is that of swaps between `betas`, of which each pair was `rejected` so often; it is interpolated by
    monotone cubics. Temperatures at which pairs reject alike already are left where they are.
    """
    from scipy.interpolate import PchipInterpolator  # slow to import

    known = barriers(rejected)
    found = PchipInterpolator(known, np.asarray(betas))(np.linspace(0, known[-1], count)).tolist()
    return (betas[0], *found[1:-1], betas[-1])


def moved(values: Sequence[float], rejected: Sequence[float], count: int) -> tuple[float, ...]:
    """What belongs to each temperature, at the `count` temperatures of `respaced`."""
    known = barriers(rejected)
    return tuple(np.interp(np.linspace(0, known[-1], count), known, values).tolist())


def nearest(rejected: Sequence[float], count: int) -> list[int]:
    """Which of the old temperatures is next to each of the `count` new ones."""
    known = barriers(rejected)
    return [int(np.abs(known - at).argmin()) for at in np.linspace(0, known[-1], count)]


def wanted(barrier: float) -> int:
    """How many temperatures have pairs that reject half of their swaps, and a twentieth more."""
    return min(MOST, math.ceil(_MARGIN * barrier / _WANTED) + 1)


def rounds(steps: int) -> list[int]:
    """Lengths of rounds of tuning, each twice as long as the one before, `steps` in all."""
    count = max(1, min(6, int(math.log2(steps + 1))))
    lengths = [steps * 2**i // (2**count - 1) for i in range(count)]
    return [*lengths[:-1], steps - sum(lengths[:-1])]
