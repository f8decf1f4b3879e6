"""U-Nets as energies of images: a network that gives an image back, and how far that is from the image."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight
from typing_extensions import override

from ebm_cli.model.base import EnergyModel, Gradients, ModelSpec, Pullback
from ebm_cli.model.convnet import Width, Widths, check_image, image_shape, silu, transposed
from ebm_cli.model.resnet import initialise
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Box, Space


class Kept(NamedTuple):
    """What the way back needs: activities and dsilu of each scale on the way down, those of the middle, and of each
    scale on the way up, the finest first."""

    down: list[Tensor]
    down_slopes: list[Tensor]
    flat: Tensor  # units of the linear layer in the middle, (batch, hidden)
    flat_slope: Tensor
    up: list[Tensor]
    up_slopes: list[Tensor]


class Back(NamedTuple):
    """dL/d of what each layer gave before its SiLU, in the order of `Kept`, and dL/dv."""

    down: list[Tensor]
    flat: Tensor
    up: list[Tensor]
    v: Tensor


class UNet(EnergyModel):
    """E(x) = |v - g(v)|^2 / 2 - |v|^2 / 2, v in [-1, 1] the brightness of x, g a U-Net; it starts at g = 0.

    g: convolutions 3 x 3 of `widths` channels, all but the first of stride 2, to which the image itself is added in
    patches, by a linear map of each; at the coarsest scale a convolution and two linear layers of all its pixels, with
    `hidden` units between them; then transposed ones 4 x 4 back up, to which what went down at their scale is added
    (Ronneberger et al. 2015); a convolution with the channels of the image last.
    SiLU after each but the last. Why an error and no single output: `Autoencoder`. Gradients are in closed form: all of
    it is tensor operations.
    """

    space: Box
    compiles = True
    convolves = True

    def __init__(self, space: Box, widths: Sequence[int], hidden: int, key: Key) -> None:
        super().__init__()
        self.space = space
        self.image = image_shape(space)
        channels, coarse = self.image[0], widths[-1] * math.prod(_coarsest(self.image[1:], widths))
        self.enter = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, padding=1) for a, b in itertools.pairwise(widths))
        self.patches = nn.ModuleList(
            nn.Conv2d(channels, width, 2**i, 2**i, bias=False) for i, width in enumerate(widths[1:], 1)
        )
        self.middle = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.into = nn.Linear(coarse, hidden)
        self.out_of = nn.Linear(hidden, coarse, bias=False)  # the convolution beside it has one
        self.ups = nn.ModuleList(nn.ConvTranspose2d(b, a, 4, 2, padding=1) for a, b in itertools.pairwise(widths))
        self.last = nn.Conv2d(widths[0], channels, 3, padding=1)
        initialise(self, key)
        with torch.no_grad():
            for layer in (self.enter, *self._patches()):
                layer.weight.mul_(math.sqrt(channels))  # the image counts as much, however many channels say the level
            for parameter in self.last.parameters():
                parameter.zero_()

    @override
    def energy(self, x: Tensor) -> Tensor:
        """(batch,)."""
        v = self._seen(x)
        return _error(v, self._given_back(v))

    def _seen(self, x: Tensor) -> Tensor:
        return 2 * self.space.brightness(x).reshape(-1, *self.image) - 1

    def _given_back(self, v: Tensor) -> Tensor:
        """g, (batch, channels, height, width)."""
        return self.last(self._traced(v).up[0])

    @override
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """`penultimate`: the units in the middle that see all of the image; `reconstruction`: g."""
        v = self._seen(x)
        kept = self._traced(v)
        return {"penultimate": kept.flat, "reconstruction": self.last(kept.up[0]).flatten(1)}

    def _traced(self, v: Tensor) -> Kept:
        """Channels lie next to each other, as the products run fastest."""
        value, slope = silu(self.enter(v.contiguous(memory_format=torch.channels_last)))
        down, down_slopes = [value], [slope]
        for layer, patch in zip(self.downs, self._patches(), strict=True):
            value, slope = silu(layer(down[-1]) + patch(_whole(v, patch)))
            down.append(value)
            down_slopes.append(slope)
        flat, flat_slope = silu(self.into(value.flatten(1)))
        value, slope = silu(self.middle(value) + self.out_of(flat).reshape(value.shape))
        up, up_slopes = [value], [slope]
        for layer, beside in zip(reversed(self._ups()), reversed(down[:-1]), strict=True):
            height, width = beside.shape[2:]
            value, slope = silu(layer(up[-1])[:, :, :height, :width] + beside)
            up.append(value)
            up_slopes.append(slope)
        return Kept(down, down_slopes, flat, flat_slope, up[::-1], up_slopes[::-1])

    def _back(self, of_g: Tensor, kept: Kept) -> Back:
        """From dL/dg (batch, channels, height, width), without what L has of v itself."""
        grad = transposed(of_g, self.last.weight, 1, of_g.shape[2:])
        up = list[Tensor]()
        for layer, slope in zip(self._ups(), kept.up_slopes[:-1], strict=True):
            up.append(grad * slope)
            grad = F.conv2d(_even(up[-1]), layer.weight, stride=2, padding=1)
        up.append(grad * kept.up_slopes[-1])
        flat = up[-1].flatten(1) @ self.out_of.weight * kept.flat_slope
        coarse = kept.down[-1].shape
        grad = transposed(up[-1], self.middle.weight, 1, coarse[2:]) + (flat @ self.into.weight).reshape(coarse)
        down = [grad * kept.down_slopes[-1]]
        for i in reversed(range(len(self.downs))):
            weight, finer = cast(nn.Conv2d, self.downs[i]).weight, kept.down[i]
            down.append((transposed(down[-1], weight, 2, finer.shape[2:]) + up[i]) * kept.down_slopes[i])
        down, (height, width) = down[::-1], of_g.shape[2:]
        v = transposed(down[0], self.enter.weight, 1, (height, width))
        for patch, grad in zip(self._patches(), down[1:], strict=True):
            v = v + F.conv_transpose2d(grad, patch.weight, stride=patch.stride)[:, :, :height, :width]
        return Back(down, flat, up, v)

    def _patches(self) -> list[nn.Conv2d]:
        return cast(list[nn.Conv2d], list(self.patches))

    def _ups(self) -> list[nn.ConvTranspose2d]:
        return cast(list[nn.ConvTranspose2d], list(self.ups))

    @torch.no_grad()
    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Layer by layer, last to first."""
        v = self._seen(x)
        kept = self._traced(v)
        g = self.last(kept.up[0])
        grad = self._back(g - v, kept).v - g
        return _error(v, g), (2 / (self.space.high - self.space.low) * grad.reshape(x.shape)).to(x.dtype)

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """dE/dW of a layer is the sum over rows of what comes back to it with what went in."""
        v = self._seen(x)
        kept = self._traced(v)
        g = self.last(kept.up[0])

        @torch.no_grad()
        def pull(weight: Tensor) -> Gradients:
            of_g = weight.reshape(-1, 1, 1, 1) * (g - v)
            found = self._gradients(v, of_g, kept, self._back(of_g, kept))
            return dict(zip(dict(self.named_parameters()), found, strict=True))

        return _error(v, g), pull

    def _gradients(self, v: Tensor, of_g: Tensor, kept: Kept, back: Back) -> list[Tensor]:
        """dL/dparameters in their order."""
        found = _of_convolution(self.enter, v, back.down[0])
        for i, layer in enumerate(self.downs):
            found += _of_convolution(cast(nn.Conv2d, layer), kept.down[i], back.down[i + 1])
        for patch, grad in zip(self._patches(), back.down[1:], strict=True):
            found.append(conv2d_weight(_whole(v, patch), patch.weight.shape, grad, patch.stride))
        coarse = kept.down[-1]
        found += _of_convolution(self.middle, coarse, back.up[-1])
        found += [back.flat.T @ coarse.flatten(1), back.flat.sum(0), back.up[-1].flatten(1).T @ kept.flat]
        for i, layer in enumerate(self._ups()):
            of_weight = conv2d_weight(_even(back.up[i]), layer.weight.shape, kept.up[i + 1], 2, padding=1)
            found += [of_weight, back.up[i].sum((0, 2, 3))]
        return found + _of_convolution(self.last, kept.up[0], of_g)


