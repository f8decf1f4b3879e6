"""Boltzmann machine of real units: a Gaussian by its couplings."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import ModelSpec
from ebm_cli.model.boltzmann import Boltzmann
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Real, Space


class RealBoltzmann(Boltzmann):
    """E(x) = |x|^2 / 2 - x.W x / 2 - b.x on R^D, W as in `Boltzmann`: a Gaussian with the precision I - W.

    It has an integral as long as all eigenvalues of W are below 1, which training does not see to; b starts at 0.
    """

    def __init__(self, space: Space, weight_std: float, key: Key) -> None:
        super().__init__(space, weight_std, torch.full((space.sites,), 0.5), key)

    @torch.no_grad()
    @override
    def improper(self) -> str | None:
        """An eigenvalue of W from 1 on."""
        largest = torch.linalg.eigvalsh(self.coupling().double()).max().item()
        if largest < 1:
            return None
        return (
            f"the largest eigenvalue of W is {largest:.4g} and must be below 1, so that exp(-E) has no finite integral "
            "and the model no likelihood; train with a lower optimizer.lr, or optimizer.weight_decay"
        )

    @override
    def energy(self, x: Tensor) -> Tensor:
        """|x|^2 / 2 - sum_{i<j} x_i W_ij x_j - b.x, (batch,)."""
        return 0.5 * x.flatten(1).square().sum(1) + super().energy(x)

    @torch.no_grad()
    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """With x added to the gradient of the discrete one."""
        energy, grad = super().energy_and_grad(x)
        return energy + 0.5 * x.flatten(1).square().sum(1), grad + x


@register("model", "real_boltzmann")
class RealBoltzmannSpec(ModelSpec):
    """Boltzmann machine of real units, every pair coupled, each with an energy x^2 / 2 of its own."""

    weight_std: Annotated[float, Field(ge=0)]

    builds = RealBoltzmann
    spaces = (Real,)

    @override
    def parameters(self, space: Space) -> int:
        return space.sites**2 + space.sites

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> RealBoltzmann:
        """W_ij ~ N(0, weight_std^2) for i < j, b = 0: without couplings N(0, I)."""
        return RealBoltzmann(space, self.weight_std, key)
