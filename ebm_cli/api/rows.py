"""Rows that a caller has in memory, or in a file, as a run's own data were read."""

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_cli.api import frames
from ebm_cli.commands import own, tables
from ebm_cli.commands.trained import Trained
from ebm_cli.dataset import own_rows, table_rows
from ebm_cli.dataset.conformed import Conformed
from ebm_cli.dataset.own_rows import OwnRows
from ebm_cli.errors import UserError

SAID = "x"


def read(trained: Trained, x: Any, *, gaps: bool) -> tuple[OwnRows, Conformed]:
    """x as it is and as the run's model takes it: an array, tensor, data frame or list (n, *shape), or a file of rows.

    Missing are NaN, and what a masked array masks; with `gaps` also -1 among whole numbers from 0. Columns of a data
    frame go by their names where the run was trained on a table. Raises UserError.
    """
    if isinstance(x, str | os.PathLike):
        return own.read(trained, SAID, os.fspath(x), None, gaps=gaps)
    columns = tables.columns_of(trained)
    if columns is not None and frames.is_frame(x):
        return own.by_name(table_rows.of_frame(frames.taken(x, SAID), SAID, columns), trained, SAID)
    array = _array(x)
    if columns is not None and array.dtype.kind not in "biuf":
        raise UserError(f"{SAID}: is no data frame; give one with the columns {', '.join(columns.names)}")
    mask = np.ma.getmaskarray(x) if isinstance(x, np.ma.MaskedArray) else None
    return own.taken(trained, own_rows.of_array(array, mask, None, SAID, "the array"), SAID, gaps=gaps)


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
