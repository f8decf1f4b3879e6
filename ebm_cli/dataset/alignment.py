"""Aligned sequences: FASTA files, and letters as numbers."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from ebm_cli.dataset import kinds, own_rows
from ebm_cli.dataset.base import Dataset
from ebm_cli.dataset.own_rows import OwnRows
from ebm_cli.errors import UserError

GAPS = "-."
_STOP, _OPEN = "*", "?"
_NUCLEOTIDES = frozenset("ACGTUN-.")
_PACKED = ("gzip", "packed", "npy", "npz", "pickle", "table", "image", "other", "utf16")
_ALIGNED = ("stockholm", "clustal", "nexus")
_CODES = 0x110000  # of Unicode
_ENOUGH = 100  # letters from which on those that never occur mean something


class Record(NamedTuple):
    """One sequence of a file."""

    name: str
    letters: str


@dataclass(frozen=True, kw_only=True)
class Aligned(Dataset):
    """Letters of `alphabet`, what other upper-case letters are read as (`unknown`), and what becomes of `inserts`.

    Lower-case letters and full stops that the alphabet lacks mark insert columns (a2m, a3m), which are no sites.
    """

    alphabet: Annotated[str, Field(min_length=2, max_length=256)]
    unknown: Annotated[str, Field(min_length=1, max_length=1)] | None
    inserts: Literal["refuse", "drop"]

    @override
    def own_rows(self, path: Path, said: str, array: str | None) -> OwnRows:
        """Aligned sequences, with their names as labels; a question mark is a site to be drawn."""
        kind, _ = kinds.found(path) or ("", "")
        if kind != "fasta":
            return own_rows.read(path, said, array)
        records = read_fasta(path, said)
        filled = [Record(name, letters.replace(_OPEN, self.alphabet[0])) for name, letters in records]
        rows, _ = self.numbers(filled, said)
        names = np.array([record.name for record in records])
        open_sites = [[letter == _OPEN for letter in self._sites(record.letters)] for record in records]
        places = tuple(f"sequence {number} ({record.name})" for number, record in enumerate(records, 1))
        return OwnRows(rows, np.array(open_sites, np.bool_), names, places)

    def _sites(self, letters: str) -> str:
        """Without insert columns."""
        return "".join(letter for letter in letters if letter in self.alphabet or not _is_insert(letter))

    def numbers(self, records: list[Record], said: str) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """Places in the alphabet, (records, length), and remarks. Raises UserError naming sequence and letter."""
        used = Counter[str]()
        for record in records:
            used.update(record.letters)
        self._check_nucleotides(used, said)
        inserts = {letter for letter in used if _is_insert(letter) and letter not in self.alphabet}
        if inserts:
            records = self._without(inserts, records, used, said)
        _check_lengths(records, said)
        strange = sorted(set(used) - set(self.alphabet) - inserts)
        place = {letter: number for number, letter in enumerate(self.alphabet)}
        place |= {letter: self._read_as(letter, records, said) for letter in strange}
        return _looked_up(records, place), (*self._of_unknown(strange, used), *self._of_absent(used))

    def _check_nucleotides(self, used: Counter[str], said: str) -> None:
        """Raise UserError where all letters are those of RNA or DNA, and the alphabet lacks some of them."""
        there = {letter for letter in used if not letter.islower()}
        if there <= _NUCLEOTIDES and there & set("TU") - set(self.alphabet):
            alphabet = f"-ACG{'U' if 'U' in there else 'T'}"
            raise UserError(
                f"dataset.alphabet = {self.alphabet}: {said} holds the letters of nucleotides, {_listed(there)}; set "
                f"dataset.alphabet={alphabet}"
            )

    def _without(self, inserts: set[str], records: list[Record], used: Counter[str], said: str) -> list[Record]:
        """The records without insert columns. Raises UserError where that is not asked for, or leaves nothing."""
        if not any(letter.isupper() for letter in used):
            raise UserError(f"{said}: its letters are lower case, which marks insert columns; write them in upper case")
        if self.inserts == "refuse":
            raise UserError(f"{_first(inserts, records, said)}; {_of_inserts(inserts)}")
        gone = str.maketrans("", "", "".join(inserts))
        return [Record(record.name, record.letters.translate(gone)) for record in records]

    def _read_as(self, letter: str, records: list[Record], said: str) -> int:
        """The number of a letter that is not in the alphabet. Raises UserError where none is meant."""
        which = _first({letter}, records, said)
        if letter == _STOP:
            raise UserError(f"{which}, which ends a protein and is no site; take it out of the sequences")
        if self.unknown is None:
            gap = next((sign for sign in GAPS if sign in self.alphabet), None)
            way = (
                f"dataset.unknown={gap} reads it and its like as gaps"
                if gap
                else "dataset.unknown says as what to read"
            )
            raise UserError(f"{which}, which dataset.alphabet lacks; add it there, or {way}")
        if self.unknown not in self.alphabet:
            raise UserError(f"dataset.unknown = {self.unknown}: not a letter of dataset.alphabet; name one, or null")
        return self.alphabet.index(self.unknown)

    def _of_unknown(self, strange: list[str], used: Counter[str]) -> tuple[str, ...]:
        if not strange:
            return ()
        count = sum(used[letter] for letter in strange)
        return (f"dataset.unknown = {self.unknown}: {count} letters of {used.total()} are read so, {_listed(strange)}",)

    def _of_absent(self, used: Counter[str]) -> tuple[str, ...]:
        """A remark on sequences that look like DNA to anything but this alphabet."""
        there = {letter for letter in used if not _is_insert(letter)} - set(GAPS)
        if there == set("ACGT") and len(self.alphabet) > len(_NUCLEOTIDES) and used.total() >= _ENOUGH:
            return ("only A, C, G and T occur; if they are nucleotides, set dataset.alphabet=-ACGT",)
        return ()


def _looked_up(records: list[Record], place: dict[str, int]) -> NDArray[np.uint8]:
    """Each letter's number, (records, length)."""
    table = np.zeros(_CODES, np.uint8)
    for letter, number in place.items():
        table[ord(letter)] = number
    text = np.frombuffer("".join(record.letters for record in records).encode("utf-32-le"), "<u4")
    rows: NDArray[np.uint8] = table[text].reshape(len(records), -1)
    return rows