def _error(v: Tensor, g: Tensor) -> Tensor:
    """|v - g|^2 / 2 - |v|^2 / 2, (batch,)."""
    return (g * (g / 2 - v)).flatten(1).sum(1)


def _whole(v: Tensor, patch: nn.Conv2d) -> Tensor:
    """With 0 beyond its edges, as far as the last patches reach."""
    side = patch.stride[0]
    return F.pad(v, (0, -v.shape[3] % side, 0, -v.shape[2] % side))


def _even(grad: Tensor) -> Tensor:
    """With 0 for the last row and column of an image of odd size, which were cut off on the way up."""
    return F.pad(grad, (0, grad.shape[3] % 2, 0, grad.shape[2] % 2))


def _of_convolution(layer: nn.Conv2d, x: Tensor, grad: Tensor) -> list[Tensor]:
    """dL/dweight and dL/dbias, from what went in and dL/d of what came out."""
    return [conv2d_weight(x, layer.weight.shape, grad, layer.stride, padding=1), grad.sum((0, 2, 3))]


def _coarsest(size: Sequence[int], widths: Sequence[int]) -> list[int]:
    """Height and width after all convolutions of stride 2."""
    return [math.ceil(side / 2 ** (len(widths) - 1)) for side in size]


@register("model", "unet")
class UNetSpec(ModelSpec):
    """U-Net on images in a box, whose error is the energy: `widths` channels from the finest scale to the coarsest."""

    widths: Widths
    hidden: Width

    builds = UNet
    spaces = (Box,)

    @override
    def parameters(self, space: Space) -> int:
        """Of all layers and their biases. Raises UserError for data that are no images."""
        check_image(space, "unet")
        channels, *size = image_shape(space)
        first, last, coarse = self.widths[0], self.widths[-1], self.widths[-1] * math.prod(_coarsest(size, self.widths))
        ends = (9 * channels + 1) * first + (9 * first + 1) * channels
        pairs = list(itertools.pairwise(self.widths))
        scales = sum((9 * a + 1) * b + (16 * b + 1) * a for a, b in pairs)
        scales += sum(4**i * channels * width for i, width in enumerate(self.widths[1:], 1))
        return ends + scales + (9 * last + 1) * last + (2 * coarse + 1) * self.hidden

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> UNet:
        """Weights uniform within 1 / sqrt(inputs), those of the image as if it had one channel, the last ones 0.

        Raises UserError for data that are no images.
        """
        check_image(space, "unet")
        assert isinstance(space, Box)
        return UNet(space, self.widths, self.hidden, key)
