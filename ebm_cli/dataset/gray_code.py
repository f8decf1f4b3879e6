"""Points of the plane as rows of bits: sign and magnitude, the magnitude in binary-reflected Gray code."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GrayCode:
    """Rows of `bits`, half of them for each coordinate c: its sign, then k = |c scale| cut off after the point.

    The sign is 0 for c >= 0, else 1, so that there is a -0. k has bits / 2 - 1 digits, the highest first, in Gray code:
    g = k xor (k >> 1), in which neighbours differ in one digit. The points of a row are a square of side 1 / scale.
    scale = 2^(bits / 2 - 1) / (reach + 1) (Dai et al. 2020; Zhang et al. 2022, their code).
    """

    bits: int
    reach: float

    @property
    def digits(self) -> int:
        """Of a magnitude."""
        return self.bits // 2 - 1

    @property
    def scale(self) -> float:
        """Whole numbers in a unit of length."""
        return 2**self.digits / (self.reach + 1)

    def rows(self, points: Tensor) -> Tensor:
        """The bits of points (n, 2), (n, bits) float32; what lies beyond the code is brought to its end."""
        k = (points.abs() * self.scale).long().clamp_max(2**self.digits - 1)
        gray = k ^ (k >> 1)
        places = torch.arange(self.digits - 1, -1, -1, device=points.device)
        digits = (gray[:, :, None] >> places) & 1
        sign = (points < 0).long()[:, :, None]
        return torch.cat([sign, digits], 2).flatten(1).float()

    def points(self, rows: Tensor) -> Tensor:
        """+-k / scale of rows (n, bits), (n, 2) float32: the corner of each row's square that is nearest to the origin.

        Digit j of k is the sum of digits 0 to j of its Gray code, modulo 2.
        """
        sign, gray = rows.reshape(len(rows), 2, self.bits // 2).double().split([1, self.digits], 2)
        value = 2.0 ** torch.arange(self.digits - 1, -1, -1, dtype=torch.float64, device=rows.device)
        k = (gray.cumsum(2) % 2) @ value
        return ((1 - 2 * sign.squeeze(2)) * k / self.scale).float()
