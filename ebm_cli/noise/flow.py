"""A normalising flow as noise, which learns to be near the data."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.dataset.base import Data
from ebm_cli.model.flow import Flow, FlowSpec
from ebm_cli.noise.base import Noise, NoiseSpec
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Real


class Flowing(Noise):
    """The density and the draws of a flow."""

    compiles = False

    def __init__(self, law: Flow) -> None:
        super().__init__()
        self.law = law

    @torch.no_grad()
    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        return self.push(n, key)

    def push(self, n: int, key: AnyKey) -> Tensor:
        """Draws, differentiable in the parameters of the flow, (n, *shape)."""
        return self.law.push(rng.normal((n, self.law.space.sites), key, self.law.mean.device, self.law.mean.dtype))

    @override
    def log_prob(self, x: Tensor) -> Tensor:
        """Minus the energy of the flow."""
        return -self.law.energy(x)


@register("noise", "flow")
class FlowNoise(NoiseSpec):
    """Normalising flow, which begins as a normal law of the data's mean; its keys are those of model=flow."""

    kind: Literal["maf", "nsf", "realnvp"]
    transforms: Annotated[int, Field(ge=1)]
    hidden: Annotated[int, Field(ge=1)]
    bins: Annotated[int, Field(ge=2)]
    spread: Annotated[float, Field(gt=0)]

    spaces = (Real,)

    @override
    def build(self, data: Data, key: Key) -> Flowing:
        spec = FlowSpec(
            kind=self.kind, transforms=self.transforms, hidden=self.hidden, bins=self.bins, spread=self.spread
        )
        return Flowing(spec.build(data.space, data.smoothed_mean().cpu(), key))
