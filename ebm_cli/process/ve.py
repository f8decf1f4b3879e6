"""The variance-exploding process."""

import math
from typing import Annotated

import torch
from pydantic import Field
from typing_extensions import override

from ebm_cli.process.base import Process, Scales
from ebm_cli.registry import register


@register("process", "ve")
class VarianceExploding(Process):
    """a = 1, s from `sigma_min` to `sigma_max` in equal ratios (Song & Ermon 2019, sec. 4.1; Song et al. 2021, eq. 30).

    Both in units of the standard deviation of the data. What is left of these at the last level is taken for nothing.
    """

    levels: Annotated[int, Field(ge=2, le=10_000)]
    sigma_min: Annotated[float, Field(gt=0)]
    sigma_max: Annotated[float, Field(gt=0)]

    @override
    def refusal(self) -> str | None:
        """Noise rises."""
        if self.sigma_min < self.sigma_max:
            return None
        return f"sigma_min = {self.sigma_min:g}: must be below sigma_max = {self.sigma_max:g}"

    @override
    def scales(self) -> Scales:
        first, last = math.log(self.sigma_min), math.log(self.sigma_max)
        s = torch.linspace(first, last, self.levels, dtype=torch.float64).exp()
        return Scales(torch.ones_like(s), s)
