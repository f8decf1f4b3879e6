"""Multilayer perceptrons as energies."""

import itertools
import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel, ModelSpec
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Box, Real, Space


class MLP(EnergyModel):
    """E(x) = -f(a x) + |x - m|^2 / (2 w^2), f layers of `widths` with SiLU between them; it starts at f = 0.

    a = `input_scale`, m the mean of the data, fixed, w = `spread`; without it the second term is not there, and on R^D
    nothing says that exp(-E) has an integral.
    """

    mean: Tensor

    def __init__(
        self, space: Space, widths: list[int], input_scale: float, spread: float | None, mean: Tensor, key: Key
    ) -> None:
        super().__init__()
        self.space, self.input_scale, self.spread = space, input_scale, spread
        sizes = [space.sites, *widths]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.last = nn.Linear(sizes[-1], 1, bias=False)  # a constant would change nothing
        self.register_buffer("mean", mean.flatten().clone())
        with torch.no_grad():
            for i, layer in enumerate(self.layers):
                for name, parameter in layer.named_parameters():
                    draw = 2 * rng.uniform(parameter.shape, key.fold(i, name)) - 1
                    # Units of the first layer bend all over the data, not near 0 alone.
                    wide = input_scale * (spread or 1.0) if i == 0 and name == "bias" else 1.0
                    parameter.copy_(wide * draw / math.sqrt(sizes[i]))
            self.last.weight.zero_()

    @override
    def energy(self, x: Tensor) -> Tensor:
        """-f(a x) + |x - m|^2 / (2 w^2), (batch,)."""
        v = x.flatten(1)
        energy: Tensor = -self.last(self._units(v)).squeeze(1)
        return energy if self.spread is None else energy + (v - self.mean).square().sum(1) / (2 * self.spread**2)

    def _units(self, v: Tensor) -> Tensor:
        """Those of the last layer, (batch, units)."""
        units = self.input_scale * v
        for layer in self.layers:
            units = nn.functional.silu(layer(units))
        return units

    @override
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """`penultimate`: the units that f is linear in."""
        return {"penultimate": self._units(x.flatten(1))}


@register("model", "mlp")
class MLPSpec(ModelSpec):
    """Multilayer perceptron, any smooth function of a vector, with or without a wide Gaussian around it."""

    widths: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    input_scale: Annotated[float, Field(gt=0)]
    spread: Annotated[float, Field(gt=0)] | None

    builds = MLP
    spaces = (Real, Box)

    @override
    def parameters(self, space: Space) -> int:
        """Of the layers and their biases."""
        sizes = [space.sites, *self.widths]
        return sum((a + 1) * b for a, b in itertools.pairwise(sizes)) + sizes[-1]

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> MLP:
        """Weights uniform within 1 / sqrt(inputs), those of the last layer 0."""
        return MLP(space, self.widths, self.input_scale, self.spread, mean, key)
