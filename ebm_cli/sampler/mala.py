"""Langevin proposals with an acceptance test (Roberts & Tweedie 1996)."""

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
from ebm_cli.sampler.informed import Informed, InformedState, accept, informed
from ebm_cli.sampler.reflection import rebound
from ebm_cli.space import Box, Real


@register("sampler", "mala")
class MALA(Informed):
    """x' = x + w, w = -s dE/dx(x) + sqrt(2 s) z, accepted with min(1, p(x') q(w' | x') / (p(x) q(w | x))).

    log q(w | x) = -|w + s dE/dx(x)|^2 / (4 s) + constant; s = `step_size`, or with `decades` d > 0 for each proposal
    step_size * 10^(-d u), u uniform, whatever x is (Neal 2011, sec. 5.4.2.2); w' = -w leads back. The walls of a box
    reflect the way to x', and w' starts as the way back does: one leapfrog step of `hmc`, of length sqrt(2 s), whose
    ball they throw back. So q is that of the way, with no sum over the ways that end at x'.
    """

    step_size: Annotated[float, Field(gt=0)]
    decades: Annotated[float, Field(ge=0, le=10)]
    adapt: Annotated[float, Field(gt=0, lt=1)] | None

    spaces = (Real, Box)
    compiles = True
    rejects = True

    @override
    def step(self, model: EnergyModel, state: InformedState, key: AnyKey) -> tuple[InformedState, Info]:
        """One proposal per chain; `acceptance` is 0 or 1 for each."""
        z = rng.normal(state.x.shape, key.fold("noise"), state.x.device, state.x.dtype)
        s = self._size(state.x, key.fold("size"))
        scale = (2 * s).sqrt() if isinstance(s, Tensor) else math.sqrt(2 * s)
        straight = state.x - s * state.grad + scale * z
        x, back = rebound(model.space, straight, state.x - straight)
        proposal = informed(model, x)
        log_ratio = state.energy - proposal.energy
        log_ratio = log_ratio + _log_q(proposal, back, s) - _log_q(state, straight - state.x, s)
        state, accepted = accept(state, proposal, log_ratio, key.fold("accept"))
        return state, {"acceptance": accepted}

    def _size(self, x: Tensor, key: AnyKey) -> float | Tensor:
        """s of each chain's proposal, (chains, 1, ...), or of all of them."""
        if not self.decades:
            return self.step_size
        u = rng.uniform((len(x),), key, x.device, x.dtype)
        return (self.step_size * 10 ** (-self.decades * u)).reshape(-1, *[1] * (x.dim() - 1))


def _log_q(start: InformedState, way: Tensor, s: float | Tensor) -> Tensor:
    """log q(way | start) less its constant, (chains,)."""
    per_chain = s.flatten() if isinstance(s, Tensor) else s
    return -(way + s * start.grad).flatten(1).square().sum(1) / (4 * per_chain)
