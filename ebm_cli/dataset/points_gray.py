"""Points of the plane as rows of bits in Gray code: the usual toy for models of bits."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.dataset.base import Data, DrawnDataset, Raw, Truth
from ebm_cli.dataset.gray_code import GrayCode
from ebm_cli.dataset.plane import LAWS, REACH
from ebm_cli.errors import UserError
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Device
from ebm_cli.space import Space


@dataclass(frozen=True)
class GrayLaw:
    """Rows of points of a kind."""

    kind: str
    code: GrayCode

    def rows(self, n: int, key: AnyKey, device: Device) -> Tensor:
        """n independent ones, (n, bits) float32."""
        return self.code.rows(LAWS[self.kind](n, key, device))


@register("dataset", "points_gray")
class PointsGray(DrawnDataset):
    """Independent points of the set `kind` (`plane.py`) as rows of `bits` bits (`gray_code.py`).

    Training draws rows anew at each step: `train` of them are what statistics of the data are made from. The held-out
    ones stay. Rows that are uniform have bits log 2 nats, at 32 bits 22.18; Zhang et al. 2022 have 20.04 to 20.09 on
    2spirals.
    """

    kind: Literal["2spirals", "8gaussians", "circles", "moons", "pinwheel", "swissroll", "checkerboard"]
    bits: Annotated[int, Field(ge=4, le=60)]
    values = "binary"

    @override
    def read(self) -> Raw:
        if self.bits % 2:
            raise UserError(f"dataset.bits = {self.bits}: half of them are for each coordinate; give an even number")
        key = rng.stream(self.seed, "points_gray", self.kind)
        rows = self.law.rows(self.rows, key, "cpu").byte().numpy()
        return self.parted("binary", rows, Truth(plane=self.law.code))

    @property
    def law(self) -> GrayLaw:
        """That of the rows."""
        return GrayLaw(self.kind, GrayCode(self.bits, REACH[self.kind]))

    @override
    def _loaded(self, accepted: tuple[type[Space], ...]) -> Data:
        data = super()._loaded(accepted)
        return replace(data, train=replace(data.train, law=self.law))
