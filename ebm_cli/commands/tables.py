"""What commands on runs that were trained on a table do with tables: read rows by name, write them with their types."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ebm_cli.commands.trained import Trained
from ebm_cli.dataset import columns as table
from ebm_cli.dataset import table_files
from ebm_cli.dataset.columns import Column, Columns
from ebm_cli.dataset.table_rows import TableRows
from ebm_cli.errors import UserError
from ebm_cli.record.run import COLUMNS, Run

Format = Literal["csv", "tsv", "parquet", "feather"]
_NUMBERS = ("mean", "mode_share", "r_hat")
"""What is known of a cell that is a number whatever its column is of."""
_DIGITS = 8  # of real numbers that are drawn, which float32 holds


def columns_of(trained: Trained) -> Columns | None:
    """Those of the table that a run was trained on, None of other data. Raises UserError if they are not recorded."""
    if trained.choice["dataset"] != "table":
        return None
    file, sites = trained.run.path / COLUMNS, trained.parts.data.space.sites
    found = table.of_json(trained.run.read_json(COLUMNS))
    if found is None:
        raise UserError(
            f"{file} is missing or describes no table; ebm train resume={trained.run.path} writes one that is missing"
        )
    if len(found.columns) != sites:
        raise UserError(f"{file} has {len(found.columns)} columns, the model {sites}; it was edited")
    return found


def written(home: Run, name: str, found: Any, form: Format) -> Path:
    """A polars frame as a file of that format."""
    buffer = io.BytesIO()
    if form in ("csv", "tsv"):
        found.write_csv(buffer, separator="," if form == "csv" else "\t")
    elif form == "parquet":
        found.write_parquet(buffer)
    else:
        found.write_ipc(buffer)
    return home.write_bytes(f"{name}.{form}", buffer.getvalue())


def frame(values: NDArray[Any], columns: Columns) -> Any:
    """Rows (n, sites), numbers of categories or what numeric columns hold, in a polars frame of their types."""
    polars = table_files.library()
    return polars.DataFrame([series(values[:, i], column) for i, column in enumerate(columns.columns)])


def series(values: NDArray[Any], column: Column) -> Any:
    """One column of it. Whole numbers are rounded where the column has no others."""
    polars = table_files.library()
    types = {"text": polars.String, "integer": polars.Int64, "real": polars.Float64, "truth": polars.Boolean}
    if column.count:
        named: list[Any] = [column.values[int(code)] for code in values]
        return polars.Series(column.name, named, types[column.type])
    if column.type == "integer":
        return polars.Series(column.name, np.rint(values).astype(np.int64))
    return polars.Series(column.name, [float(f"{value:.{_DIGITS}g}") for value in values.tolist()])


def filled(rows: TableRows, values: NDArray[Any]) -> Any:
    """The table of the file, all columns as they are there, with `values` (n, sites) where a cell is missing.

    A type of the file that has no room for what was drawn is widened.
    """
    polars = table_files.library()
    own, found = rows.frame.data, []
    for i, column in enumerate(rows.columns.columns):
        there, drawn = own[column.name], series(values[:, i], column)
        if there.dtype == polars.Boolean and drawn.dtype == polars.String:
            drawn = drawn.str.to_lowercase() == "true"
        kept = drawn.cast(there.dtype, strict=False)
        narrow = there.null_count() == len(there) or kept.null_count() > drawn.null_count()
        drawn = drawn if narrow else kept
        found.append(there.cast(drawn.dtype).zip_with(there.is_not_null(), drawn))
    return own.with_columns(found)


def described(rows: TableRows, cells: Mapping[str, NDArray[Any]]) -> Any:
    """What is known of each cell that was drawn as a polars frame: by the names of columns and of their categories.

    `cells` are the columns of imputed.csv, the number of the row and of the value first. Categories have a mode, and
    `mode_share`, how often it was drawn; ordinal ones quantiles too; bits the mean, the share of their second value.
    """
    polars = table_files.library()
    site = cells["value"].astype(int) - 1
    columns = rows.columns.columns
    kinds = np.array([column.kind for column in columns])[site]
    names = [name for name in cells if name not in ("row", "value")]
    found: dict[str, Any] = {
        "row": cells["row"].astype(int),
        "column": [columns[i].name for i in site],
        "kind": kinds.tolist(),
    }
    for name in names:
        found[name] = [_shown(columns[i], name, value) for i, value in zip(site, cells[name].tolist(), strict=True)]
    numbers = [polars.col(name).cast(polars.Float64) for name in names if name in _NUMBERS]
    return polars.DataFrame(found, strict=False).with_columns(numbers)


def _shown(column: Column, name: str, value: float) -> str | None:
    """One figure of a cell in words of the column; None where there is none or it says nothing."""
    if value != value or (name == "mode_share" and column.kind == "numeric"):
        return None
    named = name == "mode" or name.startswith("q")
    if column.count and named:
        return None if name != "mode" and column.kind == "categorical" else str(column.values[int(value)])
    if column.count and name == "mean" and column.kind != "binary":
        return None
    return f"{value:.8g}"
