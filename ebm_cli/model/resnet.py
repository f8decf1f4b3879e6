"""Residual networks as energies of discrete images (Grathwohl et al. 2021, app. on deep energy-based models)."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.errors import UserError
from ebm_cli.model.base import EnergyModel, ModelSpec
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Binary, Categorical, Space


class Block(nn.Module):
    """silu(conv(silu(conv(x))) + shortcut(x)), 3 x 3; with stride 2 half the resolution.

    The shortcut is a 1 x 1 convolution where resolution or width change, otherwise the identity.
    """

    def __init__(self, width: int, stride: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, out, 3, stride, padding=1)
        self.second = nn.Conv2d(out, out, 3, padding=1)
        changes = stride > 1 or out != width
        self.shortcut = nn.Conv2d(width, out, 1, stride) if changes else nn.Identity()

    @override
    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, breadth) -> (batch, out, the same, or half of both)."""
        return F.silu(self.second(F.silu(self.first(x))) + self.shortcut(x))


class ResNet(EnergyModel):
    """E(x) = -f(x) + E_base(x), a network beside the energy of independent pixels, as which it starts.

    f: conv 3 x 3, two blocks of stride 2, `blocks` blocks, mean over pixels, linear. The base measure is fixed, m the
    mean of the data away from the bounds: E_base(x) = -sum_i (x_i log m_i + (1 - x_i) log(1 - m_i)) for binary pixels,
    -sum_ik x_ik log m_ik for one-hot ones.
    """

    base: Tensor

    def __init__(self, space: Space, width: int, blocks: int, mean: Tensor, key: Key) -> None:
        super().__init__()
        self.space = space
        self.channels = _channels(space)
        self.first = nn.Conv2d(self.channels, width, 3, padding=1)
        self.down = nn.Sequential(Block(width, 2, width), Block(width, 2, width))
        self.blocks = nn.Sequential(*(Block(width, 1, width) for _ in range(blocks)))
        self.last = nn.Linear(width, 1, bias=False)  # a constant would change nothing
        self.register_buffer("base", mean.flatten().clone())
        initialise(self, key)
        nn.init.zeros_(self.last.weight)

    @override
    def energy(self, x: Tensor) -> Tensor:
        """E_base(x) - f(x), (batch,)."""
        v = x.flatten(1)
        if isinstance(self.space, Categorical):
            log_base = v @ self.base.log()
        else:
            log_base = v @ self.base.logit() + torch.log1p(-self.base).sum()
        return -self.last(self._channels_of(x)).squeeze(1) - log_base

    def _channels_of(self, x: Tensor) -> Tensor:
        """Means over pixels of the last block's channels, (batch, width)."""
        if isinstance(self.space, Categorical):
            image = x.reshape(-1, *_size(self.space), self.channels).permute(0, 3, 1, 2)
        else:
            image = 2 * x.reshape(-1, self.channels, *_size(self.space)) - 1
        found: Tensor = self.blocks(self.down(self.first(image))).mean((2, 3))
        return found

    @override
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """`penultimate`: the channels that f is linear in."""
        return {"penultimate": self._channels_of(x)}


def _size(space: Space) -> tuple[int, ...]:
    """Height and width."""
    return space.site_shape[-2:]


def _channels(space: Space) -> int:
    """What the first convolution sees of a pixel: its colours, or one channel for each category."""
    colours = space.site_shape[0] if len(space.site_shape) == 3 else 1
    return space.values if isinstance(space, Categorical) else colours


def initialise(model: nn.Module, key: Key) -> None:
    """Weights and biases uniform within 1 / sqrt(inputs of a unit), torch's own rule, but drawn from the key."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for part, parameter in layer.named_parameters():
                with torch.no_grad():
                    parameter.copy_(bound * (2 * rng.uniform(parameter.shape, key.fold(name, part)) - 1))


@dataclass(frozen=True, kw_only=True)
class ResNetSpec(ModelSpec):
    """Residual network beside independent pixels at the data mean."""

    width: Annotated[int, Field(ge=1)]
    blocks: Annotated[int, Field(ge=0)]
    clip: Annotated[float, Field(gt=0, lt=0.5)]

    called: ClassVar[str]

    @override
    def parameters(self, space: Space) -> int:
        """Of convolutions and their biases."""
        conv = 9 * self.width**2 + self.width
        first, shortcuts = 9 * self.width * _channels(space), 2 * (self.width**2 + self.width)
        return first + (4 + 2 * self.blocks) * conv + shortcuts + 2 * self.width

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> ResNet:
        """Raises UserError for data that are no images."""
        dimensions = (2,) if isinstance(space, Categorical) else (2, 3)
        if len(space.site_shape) not in dimensions:
            shape = "x".join(map(str, space.site_shape))
            raise UserError(f"model.name = {self.called}: takes images, the data have shape {shape}")
        return ResNet(space, self.width, self.blocks, self.kept(mean), key)

    @abstractmethod
    def kept(self, mean: Tensor) -> Tensor:
        """The mean away from the bounds by `clip`."""


@register("model", "resnet_binary")
class BinaryResNetSpec(ResNetSpec):
    """Residual network beside independent pixels at the data mean, for binary images."""

    called = "resnet_binary"
    builds = ResNet
    spaces = (Binary,)

    @override
    def kept(self, mean: Tensor) -> Tensor:
        """Within [clip, 1 - clip]."""
        return mean.clamp(self.clip, 1 - self.clip)


@register("model", "resnet_categorical")
class CategoricalResNetSpec(ResNetSpec):
    """Residual network beside independent pixels at the data's frequencies, for images of categorical pixels."""

    called = "resnet_categorical"
    builds = ResNet
    spaces = (Categorical,)

    @override
    def kept(self, mean: Tensor) -> Tensor:
        """At least `clip` for every value, then normalised."""
        raised = mean.clamp_min(self.clip)
        return raised / raised.sum(-1, keepdim=True)
