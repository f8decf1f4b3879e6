"""A job that another process than that of the multirun does."""

import sys
from typing import Any

from hydra.core.hydra_config import HydraConfig

from ebm_cli.signals import unheard, watching


class Elsewhere:
    """The task as launchers send it to their workers, whose exit code is all that comes back.

    An exception, such as that of a request to stop, would make a launcher end the jobs of all other workers.
    """

    def __init__(self, task: Any) -> None:
        self.task = task
        self.__name__ = self.__qualname__ = task.__name__

    def __call__(self, composed: Any) -> int:
        """The exit code of one job."""
        from ebm_cli import terminal

        terminal.among_others(str(HydraConfig.get().sweep.subdir))
        unheard()
        with watching() as stop:
            try:
                stop.at_once()
                code = self.task(composed)
            except KeyboardInterrupt:
                code = stop.exit_code or 130
            stop.noted()
        if self.task.outcome.error is not None:
            sys.stderr.write(f"ebm train: {self.task.outcome.error}\n")
        return code
