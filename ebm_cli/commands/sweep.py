"""A multirun as one piece of work: which jobs it has, which of them are still to be done, and doing them.

What a job is, its configuration says: a job of a new call that is one of the ledger keeps its number, whatever their
order. What became of it, its run directory says.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ebm_cli.errors import UserError, of_file
from ebm_cli.record import files, lease, ledger
from ebm_cli.record.ledger import Entry, Ledger
from ebm_cli.record.run import CONFIG, LATER_GROUPS, Run, check_free
from ebm_cli.signals import StopRequest

BESIDE = ("hydra", "resume", "plugins", "tracker", "running", "device", "experiment", "notify", "health")
"""Parts of a configuration that do not say which job it is: they change where it runs and who is told."""

_HALT = "halt"
_LOSSES = 2  # of a job with others before it is done alone; and once more then
_DYING = 10.0  # seconds in which killed processes have ended
LEFT_ALONE = ("done", "pruned", "running")
"""States of jobs that are not begun."""

_KNOWN = ("done", "pruned", "failed", "stopped", "running", "died")


@dataclass(frozen=True)
class Wanted:
    """One job that the command line asks for."""

    overrides: tuple[str, ...]
    config: Mapping[str, Any]  # whole, as plain data, the paths of files absolute
    place: Callable[[int], str]  # where a job of this number lies, below the directory of the sweep
    chosen: Mapping[str, str] = field(default_factory=dict)  # group -> choice, as typed or by default


@dataclass(frozen=True)
class Orders:
    """How jobs are done."""

    resume: bool = False  # the sweep in the directory is taken up again
    retries: int = 0  # how often one that fails is tried again
    fail_fast: bool = False  # no other job begins after one has failed
    one_by_one: bool = True  # the launcher does one at a time
    typed: tuple[str, ...] = ()  # words of this command line that who takes the multirun up again must repeat

    def __post_init__(self) -> None:
        """Raise UserError for a word that is no such order."""
        if type(self.retries) is not int or self.retries < 0:
            raise UserError(f"retries = {_word(self.retries)}: must be a whole number from 0 on")
        if type(self.fail_fast) is not bool:
            raise UserError(f"fail_fast = {_word(self.fail_fast)}: must be true or false")


def identifying(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a whole configuration says which job it is, by keys with dots."""
    kept = {key: value for key, value in config.items() if key not in BESIDE}
    return ledger.flat({key: value for key, value in kept.items() if (key, value) not in LATER_GROUPS.items()})


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def planned(path: Path, arguments: Sequence[str], wanted: Sequence[Wanted], orders: Orders) -> Ledger:
    """The ledger with every job of the directory and of this call. Raises UserError if they are not of one sweep."""
    found = _found(path, resume=orders.resume)
    asked = [identifying(one.config) for one in wanted]
    _check_changes(found, asked)
    number = max((entry.number for entry in found.entries), default=-1)
    given = [ledger.identity(settings) for settings in asked]
    _check_beside(wanted, given)
    again = set(given)
    entries = [entry for entry in found.entries if entry.identity in again or not _refused(found.home(entry))]
    known = {entry.identity: position for position, entry in enumerate(entries)}
    for one, settings, identity in zip(wanted, asked, given, strict=True):
        entry = Entry(number + 1, one.place(number + 1), one.overrides, settings)
        position = known.setdefault(identity, len(entries))
        if position == len(entries):
            check_free(path / entry.directory, "hydra.sweep.dir = ")
            entries.append(entry)
            number += 1
        else:
            entries[position] = replace(entries[position], overrides=one.overrides)
    _check_places(path, entries)
    _check_links(path, entries)
    return Ledger(path, list(arguments), entries)


def work(found: Ledger, launch: Callable[[Sequence[Entry]], None], orders: Orders, stop: StopRequest) -> None:
    """Launch every job that is not done, and again those that fail, as often as the orders say.

    A job that begins sees whether the sweep was halted meanwhile, wherever it runs. Jobs that a launcher lost, their
    own process killed or another that took theirs with it, are launched again: together, then each alone, then no more.
    """
    _go_on(found.path)
    tries, losses = Counter[int](), Counter[int]()
    due = _undone(found, found.entries)
    while due and not stop.signal and halted(found.path) is None:
        lost = set[int]()
        for batch in _batches(due, losses, orders):
            if stop.signal or halted(found.path) is not None:
                return
            lost |= _lost(found, launch, batch)
        after = {entry.number: state(found.home(entry)) for entry in due}
        if set(after.values()) == {"new"} and not lost:  # the launcher began none of them
            return
        losses.update(lost)
        tries.update(number for number, became in after.items() if became != "new" and number not in lost)
        tries.update({entry.number: orders.retries + 1 for entry in due if _refused(found.home(entry))})
        tries.update({number: orders.retries + 1 for number in lost if losses[number] > _LOSSES})
        due = [entry for entry in _undone(found, due) if tries[entry.number] <= orders.retries]


def _undone(found: Ledger, entries: Iterable[Entry]) -> list[Entry]:
    """Jobs that are not done and that no process trains."""
    return [entry for entry in entries if state(found.home(entry)) not in LEFT_ALONE]


