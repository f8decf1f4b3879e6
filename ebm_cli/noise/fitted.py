"""Independent units fitted to the training data: the noise whose density is nearest to them of all such."""

from typing import Annotated

import torch
from pydantic import Field

from ebm_cli.dataset.base import Data
from ebm_cli.noise.base import Noise, NoiseSpec
from ebm_cli.noise.units import gaussian, units
from ebm_cli.registry import register
from ebm_cli.rng import Key, stream
from ebm_cli.space import Binary, Box, Categorical, Discrete, Real, Spin

_ROWS = 10_000  # of the training data, that means and variances of real sites are taken from


@register("noise", "fitted")
class FittedNoise(NoiseSpec):
    """Bernoulli or categorical sites with the frequencies of the data, normal ones with their means and variances.

    `widen` is a factor on the standard deviations of real sites, none of which is below `least`; in a box it is the
    same law between its walls.
    """

    widen: Annotated[float, Field(gt=0)]
    least: Annotated[float, Field(gt=0)]

    spaces = (Binary, Spin, Categorical, Real, Box)

    def build(self, data: Data, key: Key) -> Noise:
        """By maximum likelihood, the frequencies smoothed as `Data.smoothed_mean` says."""
        if isinstance(data.space, Discrete):
            return units(data.space, data.smoothed_mean().cpu())
        index = torch.arange(min(_ROWS, len(data.train)), device=data.train.grey.device)
        rows = data.train.rows(index, stream(0, "noise")).flatten(1).double().cpu()
        std = (self.widen * rows.std(0, correction=0)).clamp_min(self.least)
        return gaussian(data.space, rows.mean(0).float(), std.float())
