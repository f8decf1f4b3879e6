"""Multilayer perceptrons as energies."""

import itertools
import math
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel, Gradients, ModelSpec, Pullback
from ebm_cli.model.convnet import silu
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Box, Real, Space


class MLP(EnergyModel):
    """E(x) = -f(a x) + |x - m|^2 / (2 w^2), f layers of `widths` with SiLU between them; it starts at f = 0.

    a = `input_scale`, m the mean of the data, fixed, w = `spread`; without it the second term is not there, and on R^D
    nothing says that exp(-E) has an integral. Gradients are in closed form: all of it is tensor operations.
    """

    mean: Tensor
    compiles = True

    def __init__(
        self, space: Space, widths: list[int], input_scale: float, spread: float | None, mean: Tensor, key: Key
    ) -> None:
        super().__init__()
        self.space, self.input_scale, self.spread = space, input_scale, spread
        sizes = [math.prod(space.shape), *widths]
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
        return self._reduced(self._units(v), v)

    def _reduced(self, units: Tensor, v: Tensor) -> Tensor:
        """E of the units of the last layer."""
        energy: Tensor = -self.last(units).squeeze(1)
        return energy + self._beside(v)

    def _slope_of_units(self, units: Tensor, v: Tensor) -> Tensor:
        """dE/d units of the last layer, (batch or 1, units)."""
        return -self.last.weight

    def _slope_beside_units(self, units: Tensor, v: Tensor) -> Tensor | float:
        """What dE/dv has beside what comes through the units, (batch, numbers)."""
        return self._slope_beside(v)

    def _of_last(self, weight: Tensor, units: Tensor, v: Tensor) -> list[Tensor]:
        """The gradient of sum_i weight_i E(x_i) in the parameters of `last`."""
        return [-weight[None] @ units]

    def _beside(self, v: Tensor) -> Tensor | float:
        """What E has beside f, (batch,)."""
        return 0.0 if self.spread is None else (v - self.mean).square().sum(1) / (2 * self.spread**2)

    def _slope_beside(self, v: Tensor) -> Tensor | float:
        """Its gradient, (batch, numbers)."""
        return 0.0 if self.spread is None else (v - self.mean) / self.spread**2

    def _entered(self, v: Tensor) -> Tensor:
        """What goes into the first layer, a v up to a constant."""
        return self.input_scale * v

    def _units(self, v: Tensor) -> Tensor:
        """Those of the last layer, (batch, units)."""
        units = self._entered(v)
        for layer in self.layers:
            units = nn.functional.silu(layer(units))
        return units

    def _traced(self, v: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What goes into each layer and what the last gives; the slopes of each layer's units."""
        units, slopes = [self._entered(v)], []
        for layer in self.layers:
            unit, slope = silu(layer(units[-1]))
            units.append(unit)
            slopes.append(slope)
        return units, slopes

    def _weights(self) -> list[Tensor]:
        return [cast(nn.Linear, layer).weight for layer in self.layers]

    @torch.no_grad()
    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Layer by layer, last to first."""
        v = x.flatten(1)
        units, slopes = self._traced(v)
        back = self._slope_of_units(units[-1], v)
        for weight, slope in zip(reversed(self._weights()), reversed(slopes), strict=True):
            back = (back * slope) @ weight
        grad = self.input_scale * back + self._slope_beside_units(units[-1], v)
        return self._reduced(units[-1], v), grad.reshape(x.shape)

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """dE/dW of a layer is the sum over rows of what comes back to its units times what went in."""
        v = x.flatten(1)
        (units, slopes), weights = self._traced(v), self._weights()

        @torch.no_grad()
        def pull(weight: Tensor) -> Gradients:
            found = self._of_last(weight, units[-1], v)
            back = weight[:, None] * self._slope_of_units(units[-1], v)
            for i in reversed(range(len(self.layers))):
                at_units = back * slopes[i]
                found[:0] = [at_units.T @ units[i], at_units.sum(0)]
                back = at_units @ weights[i] if i else back
            return dict(zip(dict(self.named_parameters()), found, strict=True))

        return self._reduced(units[-1], v), pull

    @override
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """`penultimate`: the units that f is linear in."""
        return {"penultimate": self._units(x.flatten(1))}


def size_of(space: Space, widths: list[int]) -> int:
    """How many weights and biases the layers have."""
    sizes = [math.prod(space.shape), *widths]
    return sum((a + 1) * b for a, b in itertools.pairwise(sizes)) + sizes[-1]


Widths = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]


@register("model", "mlp")
class MLPSpec(ModelSpec):
    """Multilayer perceptron, any smooth function of a vector, with or without a wide Gaussian around it."""

    widths: Widths
    input_scale: Annotated[float, Field(gt=0)]
    spread: Annotated[float, Field(gt=0)] | None

    builds = MLP
    spaces = (Real, Box)

    @override
    def parameters(self, space: Space) -> int:
        """Of the layers and their biases."""
        return size_of(space, self.widths)

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> MLP:
        """Weights uniform within 1 / sqrt(inputs), those of the last layer 0."""
        return MLP(space, self.widths, self.input_scale, self.spread, mean, key)
