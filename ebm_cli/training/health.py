"""Watching how a run goes, and whether it is to go back to where it was healthy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import override

from ebm_cli.health import probe
from ebm_cli.health.base import LEVELS
from ebm_cli.health.learned import learned
from ebm_cli.health.limits import clear, signs
from ebm_cli.training import raising, remedies
from ebm_cli.training.looks import Looks
from ebm_cli.training.state import Parts, TrainState
from ebm_cli.training.step import check_weights

_FAILING = LEVELS.index("failing")
_STAYS = 2  # looks with a doubt, after which it counts as a failure where a run may go back
_UNMENDABLE = {"overfit", "same"}
_MOVES = 0.2  # share of proposals that are accepted, below which chains would not follow a higher rate
_TRIED = 8  # periods for which a rate that was raised is on trial
_STRAYS, _UNITS, _WIDER = ("idle", "breadth"), 0.15, 2.0  # share of units that may get stuck, and times as wide
_FURTHER = "further"  # than before its rate was raised the model went, though not yet as far as to be doubted
_TOO_FAR = "since the rate was raised the model went further than healthy ones do"


@dataclass
class Watcher(Looks):
    """What looks find, and where the run may go back to, with what was done each time that it did."""

    doubts: int = 0  # looks that found anew what may be mended, since the last one after which nothing was to be
    healthy: int | None = None  # the step of the newest checkpoint at which all was well
    sure: int | None = None  # that of the newest of these whose chains were looked at
    first: int | None = None  # that of the oldest, of where the run began or was resumed
    recoveries: list[dict[str, Any]] = field(default_factory=list)  # what was done each time, as summary.json has it

    @property
    @override
    def since(self) -> int:
        """The step at which the run last went back, from which on looks are as dense as at its beginning."""
        return self.recoveries[-1]["step"] if self.recoveries else 0

    @property
    @override
    def waits(self) -> bool:
        """Whether a doubt is to be looked at again before the run goes back."""
        return self.doubts > 0 and self.may_go_back

    @property
    @override
    def now(self) -> Parts:
        """The parts of the run with what the newest recovery made of them."""
        assert self.parts is not None
        return remedies.applied(self.parts, self.recoveries)

    @property
    @override
    def done(self) -> dict[str, Any]:
        """All recoveries, if any."""
        return {"recoveries": self.recoveries} if self.recoveries else {}

    @property
    @override
    def mended(self) -> str | None:
        if not self.recoveries:
            return None
        did, more = self.recoveries[-1], remedies.added(self.recoveries)
        times = sum("raised" not in did for did in self.recoveries)
        often = "once" if times == 1 else f"{times} times"
        longer = f", and took {more} steps again that were lost" if more else ""
        return f"it went back {often}, trained with optimizer.lr={did['lr']:.3g} in the end{longer}"

    @property
    def longer(self) -> str | None:
        """What a run that is resumed says of the steps that it has beside those that are asked for."""
        more = remedies.added(self.recoveries)
        if not more:
            return None
        return f"{more} steps were added for those that were lost, so training ends at step {self.now.loop.steps}"

    @override
    def _weigh(self, step: int, found: Mapping[str, float], before: Mapping[str, float]) -> None:
        assert self.verdict is not None
        fine = _UNMENDABLE | learned({**self.probed, **found}, before, self.probed.get("r_hat_data"), warm=self._warm)
        anew, known = ({sign.name for sign in each} - fine for each in (signs(found), self.verdict.signs))
        further = not self._within or self._strayed
        if further and raising.holds_raised(self.recoveries) and step - self.since <= _TRIED * self.health.period:
            anew |= {_FURTHER}
        self.doubts = self.doubts + 1 if anew else self.doubts if known else 0

    @property
    def _within(self) -> bool:
        """Whether the model is well within the limits, and data do not lie above its chains."""
        return not self.too_long and clear({**self.probed, **self.measured})

    @property
    def _warm(self) -> bool:
        return remedies.at_one(self.now.components.sampler)

    @property
    def _strayed(self) -> bool:
        """Whether units are off or on for all rows that were not when the rate was raised, or chains far wider."""
        before: Mapping[str, float] = next((did["seen"] for did in reversed(self.recoveries) if "seen" in did), {})
        idle, breadth = (self.probed.get(name, 0.0) for name in _STRAYS)
        return idle > before.get("idle", 0.0) + _UNITS or breadth > _WIDER * before.get("breadth", math.inf)

    @override
    def saved(self) -> dict[str, Any]:
        """All that a run that goes on from here needs."""
        steps = {"healthy": self.healthy, "sure": self.sure, "first": self.first}
        own = {"doubts": self.doubts, **steps, "recoveries": self.recoveries}
        return {**super().saved(), **(own if self.health.most else {})}

    @override
    def load(self, saved: Mapping[str, Any]) -> None:
        """Take that over. Raises ValueError, KeyError, TypeError or AttributeError if it is no such thing."""
        super().load(saved)
        self.doubts = int(saved.get("doubts", 0))
        self.healthy, self.sure, self.first = (
            None if step is None else int(step) for step in map(saved.get, ("healthy", "sure", "first"))
        )
        self.recoveries = [remedies.read(did) for did in saved.get("recoveries", [])]

    def went_back(self, saved: Mapping[str, Any], did: Mapping[str, Any]) -> None:
        """The run goes on from a checkpoint that has `saved`; what was done is added to what was done before."""
        first, recoveries = self.first, [*self.recoveries, dict(did)]
        self.load({**saved, "window": [], "said": {}})
        self.healthy, self.first, self.recoveries = did["back_to"], first, recoveries

    def fails(self, step: int) -> bool:
        """Whether the run is failing at this step, or a doubt stays, and it may go back. A rate that is tried fails by
        one doubt, for to look again costs more than what it could bring, and so does a run at its last step."""
        last = step == self.now.loop.steps
        if not self.doubts or not self.may_go_back or (last and not self.room):
            return False
        failing = self.verdict is not None and self.verdict.level == _FAILING
        return failing or self.doubts >= (1 if last or remedies.is_raise(self.recoveries) else _STAYS)

    @property
    def room(self) -> int:
        """How many more steps may yet be added, in place of those that are lost by going back."""
        assert self.parts is not None
        return max(int(self.health.extra * self.parts.loop.steps) - remedies.added(self.recoveries), 0)

    @property
    def flew_apart(self) -> bool:
        """Whether the run is failing because its chains vary far more than the data."""
        signs = self.verdict.signs if self.verdict else ()
        return any(sign.name == "scatter" and sign.level == _FAILING for sign in signs)

    @property
    def keys(self) -> remedies.Keys:
        """Of other keys than the rate and the transitions those that are otherwise now."""
        return dict(self.recoveries[-1]["keys"]) if self.recoveries else {}

    def is_well(self, state: TrainState) -> bool:
        """Whether nothing is to be doubted of the chains and energies of a state."""
        found = probe.look(self.seen(state)) if probe.looks(state.model) else {}
        seen = {**found, "gap_now": found.get("apart", 0.0)}
        fine = _UNMENDABLE | learned(seen, {}, found.get("r_hat_data"), warm=self._warm)
        return clear(found) and not {sign.name for sign in signs(found)} - fine

    @property
    def targets(self) -> list[int]:
        """Checkpoints to go back to, the best first: one from which the run failed anew was not healthy, so not twice
        to the same one, but for the first, which is the last."""
        tried = {did["back_to"] for did in self.recoveries if "raised" not in did}
        steps = [step for step in (self.healthy, self.sure) if step is not None and step not in tried]
        last = self.healthy if self.first is None else self.first
        assert last is not None
        return [*dict.fromkeys([*steps, last])]

    @property
    def kept(self) -> set[int]:
        """Checkpoints that stay."""
        return {step for step in (self.healthy, self.sure, self.first) if step is not None}

    @property
    def may_go_back(self) -> bool:
        """Whether there is a checkpoint to go back to and attempts are left."""
        left = self.attempts < self.health.most or remedies.is_raise(self.recoveries)
        return self.healthy is not None and left

    @property
    def attempts(self) -> int:
        """How often the run went back, of `health.attempts`."""
        return raising.attempts(self.recoveries)

    @property
    def why(self) -> str:
        """Why it goes back."""
        assert self.verdict is not None
        return str(self.verdict) if self.verdict.level else _TOO_FAR

    def raised_at(self, step: int) -> bool:
        """Whether the rate became higher at this step."""
        return remedies.is_raise(self.recoveries) and self.since == step

    @property
    def too_long(self) -> bool:
        """Whether data lie above the chains, by what steps that are too long add to the gap, see `signals._above`."""
        return self.measured.get("above", 0.0) > 0

    def raises(self, step: int) -> bool:
        """Whether the rate is higher from this step on, at which all is well. Without chains nothing would tell that it
        is too high, so it stays there."""
        assert self.parts is not None
        if not self.parts.components.objective.negatives:
            return False
        if self.doubts or self.too_long or self.measured.get("acceptance", 1.0) < _MOVES:
            return False
        did = raising.raised(self.parts, self.recoveries, step, self.health.period, free=self.room > 0)
        seen = {name: self.probed[name] for name in _STRAYS if name in self.probed}
        self.recoveries += [{**did, "seen": seen}] if did else []
        return did is not None

    def keeps(self, state: TrainState) -> bool:
        """Whether the state of now is one to come back to, for which there will be a checkpoint."""
        assert self.parts is not None
        if not self.health.most or self.verdict is None or self.verdict.level == _FAILING or self.doubts:
            return False
        if not self._within:
            return False
        check_weights(state, self.parts.components.objective)
        self.healthy = state.step
        if self.probes(state.step):
            self.sure = state.step
        return True
