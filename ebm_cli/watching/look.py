"""A run as its files show it at one moment; of metrics.jsonl the end alone is read, which may be long."""

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebm_cli.record import files, lease
from ebm_cli.record.run import CONFIG, Run

_CURVES = 1 << 20  # bytes at the end of metrics.jsonl that curves are drawn from
_STEPS = re.compile(r"^steps: (\d{1,15})$", re.MULTILINE)

Point = tuple[int, float]


@dataclass(frozen=True)
class Look:
    """What is known of a run."""

    path: Path
    name: str
    state: str  # new, running, done, failed, stopped, died
    step: int = 0
    steps: int | None = None  # that it is to have
    rate: float = 0.0  # steps a second
    error: str | None = None
    typed: tuple[str, ...] = ()  # its overrides
    curves: Mapping[str, list[Point]] = field(default_factory=dict)

    @property
    def newest(self) -> dict[str, float]:
        """The last number of each metric."""
        return {name: points[-1][1] for name, points in self.curves.items()}


class Watched:
    """A run that is looked at again and again; what has not changed is not read anew."""

    def __init__(self, path: Path, name: str, *, last: int = _CURVES) -> None:
        self.path, self.name, self._last = path, name, last
        self._stamp: tuple[int, int] | None = None
        self._curves: dict[str, list[Point]] = {}

    def look(self) -> Look:
        """The run at this moment."""
        facts = Run(self.path).read_json("metadata.json")
        steps = self._steps()
        steps = None if steps is None else steps + _whole(facts.get("added_steps"))
        if not facts:
            return Look(self.path, self.name, "died" if steps else "new", steps=steps)
        written = self._read()
        state = plain(lease.status(self.path, facts.get("status", "unknown")))
        logged = max((points[-1][0] for points in self._curves.values()), default=0)
        step = logged if state in ("running", "died") else max(logged, _whole(facts.get("step")))
        rate = _rate(facts, step, written) if state == "running" else 0.0
        error = plain(facts["error"]) if isinstance(facts.get("error"), str) else None
        return Look(self.path, self.name, state, step, steps, rate, error, _typed(facts), self._curves)

    def _steps(self) -> int | None:
        """A key at the top of the configuration, for which all of it need not be read as YAML."""
        try:
            found = _STEPS.search(files.text(self.path, CONFIG))
        except (OSError, ValueError):
            return None
        return int(found[1]) if found else None

    def _read(self) -> float:
        """Read the end of metrics.jsonl if there is more of it; when that was written, in seconds of the clock."""
        try:
            about = os.lstat(self.path / "metrics.jsonl")
            stamp = about.st_size, about.st_mtime_ns
            if stamp != self._stamp:
                self._curves = _curves(files.read(self.path, "metrics.jsonl", last=self._last), about.st_size)
                self._stamp = stamp
        except OSError:
            return 0.0
        return about.st_mtime


def _curves(tail: bytes, size: int) -> dict[str, list[Point]]:
    """Every metric by its steps. The first line may be cut off, and the last may not be whole yet."""
    lines = tail.split(b"\n")[0 if len(tail) == size else 1 : -1]
    found: dict[str, list[Point]] = {}
    for line in lines:
        try:
            values = json.loads(line)
            step = values.pop("step")
        except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
            continue
        for name, value in values.items() if type(step) is int else ():
            if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf"):
                found.setdefault(plain(name), []).append((step, float(value)))
    return found


def plain(name: str) -> str:
    """Without what a terminal would obey: a run may come from anybody."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _rate(facts: Mapping[str, Any], step: int, written: float) -> float:
    """Steps a second since the process began to train, up to the last step that was logged."""
    began = facts.get("trains_since")
    if not isinstance(began, dict) or not isinstance(at := began.get("time"), int | float):
        return 0.0
    seconds = min(written, time.time()) - at
    return max(0, step - _whole(began.get("step"))) / seconds if seconds > 0 else 0.0


def _typed(facts: Mapping[str, Any]) -> tuple[str, ...]:
    found = facts.get("overrides")
    return tuple(plain(word) for word in found if isinstance(word, str)) if isinstance(found, list) else ()


def _whole(found: object) -> int:
    return found if type(found) is int else 0
