"""What a benchmark is. A module here without a leading underscore exports `CASES`, and that is all it takes to add one.

A contender is a function that does one unit of work; if it returns a number, that is its measurement instead of the
time it took. Makers build contenders, once, before anything is timed; one that imports a peer fails where the peer is
not installed.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Contender = Callable[[], float | None]
Maker = Callable[[], Contender]
Samples = Mapping[str, np.ndarray]
"""Measurements of each contender, one for each round, so that those of a round can be compared."""

PEERS = {
    "sklearn": "scikit-learn", "rbms": "rbms", "learnergy": "learnergy", "torchebm": "torchebm", "adabmDCA": "adabmDCA",
}  # fmt: skip
"""Import names and distributions of the extra `bench`."""


class AbsentError(Exception):
    """Why a contender cannot run here, for the table."""


class Unit(NamedTuple):
    """What the table shows: measurement (seconds, bytes) times scale."""

    name: str
    scale: float


MS, SECONDS, MEGABYTES = Unit("ms", 1e3), Unit("s", 1.0), Unit("MB", 1e-6)


class Required(NamedTuple):
    """A figure and its bound, from below or from above."""

    what: str
    value: Callable[[Samples], float]
    bound: float
    at_least: bool = True


class Case(NamedTuple):
    """One table."""

    name: str
    title: str  # what one unit of work is
    makers: Callable[[bool], Mapping[str, Maker]]  # by contender; the argument: quick, so less work
    required: tuple[Required, ...] = ()
    ours: str | None = None  # the contender by which the others are divided
    floor: str | None = None  # the contender of the matrix products alone
    unit: Unit = MS
    turn: int = 1  # units of work in a row
    rounds: int = 40
    warmup: int = 3  # units before anything is timed


def quotient(samples: Samples, over: str, under: str) -> float:
    """Median over the rounds of one contender divided by another."""
    return float(np.median(samples[over] / samples[under]))


def times_faster(peer: str, ours: str, bound: float) -> Required:
    """`peer` must take at least `bound` times as long as `ours`."""
    return Required(f"{peer} / {ours}", lambda samples: quotient(samples, peer, ours), bound)
