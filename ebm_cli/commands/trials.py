"""What the trials of a search were worth, and the table that shows it, the best first."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from rich.table import Table
from rich.text import Text

from ebm_cli.commands import multi, sweep
from ebm_cli.commands.search import Search, key_of, measured_while_training
from ebm_cli.commands.study import JOB, Study
from ebm_cli.errors import RunError
from ebm_cli.record import files
from ebm_cli.record.ledger import Entry, Ledger
from ebm_cli.record.run import Run
from ebm_cli.terminal import output

_SPLIT = {True: "validation split", False: "test split: optimistic"}
_ORDER = ("done", "pruned", "running", "stopped", "died", "new", "failed")


def values(home: Path, entry: Entry, search: Search) -> list[float] | None:
    """The metrics of a run that is done; None if one of them is no finite number.

    What is measured while training counts as it is of the checkpoint that stays: `checkpoint.monitor`, of which more is
    better, at its best, all else at the end. Raises RunError if a run does not report it.
    """
    found = []
    for metric, direction in zip(search.metric, search.direction, strict=True):
        best = direction == "max" and metric == entry.settings.get("checkpoint.monitor")
        value = _value(home, metric, best=best)
        if value is None:
            return None
        found.append(value)
    return found


def read_anew(found: Ledger, study: Study) -> None:
    """Let the files of runs that are done say what they are worth: a trial may be trained on since the study heard.

    The study keeps what it was told, and proposes by that.
    """
    ended = {trial.user_attrs[JOB] for trial in study.proposed() if trial.state.is_finished()}
    for entry in found.entries:
        home = found.home(entry)
        if entry.number in ended and sweep.state(home) == "done" and files.there(home, "metrics.jsonl"):
            study.since[entry.number] = values(home, entry, study.search)


def _value(home: Path, metric: str, *, best: bool) -> float | None:
    summary = Run(home).read_json("summary.json")
    logged = [summary[metric]] if metric in summary else [line[metric] for line in _lines(home) if metric in line]
    numbers = [float(one) for one in logged if isinstance(one, int | float) and math.isfinite(one)]
    if not numbers or (not best and logged[-1] is None):
        return None
    return max(numbers) if best else numbers[-1]


def _lines(home: Path) -> list[dict[str, Any]]:
    """metrics.jsonl."""
    try:
        found = [json.loads(line) for line in files.text(home, "metrics.jsonl").splitlines()]
    except (OSError, ValueError) as error:
        raise RunError(f"{home / 'metrics.jsonl'}: cannot be read ({error}); put it back") from error
    return [line for line in found if isinstance(line, dict)]


def reported(home: Path) -> dict[str, Any]:
    """All numbers that a run has, by their names."""
    lines = _lines(home) if files.there(home, "metrics.jsonl") else []
    return {name: value for line in lines for name, value in line.items() if name != "step"} | Run(home).read_json(
        "summary.json"
    )


def line(entry: Entry, became: str, found: Sequence[float] | None, study: Study) -> Text:
    """What became of a trial, and the best there is."""
    own = " ".join(word for word in entry.overrides if word.partition("=")[0] in {axis.key for axis in study.axes})
    worth = "its metric is missing or no finite number" if became == "done" and found is None else _shown(found or [])
    best = study.best()
    so_far = ""
    if len(best) == 1:
        so_far = f"; best so far: trial {best[0].user_attrs[JOB]}, {_shown(study.worth(best[0]) or ())}"
    return Text.assemble((f"trial {entry.directory}", "bold"), f" ({own}): {became} {worth}".rstrip(), so_far)


def show(found: Ledger, study: Study) -> list[dict[str, Any]]:
    """Print a line for each trial and what is to be known of the best; write both to summary.json. Returns the jobs."""
    read_anew(found, study)
    best, importances = study.best(), study.importances()
    rows = _rows(found, study)
    output.print(_table(found, study, rows, {trial.user_attrs[JOB] for trial in best}))
    facts = [_facts(found, study, trial) for trial in best]
    jobs = [job for _, job in sorted(rows, key=lambda row: row[0].number)]
    about = {"metric": study.search.metric, "direction": study.search.direction}
    first, mattered = _best(study, facts, jobs), _mattered(study, importances)
    said = [*first, *mattered]
    Run(found.path).write_json(
        "summary.json", {"jobs": jobs, **about, "best": facts, "importances": importances, "said": said}
    )
    only = facts[0] if len(facts) == 1 else None
    again = [f"run directory {only['directory']}", f"train it again with: {only['command']}"] if only else []
    for line in (*first, *again, *mattered):
        output.print(line, soft_wrap=True)
    return jobs


def _best(study: Study, facts: Sequence[Mapping[str, Any]], jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which trial is the best, of how many, and by which split, or which are where there are several metrics."""
    if len(facts) > 1:
        return [f"none is better in all metrics than these (*): trials {', '.join(str(f['trial']) for f in facts)}"]
    tried = sum(job["values"] is not None for job in jobs)
    splits = {_SPLIT[measured_while_training(name)] for name in study.search.metric if "/" in name}
    by = f" by the {' and the '.join(sorted(splits))}" if splits else ""
    named = [f"best trial {fact['trial']}: {_named(study, fact['metrics'].values())}" for fact in facts]
    return [f"{line}, best of {tried}{by}" for line in named]


