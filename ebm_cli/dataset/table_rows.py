"""Rows of a table that the user brings to a run that was trained on one: matched by the names of the columns."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ebm_cli.dataset import table_columns, table_files
from ebm_cli.dataset.base import Values
from ebm_cli.dataset.columns import Columns
from ebm_cli.dataset.own_rows import OwnRows
from ebm_cli.dataset.table_files import Frame
from ebm_cli.dataset.text_rows import LABELS
from ebm_cli.errors import UserError, nearest
from ebm_cli.space import Binary, Categorical, Mixed, Space


@dataclass(frozen=True, kw_only=True)
class TableRows(OwnRows):
    """The same with the table they are from: numbers of categories, or what numeric cells hold."""

    frame: Frame
    columns: Columns


def read(path: Path, said: str, columns: Columns) -> TableRows:
    """The rows of a file whose columns have these names, in any order; others are not looked at. Raises UserError."""
    return of_frame(table_files.read(path, said), said, columns)


def of_frame(frame: Frame, said: str, columns: Columns) -> TableRows:
    """The same of a table that is there."""
    names = frame.data.columns
    for column in columns.columns:
        if column.name not in names:
            close = nearest(column.name, names) or f"; it has {table_columns.listed(names)}"
            raise UserError(f"{said}: has no column {column.name!r}, which the run's model is of{close}")
    values = np.stack([table_columns.coded(frame, column, said) for column in columns.columns], 1)
    missing = np.isnan(values)
    return TableRows(
        np.where(missing, 0, values), missing, _labels(frame, columns), frame.places, frame=frame, columns=columns
    )


def unread(rows: TableRows) -> list[str]:
    """Columns of the file that the run's model knows nothing of."""
    known = {*rows.columns.names, rows.columns.label, *LABELS}
    return [name for name in rows.frame.data.columns if name not in known]


def values_in(space: Space) -> Values:
    """What the values of a table are called in the space of a run."""
    if isinstance(space, Mixed):
        return "mixed"
    return "binary" if isinstance(space, Binary) else "categorical" if isinstance(space, Categorical) else "real"


def _labels(frame: Frame, columns: Columns) -> NDArray[np.str_] | None:
    """The cells of the column of labels, or of one that is called so and is not modelled."""
    called = (columns.label, *LABELS)
    name = next((name for name in called if name in frame.data.columns and name not in columns.names), None)
    if name is None:
        return None
    polars = table_files.library()
    return np.array(frame.data[name].cast(polars.String).fill_null("").to_list())
