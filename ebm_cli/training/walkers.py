"""Replicas as they walk along rungs: how many rounds of exchanges it takes them to forget where they were."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_CHAINS = 50  # at most, which are followed
_WINDOW = 6  # autocorrelation times (Sokal 1997, sec. 3)


def forgetting(taken: Sequence[Tensor]) -> int:
    """Integrated autocorrelation time of the rung that a replica is at, in rounds, rounded up.

    `taken` are the exchanges of each round, (pairs, chains) bool. In equilibrium a replica is at every rung for the
    same time, so that mean and variance of its rung are known, and replicas that have hardly moved are seen as slow.
    """
    at = walked(taken)
    rounds, rungs = len(at), at.shape[2]
    away = (at - (rungs - 1) / 2).reshape(rounds, -1)
    whole = np.fft.rfft(away, 2 * rounds, axis=0)
    products = np.fft.irfft(np.abs(whole) ** 2, axis=0)[:rounds].mean(1)
    rho = products / (rounds - np.arange(rounds)) * 12 / (rungs**2 - 1)
    times = np.cumsum(rho) - 0.5
    ends = np.flatnonzero(np.arange(rounds) >= _WINDOW * times)
    return max(1, math.ceil(times[ends[0]] if len(ends) else times.max()))


def walked(taken: Sequence[Tensor]) -> NDArray[np.int64]:
    """At which rung each replica is after each round, (rounds, chains, rungs), by the rung where it was before."""
    swaps = torch.stack([pairs[:, :_CHAINS] for pairs in taken]).numpy()
    chains, rungs = swaps.shape[2], swaps.shape[1] + 1
    who, found = np.tile(np.arange(rungs), (chains, 1)), list[NDArray[np.int64]]()
    for pairs in swaps:
        place = np.tile(np.arange(rungs), (chains, 1))
        place[:, :-1] += pairs.T
        place[:, 1:] -= pairs.T
        who = np.take_along_axis(who, place, 1)
        found.append(np.argsort(who, 1))
    return np.stack(found)
