"""Products of binary matrices with real ones in fixed point, by 8-bit integer products.

A processor multiplies 8-bit integers several times as fast as float32 numbers, and a sum of them is exact. For binary v
the product v W needs no more: W is rounded once, to a fraction of max|W|, and written in balanced digits of base 256.
Three digits, 24 bits, err by about one float32 rounding of the largest entry for each term; two digits by 256 times
that, which is still eight to sixty times less than the operands of tf32 products.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class FixedPoint(NamedTuple):
    """A matrix as scale * sum_k 256^(n - 1 - k) d_k, digits d (n, rows, columns) int8 in [-128, 127]."""

    digits: Tensor
    scale: Tensor

    def transposed(self) -> "FixedPoint":
        """The transposed matrix; nothing is copied."""
        return FixedPoint(self.digits.transpose(1, 2), self.scale)


def largest(digits: int) -> int:
    """Units of the largest entry: the first digit is then at most 127."""
    return 127 * 256 ** (digits - 1)


def fixed_point(matrix: Tensor, digits: int, bound: Tensor | None = None) -> FixedPoint:
    """The nearest fixed-point matrix: each entry errs by at most bound / (2 * 127 * 256^(digits - 1)).

    `bound`, a scalar, is at least every |entry|; where it is known no pass over the matrix is needed to find it.
    """
    bound = matrix.abs().max() if bound is None else bound
    scale = (bound / largest(digits)).clamp_min(torch.finfo(matrix.dtype).tiny)
    rest, found = (matrix / scale).round().to(torch.int32), []
    for _ in range(digits - 1):
        found.append((rest + 128 & 255) - 128)
        rest = rest - found[-1] >> 8
    return FixedPoint(torch.stack([rest, *found[::-1]]).to(torch.int8), scale)


def product(binary: Tensor, matrix: FixedPoint) -> Tensor:
    """binary @ matrix for entries 0 and 1, (rows, columns) float32; exact but for the roundings of the result."""
    bits = binary.to(torch.int8)
    sums = [torch._int_mm(bits, digit).float() for digit in matrix.digits.unbind()]
    low = sums[1] * 256 + sums[2] if len(sums) == 3 else sums[1]
    return (sums[0] * 256 ** (len(sums) - 1) + low) * matrix.scale
