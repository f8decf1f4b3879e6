"""Sequences in text files, packed by gzip or not: FASTA, a2m and a3m, and Stockholm."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ebm_cli.dataset import kinds, unpacked
from ebm_cli.errors import UserError

FORMATS = ("fasta", "stockholm")
"""Kinds of files that sequences are read from."""
_OTHERS = (
    "packed",
    "npy",
    "npz",
    "pickle",
    "table",
    "image",
    "other",
    "utf16",
    "hdf5",
    "mat",
    "idx",
    "clustal",
    "phylip",
    "mat4",
    "nexus",
)
_TAKES = 12  # bytes of memory that a byte of text takes while letters become numbers
_INSERT = ".-~_"  # what a line `#=GC RF` has for insert columns


class Record(NamedTuple):
    """One sequence of a file."""

    name: str
    letters: str
    line: int = 0  # where it begins, from 1


def read(file: Path, said: str) -> list[Record]:
    """Every sequence. Raises UserError if the file is of another kind, or holds no letters."""
    kind, _ = kinds.within(file) or ("", "")
    if kind in _OTHERS:
        raise UserError(f"{said}: not a FASTA file: {kinds.instead(file, '', 'name a file of aligned sequences')}")
    try:
        lines = unpacked.content(file, said, _TAKES).decode("utf-8-sig").splitlines()
    except (*unpacked.DAMAGED, UnicodeDecodeError) as error:
        raise UserError(f"{said}: cannot be read ({type(error).__name__}); name a text file in UTF-8") from error
    found = _stockholm(lines, said) if kind == "stockholm" else _fasta(lines, said)
    if not found or not found[0].letters:
        raise UserError(f"{said}: holds no sequence")
    return found


def called(header: str) -> str:
    """The name in a line that begins a sequence: its first word, without the signs > before it, one or more."""
    return (header.lstrip("> \t").split() or [""])[0]


def _fasta(lines: list[str], said: str) -> list[Record]:
    records: list[tuple[str, list[str], int]] = []
    for number, line in enumerate(lines, 1):
        if line.startswith(">"):
            records.append((called(line) or str(len(records) + 1), [], number))
        elif line.startswith("#"):  # such as the first line of some a3m files
            continue
        elif line.strip() and not records:
            raise UserError(
                f"{said}, line {number}: a FASTA file begins with a line >NAME; write aligned FASTA or Stockholm"
            )
        elif records:
            records[-1][1].append(line.strip())
    return [Record(name, "".join(parts), line) for name, parts, line in records]


def _stockholm(lines: list[str], said: str) -> list[Record]:
    """Blocks are joined by name. Where a line `#=GC RF` marks the columns that are no inserts, only these are kept."""
    parts: dict[str, list[str]] = {}
    begins: dict[str, int] = {}
    reference: list[str] = []
    for number, words in _until_the_end(lines, said):
        if words[:2] == ["#=GC", "RF"] and len(words) == 3:
            reference.append(words[2])
        if words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise UserError(f"{said}, line {number}: has {len(words)} words; it must be a name and letters")
        begins.setdefault(words[0], number)
        parts.setdefault(words[0], []).append(words[1])
    records = [Record(name, "".join(of), begins[name]) for name, of in parts.items()]
    return _matched(records, "".join(reference), said) if reference else records


def _until_the_end(lines: list[str], said: str) -> Iterator[tuple[int, list[str]]]:
    """Number and words of each line of the one alignment. Raises UserError where there are more, or it has no end."""
    ends = [number for number, line in enumerate(lines, 1) if line.strip() == "//"]
    if not ends:
        raise UserError(f"{said}: an alignment in Stockholm format ends with a line //, so this one is cut short")
    if len(ends) > 1:
        raise UserError(f"{said}: holds {len(ends)} alignments; take one out, each ends with a line //")
    yield from ((number, line.split()) for number, line in enumerate(lines[: ends[0] - 1], 1) if line.strip())


def _matched(records: list[Record], reference: str, said: str) -> list[Record]:
    """The columns that the reference marks, as they are sites: in upper case, their gaps as -."""
    for record in records:
        if len(record.letters) != len(reference):
            raise UserError(
                f"{said}, line {record.line}: {record.name} has {len(record.letters)} letters, the line #=GC RF "
                f"{len(reference)}; align them"
            )
    kept = [column for column, mark in enumerate(reference) if mark not in _INSERT]
    upright = [[record.letters[column] for column in kept] for record in records]
    return [
        Record(record.name, "".join(letters).upper().replace(".", "-"), record.line)
        for record, letters in zip(records, upright, strict=True)
    ]


def counted(records: list[Record]) -> Counter[str]:
    """How often each letter is there."""
    used = Counter[str]()
    for record in records:
        used.update(record.letters)
    return used
