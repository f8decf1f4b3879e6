"""The seam between a run and whatever shows it live."""

import os
import shlex
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


@dataclass(frozen=True)
class RunInfo:
    """What a tracker may know of the run it shows."""

    directory: Path
    run_id: str  # stable across resumes
    name: str
    group: str | None  # the multirun it belongs to
    config: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)  # where it runs and what was typed: overrides, host, job
    in_sweep: bool = False  # a multirun says in the end how all its jobs are looked at: none of them need say it
    step: int | None = None  # that a resumed run goes on from: what is beyond it comes again
    process: int = field(default_factory=os.getpid)  # the one that trains, whose use of the machine is of interest


class End(NamedTuple):
    """How a run ended."""

    status: str  # done, failed, stopped
    code: int  # of the command
    error: str | None = None


class ElsewhereError(Exception):
    """An exception in the process that a tracker runs in, in words: its own type may not exist here."""


class Tracker(ABC):
    """An open tracker. Steps never decrease; the same step may come several times with other keys."""

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Scalars of one step."""

    @abstractmethod
    def images(self, step: int, images: Mapping[str, NDArray[np.uint8]]) -> None:
        """Pictures, uint8 (height, width) or (height, width, 3)."""

    @abstractmethod
    def histograms(self, step: int, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Values whose distribution is shown, one-dimensional."""

    def ended(self, end: End) -> None:  # noqa: B027 - most records have no place for it
        """How the run ended, told before `close`. A tracker that is closed without it did not see the end."""

    @abstractmethod
    def close(self, summary: Mapping[str, float]) -> str | None:
        """Flush and end; returns one line for the user (where the record is, how to send it), or None."""


class TrackerSpec(ABC):
    """The component: `open` starts a tracker for one run."""

    shows: ClassVar[bool] = True
    """Whether it does anything with what it is given."""
    shows_histograms = True
    """Whether it does anything with histograms."""

    def check(self) -> None:  # noqa: B027 - most trackers have nothing that could be missing
        """Raise UserError if `open` cannot work here (a missing package, no account); called before any work."""

    @abstractmethod
    def open(self, run: RunInfo) -> Tracker:
        """A tracker that is ready for `log`."""

    def look(self) -> str | None:
        """How all that it has shown is looked at, one line; None if each run has a record of its own."""
        return None


def lacking(there: Collection[tuple[int, str]], step: int, values: Mapping[str, T]) -> dict[str, T]:
    """Of the values of a step those that are not in the record yet. A resumed run comes to the same again."""
    return {key: value for key, value in values.items() if (step, key) not in there}


def finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values that a histogram can bin: one NaN in a diverging run must not end the record of how it diverged."""
    return values[np.isfinite(values)]


def shown(path: Path) -> str:
    """The path as the user can paste it into a shell in the current directory."""
    return shlex.quote(os.path.relpath(path))


def described(error: Exception) -> str:
    """The type and the first line of the message, short enough for a terminal."""
    if isinstance(error, ElsewhereError):
        return str(error)
    lines = str(error).strip().splitlines() or ["no message"]
    text = lines[0] if len(lines[0]) <= 200 else f"{lines[0][:199]}…"
    return f"{type(error).__name__}: {text}"
