"""Residual networks as energies of grey or coloured images (Du & Mordatch 2019)."""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel, ModelSpec, Pullback
from ebm_cli.model.convnet import Widths, check_image, image_shape
from ebm_cli.model.resnet import Block, initialise
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Box, Space

_SMALLEST = 2  # side from which on a block keeps the resolution
_WARM = 15  # power iterations at the start, as torch makes them
_INNER = 8  # channels for each number of a query


class Attention(nn.Module):
    """x + g sum_j softmax_j(q_i.k_j / sqrt(d)) v_j for every pixel i, with q, k, v linear in x; g starts at 0.

    Zhang et al. 2019, sec. 3, without their last linear map and with the usual sqrt(d), d the length of q. Keys have no
    bias, which the softmax would not see.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(1, width // _INNER)
        self.query = nn.Conv2d(width, inner, 1)
        self.key = nn.Conv2d(width, inner, 1, bias=False)
        self.value = nn.Conv2d(width, width, 1)
        self.scale = nn.Parameter(torch.zeros(()))

    @override
    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, breadth) -> the same."""
        q, k, v = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        # Fused attention has no second derivative, which objectives that differentiate a score need.
        weight = (q.transpose(1, 2) @ k / math.sqrt(q.shape[1])).softmax(2)
        return x + self.scale * (v @ weight.transpose(1, 2)).reshape(x.shape)


class ImageResNet(EnergyModel):
    """E(x) = w.sum over pixels of f(2 u - 1), u in [0, 1] the brightness of x.

    f: conv 3 x 3, then one residual block for each of `widths`, of stride 2 until 2 pixels a side are left, with
    self-attention after the middle one if asked for. With `spectral_norm` every weight is divided by sigma = u.W v, an
    estimate of its largest singular value by one power iteration of (u, v) for each gradient of the parameters (Miyato
    et al. 2018, alg. 1). In between u and v stay, so that all chains of an update move on one energy.
    """

    def __init__(self, space: Box, widths: Sequence[int], key: Key, *, spectral_norm: bool, attention: bool) -> None:
        super().__init__()
        self.space = space
        self.image = image_shape(space)
        self.first = nn.Conv2d(self.image[0], widths[0], 3, padding=1)
        self.blocks = nn.Sequential(*_blocks(self.image[1:], widths, attention=attention))
        self.last = nn.Linear(widths[-1], 1, bias=False)  # a constant would change nothing
        initialise(self, key)
        if spectral_norm:
            _normalise(self, key.fold("spectral_norm"))
        self.eval()

    @override
    def energy(self, x: Tensor) -> Tensor:
        """(batch,)."""
        return self.last(self._channels_of(x)).squeeze(1)

    def _channels_of(self, x: Tensor) -> Tensor:
        """Sums over pixels of the last block's channels, (batch, width)."""
        found: Tensor = self.blocks(self.first(2 * self.space.brightness(x).reshape(-1, *self.image) - 1)).sum((2, 3))
        return found

    @override
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """`penultimate`: the channels that the energy is linear in."""
        return {"penultimate": self._channels_of(x)}

    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """As of any model, after one power iteration of every spectral norm."""
        iterate(self, 1)
        return super().energy_vjp(x)


def _blocks(size: Sequence[int], widths: Sequence[int], *, attention: bool) -> Iterator[nn.Module]:
    side = min(size)
    for i, (a, b) in enumerate(itertools.pairwise([widths[0], *widths])):
        stride = 2 if side > _SMALLEST else 1
        side = -(-side // stride)
        yield Block(a, stride, b)
        if attention and i == (len(widths) - 1) // 2:
            yield Attention(b)


def _normalise(model: nn.Module, key: Key) -> None:
    """Spectral norm of every layer, its vectors drawn from the key instead of torch's generator."""
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for name, layer in layers:
        parametrizations.spectral_norm(layer)
        for part, vector in layer.named_buffers():
            start = rng.normal(vector.shape, key.fold(name, part))
            vector.copy_(start / torch.linalg.vector_norm(start))
    iterate(model, _WARM)


@torch.no_grad()
def iterate(model: nn.Module, times: int) -> None:
    """So many power iterations of every spectral norm of the model, which has u and v move in training mode alone."""
    layers = [m for m in model.modules() if parametrize.is_parametrized(m, "weight")]
    for layer in layers:
        layer.train()
        for _ in range(times):
            _ = layer.weight
        layer.eval()


@register("model", "resnet")
class ImageResNetSpec(ModelSpec):
    """Residual network on images in a box, with or without spectral norm and self-attention."""

    widths: Widths
    spectral_norm: bool
    attention: bool

    builds = ImageResNet
    spaces = (Box,)

    @override
    def parameters(self, space: Space) -> int:
        """Of the convolutions and their biases."""
        pairs = itertools.pairwise([self.widths[0], *self.widths])
        return sum((9 * a + 1) * b + (9 * b + 1) * b + (a + 1) * b for a, b in pairs) + 10 * self.widths[0]

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> ImageResNet:
        """Weights uniform within 1 / sqrt(inputs). Raises UserError for data that are no images."""
        check_image(space, "resnet")
        assert isinstance(space, Box)
        return ImageResNet(space, self.widths, key, spectral_norm=self.spectral_norm, attention=self.attention)
