"""A set small enough to know everything about: the classic check that a learning rule works."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from typing_extensions import override

from ebm_cli.dataset.base import Arrays, Binarize, Dataset, Raw, Values
from ebm_cli.registry import register


@register("dataset", "bars_and_stripes")
class BarsAndStripes(Dataset):
    """Every image of vertical bars and every image of horizontal stripes on side x side binary pixels.

    2 * 2^side rows, all of them training and test rows at once; there is no validation split. The all-0 and the
    all-1 image are both, so they occur twice: p = 2/2^(side + 1), and 1/2^(side + 1) for the others. No model can
    exceed sum over the distinct images of log p = -102.5858 for side 4 (30 images).

    Source: D. MacKay, Information Theory, Inference, and Learning Algorithms, CUP 2003, section 43.
    """

    binarize: Binarize
    side: Annotated[int, Field(ge=2, le=6)]
    values: ClassVar[Values | None] = "binary"

    @override
    def read(self) -> Raw:
        """All rows, (2 * 2^side, side, side) uint8: first the bars, then the stripes."""
        code = np.arange(2**self.side)[:, None] >> np.arange(self.side) & 1
        bars = np.broadcast_to(code[:, None, :], (len(code), self.side, self.side))
        rows = Arrays(np.concatenate((bars, bars.transpose(0, 2, 1))).astype(np.uint8))
        return Raw("binary", rows, None, rows)
