"""A run that is done, of which the command that is started again asks nothing more."""

from collections.abc import Mapping
from shlex import quote
from typing import Any

from ebm_cli.commands.configuration import UNSAID, Request
from ebm_cli.commands.places import rooted
from ebm_cli.commands.session import Job
from ebm_cli.record import checkpoint, run

AUTO = "auto"  # of `resume`: by a scheduler, which starts the same command again whatever became of it
_BESIDE = ("resume", "plugins", "tracker", "device", "notify")  # where it would run, and who would be told


def said(request: Request, job: Job) -> str | None:
    """A sentence that the run of `resume=auto` is done, with all that is asked for; None if there is work to do."""
    if job.found is None or request.config["resume"] != AUTO:
        return None
    home, steps = job.found, job.config.get("steps")
    ended = [home.read_json(name).get("status") for name in ("metadata.json", "summary.json")]
    if ended != ["done", "done"] or checkpoint.steps(home.checkpoints)[-1:] != [steps]:
        return None
    saved = rooted({"report": dict(UNSAID), **run.open_existing(home.path)[1]})
    if _asked(saved) != _asked(job.config):
        return None
    return (
        f"{home.path} is done, {steps} steps and all its evaluations; to measure more: ebm evaluate "
        f"run={quote(str(home.path))}"
    )


def _asked(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _BESIDE}
