"""8 x 8 handwritten digits that come with scikit-learn: real data without a download."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.dataset.base import Arrays, GreyDataset, Raw, Values
from ebm_cli.errors import UserError
from ebm_cli.registry import register

ROWS, FITTED = 1797, 1437


@register("dataset", "digits")
class Digits(GreyDataset):
    """1797 real handwritten digits of 8 x 8 grey pixels, included in scikit-learn.

    The split is fixed: a random order of all rows, of which the first 1437 are for fitting and the last 360 for
    testing; the last `valid` rows of the 1437 are kept back for validation. Binarised at 8/16 by default; the 17
    grey values are categories for models that take nothing else.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (test part), UCI 1998.
    """

    valid: Annotated[int, Field(ge=0)]
    values: ClassVar[Values | None] = "grey"
    levels: ClassVar[int] = 17
    binary_by_default: ClassVar[Literal["threshold", "stochastic"]] = "threshold"

    @override
    def read(self) -> Raw:
        """Values 0..16 divided by 16, (n, 8, 8) float32. Raises UserError if `valid` leaves nothing to train on."""
        if self.valid >= FITTED:
            raise UserError(f"dataset.valid = {self.valid}: must be below {FITTED}, the rows there are for fitting")
        table = _table()[rng.permutation(ROWS, rng.stream(0, "digits")).numpy()]
        images = (table[:, :-1].reshape(-1, 8, 8) / 16).astype(np.float32)
        labels = table[:, -1].astype(np.int64)
        cut = FITTED - self.valid
        train, valid, test = (
            Arrays(images[part], labels[part]) for part in (slice(cut), slice(cut, FITTED), slice(FITTED, ROWS))
        )
        return Raw("grey", train, valid if self.valid else None, test, categories=self.levels)


@cache
def _table() -> NDArray[np.float64]:
    """64 pixels and the label of every row, from the file in scikit-learn.

    `sklearn.datasets.load_digits` reads the same file, after an import that takes longer than training's first step.
    """
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    return np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
