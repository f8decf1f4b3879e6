"""Jobs of a multirun: one that fails does not stop the others, and the table at the end names it."""

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ebm_cli import registry
from ebm_cli.commands import report
from ebm_cli.commands.configuration import Request
from ebm_cli.commands.train import train
from ebm_cli.errors import RunError, UserError
from ebm_cli.evaluation import baseline
from ebm_cli.record import lease, run
from ebm_cli.signals import watching
from ebm_cli.terminal import console, output


def job(request: Request) -> int:
    """Train one job. A refusal or failure is recorded in its directory; a stop request ends the multirun."""
    output.print(Text.assemble("\n", (f"job {request.directory.name}", "bold"), f": {' '.join(request.overrides)}"))
    try:
        code = train(request)
    except (UserError, RunError) as error:
        output.print(f"job {request.directory.name} failed: {error}", soft_wrap=True)
        if not (request.directory / "config.yaml").exists():  # of a run that was there before
            record_failure(request, str(error), error.exit_code)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - shown and recorded; the other jobs are to be done all the same
        return _fault(request, error)
    if code in (75, 130):
        raise SystemExit(code)
    if code and not (request.directory / "config.yaml").exists():  # of processes that said themselves why
        record_failure(request, f"exit code {code}", code)
    return code


def _fault(request: Request, error: Exception) -> int:
    """A fault of the program stops no other job either; all that is known of it is shown, and that it was recorded."""
    with watching() as stop:
        if stop.raised:  # a library made this of a request to stop
            raise error
    console.print(traceback.format_exc(), highlight=False, soft_wrap=True)
    if not (request.directory / "config.yaml").exists():
        record_failure(request, f"{type(error).__name__}: {error}", 1)
    return 1


def record_failure(request: Request, error: str, code: int) -> None:
    """A job that never became a run still says why."""
    request.directory.mkdir(parents=True, exist_ok=True)
    facts = {"status": "failed", "error": error, "exit_code": code, "overrides": list(request.overrides)}
    run.Run(request.directory).write_json("metadata.json", facts)


def table(directory: Path) -> int:
    """Print one line per job of a multirun and write them to its summary.json; 1 if any job did not finish, else 0."""
    jobs = [_job(path) for path in sorted(directory.glob("*/metadata.json"), key=_number)]
    made = Table(title=f"multirun {directory}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    shown = {heading: keys for heading, keys in _columns().items() if any(_cell(job["summary"], keys) for job in jobs)}
    for heading in ("job", "overrides", "status", *shown):
        made.add_column(heading, overflow="fold")
    shared = set.intersection(*(set(entry["overrides"]) for entry in jobs)) if len(jobs) > 1 else set()
    for entry in jobs:
        own = " ".join(override for override in entry["overrides"] if override not in shared)
        numbers = [_cell(entry["summary"], keys) for keys in shown.values()]
        made.add_row(entry["job"], own, _status(entry), *numbers)
    output.print(made)
    run.Run(directory).write_json("summary.json", {"jobs": jobs})
    return 0 if jobs and all(entry["status"] == "done" for entry in jobs) else 1


def _columns() -> dict[str, tuple[str, ...]]:
    """Headings, and the keys of what stands below each: the first that a job has."""
    registry.load_components()
    found: dict[str, tuple[str, ...]] = {}
    for evaluation in report.evaluations():
        for heading, key in evaluation.compared:
            found[heading] = (*found.get(heading, ()), key)
    beside = {heading: (key,) for key, heading in baseline.COMPARED.items()}
    return {**found, **beside, "judged": ("judged",), "seconds": ("seconds",)}


def _number(path: Path) -> tuple[int, str]:
    name = path.parent.name
    return (int(name), "") if name.isdigit() else (0, name)


def _job(path: Path) -> dict[str, Any]:
    found = run.Run(path.parent)
    facts = found.read_json("metadata.json")
    return {
        "job": path.parent.name,
        "overrides": facts.get("overrides", []),
        "status": lease.status(found.path, facts.get("status", "unknown")),
        "error": facts.get("error"),
        "summary": found.read_json("summary.json"),
    }


def _status(entry: Mapping[str, Any]) -> str:
    return entry["status"] if not entry["error"] else f"{entry['status']}: {entry['error']}"


def _cell(summary: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    found = next((summary[key] for key in keys if summary.get(key) is not None), None)
    if isinstance(found, str):
        return found
    return "" if found is None else f"{found:.2f}"
