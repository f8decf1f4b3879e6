"""The process of diffusion recovery likelihood: few levels, far apart."""

from typing import Annotated

import torch
from pydantic import Field
from typing_extensions import override

from ebm_cli.process.base import Process, Scales
from ebm_cli.registry import register

_STEPS = 1000


@register("process", "recovery")
class RecoveryProcess(Process):
    """a^2 = prod_(j <= i) (1 - beta_j), s^2 = 1 - a^2 (Gao et al. 2021, sec. 3.1 and their code).

    The 1000 rates beta_j go evenly from `beta_min` to `beta_max`; the levels are at i = 0, q, 2 q, ... with
    q = 1000 // (2 (levels - 2)), and the last one at i = 999.
    """

    levels: Annotated[int, Field(ge=3, le=500)]
    beta_min: Annotated[float, Field(gt=0, lt=1)]
    beta_max: Annotated[float, Field(gt=0, lt=1)]

    @override
    def refusal(self) -> str | None:
        """The rate of noise rises."""
        if self.beta_min < self.beta_max:
            return None
        return f"beta_min = {self.beta_min:g}: must be below beta_max = {self.beta_max:g}"

    @override
    def scales(self) -> Scales:
        beta = torch.linspace(self.beta_min, self.beta_max, _STEPS, dtype=torch.float64)
        at = torch.arange(self.levels - 1) * (_STEPS // (2 * max(1, self.levels - 2)))
        twice = torch.log1p(-beta).cumsum(0)[torch.cat([at, torch.tensor([_STEPS - 1])])]
        return Scales((twice / 2).exp(), (-torch.expm1(twice)).sqrt())
