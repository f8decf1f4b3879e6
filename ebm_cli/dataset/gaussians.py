"""Mixtures of Gaussians of any dimension, whose modes lie far apart."""

from typing import Annotated

import torch
from pydantic import Field
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.dataset.base import DrawnDataset, Raw, Truth
from ebm_cli.dataset.density import Gaussians
from ebm_cli.errors import UserError
from ebm_cli.registry import register


@register("dataset", "gaussians")
class MixtureOfGaussians(DrawnDataset):
    """Draws of sum_m w_m N(c_m, `std`^2) in `dims` dimensions, c_m uniform in the cube [-`reach`, `reach`]^dims.

    40 modes with reach 40 and std 1.3133 on the plane are the mixture of Midgley et al. 2023 (FAB, app. D.2), with
    centres of our own. Two modes lie at -reach and reach along the first axis, 0 along the others. `weights` are in
    proportion; null: all alike. Evaluations may compare the model with the density.
    """

    dims: Annotated[int, Field(ge=1)]
    modes: Annotated[int, Field(ge=1)]
    reach: Annotated[float, Field(gt=0)]
    std: Annotated[float, Field(gt=0)]
    weights: list[Annotated[float, Field(gt=0)]] | None
    values = "real"

    @override
    def read(self) -> Raw:
        """Raises UserError if there is not a weight for each mode."""
        if self.weights is not None and len(self.weights) != self.modes:
            raise UserError(f"dataset.weights = {self.weights}: there are {self.modes} modes; give one for each")
        density, key = self.density(), rng.stream(self.seed, "gaussians")
        x = density.sample(self.rows, key.fold("rows"))
        return self.parted("real", x.float().numpy(), Truth(density=density))

    def density(self) -> Gaussians:
        """That of the rows."""
        centres = self.reach * (2 * rng.uniform((self.modes, self.dims), rng.stream(self.seed, "centres")) - 1)
        if self.modes == 2:
            centres = torch.zeros(2, self.dims)
            centres[:, 0] = torch.tensor([-self.reach, self.reach])
        weights = None if self.weights is None else torch.tensor(self.weights) / sum(self.weights)
        return Gaussians(centres, self.std, self.reach + 4 * self.std, centres, weights)
