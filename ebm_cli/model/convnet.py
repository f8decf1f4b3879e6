"""Convolutional networks as energies of images."""

import itertools
from collections.abc import Sequence
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ebm_cli.errors import UserError
from ebm_cli.model.base import EnergyModel, ModelSpec
from ebm_cli.model.resnet import initialise
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Box, Space

_SMALLEST = 2  # side from which on a layer keeps the resolution

Width = Annotated[int, Field(ge=1)]
Widths = Annotated[list[Width], Field(min_length=1)]


class Convolutions(nn.Module):
    """3 x 3 convolutions with SiLU, each of stride 2 until an image of 2 pixels a side is left; flattened.

    With four layers of 16, 32, 32, 32 channels 28 x 28 pixels become the 128 numbers of the networks on MNIST that it
    is modelled on.
    """

    def __init__(self, channels: int, size: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        layers, side = [], list(size)
        for a, b in itertools.pairwise([channels, *widths]):
            stride = 2 if min(side) > _SMALLEST else 1
            layers.append(nn.Conv2d(a, b, 3, stride, padding=1))
            side = [-(-n // stride) for n in side]
        self.layers = nn.ModuleList(layers)
        self.features = widths[-1] * side[0] * side[1]

    def forward(self, image: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, features)."""
        for layer in self.layers:
            image = F.silu(layer(image))
        return image.flatten(1)


class ConvNet(EnergyModel):
    """E(x) = w.silu(A silu(convolutions(2 u - 1)) + a), u in [0, 1] the brightness of x."""

    def __init__(self, space: Box, widths: Sequence[int], hidden: int, key: Key) -> None:
        super().__init__()
        self.space = space
        self.image = image_shape(space)
        self.convolutions = Convolutions(self.image[0], self.image[1:], widths)
        self.hidden = nn.Linear(self.convolutions.features, hidden)
        self.last = nn.Linear(hidden, 1, bias=False)  # a constant would change nothing
        initialise(self, key)

    def energy(self, x: Tensor) -> Tensor:
        """(batch,)."""
        features = self.convolutions(2 * self.space.brightness(x).reshape(-1, *self.image) - 1)
        return self.last(F.silu(self.hidden(features))).squeeze(1)


def image_shape(space: Space) -> tuple[int, int, int]:
    """Channels, height and width; images of two dimensions have one channel."""
    shape = space.site_shape
    return (1, shape[0], shape[1]) if len(shape) == 2 else (shape[0], shape[1], shape[2])


def check_image(space: Space, name: str) -> None:
    """Raise UserError for data that are no images."""
    if len(space.site_shape) not in (2, 3):
        shape = "x".join(map(str, space.site_shape))
        raise UserError(f"model.name = {name}: takes images, the data have shape {shape}")


def convolution_parameters(space: Space, widths: Sequence[int]) -> int:
    """How many numbers 3 x 3 convolutions of these widths and their biases are."""
    channels = space.site_shape[0] if len(space.site_shape) == 3 else 1
    return sum((9 * a + 1) * b for a, b in itertools.pairwise([channels, *widths]))


@register("model", "convnet")
class ConvNetSpec(ModelSpec):
    """Convolutional network on images in a box: layers of `widths` channels, then two linear ones."""

    widths: Widths
    hidden: Width

    builds = ConvNet
    spaces = (Box,)

    def parameters(self, space: Space) -> int:
        """Of the convolutions and their biases."""
        return convolution_parameters(space, self.widths)

    def build(self, space: Space, mean: Tensor, key: Key) -> ConvNet:
        """Weights uniform within 1 / sqrt(inputs). Raises UserError for data that are no images."""
        check_image(space, "convnet")
        assert isinstance(space, Box)
        return ConvNet(space, self.widths, self.hidden, key)
