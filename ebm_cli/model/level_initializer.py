"""A network that says where chains which recover less noise from more begin."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.level_features import LevelFeatures
from ebm_cli.rng import Key


class LevelInitializer(nn.Module):
    """h(u, k), (batch, sites), of u = (x_(k+1) - m) / (r sqrt(v_(k+1))), in units of the width of p(x_k | x_(k+1)).

    Layers of `widths` with SiLU between them, of u and the marks of level k (`LevelFeatures`); 0 as it begins.
    """

    def __init__(self, features: LevelFeatures, sites: int, widths: Sequence[int], key: Key) -> None:
        super().__init__()
        self.features_of = features
        sizes = self._sizes(features, sites, widths)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.last = nn.Linear(sizes[-1], sites)
        with torch.no_grad():
            for i, layer in enumerate(self.layers):
                for name, parameter in layer.named_parameters():
                    parameter.copy_((2 * rng.uniform(parameter.shape, key.fold(i, name)) - 1) / sizes[i] ** 0.5)
            self.last.weight.zero_()
            self.last.bias.zero_()

    @classmethod
    def size(cls, features: LevelFeatures, sites: int, widths: Sequence[int]) -> int:
        """How many parameters it has."""
        return sum((a + 1) * b for a, b in itertools.pairwise([*cls._sizes(features, sites, widths), sites]))

    @staticmethod
    def _sizes(features: LevelFeatures, sites: int, widths: Sequence[int]) -> list[int]:
        return [sites + features.marks.shape[1], *widths]

    @override
    def forward(self, u: Tensor, level: Tensor) -> Tensor:
        """For u (batch, sites) of the level above each `level`, (batch,) int64."""
        units = torch.cat([u, self.features_of.marks.to(u.dtype)[level]], 1)
        for layer in self.layers:
            units = nn.functional.silu(layer(units))
        found: Tensor = self.last(units)
        return found
