"""Texts of the user's own: a folder of .txt files, or a column of a .csv or .jsonl file."""

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebm_cli.dataset.counting import Document
from ebm_cli.errors import UserError

TABLES = (".csv", ".jsonl")
_MOST_CHARACTERS = 2**31 - 1  # of a field of a .csv file; the csv module's own limit is 131072
_MOST_NAMED, _LONGEST_LIST = 20, 400  # columns named in a message, and its characters


@dataclass(frozen=True)
class Columns:
    """Names of the columns with the text and, unless None, the label."""

    text: str
    label: str | None


def check_encoding(encoding: str) -> None:
    """Raise UserError for a name that is no encoding of text."""
    try:
        codecs.lookup(encoding)
        b"  ".decode(encoding)
    except UnicodeError:
        return  # a real one, of which two blanks are no text
    except (LookupError, ValueError) as error:
        raise UserError(
            f"dataset.encoding = {encoding}: no such encoding; use utf-8, latin-1 or another of Python's"
        ) from error


def decoded(path: Path, encoding: str, said: str) -> str:
    """The text of a file, without a byte order mark. Raises UserError naming it (`said` is how it is named)."""
    try:
        return path.read_bytes().decode(encoding).removeprefix("\ufeff")
    except OSError as error:
        raise UserError(f"{said}: cannot be read ({error.strerror}); mend it or take it out") from error
    except UnicodeError as error:
        where = f"byte {error.start}" if isinstance(error, UnicodeDecodeError) else str(error)
        raise UserError(
            f"dataset.encoding = {encoding}: {path} is in another one (see {where}); convert the file, or name the one "
            "encoding of all files, e.g. dataset.encoding=latin-1"
        ) from error


def of_folder(folder: Path, encoding: str, said: str) -> list[Document]:
    """Every .txt file below a folder, in the order of their paths; hidden ones are passed over.

    If all lie in subfolders, the name of the first one on the way is the label.
    """
    inside = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() == ".txt")
    names = [path for path in inside if not any(part.startswith(".") for part in path.parts)]
    files = [path for path in names if (folder / path).is_file()]
    if not files:
        raise UserError(f"{said}: the folder has no .txt file; one file is one document")
    labelled = all(len(path.parts) > 1 for path in files)
    return [
        Document(str(path), decoded(folder / path, encoding, f"{said}: {path}"), path.parts[0] if labelled else None)
        for path in files
    ]


def of_table(path: Path, columns: Columns, encoding: str, said: str) -> list[Document]:
    """Every record of a .csv or .jsonl file. Raises UserError naming the record and what is wrong with it."""
    text = decoded(path, encoding, said)
    return list(_of_csv(text, columns, said) if path.suffix.lower() == ".csv" else _of_jsonl(text, columns, said))


def _of_csv(text: str, columns: Columns, said: str) -> Iterator[Document]:
    """Records with commas between their fields, the first of which names the columns."""
    before = csv.field_size_limit(_MOST_CHARACTERS)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        records = [(reader.line_num, record) for record in reader if record]
    except csv.Error as error:
        raise UserError(f"{said}: line {reader.line_num} is no CSV ({error}); mend it") from error
    finally:
        csv.field_size_limit(before)
    if not records:
        raise UserError(f"{said}: the file is empty; its first line must name the columns")
    head = records[0][1]
    _check_columns(columns, head, "the columns (between commas)", said)
    for line, record in records[1:]:
        if len(record) != len(head):
            raise UserError(
                f"{said}: the record that ends in line {line} has {len(record)} fields, the first line {len(head)}; "
                "put texts with commas or line breaks in double quotes"
            )
        named = dict(zip(head, record, strict=True))
        yield _document(named, columns, f"line {line}", said)


def _of_jsonl(text: str, columns: Columns, said: str) -> Iterator[Document]:
    """A JSON object in each line that is not empty."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise UserError(f"{said}: line {number} is no JSON ({reason}); mend it") from error
        if not isinstance(found, dict):
            raise UserError(f"{said}: line {number} is no JSON object; write {{{json.dumps(columns.text)}: ...}}")
        _check_columns(columns, list(found), f"in line {number} the keys", said)
        yield _document(found, columns, f"line {number}", said)


def _check_columns(columns: Columns, there: Sequence[str], what: str, said: str) -> None:
    for key, name in (("column", columns.text), ("label", columns.label)):
        if name is not None and name not in there:
            known = ", ".join(other if other.isprintable() else repr(other) for other in there[:_MOST_NAMED])
            raise UserError(
                f"dataset.{key} = {name}: {said} has {what} {known[:_LONGEST_LIST] or 'none'}; name one of them"
            )


def _document(record: dict[str, Any], columns: Columns, name: str, said: str) -> Document:
    text, label = record[columns.text], None if columns.label is None else record[columns.label]
    if not isinstance(text, str):
        raise UserError(f"{said}: {columns.text} of {name} is {json.dumps(text)[:40]}; it must be a string")
    if columns.label is not None and (not isinstance(label, str | int) or label == ""):
        raise UserError(
            f"{said}: {columns.label} of {name} is {json.dumps(label)[:40]}; it must be a string or integer"
        )
    return Document(name, text, None if label is None else str(label))
