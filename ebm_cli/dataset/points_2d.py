"""Points of a known density on the plane."""

from typing import Literal

from typing_extensions import override

from ebm_cli import rng
from ebm_cli.dataset.base import DrawnDataset, Raw, Truth
from ebm_cli.dataset.density import KINDS
from ebm_cli.registry import register


@register("dataset", "points_2d")
class Points2D(DrawnDataset):
    """Independent draws of the density `kind`, which evaluations may compare the model with."""

    kind: Literal[
        "gaussians8", "gaussians25", "rings", "moons", "spirals", "pinwheel", "checkerboard",
        "annulus", "stripes", "band", "crossing",
    ]  # fmt: skip
    values = "real"

    @override
    def read(self) -> Raw:
        density = KINDS[self.kind]()
        x = density.sample(self.rows, rng.stream(self.seed, "points_2d", self.kind))
        return self.parted("real", x.float().numpy(), Truth(density=density))
