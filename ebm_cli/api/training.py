"""`ebm_cli.train` and `ebm_cli.evaluate`: the commands, by a call."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ebm_cli.api.loading import load
from ebm_cli.api.notebook import progress
from ebm_cli.api.process import as_before
from ebm_cli.api.run import TrainedRun
from ebm_cli.cli.composed import composed
from ebm_cli.commands import evaluate as measuring
from ebm_cli.commands import train as training
from ebm_cli.commands.configuration import Request
from ebm_cli.errors import RunError, UserError
from ebm_cli.record.run import Run

_STOPPED = (75, 130)


def train(words: Sequence[str] = ()) -> TrainedRun:
    """The run that `ebm train WORDS` makes, or goes on with by resume=DIR, opened at its last checkpoint.

    It is the same to the last bit. Raises UserError for bad words, before any work, and RunError if it fails. A request
    to stop, Ctrl-C or the button of a notebook, ends it after the step in progress, saves and raises KeyboardInterrupt.
    """
    with as_before():
        found = composed("train", _words(words))
        request = Request(found.config, found.chosen, found.overrides, found.directory)
        with progress():
            code = training.train(request)
    home = request.directory
    if code in _STOPPED:
        raise KeyboardInterrupt(f"stopped and saved; go on with ebm_cli.train(['resume={home}'])")
    if code:
        raise RunError(str(Run(home).read_json("metadata.json").get("error", f"{home} has failed")))
    return load(home, words=[f"plugins=[{','.join(found.config['plugins'])}]", *_of_device(found.config)])


def evaluate(
    run: TrainedRun | str | os.PathLike[str], evaluation: Sequence[str], words: Sequence[str] = ()
) -> dict[str, Any]:
    """What `ebm evaluate run=RUN evaluation=[...] WORDS` finds, as in results.json, which is written too.

    Of a run that is open the same checkpoint is measured. Raises UserError for bad words and RunError if one fails.
    """
    if isinstance(evaluation, str):
        raise UserError(f"evaluation = {evaluation}: give a list of names, [{evaluation!r}]")
    keys = [f"run={_place(run)}", f"evaluation=[{','.join(evaluation)}]"]
    keys += [f"checkpoint={run.step}"] if isinstance(run, TrainedRun) else []
    with as_before(), progress():
        home = measuring.measured(composed("evaluate", [*keys, *_words(words)]).config)
    return home.read_json("results.json")


def _place(run: TrainedRun | str | os.PathLike[str]) -> Path:
    return run.path if isinstance(run, TrainedRun) else Path(run)


def _words(words: Sequence[str]) -> list[str]:
    if isinstance(words, str):
        raise UserError(f"words = {words!r}: give a list of them, such as {words.split()}")
    return [*words]


def _of_device(config: dict[str, Any]) -> list[str]:
    """The run's own kind of device, so that what it found there is found again."""
    return [f"device.kind={config['device']['kind']}"]
