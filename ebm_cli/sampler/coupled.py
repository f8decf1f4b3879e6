"""Pairs of chains that meet, and means over a model that they make unbiased (Jacob, O'Leary & Atchade, JRSSB 2020).

Both chains of a pair take the same random numbers, so that in a finite space they come together; from then on they
are one.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import Key
from ebm_cli.sampler.base import Sampler, shown

Take = Callable[[Tensor, Tensor, Tensor], None]
"""Is given positions x (some, *shape), their weights (some,), and the numbers of their pairs (some,)."""
_SPARSE = 0.5  # share of rows that must move at which the others are left out of each step


class Window(NamedTuple):
    """Up to `looks` steps from k to m, evenly apart, at which f is taken, and how many are taken to wait for pairs."""

    k: int
    m: int
    most: int
    looks: int = 20

    @property
    def at(self) -> list[int]:
        """These steps."""
        return sorted({round(step) for step in torch.linspace(self.k, self.m, self.looks).tolist()})


class Pairs(NamedTuple):
    """Pairs that still move: their numbers, both chains, and which have met; Y moves in the first rows alone."""

    which: Tensor  # (some,) int64
    x: Tensor  # (some, ...) as the sampler keeps positions
    y: Tensor  # (fewer, ...)
    met: Tensor  # (fewer,) bool; the others have

    def reordered(self, *, alone: bool) -> "Pairs":
        """Those that have not met first, and Y of these alone; X goes on by itself where that is wanted."""
        still = (~self.met).nonzero().squeeze(1)
        rest = torch.cat([self.met.nonzero().squeeze(1), torch.arange(len(self.y), len(self.x), device=self.x.device)])
        order = torch.cat([still, rest]) if alone else still
        return Pairs(self.which[order], self.x[order], self.y[still], self.met[still])


@torch.no_grad()
def coupled(
    sampler: Sampler[Any, Any],
    model: EnergyModel,
    starts: tuple[Tensor, Tensor],
    window: Window,
    key: Key,
    take: Take,
    told: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Tensor:
    """Steps tau after which each pair met, (pairs,) int64, 0 for those that did not; `take` is given the points of

        H = 1/L sum_{l in window} [ f(X_l) + sum_{t = l+1..tau-1} (f(X_t) - f(Y_{t-1})) ]

    with the weights in which f enters, L the number of steps l. X_0 and Y_0, `starts` (pairs, *shape) each, must have
    one law; X takes a step alone, and then X_t and Y_{t-1} the same ones, until X_tau = Y_{tau-1}. With E over all that
    is drawn E H = E_p f, whatever the window, if the sampler leaves p invariant and pairs meet soon enough (assumption
    2.2 there); pairs that did not meet make it biased. `told` goes through the steps and may say how far they are.
    """
    x, y = (sampler.spread(start, model.space) for start in starts)
    pairs = Pairs(torch.arange(len(x), device=x.device), x, y, torch.zeros(len(x), dtype=torch.bool, device=x.device))
    times = torch.zeros(len(x), dtype=torch.long, device=x.device)
    steps = window.at
    _weigh(pairs._replace(y=y[:0], met=pairs.met[:0]), 0, steps, model, take)
    pairs = pairs._replace(x=_moved(sampler, model, x, key.fold(0)))
    for t in told(range(1, window.most + 1)):
        before, alike = pairs.met, (pairs.x[: len(pairs.y)] == pairs.y).flatten(1).all(1)
        pairs = pairs._replace(met=before | alike)
        times[pairs.which[: len(before)][pairs.met & ~before]] = t
        _weigh(pairs, t, steps, model, take)
        pairs = _left(pairs, alone=t < window.m)
        if not len(pairs.which):
            break
        moved = [_moved(sampler, model, part, key.fold(t)) if len(part) else part for part in (pairs.x, pairs.y)]
        pairs = pairs._replace(x=moved[0], y=moved[1])
    return times


def _moved(sampler: Sampler[Any, Any], model: EnergyModel, x: Tensor, key: Key) -> Tensor:
    """A step from positions, whose caches are made anew: pairs that have met have the same to the bit."""
    state, _ = sampler.step(model, sampler.init(model, x), key)
    return sampler.positions(state)


def _weigh(pairs: Pairs, t: int, steps: Sequence[int], model: EnergyModel, take: Take) -> None:
    """Give away X_t and Y_{t-1} where they have a weight, for a window of these steps."""
    late = torch.where(pairs.met, 0.0, sum(step < t for step in steps) / len(steps))
    inside = torch.full((len(pairs.x),), (t in steps) / len(steps), device=pairs.x.device)
    inside[: len(late)] += late
    for x, weight, which in ((pairs.x, inside, pairs.which), (pairs.y, -late, pairs.which[: len(late)])):
        counts = weight != 0
        if counts.any():
            take(shown(x[counts], model.space), weight[counts], which[counts])


def _left(pairs: Pairs, *, alone: bool) -> Pairs:
    """Without what need not move, once that is much: rows are numbered anew, and each step has its own key."""
    still = int((~pairs.met).sum())
    much = still <= _SPARSE * len(pairs.y) or (not alone and still <= _SPARSE * len(pairs.x))
    return pairs.reordered(alone=alone) if (len(pairs.y) and much) or not (alone or still) else pairs
