"""What follows a run as it trains: when it looks, and what it then says."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ebm_cli.evaluation.base import Subject
from ebm_cli.running.base import Running
from ebm_cli.running.none import NoRunning
from ebm_cli.terminal import log
from ebm_cli.training.state import TrainState

_ROWS = 1000  # at most, whose log-likelihood is told


@dataclass
class Along:
    """One run and what follows it, on the first rank alone."""

    running: Running = field(default_factory=NoRunning)
    looks: frozenset[int] = frozenset()
    told: bool = False  # that it is lost
    rows: Tensor | None = None  # held-out ones

    def due(self, step: int, *, evaluates: bool) -> bool:
        """Whether a look is due; so it is wherever the run is evaluated."""
        return bool(self.looks) and (evaluates or step in self.looks)

    def begin(self, about: Callable[[], Subject], state: TrainState) -> None:
        """Before the first step of a process: go on with what the checkpoint has, or begin with the model as it is."""
        if not self.looks:
            state.running = {}
            return
        subject = about()
        if not self.running.fits(state.running, subject):
            state.running = dict(self.running.begun(subject))

    def look(self, subject: Subject, state: TrainState) -> dict[str, float]:
        """What is found of the model as it is now."""
        state.running = dict(self.running.followed(subject, state.running))
        if self.running.is_lost(state.running) and not self.told:
            self.told = True
            log.warning(
                "step %d: energies of the chains of running=log_z are not finite: log Z is no longer followed",
                state.step,
            )  # fmt: skip
        return self.found(state)

    def found(self, state: TrainState) -> dict[str, float]:
        """What the newest look of this state found."""
        return self.running.found(state.running) if self.looks and state.running else {}

    def of_rows(self, about: Callable[[], Subject], state: TrainState) -> dict[str, float]:
        """What the newest look says of held-out rows."""
        if not self.looks:
            return {}
        subject = about()
        if subject.held_out.missing is not None:
            return {}
        return self.running.of_rows(subject, state.running, self._rows(subject))

    def _rows(self, subject: Subject) -> Tensor:
        """A thousand rows at most, evenly spaced, the same each time; they are read once."""
        if self.rows is None:
            split = subject.held_out
            every = math.ceil(len(split) / _ROWS)
            self.rows = split.fixed(torch.arange(0, len(split), every, device=split.stored.device))
        return self.rows
