"""Hydra plugin: the jobs of a multirun in step with each other, in this process."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job
from pydantic import Field
from pydantic.dataclasses import dataclass
from typing_extensions import override

from ebm_cli.cli.launching import Handing, Work
from ebm_cli.signals import watching
from ebm_cli.terminal import Board, beside_others, logging_to


@dataclass(frozen=True)
class StackedSpec:
    """Keys of hydra.launcher."""

    together: Annotated[int, Field(ge=1)] | None


class StackedLauncher(Handing):
    """Does all jobs at once: those of one shape with one call for all, others one after the other."""

    choice, package, spec = "stacked", "greenlet", StackedSpec

    @override
    def hand_over(self, jobs: Sequence[Work]) -> None:
        from ebm_cli.device.ranks import cores
        from ebm_cli.device.stack import Stack

        board = Board()
        with watching() as stop, logging_to(None):
            stop.noted()
            Stack[int](cores(), self.keys.together, stop, _hydra).run([partial(self._done, job, board) for job in jobs])

    def _done(self, job: Work, board: Board) -> int:
        """The exit code of one."""
        with beside_others(job.name, board), watching() as stop:
            try:
                stop.at_once()
                done = run_job(self.task, job.config, "hydra.sweep.dir", "hydra.sweep.subdir", self.context)
                return int(done.return_value)
            except KeyboardInterrupt:
                return stop.exit_code or 130
            finally:
                stop.noted()


def _hydra() -> "partial[None]":
    """What puts back whose configuration Hydra's singleton has."""
    return partial(setattr, HydraConfig.instance(), "cfg", HydraConfig.instance().cfg)
