"""Normal noise, the same at every site."""

from typing import Annotated

import torch
from pydantic import Field
from typing_extensions import override

from ebm_cli.dataset.base import Data
from ebm_cli.errors import UserError
from ebm_cli.model import truncated
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

    @override
    def build(self, data: Data, key: Key) -> Noise:
        """One mean and one standard deviation for all sites. Raises UserError if next to none of it is in the box."""
        here, space = torch.ones(data.space.sites), data.space
        if isinstance(space, Box) and not truncated.log_z(space, self.mean * here, self.std * here).isfinite():
            raise UserError(
                f"noise.mean = {self.mean}, noise.std = {self.std}: next to nothing of this law lies in the box of the "
                f"data, [{space.low:g}, {space.high:g}]; take a mean within it or noise=fitted"
            )
        return gaussian(data.space, self.mean * here, self.std * here)
