"""Rows that the user brings to a trained run, read as the run's own data were, and what is found of them, written."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ebm_cli.commands import tables
from ebm_cli.commands.trained import Trained, Wanted, its_data, open_trained
from ebm_cli.dataset import own_rows, table_files, table_rows
from ebm_cli.dataset.base import Values
from ebm_cli.dataset.conformed import Conformed, are_spins, conformed, values_of
from ebm_cli.dataset.own_rows import OwnRows
from ebm_cli.dataset.table_columns import listed
from ebm_cli.dataset.table_rows import TableRows
from ebm_cli.errors import RunError, UserError
from ebm_cli.record.run import Run
from ebm_cli.space import Measured, Spin, Units
from ebm_cli.terminal import log

Format = Literal["csv", "npz"]
Columns = Mapping[str, NDArray[Any]]
ROWS_AT_ONCE = 1000
_FAR = 1e6  # standard deviations of the training rows, where float32 has lost what a model could say


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a command beside its groups."""
    own = {key: value for key, value in config.items() if key not in ("device", "model", "dataset")}
    return own | {"checkpoint": str(config["checkpoint"])}


def opened(run: str, checkpoint: str, plugins: list[str], config: Mapping[str, Any]) -> Trained:
    """The run, without reading its data."""
    anew = {group: config.get(group) for group in ("model", "dataset")}
    wanted = Wanted(Path(run), checkpoint, config["device"], plugins=plugins, **anew)
    return open_trained(wanted, with_data=False)


def read(trained: Trained, key: str, path: str, array: str | None, *, gaps: bool = False) -> tuple[OwnRows, Conformed]:
    """The rows in a file that `key` names, as they are and as the run's model takes them. Raises UserError.

    With `gaps` whole numbers of -1 are missing where the run's values have a least one of 0.
    """
    said, file = f"{key} = {path}", Path(path).expanduser()
    columns = tables.columns_of(trained)
    if columns is not None and table_files.is_table(file):
        if array is not None:
            raise UserError(f"array = {array}: {said} is no .npz file, so it has no arrays by name; leave it out")
        return by_name(table_rows.read(file, said, columns), trained, said)
    rows = trained.parts.components.dataset.own_rows(file, said, array)
    for remark in rows.remarks:
        log.warning("%s: %s", said, remark)
    return taken(trained, rows, said, gaps=gaps)


def taken(trained: Trained, own: OwnRows, said: str, *, gaps: bool) -> tuple[OwnRows, Conformed]:
    """The same of rows that are there, `said` being how messages call them."""
    dataset, space = trained.parts.components.dataset, trained.parts.data.space
    own = own_rows.with_gaps(own, space, said) if gaps else own
    values = values_of(dataset, space, None)
    if values is None:
        values = values_of(dataset, space, _data(trained))
    if values == "binary" and not isinstance(space, Spin) and are_spins(own):
        log.warning("%s: holds -1 and 1 and no 0, so -1 is taken for the bit 0; what is missing is NaN or empty", said)
    return own, _conformed(trained, own, values, said)


def by_name(rows: TableRows, trained: Trained, said: str) -> tuple[OwnRows, Conformed]:
    """Rows of a table, for a run on one."""
    others = table_rows.unread(rows)
    if others:
        log.info("%s: columns that the run's model is not of are not looked at: %s", said, listed(others))
    return rows, _conformed(trained, rows, table_rows.values_in(trained.parts.data.space), said)


def _conformed(trained: Trained, own: OwnRows, values: Values | None, said: str) -> Conformed:
    """The rows in the space of the run, with a warning of numbers that are nothing like those it was trained on."""
    space = trained.parts.data.space
    found = conformed(trained.parts.components.dataset, own, values, space, said)
    if isinstance(space, Measured) and space.units is not None:
        _warn_of_far(own, space.units, said)
    return found


def _warn_of_far(own: OwnRows, units: Units, said: str) -> None:
    values, missing = (array.reshape(len(array), -1) for array in (own.values, own.missing))
    away = np.where(missing, 0, np.abs(values - np.array(units.mean)) / np.array(units.deviation))
    row, site = (int(number) for number in np.unravel_index(away.argmax(), away.shape))
    if away[row, site] > _FAR:
        log.warning(
            "%s, %s: %s is %.1g standard deviations from the mean of the training rows, about which the model says "
            "nothing", said, own.place(row), _named(own, site), away[row, site],
        )  # fmt: skip


def _data(trained: Trained) -> Any:
    """The run's own data, which say what kind of values theirs are; None, with a warning, if they are not there."""
    try:
        return its_data(trained)
    except (UserError, RunError) as error:
        log.warning("%s; what kind of values the run's data were is not known, those of the file alone decide", error)
        return None


def check_all_there(own: OwnRows, said: str, way: str) -> None:
    """Raise UserError for a value that is missing, with the way to fill it in."""
    gaps = own.missing.reshape(len(own.missing), -1)
    if gaps.any():
        row, site = (int(number) for number in np.argwhere(gaps)[0])
        raise UserError(f"{said}, {own.place(row)}: {_named(own, site)} is missing; fill it in, for example by {way}")


def _named(own: OwnRows, site: int) -> str:
    """A value of a row in words."""
    return f"column {own.columns.names[site]!r}" if isinstance(own, TableRows) else f"value {site + 1}"


def written(home: Run, name: str, columns: Columns, form: Format) -> Path:
    """A file `name`.csv or `name`.npz of columns (n,), or (n, m), which are m columns of a table."""
    if form == "npz":
        return home.write_npz(f"{name}.npz", columns)
    text = io.StringIO()
    flat = _flat(columns)
    table = csv.writer(text, lineterminator="\n")
    table.writerow(flat)
    table.writerows(zip(*(column.tolist() for column in flat.values()), strict=True))
    return home.write_text(f"{name}.csv", text.getvalue())


def _flat(columns: Columns) -> dict[str, NDArray[Any]]:
    """One column each: `hidden` of two is hidden_1 and hidden_2."""
    found: dict[str, NDArray[Any]] = {}
    for name, column in columns.items():
        wide = column.reshape(len(column), -1)
        found |= {name: column} if column.ndim == 1 else {f"{name}_{i + 1}": wide[:, i] for i in range(wide.shape[1])}
    return found


def counted(own: OwnRows) -> str:
    """How many rows there are, in words."""
    return f"{len(own.values)} row{'s' * (len(own.values) != 1)}"


def beside(own: OwnRows) -> dict[str, NDArray[Any]]:
    """What goes before all columns: the numbers of the rows, from 1, and their labels."""
    found: dict[str, NDArray[Any]] = {"row": np.arange(1, len(own.values) + 1)}
    return found if own.labels is None else found | {"label": own.labels}
