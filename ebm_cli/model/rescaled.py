"""A model of real numbers in other units, so that one step size suits densities of any width."""

from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import EnergyModel


class Rescaled(EnergyModel):
    """E'(y) = E(m + c y): the density of y = (x - m) / c where x has that of `model`, c like m or a scalar."""

    compiles = True

    def __init__(self, model: EnergyModel, mean: Tensor, width: Tensor) -> None:
        super().__init__()
        self.model, self.space = model, model.space
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("width", width, persistent=False)

    mean: Tensor
    width: Tensor

    @override
    def energy(self, x: Tensor) -> Tensor:
        """E(m + c y), (batch,)."""
        energy: Tensor = self.model.energy(self.outside(x))
        return energy

    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient in y is c times that in x."""
        energy, grad = self.model.energy_and_grad(self.outside(x))
        return energy, self.width * grad

    def inside(self, x: Tensor) -> Tensor:
        """y = (x - m) / c."""
        return (x - self.mean) / self.width

    def outside(self, y: Tensor) -> Tensor:
        """x = m + c y."""
        return self.mean + self.width * y
