"""Tables in text, packed by gzip or not: their separator, their lines, and cells that say there is no value."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ebm_cli.dataset import kinds, unpacked
from ebm_cli.errors import UserError

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "?")
"""Cells that say there is no value."""
DASH = "-"
"""One more of them, among numbers."""
Source = Path | bytes
"""A file, or what one holds that was packed."""
_KINDS = ("csv", "text")
_SEPARATORS = ",\t;|"
_UNPACKED = 24  # bytes of memory that a byte of a packed table takes
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_OPEN = ("unexpected end of data", "field larger")  # what the module csv says where a quotation mark is never closed


def is_one(path: Path) -> bool:
    """Whether a file looks like a table in text, packed by gzip or not, by its first bytes."""
    return (kinds.within(path) or ("",))[0] in _KINDS


def source(path: Path, said: str) -> Source:
    """The file, or what it holds if it is packed by gzip. Raises UserError, beginning with `said`, if it is damaged."""
    if not unpacked.is_packed(path):
        return path
    try:
        return unpacked.content(path, said, _UNPACKED)
    except unpacked.DAMAGED as error:
        raise UserError(f"{said}: cannot be unpacked ({error}); pack it anew by gzip") from error


def separator(found: Source, said: str) -> str:
    """What is most often in the first line, or stands there between numbers, which may have decimal commas."""
    with _opened(found, said) as file:
        first = next((line.strip() for line in file if line.strip()), "")
    between = (sign for sign in _SEPARATORS[1:] if sign in first and all(map(_may_be_number, first.split(sign))))
    return next(between, max(_SEPARATORS, key=first.count))


def records(found: Source, sign: str, said: str) -> Iterator[tuple[int, list[str]]]:
    """Number of the last line, and cells, of each record; a blank line has none.

    Raises UserError, beginning with `said`, for text that has no cells.
    """
    end = 0
    with _opened(found, said) as file:
        reader = csv.reader(file, delimiter=sign, strict=True)
        try:
            for cells in reader:
                end = reader.line_num
                yield end, cells
        except csv.Error as error:
            raise UserError(f"{said}, line {end + 1}: {_wrong(str(error))}") from error


@contextmanager
def _opened(found: Source, said: str) -> Iterator[TextIO]:
    try:
        file = io.BytesIO(found) if isinstance(found, bytes) else found.open("rb")
        with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
            yield text
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{said}: cannot be read as a table ({error}); write plain text in UTF-8") from error


def _wrong(reason: str) -> str:
    if reason.startswith(_OPEN):
        return "a quotation mark that opens there is never closed; close it, or take it out"
    return f"cannot be told into cells ({reason}); write a quotation mark within quoted text twice, or take it out"


def is_missing(cell: str) -> bool:
    """Whether a cell among numbers says that there is none."""
    text = cell.strip()
    return text in (*MISSING, DASH) or text.lower() == "nan"


def is_number(cell: str) -> bool:
    """Whether a cell holds a number; Python reads 1_000 as one."""
    text = cell.strip()
    try:
        float(text)
    except ValueError:
        return False
    return not is_missing(text) and "_" not in text


def has_decimal_comma(cell: str) -> bool:
    """Whether it would be a number if a comma were a point."""
    return _DECIMAL_COMMA.fullmatch(cell.strip()) is not None


def _may_be_number(cell: str) -> bool:
    return is_missing(cell) or is_number(cell) or has_decimal_comma(cell)


def check_apart(names: Sequence[str], said: str) -> None:
    """Raise UserError where two columns have one name."""
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{said}: two columns are called {repeated!r}; give each a name of its own")
