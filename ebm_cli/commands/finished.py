"""A run that is done, of which the command that is started again asks nothing more."""

from collections.abc import Mapping
from shlex import quote
from typing import Any

from ebm_cli.commands.configuration import UNSAID, Request
from ebm_cli.commands.places import rooted
from ebm_cli.commands.session import Job
from ebm_cli.record import checkpoint, run
from ebm_cli.record.run import Run

AUTO = "auto"  # of `resume`: by a scheduler, which starts the same command again whatever became of it
_BESIDE = ("resume", "plugins", "tracker", "device", "notify", "health")  # where it would run, and who would be told


def ended(met: str | None, steps: int) -> dict[str, Any]:
    """What summary.json says of why training ended, of a run of so many steps at most."""
    return {"why": "all steps"} if met is None else {"why": "target", "said": met, "of": steps}


def said(request: Request, job: Job) -> str | None:
    """A sentence that the run is done, with all that is asked for; None if there is work to do.

    Of a run that has all its steps that is so with `resume=auto` alone, since whoever names it wants it evaluated anew.
    """
    if job.found is None:
        return None
    home, steps, met = job.found, job.config.get("steps"), _met(job.found)
    if request.config["resume"] != AUTO and met is None:
        return None
    known, summary = (home.read_json(name) for name in ("metadata.json", "summary.json"))
    status, last = [known.get("status"), summary.get("status")], summary.get("steps")
    if status != ["done", "done"] or checkpoint.steps(home.checkpoints)[-1:] != [last]:
        return None
    if _asked(_saved(home)) != _asked(job.config):
        return None
    more = f"to measure more: ebm evaluate run={quote(str(home.path))}"
    if met is None:
        return f"{home.path} is done, {last} steps and all its evaluations; {more}"
    return (
        f"{home.path} is done: its target was met at step {last} of {steps} ({met}); to train on, change a key of "
        f"stop, or stop=none; {more}"
    )


def _met(home: Run) -> str | None:
    """The target that ended a run, in words."""
    found = home.read_json("summary.json").get("ended")
    met = found.get("said") if isinstance(found, dict) and found.get("why") == "target" else None
    return met if isinstance(met, str) else None


def _saved(home: Run) -> dict[str, Any]:
    return rooted({"report": dict(UNSAID), **run.LATER_GROUPS, **run.open_existing(home.path)[1]})


def _asked(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _BESIDE}
