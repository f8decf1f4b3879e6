"""Langevin dynamics, discretised and unadjusted: what image models are trained with."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Differentiable, Info, Sampler
from ebm_cli.sampler.weighing import Weighed
from ebm_cli.space import Box, Real, Space

Positive = Annotated[float, Field(gt=0)]
Rate = float | Tensor
_ROUNDED = 0.005  # what a temperature of 1 may be off by, if sigma is given with three digits


class LangevinState(NamedTuple):
    """Positions (chains, *shape), and the number of steps taken, a scalar."""

    x: Tensor
    taken: Tensor


@register("sampler", "langevin")
class Langevin(Differentiable[EnergyModel, LangevinState]):
    """x' = x - s dE/dx + sigma z, z standard normal; s = `step_size`, sigma = `noise` (null: sqrt(2 s)).

    Its chains follow p only as s -> 0 with sigma^2 = 2 s; for any other sigma they follow, as s -> 0, p^(1 / T) at the
    temperature T = sigma^2 / (2 s), which is what image models are trained with (T = 1.25e-6 in Du & Mordatch 2019,
    5e-5 in Grathwohl et al. 2020). `clip` bounds each coordinate of the gradient before it is multiplied. In a box
    every step ends at the nearest point of it. Over the first `anneal` steps of a run s and sigma go geometrically to
    `final_step_size` and `final_noise` (null: they stay as they are), where they remain.
    """

    step_size: Positive
    noise: Annotated[float, Field(ge=0)] | None
    clip: Positive | None
    anneal: Annotated[int, Field(ge=0)]
    final_step_size: Positive | None
    final_noise: Positive | None

    spaces = (Real, Box)
    compiles = True

    @override
    def refusal(self, space: Space) -> str | None:
        """A schedule has a length and an end."""
        ends = self.final_step_size is not None or self.final_noise is not None
        if ends and not self.anneal:
            return "sampler.anneal = 0: final_step_size and final_noise need the number of steps until then"
        if self.anneal and not ends:
            return f"sampler.anneal = {self.anneal}: needs final_step_size or final_noise, where it ends"
        if self.final_noise is not None and not self.noise:
            return f"sampler.final_noise = {self.final_noise}: needs a sampler.noise above 0 to begin with"
        return None

    @property
    @override
    def leaves_invariant(self) -> bool:
        return False

    @override
    def weighing(self) -> Sampler[Any, Any] | None:
        """Of the same moves at temperature 1 without a clip: weights of others would differ beyond all bounds."""
        own = abs(float(self.temperature(*self.rates(0))) - 1) < _ROUNDED and self.clip is None
        return Weighed(self) if own else None

    def drift(self, grad: Tensor, taken: Tensor) -> tuple[Tensor, Rate]:
        """-s dE/dx, and sigma."""
        s, sigma = self.rates(taken)
        return -s * grad, sigma

    def temperature(self, s: Rate, sigma: Rate) -> Rate:
        """T = sigma^2 / (2 s)."""
        return sigma**2 / (2 * s)

    def rates(self, taken: Tensor | int) -> tuple[Rate, Rate]:
        """s and sigma after so many steps."""
        s, sigma = self.step_size, self.noise
        if not self.anneal:
            return s, math.sqrt(2 * s) if sigma is None else sigma
        share = torch.as_tensor(taken, dtype=torch.float32).div(self.anneal).clamp(max=1)
        step: Rate = s * (self.final_step_size / s) ** share if self.final_step_size else s
        if sigma is None:
            return step, (2 * step) ** 0.5
        return step, sigma * (self.final_noise / sigma) ** share if self.final_noise else sigma

    @override
    def remark(self) -> str | None:
        """The temperature where the schedule ends, and what it means for whoever reads likelihoods."""
        temperature = float(self.temperature(*self.rates(self.anneal)))
        if abs(temperature - 1) < _ROUNDED and self.clip is None:
            return None
        clipped = "" if self.clip is None else " (while no gradient is clipped)"
        return (
            f"langevin at temperature {temperature:.3g}{clipped}: its chains do not sample the model, whose "
            "likelihood says little of them"
        )

    @override
    def init(self, model: EnergyModel, x: Tensor) -> LangevinState:
        """Nothing to cache: the gradient where a run ends is never asked for."""
        return LangevinState(x, torch.zeros((), device=x.device))

    @override
    def step(self, model: EnergyModel, state: LangevinState, key: AnyKey) -> tuple[LangevinState, Info]:
        """One step; `gradient` is the Euclidean norm of dE/dx before it is clipped, `temperature` T."""
        s, sigma = self.rates(state.taken)
        _, grad = model.energy_and_grad(state.x)
        x = self._moved(model, state.x, grad, (s, sigma), key)
        norm = torch.linalg.vector_norm(grad.flatten(1), dim=1)
        info = {"gradient": norm, "temperature": torch.ones_like(norm) * self.temperature(s, sigma)}
        return LangevinState(x, state.taken + 1), info

    @override
    def through(self, model: EnergyModel, x: Tensor, keys: Sequence[AnyKey], taken: int) -> Tensor:
        """The same steps, differentiable in the parameters of the model: every dE/dx keeps its graph."""
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            for i, key in enumerate(keys):
                (grad,) = torch.autograd.grad(model.energy(x).sum(), x, create_graph=True)
                x = self._moved(model, x, grad, self.rates(taken + i), key)
        return x

    def _moved(self, model: EnergyModel, x: Tensor, grad: Tensor, rates: tuple[Rate, Rate], key: AnyKey) -> Tensor:
        s, sigma = rates
        grad = grad if self.clip is None else grad.clamp(-self.clip, self.clip)
        z = rng.normal(x.shape, key, x.device, x.dtype)
        return cast(Real, model.space).nearest(x - s * grad + sigma * z)
