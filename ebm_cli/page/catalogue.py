"""The catalogue of failures of the manual: which entry a sentence of a run belongs to, and what to do then."""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

CATALOGUE = Path(__file__).parent / "assets" / "catalogue.md"
"""The same text as at the end of docs/numbers.md, which is not installed."""
_ROW = re.compile(r'^\| "(?P<seen>.*?)" \| (?P<why>.*?) \| (?P<advice>.*) \|$')


class Entry(NamedTuple):
    """What a run says (`...` stands for what differs), why that happens, and what to do, in Markdown."""

    number: int
    seen: str
    why: str
    advice: str

    @property
    def anchor(self) -> str:
        """Its name in the page."""
        return f"failure-{self.number}"

    def fits(self, sentence: str) -> bool:
        """Whether the sentence is one of these."""
        return re.search(".*?".join(map(re.escape, self.seen.split("..."))), sentence) is not None


@cache
def entries() -> tuple[Entry, ...]:
    """All of them, in their order."""
    rows = (_ROW.match(line) for line in CATALOGUE.read_text(encoding="utf-8").splitlines())
    return tuple(Entry(number, *row.groups()) for number, row in enumerate(filter(None, rows)))


def of(sentence: str) -> Entry | None:
    """The entry that a sentence of a run belongs to: of several that fit the longest; None if there is none."""
    fitting = [entry for entry in entries() if entry.fits(sentence)]
    return max(fitting, key=lambda entry: len(entry.seen), default=None)


def parts(markdown: str) -> list[tuple[bool, str]]:
    """Pieces of a text and whether each is code, which stands between backticks."""
    return [(number % 2 == 1, piece) for number, piece in enumerate(markdown.split("`")) if piece]


def used(found: Iterable[Entry | None]) -> list[Entry]:
    """Each once, in the order of the catalogue."""
    return sorted({entry for entry in found if entry is not None})
