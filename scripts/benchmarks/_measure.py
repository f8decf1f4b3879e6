"""Contenders taking turns, in another order each round, so that whatever disturbs the machine disturbs them alike."""

import random
import time
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from _case import PEERS, AbsentError, Case, Contender, Samples


class Measured(NamedTuple):
    """A case that was run."""

    case: Case
    samples: Samples
    absent: Mapping[str, str]  # contenders that could not run, and why
    rounds: int


def measure(case: Case, *, quick: bool, repeats: int | None) -> Measured:
    """Make the contenders, warm them up, and let them take turns."""
    contenders, absent = _make(case, quick)
    rounds = repeats or (max(2, case.rounds // 10) if quick else case.rounds)
    for contender in contenders.values():
        for _ in range(case.warmup):
            contender()
    values: dict[str, list[float]] = {name: [] for name in contenders}
    order, shuffle = list(contenders), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            values[name].append(_turn(contenders[name], case.turn))
    return Measured(case, {name: np.array(column) for name, column in values.items()}, absent, rounds)


def _make(case: Case, quick: bool) -> tuple[dict[str, Contender], dict[str, str]]:
    contenders, absent = {}, {}
    for name, maker in case.makers(quick).items():
        try:
            contenders[name] = maker()
        except AbsentError as error:
            absent[name] = str(error)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in PEERS:
                raise
            absent[name] = "not installed"
    return contenders, absent


def _turn(contender: Contender, units: int) -> float:
    """Mean over `units` units of work in a row."""
    _synchronize()
    begin = time.perf_counter()
    own = [contender() for _ in range(units)]
    _synchronize()
    return (time.perf_counter() - begin) / units if own[0] is None else sum(own) / units


def _synchronize() -> None:
    """A GPU works on after the call has returned."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
