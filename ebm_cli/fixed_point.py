"""Products of binary matrices with real ones in 24-bit fixed point, by 8-bit integer products.

A processor multiplies 8-bit integers several times as fast as float32 numbers, and a sum of them is exact. For binary v
the product v W needs no more: W is rounded once, to max|W| 2^-24 or so, and written in three balanced digits of base
256. The error is that of the rounding, about that of one float32 operation on the largest entry, for each term.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_LARGEST = 127 * 2**16  # so that the first digit is at most 127


class FixedPoint(NamedTuple):
    """A matrix as scale * (65536 d_0 + 256 d_1 + d_2), digits (3, rows, columns) int8 in [-128, 127]."""

    digits: Tensor
    scale: Tensor

    def transposed(self) -> "FixedPoint":
        """The transposed matrix; nothing is copied."""
        return FixedPoint(self.digits.transpose(1, 2), self.scale)


def fixed_point(matrix: Tensor, bound: Tensor | None = None) -> FixedPoint:
    """The nearest fixed-point matrix: each entry errs by at most bound / (2 * 127 * 2^16).

    `bound`, a scalar, is at least every |entry|; where it is known no pass over the matrix is needed to find it.
    """
    largest = matrix.abs().max() if bound is None else bound
    scale = (largest / _LARGEST).clamp_min(torch.finfo(matrix.dtype).tiny)
    rest = (matrix / scale).round().to(torch.int32)
    low = (rest + 128 & 255) - 128
    rest = rest - low >> 8
    middle = (rest + 128 & 255) - 128
    high = rest - middle >> 8
    return FixedPoint(torch.stack([high, middle, low]).to(torch.int8), scale)


def product(binary: Tensor, matrix: FixedPoint) -> Tensor:
    """binary @ matrix for entries 0 and 1, (rows, columns) float32; exact but for the last rounding."""
    bits = binary.to(torch.int8)
    high, middle, low = (torch._int_mm(bits, digit).float() for digit in matrix.digits.unbind())
    return (high * 65536 + (middle * 256 + low)) * matrix.scale
