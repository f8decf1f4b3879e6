"""Tables from CSV, TSV (packed by gzip or not), Parquet and Feather files: columns by name, nothing guessed."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ebm_cli.dataset import kinds, unpacked
from ebm_cli.device.memory import readable, room
from ebm_cli.errors import UserError, install

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "?")
"""Cells of text files that say there is no value."""
_SEPARATORS = ",\t;|"
_CELL = 48  # bytes of memory that a cell takes at most while a table is read, its text apart
_Lines = tuple[NDArray[np.int64], NDArray[np.bool_]]  # of the rows; which of all lines are blank
_TEXTS = ("csv", "text")  # kinds of files
_UNPACKED = 24  # bytes of memory that a byte of a packed table takes
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
    return _kind(path) in (*_TEXTS, "parquet", "feather")


def read(path: Path, said: str) -> Frame:
    """The table in a file. Raises UserError, beginning with `said`, with the first thing wrong."""
    if not path.is_file():
        raise UserError(f"{said}: there is no such file")
    kind = _kind(path)
    if kind not in (*_TEXTS, "parquet", "feather"):
        raise UserError(f"{said}: {kinds.instead(path, f'its first bytes say nothing; {_WAY}', _WAY)}")
    frame = _of_text(path, said) if kind in _TEXTS else _of_binary(path, said, kind)
    if not frame.data.height:
        raise UserError(f"{said}: holds no row; give it some below the names of the columns")
    return frame


def _kind(path: Path) -> str:
    kind, words = kinds.within(path) or ("", "")
    if kind not in _TEXTS and unpacked.is_packed(path):
        return "gzip"
    return {"a Parquet file": "parquet", "an Arrow file": "feather"}.get(words, kind)


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
    source = _unpacked(path, said) if unpacked.is_packed(path) else path
    names, separator, (lines, blank) = _checked(source, said)
    with _readable(said):
        found = polars.read_csv(source, separator=separator, has_header=False, new_columns=names, infer_schema=False)
    cells = polars.all().str.strip_chars()
    if found.height != len(blank) + 1:
        raise UserError(f"{said}: its lines cannot be told apart; leave out blank ones")
    data = (
        found[1:]
        .filter(~polars.Series(blank))
        .select(polars.when(cells.is_in(MISSING)).then(None).otherwise(cells).name.keep())
    )
    return Frame(data, lines)


def _unpacked(path: Path, said: str) -> bytes:
    try:
        return unpacked.content(path, said, _UNPACKED)
    except unpacked.DAMAGED as error:
        raise UserError(f"{said}: cannot be unpacked ({error}); pack it anew by gzip") from error


def _lines_of(source: Path | bytes) -> TextIO:
    """A text file, or what it holds, to be read by the module csv."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def _checked(source: Path | bytes, said: str) -> tuple[list[str], str, _Lines]:
    """Names, separator and the lines of the rows. Raises UserError for a line with too many or too few cells."""
    try:
        with _lines_of(source) as file:
            first = file.readline()
            separator = max(_SEPARATORS, key=first.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, strict=True)
            names = [name.strip() for name in next(reader, [])]
            _check_names(names, said)
            return names, separator, _lines(reader, len(names), said)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{said}: cannot be read as a table ({error}); write plain text in UTF-8") from error


def _check_names(names: list[str], said: str) -> None:
    if not any(names):
        raise UserError(f"{said}: its first line is blank; it must name the columns")
    if "" in names:
        raise UserError(
            f"{said}: column {names.index('') + 1} has no name; name it, or write the table without its row numbers"
        )
    check_apart(names, said)
    if all(_is_number(name) for name in names):
        raise UserError(f"{said}: its first line is all numbers; it must name the columns")


def check_apart(names: list[str], said: str) -> None:
    """Raise UserError where two columns have one name."""
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{said}: two columns are called {repeated!r}; give each a name of its own")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _lines(reader: Any, due: int, said: str) -> _Lines:
    """A blank line is a missing cell of a table of one column, and nothing in others."""
    found, blank = [], []
    for cells in reader:
        blank.append(not cells and due > 1)
        if cells and len(cells) != due:
            raise UserError(
                f"{said}, line {reader.line_num}: has {len(cells)} cells, the first line {due}; make them equal"
            )
        if not blank[-1]:
            found.append(reader.line_num)
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
