"""How long chains of a sampler remember: the overlap of each with its own past, against that of different chains."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.device.engine import EAGER, Engine
from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import Key
from ebm_cli.sampler.base import Sampler, followed
from ebm_cli.space import Discrete

RUNNING = 3
"""Looks in a row by which chains must be mixed: two curves that cross meet in one."""
_GROWTH = 1.1  # of the steps between two looks


class Look(NamedTuple):
    """What is seen at step t = 2 `steps`: mean shares of sites that agree, and the deviation of one such pair."""

    steps: int
    own: float
    others: float
    spread: float

    @property
    def gap(self) -> float:
        """|own - others| / spread; infinite where no pair differs from another, so that nothing can be seen."""
        return abs(self.own - self.others) / self.spread if self.spread else math.inf


def least_chains(threshold: float) -> int:
    """Chains of which the gap, whose standard error is about 1 / sqrt(chains), is known to half the threshold."""
    return math.ceil(4 / threshold**2 - 1e-9)


def halves(most: int) -> Iterator[int]:
    """1, 2, 3, ... and from 10 on a tenth more each: all up to `most`, and as many more as confirm the last."""
    steps, beyond = 1, 0
    while beyond < RUNNING:
        yield steps
        steps = max(steps + 1, round(_GROWTH * steps))
        beyond += steps > most


def looks(
    sampler: Sampler[Any, Any], model: EnergyModel, start: Tensor, most: int, key: Key, engine: Engine = EAGER
) -> Iterator[Look]:
    """One look for each h of `halves`, at chains x_c (chains, *shape) from `start`: with t = 2 h

        own    = mean over chains c of q(x_c(t), x_c(h)),    q(x, y) = share of sites i with x_i = y_i
        others = mean over chains c of q(x_c(t), x_c'(t)),   c' another chain, in a random order of all
        spread = sqrt(var_c q(x_c(t), x_c(h)) + var_c q(x_c(t), x_c'(t)))

    A second copy of the chains from the same starts and random numbers, looked at h, is what each has been itself, so
    none is run. adabmDCA 1.0.0 (`compute_mixing_time`) looks at every h and divides by spread / sqrt(chains), which
    asks for the more the more chains there are and is met by chance alone: mixed chains pass such a test of 0.1 once in
    thirteen looks. It may pair a chain with itself.
    """
    wanted = [*halves(most)]
    times = sorted({*wanted, *(2 * h for h in wanted)})
    seen, space = dict[int, Tensor](), cast(Discrete, model.space)
    keys = [key.fold("steps").fold(i) for i in range(times[-1])]
    for t, x in zip(times, followed(sampler, model, start, keys, times, engine), strict=False):
        seen[t] = space.decode(x).flatten(1).to(torch.int16)
        if t % 2 == 0 and t // 2 in seen:
            yield _look(t // 2, seen[t], seen.pop(t // 2), key.fold("pairs", t))
        if t not in wanted:
            del seen[t]


def _look(h: int, now: Tensor, before: Tensor, key: Key) -> Look:
    """Of values (chains, sites). Chains stand in a circle, each beside the next one, so that none is beside itself."""
    circle = now[rng.permutation(len(now), key).to(now.device)]
    pairs = (now == before, circle == circle.roll(1, 0))
    own, others = (agreeing.double().mean(1) for agreeing in pairs)
    return Look(h, own.mean().item(), others.mean().item(), (own.var() + others.var()).sqrt().item())


def mixing_time(seen: list[Look], threshold: float) -> int | None:
    """The first h at which the gap is below the threshold, and at the next looks too; None if there is none."""
    below = [look.gap < threshold for look in seen]
    found = (i for i in range(len(below) - RUNNING + 1) if all(below[i : i + RUNNING]))
    return next((seen[i].steps for i in found), None)


def until_mixed(every: Iterator[Look], threshold: float) -> list[Look]:
    """The looks up to the one by which the chains are known to have mixed; all where they do not."""
    seen: list[Look] = []
    for look in every:
        seen.append(look)
        if mixing_time(seen[-RUNNING:], threshold) is not None:
            break
    return seen
