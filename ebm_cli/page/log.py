"""What a run said of itself, from the end of train.log."""

import re
from pathlib import Path
from typing import NamedTuple

from ebm_cli.record import files

_LAST = 1 << 18  # bytes
_LINE = re.compile(r"[\d-]{10} [\d:,]{8,12} (?P<level>[A-Z]+) (?P<text>.*)")
_PARAMETERS = re.compile(r" with \d+ parameters,")
_PLACE = "run directory "


class Line(NamedTuple):
    """One line, without its time."""

    level: str
    text: str

    @property
    def doubtful(self) -> bool:
        """Whether it warns of something."""
        return self.level in ("WARNING", "ERROR", "CRITICAL")


def newest(path: Path) -> list[Line]:
    """The lines since the run was begun or taken up for the last time; none if there is no such file."""
    try:
        text = files.read(path, "train.log", last=_LAST).decode(errors="replace")
    except OSError:
        return []
    found = [Line(*match.groups()) for match in map(_LINE.fullmatch, text.splitlines()) if match]
    return found[_start(found) :]


def _start(lines: list[Line]) -> int:
    """After the end of what came before the last announcement of a model and its run directory."""
    places = [number for number, line in enumerate(lines) if line.text.startswith(_PLACE)]
    announced = [
        number for number in places if any(_PARAMETERS.search(each.text) for each in lines[number - 2 : number])
    ]
    before = [number for number in places if announced and number < announced[-1]]
    return before[-1] + 1 if before else 0