def _mattered(study: Study, importances: Mapping[str, float]) -> list[str]:
    """The share of each key, or why it is not known."""
    shares = "  ".join(f"{key} {value:.2f}" for key, value in importances.items())
    if importances:
        done = {trial.user_attrs[JOB] for trial in study.done()}
        return [f"what mattered among the {len(done)} that are done: {shares}"]
    why = study.unknown() or "not known: the trials that are done do not tell"
    return [f"what mattered: {why}"] if len(study.axes) > 1 else []


def _rows(found: Ledger, study: Study) -> list[tuple[Entry, dict[str, Any]]]:
    """Every trial with its record, the best first, and what it was worth under `values`."""
    first: dict[int, Any] = {}
    for trial in study.proposed():
        first.setdefault(trial.user_attrs[JOB], trial)
    rows = []
    for entry in found.entries:
        job = multi.record(entry.directory, found.home(entry), entry.overrides)
        rows.append((entry, job | _worth(study, first.get(entry.number), job)))
    sign = -1 if study.search.direction[0] == "max" else 1

    def place(row: tuple[Entry, dict[str, Any]]) -> tuple[int, float, int]:
        worth = sign * row[1]["values"][0] if row[1]["values"] else math.inf
        return _ORDER.index(row[1]["status"]), worth, row[0].number

    return sorted(rows, key=place)


def _worth(study: Study, trial: Any, job: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial was worth, by the files of its run if that is done, and what is to be said of it."""
    told = trial.values if trial is not None else None
    if job["status"] == "done" and trial is not None and trial.state.is_finished():
        worth = study.worth(trial)
        if worth is not None:
            return {"values": list(worth)}
        return {"values": None, "status": "failed", "error": "its metric is missing or no finite number"}
    about: dict[str, Any] = {"values": list(told) if told is not None else None}
    if told is not None and job["status"] != "pruned":
        earlier = "the value is of an earlier step"
        about["error"] = f"{job['error']}; {earlier}" if job["error"] else earlier
    return about


def _table(found: Ledger, study: Study, rows: Sequence[tuple[Entry, Mapping[str, Any]]], best: set[int]) -> Table:
    made = Table(title=f"search {found.path}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    keys = [axis.key for axis in study.axes]
    for heading in ("trial", *keys, *study.search.metric, "status", "steps", "seconds"):
        made.add_column(heading, overflow="fold")
    for entry, job in rows:
        own = {word.partition("=")[0]: word.partition("=")[2] for word in entry.overrides}
        worth = [f"{value:.6g}" for value in job["values"] or []] or [""] * len(study.search.metric)
        spent = [_number(job["summary"].get(key)) for key in ("steps", "seconds")]
        status = job["status"] if not job["error"] else f"{job['status']}: {job['error']}"
        mark = "*" if entry.number in best else ""
        made.add_row(f"{entry.directory}{mark}", *(_short(own.get(key, "")) for key in keys), *worth, status, *spent)
    return made


def _facts(found: Ledger, study: Study, trial: Any) -> dict[str, Any]:
    """A trial that is best, and the command that does it again."""
    entry = next(one for one in found.entries if one.number == trial.user_attrs[JOB])
    metrics = dict(zip(study.search.metric, study.worth(trial) or (), strict=True))
    command = " ".join(["ebm train", *map(quote, _words(found, entry))])
    return {
        "trial": entry.number,
        "metrics": metrics,
        "params": trial.params,
        "directory": str(found.home(entry)),
        "command": command,
    }


def _words(found: Ledger, entry: Entry) -> list[str]:
    """Of a trial, with what was changed where it was trained on."""
    changes = Run(found.home(entry)).read_json("metadata.json").get("changes", [])
    typed = [word for change in changes for word in change.get("overrides", [])]
    later = [word for word in typed if key_of(word).partition(".")[0] not in sweep.BESIDE]
    return list({key_of(word): word for word in [*entry.overrides, *later]}.values())


def _named(study: Study, found: Iterable[float]) -> str:
    pairs = zip(study.search.metric, study.search.direction, found, strict=True)
    return ", ".join(f"{metric} = {value:.6g} ({direction})" for metric, direction, value in pairs)


def _shown(found: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in found)


def _short(text: str) -> str:
    """A number with few digits; anything else as it is."""
    try:
        return f"{float(text):.4g}" if "." in text or "e" in text else text
    except ValueError:
        return text


def _number(found: object) -> str:
    return f"{found:.4g}" if isinstance(found, float) else str(found if isinstance(found, int) else "")
