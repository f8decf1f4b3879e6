"""`ebm train -m`: its jobs, none of which is stopped by the failure of another, and the table that names them all."""

import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from rich.text import Text

from ebm_cli import registry
from ebm_cli.commands import beforehand, looking, notify, pages, sweep
from ebm_cli.commands.configuration import Request
from ebm_cli.commands.notify import Notice
from ebm_cli.commands.places import rooted
from ebm_cli.commands.sweep import Orders, Wanted
from ebm_cli.commands.train import train
from ebm_cli.comparison.shown import show_jobs
from ebm_cli.errors import RunError, UserError, of_file
from ebm_cli.record import lease, ledger
from ebm_cli.record.ledger import Entry, Ledger
from ebm_cli.record.run import CONFIG, Run
from ebm_cli.signals import StopRequest, watching
from ebm_cli.terminal import alone, beginning, console, logging_to, output
from ebm_cli.tracker import several

_LONGEST_LABEL = 128  # characters, as many as wandb shows


def run(
    path: Path,
    arguments: Sequence[str],
    wanted: Sequence[Wanted],
    launch: Callable[[Sequence[Entry]], None],
    orders: Orders,
    settle: Callable[[], object] | None = None,
) -> int:
    """Do the jobs that are not done yet, show what became of all, and return the exit code: 0 if all are done.

    `settle` waits for jobs that an earlier call handed over and that are at work still.
    Raises UserError before anything is written if the jobs cannot be those of the directory.
    """
    registry.load_components()
    url = notify.address(wanted[0].config) if wanted else None
    jobs = [replace(one, config=rooted(one.config)) for one in wanted]
    with beginning():
        found = sweep.planned(path, arguments, jobs, orders)
        beforehand.check(found, jobs)
    with watching() as stop, claimed(path):
        stop.noted()  # until it is known how to take them up
        found.write()
        try:
            stop.at_once()
            _say_what_is_there(found)
            sweep.work(found, launch, orders, stop)
            if settle is not None and not stop.signal:
                settle()
        finally:
            stop.noted()  # however it ended, it is written down undisturbed
            answer = table(path)
            notice = Notice(url, notify.of_sweep(str(path.absolute()), _listed(path), became(stop, answer)))
            with logging_to(None):
                pages.of_multirun(path)
            for line in looking.at_sweep(found):
                output.print(line, soft_wrap=True)
            if answer:
                output.print(f"take up what is not done with: {_again(path, orders)}", soft_wrap=True)
            with logging_to(None):
                notice.wait()
    return stop.code(answer)


def _listed(path: Path) -> list[dict[str, Any]]:
    """The jobs as the table has them."""
    found = Run(path).read_json("summary.json").get("jobs")
    return found if isinstance(found, list) else []


def became(stop: StopRequest, answer: int) -> str:
    """`done`, `failed` or `stopped`: the word for several runs that came to this answer."""
    if not answer:
        return "done"
    return "stopped" if stop.exit_code else "failed"


def _say_what_is_there(found: Ledger) -> None:
    """Of a multirun that is taken up, how many of its jobs are done."""
    states = Counter(sweep.state(found.home(entry)) for entry in found.entries)
    if set(states) != {"new"}:
        counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        output.print(f"multirun {found.path}: {counts}", soft_wrap=True)


def _again(path: Path, orders: Orders) -> str:
    return " ".join(["ebm train -m", f"resume={quote(str(path))}", *orders.typed])


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Hold the lease of the multirun: of two calls one does its jobs."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        held = lease.claimed(path, "hydra.sweep.dir = ", "does this multirun")
    except OSError as error:
        raise UserError(f"hydra.sweep.dir = {path}: {of_file(error)}; name another directory") from error
    with held:
        yield


