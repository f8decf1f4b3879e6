"""The variance-preserving process."""

import math
from typing import Annotated

import torch
from pydantic import Field
from typing_extensions import override

from ebm_cli.process.base import Process, Scales
from ebm_cli.registry import register


@register("process", "vp")
class VariancePreserving(Process):
    """a(t) = exp(-t^2 (beta_max - beta_min) / 4 - t beta_min / 2), s(t)^2 = 1 - a(t)^2 (Song et al. 2021, eq. 33).

    Of the times between `time_min` and 1 there are `levels`, from one to the next of which log a / s falls by the same
    amount.
    """

    levels: Annotated[int, Field(ge=2, le=10_000)]
    beta_min: Annotated[float, Field(gt=0)]
    beta_max: Annotated[float, Field(gt=0)]
    time_min: Annotated[float, Field(gt=0, lt=1)]

    @override
    def refusal(self) -> str | None:
        """The rate of noise rises."""
        if self.beta_min < self.beta_max:
            return None
        return f"beta_min = {self.beta_min:g}: must be below beta_max = {self.beta_max:g}"

    @override
    def scales(self) -> Scales:
        """log a / s evenly spaced between the two ends, a^2 = sigmoid(2 log a / s)."""
        first, last = (self._log_ratio(t) for t in (self.time_min, 1.0))
        twice = 2 * torch.linspace(first, last, self.levels, dtype=torch.float64)
        return Scales(twice.sigmoid().sqrt(), (-twice).sigmoid().sqrt())

    def _log_ratio(self, t: float) -> float:
        """log a(t) / s(t)."""
        log_a = -(t**2) * (self.beta_max - self.beta_min) / 4 - t * self.beta_min / 2
        return log_a - math.log(-math.expm1(2 * log_a)) / 2
