"""Residual networks as energies of binary images (Grathwohl et al. 2021, app. on deep energy-based models)."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ebm_cli import rng
from ebm_cli.errors import UserError
from ebm_cli.model.base import EnergyModel, ModelSpec
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Binary, Space


class Block(nn.Module):
    """silu(conv(silu(conv(x))) + shortcut(x)), 3 x 3; with stride 2 half the resolution, and a 1 x 1 shortcut."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, stride, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(width, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, breadth) -> the same, or half of both."""
        return F.silu(self.second(F.silu(self.first(x))) + self.shortcut(x))


class BinaryResNet(EnergyModel):
    """E(x) = -f(x) + E_base(x), a network beside the energy of independent pixels, as which it starts.

    f: conv 3 x 3, two blocks of stride 2, `blocks` blocks, mean over pixels, linear. The base measure is fixed:
    E_base(x) = -sum_i (x_i log m_i + (1 - x_i) log(1 - m_i)), m the mean of the data kept within [clip, 1 - clip].
    """

    base: Tensor

    def __init__(self, space: Space, width: int, blocks: int, mean: Tensor, key: Key) -> None:
        super().__init__()
        self.space = space
        self.image = (1, *space.shape) if len(space.shape) == 2 else space.shape
        self.first = nn.Conv2d(self.image[0], width, 3, padding=1)
        self.down = nn.Sequential(Block(width, 2), Block(width, 2))
        self.blocks = nn.Sequential(*(Block(width, 1) for _ in range(blocks)))
        self.last = nn.Linear(width, 1, bias=False)  # a constant would change nothing
        self.register_buffer("base", mean.flatten().clone())
        _initialise(self, key)
        nn.init.zeros_(self.last.weight)

    def energy(self, x: Tensor) -> Tensor:
        """E_base(x) - f(x), (batch,)."""
        v = x.flatten(1)
        log_base = v @ self.base.logit() + torch.log1p(-self.base).sum()
        features = self.blocks(self.down(self.first(2 * x.reshape(-1, *self.image) - 1)))
        return -self.last(features.mean((2, 3))).squeeze(1) - log_base


def _initialise(model: nn.Module, key: Key) -> None:
    """Every weight and bias uniform within 1 / sqrt(inputs of a unit), torch's own rule, but drawn from the key."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for part, parameter in (("weight", layer.weight), ("bias", layer.bias)):
                draw = rng.uniform(parameter.shape, key.fold(name, part))
                with torch.no_grad():
                    parameter.copy_(bound * (2 * draw - 1))


@register("model", "resnet_binary")
class BinaryResNetSpec(ModelSpec):
    """Residual network beside independent pixels at the data mean, for binary images."""

    width: Annotated[int, Field(ge=1)]
    blocks: Annotated[int, Field(ge=0)]
    clip: Annotated[float, Field(gt=0, lt=0.5)]

    builds = BinaryResNet
    spaces = (Binary,)

    def parameters(self, space: Space) -> int:
        """Of convolutions and their biases."""
        conv = 9 * self.width**2 + self.width
        return 9 * self.width + (4 + 2 * self.blocks) * conv + 2 * (self.width**2 + self.width) + 2 * self.width

    def build(self, space: Space, mean: Tensor, key: Key) -> BinaryResNet:
        """Raises UserError for data that are no images."""
        if len(space.shape) not in (2, 3):
            raise UserError(f"model=resnet_binary takes images, the data have shape {'x'.join(map(str, space.shape))}")
        return BinaryResNet(space, self.width, self.blocks, mean.clamp(self.clip, 1 - self.clip), key)