def _batches(due: Sequence[Entry], losses: Mapping[int, int], orders: Orders) -> list[list[Entry]]:
    """What is launched at a time: alone also those that were lost with others, so that they bring down none."""
    alone = [entry for entry in due if orders.one_by_one or losses[entry.number] >= _LOSSES]
    together = [entry for entry in due if entry not in alone]
    return [*([together] if together else []), *([entry] for entry in alone)]


def _lost(found: Ledger, launch: Callable[[Sequence[Entry]], None], batch: Sequence[Entry]) -> set[int]:
    """Numbers of the jobs that a launcher did not end, once it is sure that nothing does them any more."""
    try:
        launch(batch)
    except BrokenExecutor:
        deadline = time.monotonic() + _DYING
        while any(state(found.home(entry)) == "running" for entry in batch) and time.monotonic() < deadline:
            time.sleep(0.1)
        return {entry.number for entry in batch if state(found.home(entry)) in ("died", "new")}
    return set()


def state(home: Path) -> str:
    """What became of a job: new, running, done, pruned, failed, stopped, died."""
    recorded = Run(home).read_json("metadata.json").get("status")
    if recorded is None:
        return "died" if (home / "config.yaml").exists() else "new"
    found = lease.status(home, recorded)
    return found if found in _KNOWN else "died"


def halt(path: Path, why: str) -> None:
    """No other job of the sweep begins."""
    Run(path).write_text(_HALT, why + "\n")


def halted(path: Path) -> str | None:
    """Why no other job begins; None if they may."""
    try:
        return (path / _HALT).read_text().strip()
    except OSError:
        return None


def _go_on(path: Path) -> None:
    """Jobs may begin again."""
    with suppress(FileNotFoundError):
        (path / _HALT).unlink()


def _found(path: Path, *, resume: bool) -> Ledger:
    """What is in the directory; an empty ledger if no multirun is."""
    if ledger.there(path):
        if not resume:
            raise UserError(
                f"hydra.sweep.dir = {path}: the jobs of a multirun are there; take it up again with resume=auto, "
                "or name another directory"
            )
        return ledger.read(path)
    if next(path.glob("*/metadata.json"), None) is not None:
        raise UserError(
            f"hydra.sweep.dir = {path}: the jobs of a multirun are there, without a {ledger.NAME} to take it up "
            "by; name another directory"
        )
    return Ledger(path)


def _check_changes(found: Ledger, asked: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError for a key whose value is another than in all jobs of the ledger, and which is not swept."""
    if not found.entries:
        return
    same, common = ledger.shared(asked), found.common
    free = found.varied | ({key for settings in asked for key in settings} - set(same))
    for settings in asked:
        for key in sorted({*settings, *common} - free, key=lambda key: (not key.endswith(".name"), key)):
            if key not in common or key not in settings or settings[key] != common[key]:
                raise UserError(_changed(found.path, key, common, settings))


def _changed(path: Path, key: str, common: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    was, now = common.get(key, "no such key"), settings.get(key, "no such key")
    both = f" sweep over both ({key}={was},{now})," if key in common and key in settings else ""
    return (
        f"{key} = {now}: every job of {path} has {was}; leave it out,{both} or start a new multirun with another "
        "hydra.sweep.dir"
    )


def _check_beside(wanted: Sequence[Wanted], given: Sequence[str]) -> None:
    """Raise UserError where jobs of one call differ in what makes no other job: one of them would be left out."""
    first: dict[str, Wanted] = {}
    for one, identity in zip(wanted, given, strict=True):
        other = first.setdefault(identity, one)
        for part in BESIDE:
            if one.config.get(part) != other.config.get(part):
                raise UserError(
                    f"{part}: jobs that differ in {part} alone are one job; choose one, or start a multirun for each"
                )


def _check_links(path: Path, entries: Iterable[Entry]) -> None:
    """Raise UserError for what has the place of a job's folder and is none, or leads elsewhere."""
    for entry in entries if path.is_dir() else ():
        try:
            files.names(path, entry.directory)
        except OSError as error:
            raise UserError(
                f"job {entry.number} of {path}: {of_file(error)}; its folder is {path / entry.directory}, so move "
                "away what is there"
            ) from error


def _refused(home: Path) -> bool:
    """Whether a job never became a run, since its words are no configuration: it goes if nobody asks for it again."""
    return not (home / CONFIG).exists() and Run(home).read_json("metadata.json").get("exit_code") == 2


def _check_places(path: Path, entries: Iterable[Entry]) -> None:
    """Raise UserError for two jobs in one directory."""
    first: dict[str, Entry] = {}
    for entry in entries:
        if not ledger.inside(entry.directory):
            raise UserError(
                f"hydra.sweep.subdir: {entry.directory} lies outside {path}; jobs have folders in that of the multirun"
            )
        other = first.setdefault(entry.directory, entry)
        if other is not entry:
            raise UserError(
                f"hydra.sweep.subdir: jobs {other.number} and {entry.number} would share {path / entry.directory}; "
                "name all that is swept in it, or leave it out"
            )
