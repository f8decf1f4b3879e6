"""`ebm_cli.load`: a run directory as an object."""

import os
from collections.abc import Sequence
from pathlib import Path

from ebm_cli.api.process import as_before
from ebm_cli.api.run import TrainedRun
from ebm_cli.cli.composed import composed
from ebm_cli.commands import own
from ebm_cli.terminal import logging_to


def load(path: str | os.PathLike[str], checkpoint: str | int = "last", words: Sequence[str] = ()) -> TrainedRun:
    """The run in that directory with the weights of a checkpoint: `last`, `best` or a step.

    `words` are keys of `ebm score`, such as "device=cpu" and "plugins=[barker]". Raises UserError if there is no such
    run or checkpoint. Nothing in the directory is run as code.
    """
    keys = [f"run={Path(path)}", "data=rows", f"checkpoint={checkpoint}"]
    with as_before(), logging_to(None):
        config = composed("score", [*keys, *words]).config
        trained = own.opened(str(path), str(checkpoint), config["plugins"], config)
        return TrainedRun(trained, config["device"])
