"""Data frames of pandas and polars for runs on a table: columns by their names, cells as they are."""

from typing import Any

from ebm_cli.dataset import table_files
from ebm_cli.dataset.table_files import Frame
from ebm_cli.errors import UserError


def is_frame(x: object) -> bool:
    """Whether it has columns by name."""
    return type(x).__name__ == "DataFrame" and hasattr(x, "columns")


def taken(x: Any, said: str) -> Frame:
    """A frame as files are read: null where nothing is. Raises UserError, beginning with `said`."""
    polars = table_files.library()
    table_files.check_apart([str(name) for name in x.columns], said)
    if not len(x):
        raise UserError(f"{said}: holds no row; give it some")
    return table_files.of_cells(x if isinstance(x, polars.DataFrame) else polars.DataFrame(_cells(x), strict=False))


def _cells(x: Any) -> dict[str, list[Any]]:
    """Of a frame of pandas, None where it has NaN, NaT or NA."""
    return {str(name): x[name].astype(object).where(x[name].notna(), None).tolist() for name in x.columns}


def like(x: Any, found: Any, *, index: bool = False) -> Any:
    """The polars frame `found` as one of pandas, unless x is one of polars or pandas is not installed.

    With `index` its rows are called as those of x, where x is a frame of pandas.
    """
    polars = table_files.library()
    if isinstance(x, polars.DataFrame):
        return found
    try:
        import pandas as pd
    except ImportError:
        return found
    called = x.index if index and is_frame(x) else None
    cells = {name: _column(found[name]) for name in found.columns}
    return pd.DataFrame(cells, index=called)


def _column(found: Any) -> Any:
    """Cells of a column of polars; of real numbers NaN where there is none."""
    return found.to_numpy() if found.dtype.is_float() else found.to_list()
