"""Replicas of tempered chains as they travel between the hottest temperature and beta = 1."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NOWHERE, COLD, HOT = 0, 1, 2
"""Where a replica was last: not at beta = 1 yet, there, or at the hottest since it was there."""


class Trips(NamedTuple):
    """Round trips, and rounds of swaps in which they were made, of each chain."""

    made: NDArray[np.int64]
    rounds: int


def counted(swaps: NDArray[np.bool_]) -> Trips:
    """Ways of replicas from beta = 1 to the hottest temperature and back, (chains,), by swaps (steps, chains, pairs).

    Pair r is of the temperatures r and r + 1, the hottest first. In each step the pairs 0, 2, ... are swapped before
    1, 3, ...; both count as a round, also where there is one pair.
    """
    steps, chains, pairs = swaps.shape
    who = np.tile(np.arange(pairs + 1), (chains, 1))  # the replica at each temperature
    last = np.full_like(who, NOWHERE)  # where each replica was
    made, row = np.zeros(chains, np.int64), np.arange(chains)
    last[row, who[:, -1]] = COLD
    for step in swaps:
        for first in (0, 1):
            who = _swapped(who, step, first)
            at_hot, at_cold = who[:, 0], who[:, -1]
            last[row, at_hot] = np.where(last[row, at_hot] == COLD, HOT, last[row, at_hot])
            made += last[row, at_cold] == HOT
            last[row, at_cold] = COLD
    return Trips(made, 2 * steps)


def _swapped(who: NDArray[np.int64], taken: NDArray[np.bool_], first: int) -> NDArray[np.int64]:
    """Replicas (chains, temperatures) with the pairs first, first + 2, ... exchanged that are `taken`."""
    place = np.tile(np.arange(who.shape[1]), (len(who), 1))
    for pair in range(first, taken.shape[1], 2):
        place[:, pair] += taken[:, pair]
        place[:, pair + 1] -= taken[:, pair]
    return np.take_along_axis(who, place, 1)


def best_rate(rejected: NDArray[np.float64]) -> float:
    """Round trips of all replicas of a chain in a round, 1 / (2 + 2 sum_r r / (1 - r)), where they forget between two.

    `rejected` (pairs,) are the shares of swaps that were refused (Syed et al. 2021, theorem 1, of the scheme in which
    even and odd pairs take turns). 0 where a pair never swaps.
    """
    if (rejected >= 1).any():
        return 0.0
    return float(1 / (2 + 2 * (rejected / (1 - rejected)).sum()))