def job(request: Request) -> int:
    """Train one job, or go on with it. A refusal or failure is recorded in its directory."""
    assert request.sweep is not None
    name = os.path.relpath(request.directory, request.sweep)
    halted = sweep.halted(request.sweep)
    if halted is not None:
        output.print(f"job {name} is not begun: {halted}")
        return 75
    became = sweep.state(request.directory)
    if became in sweep.LEFT_ALONE:  # it waited in a queue, and another process was there first
        output.print(f"job {name} is not begun: it is {became} already")
        return 75 if became == "running" else 0
    if alone():
        output.print("\n", head(name, request.overrides), sep="", soft_wrap=True)
    code = _trained(request, name)
    if code in (1, 2) and request.fail_fast:
        sweep.halt(request.sweep, f"job {name} failed, and fail_fast=true")
    return code


def head(name: str, overrides: Sequence[str]) -> Text:
    """What is said of a job as it begins."""
    return Text.assemble((f"job {name}", "bold"), f": {' '.join(overrides)}")


def _trained(request: Request, name: str) -> int:
    there = (request.directory / CONFIG).exists()
    if there:
        request = replace(request, config={**request.config, "resume": str(request.directory)})
    if several.names(request.config.get("tracker")) != ["none"]:
        request = replace(request, label=_label(request))
    try:
        code = train(request)
    except (UserError, RunError) as error:
        output.print(f"job {name} failed: {error}", soft_wrap=True)
        if not there:
            record_failure(request, str(error), error.exit_code)
        elif sweep.state(request.directory) not in ("done", "running"):
            Run(request.directory).update_metadata(status="failed", error=str(error), exit_code=error.exit_code)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - shown and recorded; the other jobs are to be done all the same
        return _fault(request, error)
    if code in (1, 2) and not (request.directory / CONFIG).exists():  # of processes that said themselves why
        record_failure(request, f"exit code {code}", code)
    return code


def _label(request: Request) -> str:
    """What was typed for this job alone, by which people know it; the name of its folder if nothing was."""
    assert request.sweep is not None
    shared = set.intersection(*(set(entry.overrides) for entry in ledger.read(request.sweep).entries))
    own = [word for word in request.overrides if word not in shared]
    return " ".join(own)[:_LONGEST_LABEL] or request.directory.name


def _fault(request: Request, error: Exception) -> int:
    """A fault of the program stops no other job either; all that is known of it is shown, and that it was recorded."""
    with watching() as stop:
        if stop.broke(error):
            raise error
    console.print(traceback.format_exc(), highlight=False, soft_wrap=True)
    if not (request.directory / CONFIG).exists():
        record_failure(request, f"{type(error).__name__}: {error}", 1)
    return 1


def record_failure(request: Request, error: str, code: int) -> None:
    """A job that never became a run still says why."""
    request.directory.mkdir(parents=True, exist_ok=True)
    facts = {"status": "failed", "error": error, "exit_code": code, "overrides": list(request.overrides)}
    Run(request.directory).write_json("metadata.json", facts)


def table(directory: Path) -> int:
    """Print the jobs side by side and write them to summary.json; 1 if any job did not finish, else 0."""
    jobs = [record(name, directory / name, overrides) for name, overrides in _jobs(directory)]
    show_jobs([directory / job["job"] for job in jobs], f"multirun {directory}", output)
    Run(directory).write_json("summary.json", {"jobs": jobs})
    return 0 if jobs and all(entry["status"] == "done" for entry in jobs) else 1


def _jobs(directory: Path) -> list[tuple[str, Sequence[str]]]:
    """Folders and overrides of the jobs, in the order of their numbers; of an old multirun as its folders show."""
    if ledger.there(directory):
        return [(entry.directory, entry.overrides) for entry in ledger.read(directory).entries]
    found = [path.parent.name for path in directory.glob("*/metadata.json")]
    return [(name, ()) for name in sorted(found, key=lambda name: (int(name) if name.isdigit() else 0, name))]


def record(name: str, path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """What summary.json of a multirun has of a job."""
    facts = Run(path).read_json("metadata.json")
    return {
        "job": name,
        "overrides": facts.get("overrides", list(overrides)),
        "status": sweep.state(path),
        "error": facts.get("error"),
        "summary": Run(path).read_json("summary.json"),
    }
