"""Down the energy from noise, cold at first and then warmer and warmer: the sampler of energy matching."""

import math
from typing import Annotated, Any, NamedTuple, cast

import torch
from pydantic import Field, PlainValidator
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import Nested, register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler, transitions
from ebm_cli.sampler.kernel import below, nested
from ebm_cli.space import Box, Real, Space


class Descent(NamedTuple):
    """Positions (chains, *shape), and the number of steps taken."""

    x: Tensor
    taken: int


@register("sampler", "heating")
class Heating(Sampler[EnergyModel, Descent]):
    """x' = x - s dE/dx + sqrt(2 s T) z in the first `steps` steps, then a transition of `kernel` in each.

    s is `step_size`, z standard normal, and the temperature T is 0 up to the share `cold` of the steps and rises
    linearly from there to 1 (Balcerak et al. 2025, arXiv 2504.10612): at first the energy is a potential that carries
    noise to the data, then chains spread as exp(-E) says. With a `std` chains start at draws of N(`mean`, std^2), the
    noise that the energy was trained to carry, and the first step forgets where they were. In a box every step down
    ends at the nearest point of it. Info: `temperature`, and later what the kernel says.
    """

    kernel: Annotated[Sampler[Any, Any], PlainValidator(nested), Nested("sampler")]
    steps: Annotated[int, Field(ge=1)]
    step_size: Annotated[float, Field(gt=0)]
    cold: Annotated[float, Field(ge=0, lt=1)]
    mean: float
    std: Annotated[float, Field(gt=0)] | None

    spaces = (Real, Box)

    @property
    @override
    def leaves_invariant(self) -> bool:
        return False

    @property
    @override
    def draws_given(self) -> bool:
        return False

    @property
    @override
    def inner(self) -> Sampler[Any, Any]:
        return self.kernel

    @override
    def refusal(self, space: Space) -> str | None:
        """What the kernel says."""
        found = self.kernel.refusal(space)
        return found and below(found)

    @override
    def init(self, model: EnergyModel, x: Tensor) -> Descent:
        """Before the first step."""
        return Descent(x, 0)

    @override
    def step(self, model: EnergyModel, state: Descent, key: AnyKey) -> tuple[Descent, Info]:
        """One step down, or of the kernel."""
        x = state.x
        if state.taken >= self.steps:
            x, info = transitions(self.kernel, model, x, [key.fold("kernel")])
            return Descent(x, state.taken + 1), info
        if not state.taken and self.std is not None:
            x = self.mean + self.std * rng.normal(x.shape, key.fold("begin"), x.device, x.dtype)
        warm = temperature((state.taken + 1) / self.steps, self.cold)
        x = fallen(model, x, self.step_size, warm, key)
        return Descent(x, state.taken + 1), {"temperature": torch.full((len(x),), warm, device=x.device)}


def temperature(time: float, cold: float) -> float:
    """T at a time from 0 to 1: 0 up to `cold`, then linearly up to 1."""
    return min(1.0, max(0.0, (time - cold) / (1 - cold)))


def fallen(model: EnergyModel, x: Tensor, s: float, warm: float, key: AnyKey) -> Tensor:
    """The point of the space nearest to x - s dE/dx + sqrt(2 s T) z, (chains, *shape), T = `warm`."""
    _, grad = model.energy_and_grad(x)
    x = x - s * grad + math.sqrt(2 * s * warm) * rng.normal(x.shape, key.fold("heat"), x.device, x.dtype)
    return cast(Real, model.space).nearest(x)


def descended(model: EnergyModel, x: Tensor, steps: int, s: float, cold: float, key: AnyKey) -> Tensor:
    """Where so many steps down lead from x (chains, *shape)."""
    for i in range(steps):
        x = fallen(model, x, s, temperature((i + 1) / steps, cold), key.fold(i))
    return x
