"""sweep.json, the ledger of a multirun: which jobs it has, under which numbers, and what each of them is.

A job is what its whole configuration says, not a number: `settings` are the configuration's keys with dots,
`optimizer.lr`, and their values. What all jobs share stands once. Whether a job is done is not written here: its own
directory says that.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from ebm_cli.errors import UserError, of_file
from ebm_cli.record import files, plain_json

NAME = "sweep.json"
FORMAT = 1

_SETS_A_KEY = re.compile(r"[+~]{0,2}\w[\w./@-]*(=|$)")
_OF_THE_PROGRAM = re.compile(r"[+~]*(hydra|plugins)\b")


@dataclass(frozen=True)
class Entry:
    """One job."""

    number: int
    directory: str  # below the directory of the sweep
    overrides: tuple[str, ...]  # "steps=300", as the command line gave them
    settings: Mapping[str, Any]

    @cached_property
    def identity(self) -> str:
        """Equal for equal configurations alone."""
        return identity(self.settings)


@dataclass
class Ledger:
    """All jobs of the multirun in one directory."""

    path: Path
    arguments: list[str] = field(default_factory=list)  # of the newest call, those of Hydra itself left out
    entries: list[Entry] = field(default_factory=list)

    def home(self, entry: Entry) -> Path:
        """The run directory of a job."""
        return self.path / entry.directory

    @property
    def common(self) -> dict[str, Any]:
        """Keys that have the same value in all jobs."""
        return shared([entry.settings for entry in self.entries])

    @property
    def varied(self) -> set[str]:
        """Keys that have not."""
        return {key for entry in self.entries for key in entry.settings} - set(self.common)

    def write(self) -> None:
        """Replace the file in one motion."""
        common = self.common
        jobs = [
            {
                "number": entry.number,
                "directory": entry.directory,
                "overrides": list(entry.overrides),
                "differs": {key: value for key, value in entry.settings.items() if key not in common},
            }
            for entry in self.entries
        ]
        facts = {"format": FORMAT, "arguments": self.arguments, "common": common, "jobs": jobs}
        files.replace(self.path, NAME, (plain_json.dumps(facts, indent=1) + "\n").encode())


@checked(frozen=True)
class _Job:
    number: int
    directory: str
    overrides: list[str]
    differs: dict[str, Any]


@checked(frozen=True)
class _Stored:
    format: int
    arguments: list[str]
    common: dict[str, Any]
    jobs: list[_Job]


def identity(settings: Mapping[str, Any]) -> str:
    """Of a job by its keys with dots: equal for equal configurations alone."""
    return hashlib.sha256(plain_json.dumps(sorted(settings.items())).encode()).hexdigest()


def there(path: Path) -> bool:
    """Whether a multirun is in this directory."""
    try:
        return files.there(path, NAME)
    except OSError:
        return False


def read(path: Path) -> Ledger:
    """The ledger of a directory, which may come from anybody. Raises UserError unless it makes sense."""
    try:
        found = TypeAdapter(_Stored).validate_json(files.text(path, NAME), strict=True)
    except (ValidationError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path / NAME}: {_why(error)}; take up another sweep, or start a new one") from error
    if found.format != FORMAT:
        raise UserError(f"{path / NAME}: is of format {found.format}, this program knows {FORMAT}; take a newer one")
    _check_words(path, [*found.arguments, *(word for job in found.jobs for word in job.overrides)])
    entries = [Entry(job.number, job.directory, tuple(job.overrides), found.common | job.differs) for job in found.jobs]
    _check_apart(path, entries)
    return Ledger(path, list(found.arguments), entries)


def inside(directory: str) -> bool:
    """Whether a folder of a job lies below that of the sweep."""
    place = PurePosixPath(directory)
    return not place.is_absolute() and ".." not in place.parts and bool(place.parts)


def shared(several: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all of several sets of keys have in common."""
    first, *others = several or [{}]
    return {key: value for key, value in first.items() if all(key in o and _same(o[key], value) for o in others)}


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A nested configuration by its keys with dots; what is empty stays as it is, and 8.0 is 8."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        deeper = isinstance(value, Mapping) and value
        found |= flat(value, f"{before}{key}.") if deeper else {f"{before}{key}": _number(value)}
    return found


def _number(value: Any) -> Any:
    """8.0 as 8, which every key takes for the same."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _same(one: Any, other: Any) -> bool:
    """As JSON has them: 1 and 1.0 and true are three things."""
    if one is other:
        return True
    inside = isinstance(one, list | dict)
    return type(one) is type(other) and (json.dumps(one) == json.dumps(other) if inside else one == other)


def _check_words(path: Path, words: Iterable[str]) -> None:
    """Raise UserError for a word that sets no key of a job: a directory from elsewhere must not choose what runs."""
    for word in words:
        if not _SETS_A_KEY.match(word) or _OF_THE_PROGRAM.match(word):
            raise UserError(f"{path / NAME}: {word!r} is no KEY=VALUE of a job; put the file back")


def _check_apart(path: Path, entries: Iterable[Entry]) -> None:
    """Raise UserError unless each job has a number and a folder of its own, inside the directory."""
    numbers, places = set[int](), set[PurePosixPath]()
    for entry in entries:
        place = PurePosixPath(entry.directory)
        if entry.number < 0 or entry.number in numbers or place in places or not inside(entry.directory):
            raise UserError(f"{path / NAME}: job {entry.number} in {entry.directory!r} cannot be; put the file back")
        numbers.add(entry.number)
        places.add(place)


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return of_file(error)
    return "is not the ledger of a sweep"
