"""Data frames of pandas and polars for runs on a table: columns by their names, cells as they are."""

from typing import Any

from ebm_cli.dataset import table_files
from ebm_cli.dataset.table_files import Frame


def is_frame(x: object) -> bool:
    """Whether it has columns by name."""
    return type(x).__name__ == "DataFrame" and hasattr(x, "columns")


def taken(x: Any) -> Frame:
    """A frame as files are read: null where nothing is."""
    polars = table_files.library()
    data = x if isinstance(x, polars.DataFrame) else polars.DataFrame(_cells(x), strict=False)
    return Frame(data.with_columns(polars.selectors.float().fill_nan(None)), None)


def _cells(x: Any) -> dict[str, list[Any]]:
    """Of a frame of pandas, None where it has NaN, NaT or NA."""
    return {str(name): x[name].astype(object).where(x[name].notna(), None).tolist() for name in x.columns}


def like(x: object, found: Any) -> Any:
    """The polars frame `found` as one of pandas, unless x is one of polars or pandas is not installed."""
    polars = table_files.library()
    if isinstance(x, polars.DataFrame):
        return found
    try:
        import pandas as pd
    except ImportError:
        return found
    return pd.DataFrame({name: found[name].to_list() for name in found.columns})
