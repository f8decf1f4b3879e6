"""Independent units fitted to the training data: the noise whose density is nearest to them of all such."""

from typing import Annotated

from pydantic import Field
from typing_extensions import override

from ebm_cli.dataset.base import Data
from ebm_cli.dataset.moments import moments
from ebm_cli.noise.base import Noise, NoiseSpec
from ebm_cli.noise.units import gaussian, units
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Binary, Box, Categorical, Discrete, Real, Spin


@register("noise", "fitted")
class FittedNoise(NoiseSpec):
    """Bernoulli or categorical sites with the frequencies of the data, normal ones with their means and variances.

    `widen` is a factor on the standard deviations of real sites, none of which is below `least`; in a box it is the
    same law between its walls.
    """

    widen: Annotated[float, Field(gt=0)]
    least: Annotated[float, Field(gt=0)]

    spaces = (Binary, Spin, Categorical, Real, Box)

    @override
    def build(self, data: Data, key: Key) -> Noise:
        """By maximum likelihood, the frequencies smoothed as `Data.smoothed_mean` says."""
        if isinstance(data.space, Discrete):
            return units(data.space, data.smoothed_mean().cpu())
        mean, std = moments(data.train)
        return gaussian(data.space, mean.float(), (self.widen * std).clamp_min(self.least).float())
