"""Ending a run before its last step: when it is looked at, and what every rank then does."""

from dataclasses import dataclass, field

from ebm_cli.stop.base import Logged, Watch
from ebm_cli.terminal import log, short
from ebm_cli.training.state import CHANGED, Parts, TrainState


@dataclass
class Early:
    """What a `Watch` says of the run. `met` is what ended it, in words; None until then."""

    watch: Watch | None = None
    met: str | None = None
    values: dict[str, float] = field(default_factory=dict)

    def due(self, step: int, total: int) -> bool:
        """Whether a look is due."""
        return self.watch is not None and step > 0 and (step % self.watch.every == 0 or step == total)

    def look(self, parts: Parts, state: TrainState, logged: Logged) -> dict[str, float]:
        """What is found, by rank 0; whether a target is met, all ranks then know. The chains must be gathered."""
        ranks, device = parts.device.ranks, parts.device.torch
        found = None
        if ranks.leads and self.watch is not None:
            found = self.watch.look(state.chains(), logged)
            self.values, self.met = found.values, found.met
        if ranks.highest(int(self.met is not None), device):
            self.met = self.met or "a target is met"
        return {} if found is None else found.values

    def again(self, parts: Parts, state: TrainState, logged: Logged) -> None:
        """The look that was due where a run goes on: it may have ended there, and then does no more.

        Nothing is logged a second time. A resumed run so ends where it would have ended without the interruption; where
        couplings were dropped at that step, it went on.
        """
        changed = state.sparsity.get(CHANGED)
        if self.due(state.step, parts.loop.steps) and (changed is None or changed.item() != state.step):
            self.look(parts, state, logged)

    @property
    def shown(self) -> dict[str, float]:
        """What the newest look found, for the line of progress."""
        return {short(name): value for name, value in self.values.items()}

    def say(self, step: int, total: int) -> None:
        """In one line, why training ends."""
        if self.met is not None:
            log.info("step %d: target met (%s); training ends there, of %d steps", step, self.met, total)
