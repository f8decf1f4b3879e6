"""What every rank but the first has in place of a recorder."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from ebm_cli.record import checkpoint
from ebm_cli.sampler.base import Sampler
from ebm_cli.training.along import Along
from ebm_cli.training.early import Early
from ebm_cli.training.health import Watcher
from ebm_cli.training.schedule import Schedule, due_at
from ebm_cli.training.state import Parts, TrainState
from ebm_cli.training.step import Diverged, Report


@dataclass
class Follower:
    """A recorder that writes nothing: what every rank but the first has. It keeps the same calendar."""

    schedule: Schedule
    ladder: set[int] = field(default_factory=set)
    newest: dict[str, float] = field(default_factory=dict)
    ended: bool = False
    early: Early = field(default_factory=Early)
    along: Along = field(default_factory=Along)  # which follows nothing
    watcher: Watcher = field(default_factory=Watcher)

    def begin(self, total: int, step: int, sampler: Sampler[Any, Any]) -> None:
        """The rungs that lie ahead."""
        self.ladder = checkpoint.log_spaced(self.schedule.log_spaced, total)

    def saves(self, step: int, total: int) -> bool:
        """Whether rank 0 does."""
        return step in self.ladder or due_at(step, self.schedule.save_every, total)

    def disk_watched(self, state: TrainState) -> AbstractContextManager[None]:
        """There is nothing to watch."""
        return nullcontext()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Not recorded."""

    def judged(self, state: TrainState) -> dict[str, float]:
        """Rank 0 does."""
        return {}

    def goes_back(self, parts: Parts, state: TrainState, why: Diverged) -> bool:
        """Runs of several ranks do not."""
        return False

    def keeps(self, state: TrainState) -> bool:
        """Runs of several ranks do not go back."""
        return False

    def saves_once(self, parts: Parts, state: TrainState) -> None:
        """Not saved."""

    def logged(self, name: str) -> list[float]:
        """Rank 0 knows."""
        return []

    def follow(self, parts: Parts, state: TrainState) -> None:
        """Nothing does."""

    def look(self, reports: Sequence[Report], *, last: bool) -> None:
        """Rank 0 does."""

    def evaluate(self, parts: Parts, state: TrainState) -> bool:
        """Not evaluated."""
        return False

    def save(self, parts: Parts, state: TrainState) -> None:
        """Not saved."""
