"""The annealing path of a leveled model, along its levels of noise."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli.log_z.paths import Beta, Path, Tempered
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.levels import Alike, Leveled
from ebm_cli.model.rescaled import Rescaled
from ebm_cli.rng import AnyKey, Key
from ebm_cli.sampler.base import Sampler, transitions


class OnLevels(NamedTuple):
    """Positions, (chains, *shape)."""

    x: Tensor


class LevelPath(Path[OnLevels]):
    """From the Gaussian of the last level, beta = 0, to level 0, beta = 1: beta = 1 - t / (K - 1) at the level t.

    Configurations are w = m + (x_k - m) sqrt(v_0 / v_k), of one variance at all levels. Between two of them,
    k < t < k + 1, the energy is (k + 1 - t) E_k(w) + (t - k) E_(k+1)(w). The noise makes room for chains to go from
    mode to mode, as no temperature of level 0 does. A move is one step of `sampler`, with lengths in units of noise.
    """

    def __init__(self, model: Leveled, sampler: Sampler[Any, Any]) -> None:
        self.model, self.base = model, model.last_alike()
        self.forward, self.backward = sampler, sampler.reversal()
        self.log_z_base = -model.space.sites * model.stretch[-1].double().log().item()  # of E as a function of w

    @override
    def start(self, n: int, key: Key) -> Tensor:
        """Draws of the Gaussian."""
        return self.base.sample(n, key)

    @override
    def observe(self, x: Tensor) -> OnLevels:
        return OnLevels(x)

    @override
    def log_base(self, state: OnLevels) -> Tensor:
        """-E(x_(K-1), K - 1)."""
        return -self._at(self.model.levels - 1, state.x).energy(state.x)

    @override
    def log_ratio(self, state: OnLevels, to: Beta, origin: Beta) -> Tensor:
        """-E at the one, and E at the other."""
        return self._between(origin, state.x)(state.x) - self._between(to, state.x)(state.x)

    @override
    def move(self, state: OnLevels, beta: Beta, key: AnyKey) -> OnLevels:
        return self._step(self.forward, state, beta, key)

    @override
    def move_back(self, state: OnLevels, beta: Beta, key: AnyKey) -> OnLevels:
        return self._step(self.backward, state, beta, key)

    def _step(self, sampler: Sampler[Any, Any], state: OnLevels, beta: Beta, key: AnyKey) -> OnLevels:
        log_unit, (k, share) = (self.model.s / self.model.stretch).log(), self._place(beta)
        unit = self.model.scale * torch.lerp(log_unit[k], log_unit[k + 1], share).exp()
        inside = Rescaled(self._between(beta, state.x), self.model.mean, unit)
        moved, _ = transitions(sampler, inside, inside.inside(state.x), [key])
        return OnLevels(inside.outside(moved))

    def _between(self, beta: Beta, like: Tensor) -> EnergyModel:
        """The density of as many w at this beta, but for a constant."""
        k, share = self._place(beta)
        at = self._at(k, like)
        return at if not share else Tempered(self._at(k + 1, like), at, 1 - share, share)

    def _at(self, level: int, like: Tensor) -> Alike:
        return Alike(self.model, torch.full((len(like),), level, dtype=torch.int64, device=like.device))

    def _place(self, beta: Beta) -> tuple[int, float]:
        """The level below or at t, not the last one, and t less it."""
        t = (self.model.levels - 1) * (1 - float(beta))
        k = min(int(t), self.model.levels - 2)
        return k, t - k
