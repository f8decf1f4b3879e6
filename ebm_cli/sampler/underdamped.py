"""Underdamped Langevin trajectories with an acceptance test (Riou-Durand & Vogrinc 2022)."""

import math
from typing import Annotated

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info
from ebm_cli.sampler.hmc import kinetic, leapfrog
from ebm_cli.sampler.informed import Informed, InformedState, accept
from ebm_cli.space import Box, Real


@register("sampler", "underdamped")
class Underdamped(Informed):
    """dx = r dt, dr = -dE/dx dt - `friction` r dt + sqrt(2 friction) dW, from r ~ N(0, I) in `leapfrog` steps.

    Each step of e = `step_size` is OBABO (Bussi & Parrinello 2007): r <- c r + sqrt(1 - c^2) z with c = exp(-friction
    e / 2), a leapfrog step, and the first again with a new z. The whole way is accepted with min(1, exp(-sum of H' - H
    over its leapfrog steps)), H = E(x) + |r|^2 / 2 (alg. 1): what friction takes and noise gives does not count, since
    together they leave momenta distributed as they are. So no momentum is ever turned around. Without friction it is
    `hmc`; with much of it the way is a walk of small steps. The walls of a box reflect it as that of `hmc`.
    """

    step_size: Annotated[float, Field(gt=0)]
    leapfrog: Annotated[int, Field(ge=1)]
    friction: Annotated[float, Field(ge=0)]
    adapt: Annotated[float, Field(gt=0, lt=1)] | None

    spaces = (Real, Box)
    compiles = True
    rejects = True

    @override
    def step(self, model: EnergyModel, state: InformedState, key: AnyKey) -> tuple[InformedState, Info]:
        """One trajectory per chain; `acceptance` is 0 or 1 for each."""
        end, r = state, _normal(state.x, key.fold("momentum"))
        log_ratio = state.energy.new_zeros(len(state.x))
        for i in range(self.leapfrog):
            r = self._refreshed(r, key.fold("before", i))
            log_ratio = log_ratio + end.energy + kinetic(r)
            end, r = leapfrog(model, end, r, self.step_size)
            log_ratio = log_ratio - end.energy - kinetic(r)
            r = self._refreshed(r, key.fold("after", i))
        state, accepted = accept(state, end, log_ratio, key.fold("accept"))
        return state, {"acceptance": accepted}

    def _refreshed(self, r: Tensor, key: AnyKey) -> Tensor:
        """Momenta after half a step of friction and noise."""
        kept = math.exp(-self.friction * self.step_size / 2)
        return kept * r + math.sqrt(1 - kept**2) * _normal(r, key)


def _normal(like: Tensor, key: AnyKey) -> Tensor:
    return rng.normal(like.shape, key, like.device, like.dtype)
