"""Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011, sec. 5.3)."""

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


@register("sampler", "hmc")
class HMC(Informed):
    """Momenta r ~ N(0, I), then `leapfrog` steps of length e = `step_size`, accepted with min(1, exp(H - H')).

    H = E(x) + |r|^2 / 2. A leapfrog step: r <- r - e/2 dE/dx(x), x <- x + e r, r <- r - e/2 dE/dx(x). A wall of a box
    that x + e r would cross reflects x and changes the sign of r in that coordinate (Neal 2011, sec. 5.5.1), which is
    reversible, keeps volume and leaves H as it is.
    """

    step_size: Annotated[float, Field(gt=0)]
    leapfrog: Annotated[int, Field(ge=1)]
    adapt: Annotated[float, Field(gt=0, lt=1)] | None

    spaces = (Real, Box)
    compiles = True
    rejects = True

    @override
    def step(self, model: EnergyModel, state: InformedState, key: AnyKey) -> tuple[InformedState, Info]:
        """One trajectory per chain; `acceptance` is 0 or 1 for each."""
        start = rng.normal(state.x.shape, key.fold("momentum"), state.x.device, state.x.dtype)
        end, r = state, start
        for _ in range(self.leapfrog):
            end, r = leapfrog(model, end, r, self.step_size)
        log_ratio = state.energy - end.energy + kinetic(start) - kinetic(r)
        state, accepted = accept(state, end, log_ratio, key.fold("accept"))
        return state, {"acceptance": accepted}


def leapfrog(model: EnergyModel, state: InformedState, r: Tensor, size: float | Tensor) -> tuple[InformedState, Tensor]:
    """Position and momenta (chains, *shape) after one leapfrog step, back in time if its size is negative."""
    r = r - size / 2 * state.grad
    x, r = rebound(model.space, state.x + size * r, r)
    state = informed(model, x)
    return state, r - size / 2 * state.grad


def kinetic(r: Tensor) -> Tensor:
    """|r|^2 / 2, (chains,)."""
    return r.flatten(1).square().sum(1) / 2