def _is_insert(letter: str) -> bool:
    return letter.islower() or letter == "."


def _of_inserts(inserts: set[str]) -> str:
    """What they mean, and the way out."""
    if inserts == {"."}:
        return "in a2m files it marks insert columns, which dataset.inserts=drop leaves out; where it is a gap, write -"
    return (
        "lower-case letters and full stops are the insert columns of a2m and a3m files, which are no sites; "
        "dataset.inserts=drop leaves them out"
    )


def _first(letters: set[str], records: list[Record], said: str) -> str:
    """The first place where one of the letters is, in words."""
    for number, record in enumerate(records, 1):
        found = next((letter for letter in record.letters if letter in letters), None)
        if found is not None:
            return f"{said}: sequence {number} ({record.name}) has the letter {found!r}"
    raise AssertionError(letters)


def _listed(letters: Iterable[str]) -> str:
    return "".join(sorted(letters))


def _check_lengths(records: list[Record], said: str) -> None:
    length = len(records[0].letters)
    for number, (name, letters) in enumerate(records, 1):
        if len(letters) != length:
            raise UserError(
                f"{said}: sequence {number} ({name}) has {len(letters)} letters, the first one {length}; align them"
            )
    if not length:
        raise UserError(f"{said}: holds no sequence")


def read_fasta(file: Path, said: str) -> list[Record]:
    """Every record. Raises UserError if the file is no FASTA file or holds no letters."""
    kind, _ = kinds.found(file) or ("", "")
    if kind in _PACKED or kind in _ALIGNED:
        raise UserError(f"{said}: not a FASTA file: {kinds.instead(file, '', 'name a file of aligned sequences')}")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{said}: cannot be read ({type(error).__name__}); name a text file in UTF-8") from error
    records: list[tuple[str, list[str]]] = []
    for number, line in enumerate(lines, 1):
        if line.startswith(">"):
            records.append((line[1:].split()[0] if line[1:].split() else str(len(records) + 1), []))
        elif line.strip() and not records:
            raise UserError(f"{said}, line {number}: a FASTA file begins with a line >NAME")
        elif records:
            records[-1][1].append(line.strip())
    found = [Record(name, "".join(parts)) for name, parts in records]
    if not found or not found[0].letters:
        raise UserError(f"{said}: holds no sequence")
    return found


def file_alphabet(found: NDArray[Any], said: str) -> str:
    """The letters that an .npz file names by their numbers: a string, or strings of one letter each, (letters,)."""
    if found.dtype.kind != "U" or found.ndim > 1:
        raise UserError(f"{said}: alphabet has type {found.dtype} and shape {found.shape}; it must be letters")
    return "".join(found.reshape(-1).tolist())
