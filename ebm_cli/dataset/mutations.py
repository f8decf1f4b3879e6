"""Mutants of one sequence as biologists write them: A12G, several joined by colons, sites counted from 1."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ebm_cli.dataset import text_tables
from ebm_cli.errors import UserError, nearest

_WRITTEN = re.compile(r"(\D)(-?\d+)(\D)", re.DOTALL)
_TOGETHER = re.compile("[:,;]")
MEASURED = "DMS_score"
"""The column of measurements in files of ProteinGym."""


class Change(NamedTuple):
    """A letter for another: `site` and `letter` by their numbers from 0."""

    site: int
    letter: int


@dataclass(frozen=True)
class WildType:
    """One sequence by the numbers of its letters, (length,), and what the first of its sites is counted as."""

    values: NDArray[np.int64]
    alphabet: str
    first: int

    def letter(self, site: int) -> str:
        """The one it has there."""
        return self.alphabet[int(self.values[site])]

    def change(self, written: str, said: str) -> Change:
        """A12G, read. Raises UserError, beginning with `said`, if this sequence has no such change."""
        found = _WRITTEN.fullmatch(written)
        if found is None:
            raise UserError(f"{said}: {written!r} is no mutation; write A12G, and A12G:V30L for two in one")
        wild, number, mutant = found.group(1), int(found.group(2)), found.group(3)
        for letter in (wild, mutant):
            if letter not in self.alphabet:
                near = f"; write {letter.upper()}" if letter.upper() in self.alphabet else f"; it has {self.alphabet}"
                raise UserError(
                    f"{said}: {written} has the letter {letter!r}, which the alphabet of the run lacks{near}"
                )
        site, last = number - self.first, self.first + len(self.values) - 1
        if not 0 <= site < len(self.values):
            raise UserError(
                f"{said}: {written} is at site {number}, the wild type has sites {self.first} to {last}; first_site "
                "says what the first one is counted as"
            )
        if wild != self.letter(site):
            raise UserError(
                f"{said}: {written} has {wild} at site {number}, the wild type {self.letter(site)}; sites are counted "
                f"from {self.first}, which first_site says"
            )
        return Change(site, self.alphabet.index(mutant))

    def changes(self, written: str, said: str) -> tuple[Change, ...]:
        """A12G:V30L, read. Raises UserError for a site that changes twice."""
        found = tuple(self.change(part.strip(), said) for part in _TOGETHER.split(written))
        if len({change.site for change in found}) < len(found):
            raise UserError(f"{said}: {written} changes a site twice; write each site once")
        return found


@dataclass(frozen=True)
class Mutants:
    """What a file lists: mutants as written, what each changes, and what was measured, NaN where nothing was."""

    written: tuple[str, ...]
    changes: tuple[tuple[Change, ...], ...]
    measured: NDArray[np.float64] | None


@dataclass(frozen=True)
class Columns:
    """Names of the columns of such a file."""

    mutant: str
    measured: str


def read(path: Path, said: str, columns: Columns, wild: WildType) -> Mutants:
    """The mutants of a table in text, or of a file of one mutant in each line, without a header.

    Raises UserError, beginning with `said`, with the first thing wrong and its line.
    """
    lines = list(_lines(path, said))
    if not lines:
        raise UserError(f"{said}: holds no mutant; write one in each line, below the name of the column")
    head = [cell.strip() for cell in lines[0][1]]
    bare = len(head) == 1 and head[0] != columns.mutant and any(map(str.isdigit, head[0]))
    place = {"mutant": 0, "measured": None} if bare else _places(head, columns, said)
    written, changes, measured = [], [], []
    for number, cells in lines if bare else lines[1:]:
        at = f"{said}, line {number}"
        if len(cells) != len(head):
            raise UserError(f"{at}: has {len(cells)} cells, the first line {len(head)}; make them equal")
        written.append(cells[place["mutant"] or 0].strip())
        changes.append(wild.changes(written[-1], at))
        measured.append(math.nan if place["measured"] is None else _number(cells[place["measured"]], at))
    if not written:
        raise UserError(f"{said}: holds no mutant below the names of its columns; write one in each line")
    return Mutants(tuple(written), tuple(changes), None if place["measured"] is None else np.array(measured))


def _lines(path: Path, said: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of every line that is not blank."""
    source = text_tables.source(path, said)
    records = text_tables.records(source, text_tables.separator(source, said), said)
    return ((number, cells) for number, cells in records if "".join(cells).strip())


def _places(head: Sequence[str], columns: Columns, said: str) -> dict[Literal["mutant", "measured"], int | None]:
    """Where the columns are; that of measurements may be missing where its usual name alone is asked for."""
    for key, name in (("mutant_column", columns.mutant), ("measured_column", columns.measured)):
        if head.count(name) > 1:
            raise UserError(f"{said}: two columns are called {name!r}; give each a name of its own")
        if name not in head and (key, name) != ("measured_column", MEASURED):
            near = nearest(name, list(head)) or f"; it has {', '.join(head)}"
            raise UserError(f"{key} = {name}: {said} has no such column{near}")
    measured = head.index(columns.measured) if columns.measured in head else None
    return {"mutant": head.index(columns.mutant), "measured": measured}


def _number(cell: str, said: str) -> float:
    """The value of a cell, NaN of one that says there is none."""
    text = cell.strip()
    if text_tables.is_missing(text):
        return math.nan
    if not text_tables.is_number(text):
        raise UserError(f"{said}: {text!r} is no number; leave the cell empty where nothing was measured")
    value = float(text)
    if math.isinf(value):
        raise UserError(f"{said}: {text!r} is no measurement; leave the cell empty where nothing was measured")
    return value
