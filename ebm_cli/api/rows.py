"""Rows that a caller has in memory, or in a file, as a run's own data were read."""

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_cli.commands.trained import Trained
from ebm_cli.dataset import own_rows
from ebm_cli.dataset.own_rows import OwnRows

SAID = "x"


def taken(trained: Trained, x: Any, said: str = SAID) -> OwnRows:
    """Values and gaps of x: an array, tensor, data frame or list (n, *shape), or the path of a file of rows.

    Missing are NaN, and what a masked array masks. Raises UserError, beginning with `said`.
    """
    if isinstance(x, str | os.PathLike):
        from pathlib import Path

        return trained.parts.components.dataset.own_rows(Path(x).expanduser(), f"{said} = {x}", None)
    values = _array(x)
    mask = np.ma.getmaskarray(x) if isinstance(x, np.ma.MaskedArray) else None
    return own_rows.of_array(values, mask, None, said, "the array")


def _array(x: Any) -> NDArray[Any]:
    """As numpy has it; of a data frame its values in the order of the columns."""
    if isinstance(x, Tensor):
        return x.detach().cpu().numpy()
    dense = x.toarray() if hasattr(x, "toarray") else x  # of scipy.sparse
    values: NDArray[Any] = np.ma.getdata(dense) if isinstance(dense, np.ma.MaskedArray) else np.asarray(dense)
    return values


def like(x: Any, found: NDArray[Any]) -> Any:
    """`found` as a tensor beside x where x is one, else as it is."""
    return torch.from_numpy(found).to(x.device) if isinstance(x, Tensor) else found
