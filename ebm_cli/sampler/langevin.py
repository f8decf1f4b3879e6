"""Langevin dynamics, discretised and unadjusted: what image models are trained with."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.sampler.informed import InformedState, informed
from ebm_cli.space import Real

Positive = Annotated[float, Field(gt=0)]


@register("sampler", "langevin")
class Langevin(Sampler[EnergyModel, InformedState]):
    """x' = x - s dE/dx + sigma z, z standard normal; s = `step_size`, sigma = `noise` (null: sqrt(2 s)).

    Its chains follow p only as s -> 0 with sigma^2 = 2 s; for any other sigma they follow, as s -> 0, p^(1 / T) at the
    temperature T = sigma^2 / (2 s), which is what image models are trained with (T = 1.25e-6 in Du & Mordatch 2019,
    5e-5 in Grathwohl et al. 2020). `clip` bounds each coordinate of the gradient before it is multiplied.
    """

    step_size: Positive
    noise: Annotated[float, Field(ge=0)] | None
    clip: Positive | None

    spaces = (Real,)
    compiles = True

    @property
    def exact(self) -> bool:
        """Never."""
        return False

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise of a step."""
        return math.sqrt(2 * self.step_size) if self.noise is None else self.noise

    @property
    def temperature(self) -> float:
        """T = sigma^2 / (2 s)."""
        return self.sigma**2 / (2 * self.step_size)

    def remark(self) -> str | None:
        """The temperature, and what it means for whoever reads likelihoods."""
        if self.temperature == 1 and self.clip is None:
            return None
        clipped = "" if self.clip is None else " (while no gradient is clipped)"
        return (
            f"langevin at temperature {self.temperature:.3g}{clipped}: its chains do not sample the model, whose "
            "likelihood says little of them"
        )

    def init(self, model: EnergyModel, x: Tensor) -> InformedState:
        """Caches energies and gradients."""
        return informed(model, x)

    def step(self, model: EnergyModel, state: InformedState, key: AnyKey) -> tuple[InformedState, Info]:
        """One step; `gradient` is the Euclidean norm of dE/dx, before it is clipped."""
        grad = state.grad if self.clip is None else state.grad.clamp(-self.clip, self.clip)
        z = rng.normal(state.x.shape, key, state.x.device, state.x.dtype)
        x = state.x - self.step_size * grad + self.sigma * z
        return informed(model, x), {"gradient": torch.linalg.vector_norm(state.grad.flatten(1), dim=1)}
