"""Points of a known density on the plane."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ebm_cli import rng
from ebm_cli.dataset.base import Arrays, Binarize, Dataset, Raw, Truth
from ebm_cli.density import KINDS
from ebm_cli.registry import register


@register("dataset", "points_2d")
class Points2D(Dataset):
    """Independent draws of the density `kind`, which evaluations may compare the model with."""

    kind: Literal["gaussians8", "gaussians25", "rings", "moons", "spirals", "pinwheel", "checkerboard"]
    train: Annotated[int, Field(ge=1)]
    held_out: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    binarize: Binarize
    values = "real"

    def read(self) -> Raw:
        """Drawn now: `train` rows, and `held_out` each for validation and testing."""
        density = KINDS[self.kind]()
        x = density.sample(self.train + 2 * self.held_out, rng.stream(self.seed, "points_2d", self.kind))
        parts = x.float().split([self.train, self.held_out, self.held_out])
        train, valid, test = (Arrays(np.ascontiguousarray(part.numpy())) for part in parts)
        return Raw("real", train, valid, test, Truth(density=density))
