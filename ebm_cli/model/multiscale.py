"""Products of experts over the resolutions of an image (Du et al. 2021)."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, cast

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli.errors import UserError
from ebm_cli.model.base import EnergyModel, ModelSpec
from ebm_cli.model.convnet import ConvNet, Width, Widths, check_image, image_shape
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Box, Space


class Multiscale(EnergyModel):
    """E(x) = sum_r E_r(x_r), r = 0, ..., scales - 1, so that p is proportional to the product of exp(-E_r(x_r)).

    x_r are the means of x over squares of 2^r x 2^r pixels, at the far edges over what there is of them; each E_r is a
    convolutional network of its own.
    """

    def __init__(self, space: Box, scales: int, widths: Sequence[int], hidden: int, key: Key) -> None:
        super().__init__()
        self.space = space
        self.image = image_shape(space)
        self.experts = nn.ModuleList(
            ConvNet(replace(space, shape=self._shape(r)), widths, hidden, key.fold(r)) for r in range(scales)
        )

    def _shape(self, r: int) -> tuple[int, int, int]:
        """Of x_r: channels, height, width."""
        channels, height, width = self.image
        return channels, -(-height // 2**r), -(-width // 2**r)

    @override
    def energy(self, x: Tensor) -> Tensor:
        """(batch,)."""
        energies = [expert(image) for expert, image in self._seen(x)]
        return sum(energies[1:], energies[0])

    def _seen(self, x: Tensor) -> list[tuple[ConvNet, Tensor]]:
        """Each network with its x_r."""
        image = x.reshape(-1, *self.image)
        return [(cast(ConvNet, expert), pooled(image, 2**r)) for r, expert in enumerate(self.experts)]

    @override
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """`penultimate_1`, ... of each network, from the finest scale on."""
        return {f"penultimate_{r}": e.features(image)["penultimate"] for r, (e, image) in enumerate(self._seen(x), 1)}


def pooled(image: Tensor, side: int) -> Tensor:
    """Means over squares of so many pixels a side, (batch, channels, height / side, width / side), rounded up."""
    return image if side == 1 else F.avg_pool2d(image, side, ceil_mode=True)


@register("model", "multiscale")
class MultiscaleSpec(ModelSpec):
    """Product of convolutional networks, each of which sees the image at another resolution."""

    scales: Annotated[int, Field(ge=1)]
    widths: Widths
    hidden: Width

    builds = Multiscale
    spaces = (Box,)

    @override
    def parameters(self, space: Space) -> int:
        """Of the convolutions and their biases."""
        return self.scales * sum((9 * a + 1) * b for a, b in itertools.pairwise([1, *self.widths]))

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> Multiscale:
        """Weights as those of `convnet`. Raises UserError for data that are no images, or too small ones."""
        check_image(space, "multiscale")
        height, width = image_shape(space)[1:]
        most = min(height, width).bit_length()
        if self.scales > most:
            raise UserError(
                f"model.scales = {self.scales}: images of {height}x{width} can be halved {most - 1} times; "
                f"set it to at most {most}"
            )
        assert isinstance(space, Box)
        return Multiscale(space, self.scales, self.widths, self.hidden, key)
