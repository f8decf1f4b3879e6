"""Coin flips."""

from typing import Annotated

import torch
from pydantic import Field
from typing_extensions import override

from ebm_cli.dataset.base import Data
from ebm_cli.noise.base import Noise, NoiseSpec
from ebm_cli.noise.units import units
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Binary, Spin


@register("noise", "bernoulli")
class BernoulliNoise(NoiseSpec):
    """Every site high with probability p, independently."""

    p: Annotated[float, Field(gt=0, lt=1)]

    spaces = (Binary, Spin)

    @override
    def build(self, data: Data, key: Key) -> Noise:
        return units(data.space, torch.full(data.space.shape, self.p))
