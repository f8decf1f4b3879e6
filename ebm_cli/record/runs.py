"""From words of a command line to run directories: runs, multiruns, folders of either, and patterns."""

import glob
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ebm_cli.errors import UserError, of_file
from ebm_cli.record import files

CONFIG, FACTS, LEDGER = "config.yaml", "metadata.json", "sweep.json"
_DEEPEST = 4  # folders below the one that was named
_PATTERN = re.compile(r"[*?\[]")


def named(words: Sequence[str]) -> list[Path]:
    """The run directories that words name, in their order, those of one word in natural order, each once.

    A word is a run, a multirun, a folder of these, or a pattern for any of them. Raises UserError for one that names
    no run.
    """
    found: dict[str, Path] = {}
    for word in words:
        runs = [run for place in _places(word) for run in _below(place)]
        if not runs:
            raise UserError(
                f"{word}: no run is there{_why(word)}; name a run directory, a multirun, or a folder that holds some"
            )
        for run in runs:
            found.setdefault(os.path.realpath(run), run)
    return list(found.values())


def any_in(directory: Path) -> bool:
    """Whether a run is there or below."""
    return next(iter(_below(directory)), None) is not None


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts 2 before 10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def not_begun(directory: Path) -> list[str]:
    """Jobs that the ledger of a multirun has and that have no run directory yet."""
    return [name for name in _jobs(directory) if not _is_run(directory / name)]


def _places(word: str) -> list[Path]:
    path = Path(word).expanduser()
    if os.path.lexists(path) or not _PATTERN.search(word):
        return [path]
    return [Path(found) for found in sorted(glob.glob(str(path), recursive=True), key=natural)]


def _why(word: str) -> str:
    """What is there instead, where that is plain."""
    path = Path(word).expanduser()
    if _PATTERN.search(word) and not os.path.lexists(path):
        return " (nothing has such a name)"
    return f" ({reason})" if (reason := instead(path)) else ""


def instead(path: Path) -> str:
    """What is at a path that was to be a folder of runs: no folder, nothing in it, jobs that wait; else nothing."""
    if not os.path.lexists(path):
        return "there is no such folder"
    if not os.path.isdir(path):
        return "it is a file"
    if not os.listdir(path):
        return "the folder is empty"
    return "no job of this multirun has begun" if not_begun(path) else ""


def _below(place: Path) -> list[Path]:
    try:
        return [*_runs(place, _DEEPEST)]
    except OSError as error:
        raise UserError(f"{place}: {of_file(error)}") from error


def _runs(place: Path, depth: int) -> Iterator[Path]:
    """The run itself, the jobs of its ledger, or what lies below; no link is followed below what was named."""
    if _is_run(place):
        yield place
    elif os.path.isdir(place) and depth:
        jobs = [name for name in _jobs(place) if _is_run(place / name)]
        with os.scandir(place) as entries:
            inner = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for name in jobs or sorted(inner, key=natural):
            yield from _runs(place / name, depth - 1)


def _is_run(place: Path) -> bool:
    """Also of a job that failed before it became a run: it has a record of that."""
    return any(os.path.isfile(place / name) for name in (CONFIG, FACTS))


def _jobs(place: Path) -> list[str]:
    """Directories that the ledger of a multirun names, as far as they lie below it."""
    try:
        ledger = json.loads(files.text(place, LEDGER))
        names = [str(job["directory"]) for job in ledger["jobs"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return [name for name in names if _lies_below(place, name)]


def _lies_below(place: Path, name: str) -> bool:
    try:
        files.there(place, name)
    except OSError:
        return False
    return bool(name)
