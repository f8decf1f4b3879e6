"""Data frames of pandas and polars for runs on a table: columns by their names, cells as they are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_cli.dataset import table_files, text_tables
from ebm_cli.dataset.table_files import Frame
from ebm_cli.errors import UserError


def is_frame(x: object) -> bool:
    """Whether it has columns by name."""
    return type(x).__name__ == "DataFrame" and hasattr(x, "columns")


def taken(x: Any, said: str) -> Frame:
    """A frame as files are read: null where nothing is. Raises UserError, beginning with `said`."""
    polars = table_files.library()
    text_tables.check_apart([str(name) for name in x.columns], said)
    if not len(x):
        raise UserError(f"{said}: holds no row; give it some")
    return table_files.of_cells(x if isinstance(x, polars.DataFrame) else polars.DataFrame(_cells(x), strict=False))


def _cells(x: Any) -> dict[str, list[Any]]:
    """Of a frame of pandas, None where it has NaN, NaT or NA."""
    return {str(name): x[name].astype(object).where(x[name].notna(), None).tolist() for name in x.columns}


def filled(x: Any, found: Any) -> Any:
    """x, its gaps filled from the polars frame `found` of the same rows and columns, in which nothing is missing.

    A frame of pandas keeps index and types; a category that a column lacks is added to it.
    """
    if not is_frame(x) or isinstance(x, table_files.library().DataFrame):
        return like(x, found)
    whole = x.copy()
    for name in x.columns:
        gaps = np.flatnonzero(x[name].isna())
        drawn = found[str(name)][gaps]
        if len(gaps) and not drawn.null_count():
            whole[name] = _filled(x[name].copy(), gaps, drawn.to_list())
    return whole


def _filled(column: Any, gaps: NDArray[np.int64], drawn: list[Any]) -> Any:
    """One column; of one of numpy's types that is all gaps, or has no room for what was drawn, the type is that of
    what was drawn."""
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.cat.add_categories([value for value in {*drawn} if value not in column.cat.categories])
    if len(gaps) == len(column) and isinstance(column.dtype, np.dtype):
        return pd.Series(drawn, column.index)
    try:
        column.iloc[gaps] = drawn
    except (TypeError, ValueError, OverflowError):
        column = column.astype(object)
        column.iloc[gaps] = drawn
        return column.infer_objects()
    return column


def like(x: Any, found: Any) -> Any:
    """The polars frame `found` as one of pandas, unless x is one of polars or pandas is not installed."""
    polars = table_files.library()
    if isinstance(x, polars.DataFrame):
        return found
    try:
        import pandas as pd
    except ImportError:
        return found
    return pd.DataFrame({name: _column(found[name]) for name in found.columns})


def _column(found: Any) -> Any:
    """Cells of a column of polars; of real numbers NaN where there is none."""
    return found.to_numpy() if found.dtype.is_float() else found.to_list()
