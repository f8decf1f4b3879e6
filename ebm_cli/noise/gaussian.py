"""Normal noise, the same at every site."""

from typing import Annotated

import torch
from pydantic import Field

from ebm_cli.dataset.base import Data
from ebm_cli.noise.base import Noise, NoiseSpec
from ebm_cli.noise.units import gaussian
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Box, Real


@register("noise", "gaussian")
class GaussianNoise(NoiseSpec):
    """N(mean, std^2) at every site independently; in a box the same law between its walls."""

    mean: float
    std: Annotated[float, Field(gt=0)]

    spaces = (Real, Box)

    def build(self, data: Data, key: Key) -> Noise:
        """One mean and one standard deviation for all sites."""
        here = torch.ones(data.space.sites)
        return gaussian(data.space, self.mean * here, self.std * here)
