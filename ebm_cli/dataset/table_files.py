"""Tables from CSV, TSV (packed by gzip or not), Parquet and Feather files: columns by name, nothing guessed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_cli.dataset import kinds, text_tables
from ebm_cli.dataset.text_tables import check_apart, is_missing, is_number
from ebm_cli.device.memory import readable, room
from ebm_cli.errors import UserError, install

_CELL = 48  # bytes of memory that a cell takes at most while a table is read, its text apart
_Lines = tuple[NDArray[np.int64], NDArray[np.bool_]]  # of the rows; which of all lines are blank
_WHOLE = re.compile("0|[1-9][0-9]*")
_NAMED = 4  # cells that a message names
_WAY = "name a table in text (.csv, .tsv), a Parquet or a Feather file"


@dataclass(frozen=True)
class Frame:
    """A polars frame of the columns as they are in the file, cells of text files being text, null where missing.

    `lines` are those of the rows in text files.
    """

    data: Any
    lines: NDArray[np.int64] | None

    def place(self, row: int) -> str:
        """Where a row is in the file, in words."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"

    @property
    def places(self) -> tuple[str, ...]:
        """Where each row is."""
        return tuple(self.place(row) for row in range(self.data.height))


def library() -> Any:
    """The module polars. Raises UserError with how to install it."""
    try:
        import polars
    except ImportError as error:
        raise UserError(
            f"tables are read and written by polars, which is not installed; install it, {install('tables')}"
        ) from error
    return polars


def is_table(path: Path) -> bool:
    """Whether a file looks like one that `read` reads."""
    return text_tables.is_one(path) or _binary(path) is not None


def read(path: Path, said: str) -> Frame:
    """The table in a file. Raises UserError, beginning with `said`, with the first thing wrong."""
    if not path.exists():
        raise UserError(f"{said}: there is no such file")
    is_text, kind = text_tables.is_one(path), _binary(path)
    if not is_text and kind is None:
        what = "is a folder" if path.is_dir() else "its first bytes say nothing"
        raise UserError(f"{said}: {kinds.instead(path, f'{what}; {_WAY}', _WAY)}")
    frame = _of_text(path, said) if kind is None else _of_binary(path, said, kind)
    if not frame.data.height:
        raise UserError(f"{said}: holds no row; give it some below the names of the columns")
    return frame


def _binary(path: Path) -> str | None:
    return {"a Parquet file": "parquet", "an Arrow file": "feather"}.get((kinds.found(path) or ("", ""))[1])


@contextmanager
def _readable(said: str) -> Iterator[None]:
    """Raise UserError for what polars cannot read."""
    polars = library()
    try:
        yield
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(f"{said}: cannot be read as a table ({first}); write it anew") from error


def _of_text(path: Path, said: str) -> Frame:
    """Cells as text, without blanks around them."""
    polars = library()
    source = text_tables.source(path, said)
    separator = text_tables.separator(source, said)
    names, (lines, blank) = _checked(source, separator, said)
    with _readable(said):
        found = polars.read_csv(source, separator=separator, has_header=False, new_columns=names, infer_schema=False)
    if found.height != len(blank) + 1:
        raise UserError(f"{said}: its lines cannot be told apart; leave out blank ones")
    cells = polars.all().str.strip_chars()
    data = found[1:].filter(~polars.Series(blank)).select(cells)
    return Frame(data.with_columns(_known(data[name]) for name in names), lines)


def _known(cells: Any) -> Any:
    """A column with null where a cell says that there is no value; a dash does among numbers."""
    polars = library()
    there = cells.set(cells.is_in(text_tables.MISSING), None)
    others = there.filter(there != text_tables.DASH)
    numbers = (
        len(others) < len(there.drop_nulls())
        and len(others)
        and not others.cast(polars.Float64, strict=False).null_count()
    )
    return there.set(there == text_tables.DASH, None) if numbers else there


def _checked(source: text_tables.Source, sign: str, said: str) -> tuple[list[str], _Lines]:
    """Names and the lines of the rows. Raises UserError for a line with too many or too few cells."""
    records = text_tables.records(source, sign, said)
    names = [name.strip() for name in next(records, (0, []))[1]]
    _check_names(names, said)
    return names, _lines(records, len(names), said)


def _check_names(names: list[str], said: str) -> None:
    if not any(names):
        raise UserError(f"{said}: its first line is blank; it must name the columns")
    if _is_row(names):
        first = ", ".join(names[:_NAMED]) + ", ..." * (len(names) > _NAMED)
        raise UserError(f"{said}: its first line, {first}, looks like a row; it must name the columns")
    if "" in names:
        raise UserError(
            f"{said}: column {names.index('') + 1} has no name; name it, or write the table without its row numbers"
        )
    check_apart(names, said)


def _is_row(names: list[str]) -> bool:
    """Whether there are numbers among them, other than whole ones that rise beside words, as years do."""
    numbers = [name for name in names if is_number(name)]
    words = [name for name in names if not is_number(name) and not is_missing(name)]
    rise = all(map(_WHOLE.fullmatch, numbers)) and all(int(a) < int(b) for a, b in pairwise(numbers))
    return bool(numbers) and not (words and rise)


def _lines(records: Iterator[tuple[int, list[str]]], due: int, said: str) -> _Lines:
    """A blank line is a missing cell of a table of one column, and nothing in others."""
    found, blank = [], []
    for line, cells in records:
        blank.append(not cells and due > 1)
        if cells and len(cells) != due:
            raise UserError(f"{said}, line {line}: has {len(cells)} cells, the first line {due}; make them equal")
        if not blank[-1]:
            found.append(line)
    return np.array(found, np.int64), np.array(blank, np.bool_)


def _of_binary(path: Path, said: str, kind: str) -> Frame:
    polars = library()
    with _readable(said):
        lazy = polars.scan_parquet(path) if kind == "parquet" else polars.scan_ipc(path)
        schema = lazy.collect_schema()
        rows = lazy.select(polars.len()).collect().item()
    size = rows * len(schema) * _CELL
    if size > room():
        raise UserError(
            f"{said}: declares {rows} rows of {len(schema)} columns, which may take {readable(size)} of memory, "
            f"{readable(room())} are available; take fewer rows"
        )
    nested = next((name for name, form in schema.items() if form.is_nested()), None)
    if nested is not None:
        raise UserError(f"{said}: column {nested!r} is nested ({schema[nested]}); give each of its parts a column")
    with _readable(said):
        data = lazy.collect()
    return of_cells(data)


def of_cells(data: Any) -> Frame:
    """A polars frame whose cells have their types, null where a real number is NaN."""
    return Frame(data.with_columns(library().selectors.float().fill_nan(None)), None)
