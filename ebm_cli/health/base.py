"""The seam of health: how often a run is looked at, and what may be said of it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple

from typing_extensions import override

Level = Literal["healthy", "suspicious", "failing"]
LEVELS: tuple[Level, ...] = ("healthy", "suspicious", "failing")


class Sign(NamedTuple):
    """Something that is not as it should be: the number that shows it, how bad it is (1 or 2), and a sentence."""

    name: str
    level: int
    text: str


class Verdict(NamedTuple):
    """What is said of a run: its worst sign's level, as a number into `LEVELS`, and its signs, the worst first."""

    level: int
    signs: tuple[Sign, ...] = ()

    @property
    def word(self) -> Level:
        """healthy, suspicious or failing."""
        return LEVELS[self.level]

    @override
    def __str__(self) -> str:
        return ": ".join([self.word, "; ".join(sign.text for sign in self.signs)]) if self.signs else self.word


def verdict(signs: Sequence[Sign]) -> Verdict:
    """That of all these signs together."""
    ordered = sorted(signs, key=lambda sign: -sign.level)
    return Verdict(ordered[0].level if ordered else 0, tuple(ordered))


Act = Literal["none", "warn", "recover"]
"""What comes of a verdict: it is written down, what became worse is a warning too, or a failing run also goes back."""


class Health(ABC):
    """How a run is watched. It reads the run, and changes nothing in it unless it is to `recover`."""

    @property
    @abstractmethod
    def period(self) -> int:
        """Steps between looks at what the steps report; 0: none."""

    @property
    @abstractmethod
    def allowance(self) -> float:
        """Share of the work of training that the costlier looks may add."""

    @property
    def acts(self) -> Act:
        """What comes of a verdict."""
        return "warn"

    @property
    def most(self) -> int:
        """How often a run may go back."""
        return 0

    @property
    def extra(self) -> float:
        """How many steps that were lost by going back are taken again at most, as a share of all steps asked for."""
        return 0.0
