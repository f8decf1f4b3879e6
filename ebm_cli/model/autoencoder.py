"""Autoencoders as energies: a perceptron with an output for each number, and how far what it says is from them."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli.model.base import ModelSpec
from ebm_cli.model.mlp import MLP, Widths, size_of
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Box, Real, Space


class Autoencoder(MLP):
    """E(x) = |x - g(a x)|^2 / 2 - |x|^2 / 2 + |x - m|^2 / (2 w^2), g layers of `widths` and a number for each of x.

    It starts at g = 0; with w = 1 and m = 0 it is the squared error of the reconstruction g. -dE/dx has g itself beside
    what comes through the network, so that where noise is to be told from data it is nearly the output of a network
    that denoises, which learns far more with the same work than the slope of one output (Salimans & Ho 2021, "Should
    EBMs model the energy or the score?"). Gradients are in closed form: all of it is tensor operations.
    """

    def __init__(
        self, space: Space, widths: list[int], input_scale: float, spread: float | None, mean: Tensor, key: Key
    ) -> None:
        super().__init__(space, widths, input_scale, spread, mean, key)
        self.last = nn.Linear(widths[-1], space.sites)
        with torch.no_grad():
            for parameter in self.last.parameters():
                parameter.zero_()

    @override
    def _reduced(self, units: Tensor, v: Tensor) -> Tensor:
        g = self.last(units)
        return self._beside(v) + (g * (g / 2 - v)).sum(1)

    @override
    def _slope_of_units(self, units: Tensor, v: Tensor) -> Tensor:
        return (self.last(units) - v) @ self.last.weight

    @override
    def _slope_beside_units(self, units: Tensor, v: Tensor) -> Tensor:
        return self._slope_beside(v) - self.last(units)

    @override
    def _of_last(self, weight: Tensor, units: Tensor, v: Tensor) -> list[Tensor]:
        weighed = weight[:, None] * (self.last(units) - v)
        return [weighed.T @ units, weighed.sum(0)]

    @override
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """`penultimate`: the units that g is linear in; `reconstruction`: g."""
        units = self._units(x.flatten(1))
        return {"penultimate": units, "reconstruction": self.last(units)}


@register("model", "autoencoder")
class AutoencoderSpec(ModelSpec):
    """Squared error of a perceptron's reconstruction, with or without a Gaussian beside it."""

    widths: Widths
    input_scale: Annotated[float, Field(gt=0)]
    spread: Annotated[float, Field(gt=0)] | None

    builds = Autoencoder
    spaces = (Real, Box)

    @override
    def parameters(self, space: Space) -> int:
        """Of the layers and their biases."""
        last = self.widths[-1]
        return size_of(space, self.widths) - last + (last + 1) * space.sites

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> Autoencoder:
        """Weights uniform within 1 / sqrt(inputs), those of the last layer 0."""
        return Autoencoder(space, self.widths, self.input_scale, self.spread, mean, key)
