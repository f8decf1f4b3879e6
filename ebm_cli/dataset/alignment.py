"""Aligned sequences: letters as numbers."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from ebm_cli.dataset import kinds, own_rows, sequences
from ebm_cli.dataset.base import Dataset
from ebm_cli.dataset.own_rows import OwnRows
from ebm_cli.dataset.sequences import Record
from ebm_cli.errors import UserError
from ebm_cli.registry import Later

GAPS = "-."
ALPHABETS = {"protein": "-ACDEFGHIKLMNPQRSTVWY", "rna": "-ACGU", "dna": "-ACGT"}
"""Letters in their order by the names of alphabets."""
_STOP, _OPEN = "*", "?"
_NUCLEOTIDES = frozenset("ACGTUN-.")
_AMBIGUOUS = {"protein": "XBZJUO", "nucleotides": "XNRYSWKMBDHV"}
"""Letters of IUPAC that leave open which residue it is; of proteins U and O too, which are none of the 20."""
_CODES = 0x110000  # of Unicode
_ENOUGH = 100  # letters from which on those that never occur mean something


@dataclass(frozen=True, kw_only=True)
class Aligned(Dataset):
    """Letters of `alphabet`, and what others are read as.

    Lower-case letters and full stops that the alphabet lacks mark insert columns (a2m, a3m), which are no sites: they
    are left out (`inserts` drop), or refused. With auto they are left out too, and full stops are gaps in a file
    without a lower-case letter, which has no insert columns. Letters that say that a residue is not known, of proteins
    X, B, Z, J, U and O, of nucleotides X, N, R, Y, ..., are read as gaps (`ambiguous` gap), their sequences left out
    (drop), or refused. Of rna T is read as U, of dna U as T. `unknown` is what all upper-case letters that the alphabet
    lacks are read as.
    """

    alphabet: Annotated[str, Field(min_length=2, max_length=256)]
    unknown: Annotated[str, Field(min_length=1, max_length=1)] | None
    inserts: Literal["auto", "refuse", "drop"]
    ambiguous: Annotated[Literal["gap", "drop", "refuse"], Later("refuse")]

    @property
    def letters(self) -> str:
        """Those of the alphabet, in the order of their numbers."""
        return ALPHABETS.get(self.alphabet, self.alphabet)

    @override
    def own_rows(self, path: Path, said: str, array: str | None) -> OwnRows:
        """Aligned sequences, with their names as labels; a question mark is a site to be drawn. None is left out."""
        kind, _ = kinds.within(path) or ("", "")
        if kind not in sequences.FORMATS:
            return own_rows.read(path, said, array)
        records = sequences.read(path, said)
        filled = [record._replace(letters=record.letters.replace(_OPEN, self.letters[0])) for record in records]
        rows, remarks = self._of_every_one.numbers(filled, said)
        names = np.array([record.name for record in records])
        sites, _ = self._without_inserts(records, said)
        open_sites = [[letter == _OPEN for letter in record.letters] for record in sites]
        places = tuple(f"line {record.line} ({record.name})" for record in records)
        return OwnRows(rows, np.array(open_sites, np.bool_), names, places, remarks)

    @property
    def _of_every_one(self) -> "Aligned":
        """The same, which refuses what it would leave out."""
        return replace(self, ambiguous="refuse") if self.ambiguous == "drop" else self

    def named(self, path: Path, said: str, name: str) -> tuple[NDArray[np.uint8], list[str]]:
        """The different sequences of that name as they are read, (number, length), and all names of the alignment.

        Those of others may be such as `ambiguous` leaves out. Raises UserError for a sequence that cannot be read.
        """
        kind, _ = kinds.within(path) or ("", "")
        if kind not in sequences.FORMATS:
            own = own_rows.read(path, said, None)
            names = [] if own.labels is None else own.labels.astype(str).tolist()
            return np.unique(own.values[[each == name for each in names]], axis=0), names
        records, _ = self._without_inserts(sequences.read(path, said), said)
        found = [record for record in records if record.name == sequences.called(name)]
        rows = self._of_every_one.numbers(found, said)[0] if found else np.empty((0, 1), np.uint8)
        return distinct_rows(rows)[0], [record.name for record in records]

    def numbers(self, records: list[Record], said: str) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """Places in the alphabet, (records, length), and remarks. Raises UserError naming sequence and letter."""
        self._check_nucleotides(sequences.counted(records), said)
        records, of_inserts = self._without_inserts(records, said)
        records, of_dropped = self._without_ambiguous(records, said)
        _check_lengths(records, said)
        used = sequences.counted(records)
        strange = sorted(set(used) - set(self.letters))
        place = {letter: number for number, letter in enumerate(self.letters)}
        place |= {letter: self._read_as(letter, records, said) for letter in strange}
        remarks = (*of_inserts, *of_dropped, *self._of_read_as(strange, place, used), *self._of_absent(used))
        return _looked_up(records, place), remarks

    def _without_inserts(self, records: list[Record], said: str) -> tuple[list[Record], tuple[str, ...]]:
        """The records without insert columns, and a remark on them."""
        used = sequences.counted(records)
        inserts = {letter for letter in used if _is_insert(letter) and letter not in self.letters}
        if inserts == {"."} and self.inserts == "auto" and "-" in self.letters:
            dots = [record._replace(letters=record.letters.replace(".", "-")) for record in records]
            return dots, (f"{used['.']} full stops are read as gaps: no letter is lower case, so none is an insert",)
        if not inserts:
            return records, ()
        kept, first = self._without(inserts, records, used, said), records[0].name
        count = sum(used[letter] for letter in inserts - {"."})
        return kept, (
            f"{count} letters of insert columns are left out; the {len(kept[0].letters)} columns of the first "
            f"sequence, {first}, are kept",
        )

    def _without_ambiguous(self, records: list[Record], said: str) -> tuple[list[Record], tuple[str, ...]]:
        """The records but those with a letter that says that it is not known which, where these are left out."""
        there = self._are_ambiguous & set(sequences.counted(records))
        if not there or self.unknown is not None or self.ambiguous != "drop":
            return records, ()
        kept = [record for record in records if not self._are_ambiguous & set(record.letters)]
        if not kept:
            raise UserError(
                f"dataset.ambiguous = drop: each sequence of {said} has one of {_listed(self._are_ambiguous)}; read "
                "them as gaps, dataset.ambiguous=gap"
            )
        gone = len(records) - len(kept)
        which = f"{gone} of {len(records)} sequences have one of {_listed(self._are_ambiguous)} and are left out"
        return kept, (which,) if gone else ()

    @property
    def _are_ambiguous(self) -> set[str]:
        kind = "nucleotides" if set(self.letters) <= _NUCLEOTIDES else "protein"
        return set(_AMBIGUOUS[kind]) - set(self.letters)

    @property
    def _same(self) -> dict[str, str]:
        """Letters that are another of the alphabet by another name."""
        return {"rna": {"T": "U"}, "dna": {"U": "T"}}.get(self.alphabet, {})

    def _check_nucleotides(self, used: Counter[str], said: str) -> None:
        """Raise UserError where all letters are those of RNA or DNA, and the alphabet lacks some of them."""
        there = {letter for letter in used if not letter.islower()}
        if there <= _NUCLEOTIDES and there & set("TU") - set(self.letters) - set(self._same):
            raise UserError(
                f"dataset.alphabet = {self.alphabet}: {said} holds the letters of nucleotides, {_listed(there)}; set "
                f"dataset.alphabet={'rna' if 'U' in there else 'dna'}"
            )

    def _without(self, inserts: set[str], records: list[Record], used: Counter[str], said: str) -> list[Record]:
        """The records without insert columns. Raises UserError where that is not asked for, or leaves nothing."""
        if not any(letter.isupper() for letter in used):
            raise UserError(f"{said}: its letters are lower case, which marks insert columns; write them in upper case")
        if self.inserts == "refuse":
            raise UserError(f"{_first(inserts, records, said)}; {_of_inserts(inserts)}")
        gone = str.maketrans("", "", "".join(inserts))
        return [record._replace(letters=record.letters.translate(gone)) for record in records]

    def _read_as(self, letter: str, records: list[Record], said: str) -> int:
        """The number of a letter that is not in the alphabet. Raises UserError where none is meant."""
        which = _first({letter}, records, said)
        if letter == _STOP:
            raise UserError(f"{which}, which ends a protein and is no site; take it out of the sequences")
        gap = next((sign for sign in GAPS if sign in self.letters), None)
        if letter in self._same:
            return self.letters.index(self._same[letter])
        if self.unknown is None:
            if letter in self._are_ambiguous and self.ambiguous == "gap" and gap is not None:
                return self.letters.index(gap)
            raise UserError(f"{which}, which dataset.alphabet lacks; {self._way(letter, gap)}")
        if self.unknown not in self.letters:
            raise UserError(f"dataset.unknown = {self.unknown}: not a letter of dataset.alphabet; name one, or null")
        return self.letters.index(self.unknown)

    def _way(self, letter: str, gap: str | None) -> str:
        """The way out for a letter that is not in the alphabet."""
        if letter in self._are_ambiguous:
            as_gap = "dataset.ambiguous=gap reads it and its like as gaps, " * (gap is not None)
            return f"it says that the residue is not known: {as_gap}dataset.ambiguous=drop leaves its sequence out"
        return "add it there if it is a state, or correct the sequence"

    def _of_read_as(self, strange: list[str], place: dict[str, int], used: Counter[str]) -> tuple[str, ...]:
        """Remarks on letters that were read as others: as what, how many, which."""
        if not strange:
            return ()
        key = "dataset.ambiguous = gap" if self.unknown is None else f"dataset.unknown = {self.unknown}"
        remarks = []
        for others in ([letter for letter in strange if letter in self._same], [*set(strange) - set(self._same)]):
            count = sum(used[letter] for letter in others)
            read = f"{count} letters of {used.total()} are read as {{}}, {_listed(others)}"
            if others and others[0] in self._same:
                remarks.append(read.format(self.letters[place[others[0]]]))
            elif others:
                remarks.append(f"{key}: {read.format(self.letters[place[others[0]]])}")
        return tuple(remarks)

    def _of_absent(self, used: Counter[str]) -> tuple[str, ...]:
        """A remark on sequences that look like DNA to anything but this alphabet."""
        there = {letter for letter in used if not _is_insert(letter)} - set(GAPS)
        if there == set("ACGT") and len(self.letters) > len(_NUCLEOTIDES) and used.total() >= _ENOUGH:
            return ("only A, C, G and T occur; if they are nucleotides, set dataset.alphabet=dna",)
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
            return f"{said}, line {record.line}: sequence {number} ({record.name}) has the letter {found!r}"
    raise AssertionError(letters)


def _listed(letters: Iterable[str]) -> str:
    return "".join(sorted(letters))


def _check_lengths(records: list[Record], said: str) -> None:
    length = len(records[0].letters)
    for number, (name, letters, line) in enumerate(records, 1):
        if len(letters) != length:
            raise UserError(
                f"{said}, line {line}: sequence {number} ({name}) has {len(letters)} letters, the first one {length}; "
                "align them"
            )
    if not length:
        raise UserError(f"{said}: holds no sequence")


def distinct_rows(rows: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Rows without repetition, in the order of their numbers, and how often each is there.

    As one string of bytes each: numpy.unique(axis=0) makes a field of each site, which takes minutes of long sequences.
    """
    strings = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1])))[:, 0]
    _, first, count = np.unique(strings, return_index=True, return_counts=True)
    return rows[first], count


def file_alphabet(found: NDArray[Any], said: str) -> str:
    """The letters that an .npz file names by their numbers: a string, or strings of one letter each, (letters,)."""
    if found.dtype.kind != "U" or found.ndim > 1:
        raise UserError(f"{said}: alphabet has type {found.dtype} and shape {found.shape}; it must be letters")
    return "".join(found.reshape(-1).tolist())
