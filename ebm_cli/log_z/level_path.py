"""The annealing path of a leveled model, along its levels of noise."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli.log_z.paths import Beta, Path, Tempered
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.levels import Leveled
from ebm_cli.model.rescaled import Rescaled
from ebm_cli.rng import AnyKey, Key
from ebm_cli.sampler.base import Sampler, transitions


class OnLevels(NamedTuple):
    """Positions, (chains, *shape)."""

    x: Tensor


class LevelPath(Path[OnLevels]):
    """From the Gaussian of the last level, beta = 0, to level 0, beta = 1: beta = 1 - t / (K - 1) at the level t.

    Between two levels k < t < k + 1 the energy is (k + 1 - t) E(x, k) + (t - k) E(x, k + 1). The noise makes room for
    chains to go from mode to mode, as no temperature of the level 0 does. A move is one step of `sampler`, with lengths
    in units of r s_t.
    """

    def __init__(self, model: Leveled, sampler: Sampler[Any, Any]) -> None:
        self.model, self.base = model, model.last()
        self.forward, self.backward = sampler, sampler.reversal()
        self.log_z_base = 0.0

    @override
    def start(self, n: int, key: Key) -> Tensor:
        """Draws of the Gaussian."""
        return self.base.sample(n, key)

    @override
    def observe(self, x: Tensor) -> OnLevels:
        return OnLevels(x)

    @override
    def log_base(self, state: OnLevels) -> Tensor:
        """-E(x, K - 1), which is normalised."""
        return -self.model.at(self.model.levels - 1).energy(state.x)

    @override
    def log_ratio(self, state: OnLevels, to: Beta, origin: Beta) -> Tensor:
        """-E at the one, and E at the other."""
        return self._between(origin)(state.x) - self._between(to)(state.x)

    @override
    def move(self, state: OnLevels, beta: Beta, key: AnyKey) -> OnLevels:
        return self._step(self.forward, state, beta, key)

    @override
    def move_back(self, state: OnLevels, beta: Beta, key: AnyKey) -> OnLevels:
        return self._step(self.backward, state, beta, key)

    def _step(self, sampler: Sampler[Any, Any], state: OnLevels, beta: Beta, key: AnyKey) -> OnLevels:
        log_s, (k, share) = self.model.s.log(), self._place(beta)
        width = self.model.scale * torch.lerp(log_s[k], log_s[k + 1], share).exp()
        inside = Rescaled(self._between(beta), self.model.mean, width)
        moved, _ = transitions(sampler, inside, inside.inside(state.x), [key])
        return OnLevels(inside.outside(moved))

    def _between(self, beta: Beta) -> EnergyModel:
        """The model at this beta, normalised at 0."""
        k, share = self._place(beta)
        at = self.model.at(k)
        return at if not share else Tempered(self.model.at(k + 1), at, 1 - share, share)

    def _place(self, beta: Beta) -> tuple[int, float]:
        """The level below or at t, not the last one, and t less it."""
        t = (self.model.levels - 1) * (1 - float(beta))
        k = min(int(t), self.model.levels - 2)
        return k, t - k
