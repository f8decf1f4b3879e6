"""log Z by thermodynamic integration towards one configuration, whose probability is counted where it is large."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from ebm_cli.log_z.tilted import agreement, tilted
from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import Key
from ebm_cli.sampler.base import Sampler, followed
from ebm_cli.space import Discrete
from ebm_cli.terminal import followed as told

ENOUGH = 0.1
"""Share of chains at the goal by which theta is large enough."""
_RAISE, _RAISES = 1.01, 300  # of theta at a time, and how often at most: to 20 times what it was
_LEVEL = 1.96  # standard errors on either side of a 95 % interval


@dataclass(frozen=True)
class Pull:
    """A model, a sampler of it, and the goal (*shape) that chains are pulled to: p_theta ~ exp(-E(x) + theta n(x))."""

    model: EnergyModel
    sampler: Sampler[Any, Any]
    goal: Tensor
    steps: int  # at each theta

    @property
    def space(self) -> Discrete:
        """Of the model."""
        assert isinstance(self.model.space, Discrete)
        return self.model.space

    def moved(self, x: Tensor, theta: float, steps: int, key: Key, looks: list[int] | None = None) -> list[Tensor]:
        """Where chains x (chains, *shape) are after each number of steps at theta in `looks`; None: after all."""
        model, keys = tilted(self.model, self.goal, theta), [key.fold(i) for i in range(steps)]
        return [*followed(self.sampler, model, x, keys, looks or [steps])]

    def largest(self, x: Tensor, theta: float, key: Key) -> tuple[float, Tensor] | None:
        """A theta at which enough chains are at the goal, and the chains there; None if none is large enough."""
        for tried in range(_RAISES):
            (x,) = self.moved(x, theta, self.steps, key.fold(tried))
            if self._there(x).mean() > ENOUGH:
                return theta, x
            theta *= _RAISE
        return None

    def walk(self, x: Tensor, thetas: list[float], key: Key) -> "Walk":
        """What chains from x say along these thetas, `steps` at each, of which the second half are looked at."""
        looks = [*range(self.steps // 2 + 1, self.steps + 1)]
        energy, there, far = (x.new_zeros(len(x), dtype=torch.float64) for _ in range(3))
        differ, spread = list[Tensor](), list[float]()
        for number, theta in enumerate(told(thetas, "entropy: theta")):
            seen = self.moved(x, theta, self.steps, key.fold(number), looks)
            x = seen[-1]
            far = torch.stack([self.space.sites - agreement(self.space, one, self.goal) for one in seen])
            differ.append(far.mean(0))
            spread.append(far.var().item())
            if theta == 0:
                energy = torch.stack([self.model.energy(one).double() for one in seen]).mean(0)
            if theta == max(thetas):
                there = torch.stack([self._there(one) for one in seen]).mean(0)
        return Walk(energy, torch.stack(differ, 1), there, (spread[0], spread[-1]))

    def _there(self, x: Tensor) -> Tensor:
        """Which chains are at the goal, (chains,), 0 or 1."""
        return (agreement(self.space, x, self.goal) == self.space.sites).double()


class Walk(NamedTuple):
    """Means over the looks at each of some chains: E at theta = 0 (chains,), sites that differ from the goal
    (chains, thetas), and how often it was there at the largest theta (chains,); variances of n at the two ends."""

    energy: Tensor
    differ: Tensor
    there: Tensor
    spread: tuple[float, float]

    def backwards(self) -> Self:
        """With the thetas in the opposite order."""
        return self._replace(differ=self.differ.flip(1), spread=self.spread[::-1])


class Found(NamedTuple):
    """One direction: mean E, log Z, the standard error of their sum, and what the plain trapezoid would add."""

    energy: float
    log_z: float
    error: float
    bias: float

    @property
    def entropy(self) -> float:
        """<E> + log Z."""
        return self.energy + self.log_z


def found(walk: Walk, energy_of_goal: float, theta: float) -> Found:
    """From chains along rising thetas, the last of which is `theta`.

    With n(x) = sites at which x is as the goal g, L of them, and Z_theta = sum_x exp(-E(x) + theta n(x)):

        p_theta(g) = exp(-E(g) + theta L) / Z_theta   so   log Z_theta = -E(g) + theta L - log p_theta(g)
        d log Z_theta / d theta = <n>_theta           so   log Z_0 = log Z_theta - int_0^theta <n>_t dt
                                                           = -E(g) - log p_theta(g) + int_0^theta (L - <n>_t) dt

    and S = -sum_x p(x) log p(x) = <E>_0 + log Z_0. F(theta) = -log Z_theta is the free energy, so that also S = <E>_0 -
    F(0), F(theta) = log p_theta(g) + E(g) - theta L, F(0) = F(theta) + int <n>.
    p_theta(g) is counted; the integral is the trapezoid's less its first error h^2 / 12 (Var_0 n - Var_theta n) for the
    distance h of the thetas (Euler and Maclaurin; the integrand has the slope -Var_t n), which leaves O(h^4). The
    standard error is that of the mean over chains of E_c + I_c - a_c / p, I_c being the integral and a_c the share of
    looks at the goal of chain c: by the delta method, and with all that a chain carries on from theta to theta.
    """
    height = theta / (walk.differ.shape[1] - 1)
    weight = walk.differ.new_full((walk.differ.shape[1],), height)
    weight[0] = weight[-1] = height / 2
    area, p = walk.differ @ weight, walk.there.mean()
    bias = height**2 / 12 * (walk.spread[0] - walk.spread[1])
    log_z = -energy_of_goal - math.log(p) + area.mean().item() - bias
    each = walk.energy + area - walk.there / p
    return Found(walk.energy.mean().item(), log_z, each.std().item() / math.sqrt(len(each)), bias)


class Interval(NamedTuple):
    """S with the error of its chains, how much it is higher going up than going down, and 95 % ends."""

    entropy: float
    error: float
    apart: float
    low: float
    high: float


def interval(up: Found, down: Found) -> Interval:
    """The mean of both directions.

    Chains that lag behind theta differ too often from the goal on the way up, too rarely on the way down, so that S is
    too high and too low. What half their difference d exceeds its error by, which is that of the mean, widens the
    interval: +- 1.96 sqrt(error^2 + max(0, d^2 - error^2)).
    """
    entropy, half = (up.entropy + down.entropy) / 2, (up.entropy - down.entropy) / 2
    error = math.hypot(up.error, down.error) / 2
    width = _LEVEL * math.sqrt(error**2 + max(0.0, half**2 - error**2))
    return Interval(entropy, error, 2 * half, entropy - width, entropy + width)
