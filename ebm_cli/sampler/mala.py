"""Langevin proposals with an acceptance test (Roberts & Tweedie 1996)."""

import math
from typing import Annotated

from pydantic import Field
from torch import Tensor

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.adaptation import Adapting
from ebm_cli.sampler.base import Info
from ebm_cli.sampler.informed import InformedState, accept, informed
from ebm_cli.sampler.reflection import rebound
from ebm_cli.space import Box, Real


@register("sampler", "mala")
class MALA(Adapting[EnergyModel, InformedState]):
    """x' = x + w, w = -s dE/dx(x) + sqrt(2 s) z, accepted with min(1, p(x') q(w' | x') / (p(x) q(w | x))).

    log q(w | x) = -|w + s dE/dx(x)|^2 / (4 s) + constant; s = `step_size`; w' = -w leads back. The walls of a box
    reflect the way to x', and w' starts as the way back does: one leapfrog step of `hmc`, of length sqrt(2 s), whose
    ball they throw back. So q is that of the way, with no sum over the ways that end at x'.
    """

    step_size: Annotated[float, Field(gt=0)]
    adapt: Annotated[float, Field(gt=0, lt=1)] | None

    spaces = (Real, Box)
    compiles = True
    rejects = True

    def init(self, model: EnergyModel, x: Tensor) -> InformedState:
        """Caches energies and gradients."""
        return informed(model, x)

    def step(self, model: EnergyModel, state: InformedState, key: AnyKey) -> tuple[InformedState, Info]:
        """One proposal per chain; `acceptance` is 0 or 1 for each."""
        z = rng.normal(state.x.shape, key.fold("noise"), state.x.device, state.x.dtype)
        straight = state.x - self.step_size * state.grad + math.sqrt(2 * self.step_size) * z
        x, back = rebound(model.space, straight, state.x - straight)
        proposal = informed(model, x)
        log_ratio = state.energy - proposal.energy
        log_ratio = log_ratio + self._log_q(proposal, back) - self._log_q(state, straight - state.x)
        state, accepted = accept(state, proposal, log_ratio, key.fold("accept"))
        return state, {"acceptance": accepted}

    def _log_q(self, start: InformedState, way: Tensor) -> Tensor:
        """log q(way | start) less its constant, (chains,)."""
        return -(way + self.step_size * start.grad).flatten(1).square().sum(1) / (4 * self.step_size)
