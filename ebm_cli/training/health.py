"""Watching how a run goes: what is remembered of its steps, when it is looked at, what is then said."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebm_cli.dataset.base import Split, batch_index
from ebm_cli.health import budget, past, probe, signals
from ebm_cli.health.base import LEVELS, Health, Sign, Verdict, verdict
from ebm_cli.health.budget import Moving, Periods
from ebm_cli.health.learned import learned
from ebm_cli.health.limits import clear, of_scale, signs
from ebm_cli.health.none import NoHealth
from ebm_cli.health.probe import Seen
from ebm_cli.health.signals import LATE, About, Window
from ebm_cli.record import plain_json
from ebm_cli.record.run import Run
from ebm_cli.rng import Key, stream
from ebm_cli.space import Counts
from ebm_cli.terminal import log
from ebm_cli.training import raising, remedies
from ebm_cli.training.state import Parts, TrainState
from ebm_cli.training.step import check_weights, rows_at

_LEAST = 10  # steps that say something
_ENDED = "ended"
_FAILING = LEVELS.index("failing")
_STAYS = 2  # looks with a doubt, after which it counts as a failure where a run may go back
_UNMENDABLE = {"overfit"}
_FURTHER = "further"  # than before its rate was raised the model went, though not yet as far as to be doubted
_TOO_FAR = "since the rate was raised the model went further than healthy ones do"


@dataclass
class Watcher:
    """What is known of how one run goes. All of it that a resumed run needs is in `saved`."""

    health: Health = field(default_factory=NoHealth)
    parts: Parts | None = None
    names: Sequence[str] = ()
    window: list[Tensor] = field(default_factory=list)  # what steps reported since the last look, (steps, numbers) each
    history: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)  # signals of the newest window
    probed: dict[str, float] = field(default_factory=dict)  # what the newest look at the chains found
    said: dict[str, int] = field(default_factory=dict)  # the level of each sign that was warned of
    verdict: Verdict | None = None
    conclusion: str | None = None  # once the run is over
    doubts: int = 0  # looks that found anew what may be mended, since the last one after which nothing was to be
    healthy: int | None = None  # the step of the newest checkpoint at which all was well
    first: int | None = None  # that of the oldest, of where the run began or was resumed
    recoveries: list[dict[str, Any]] = field(default_factory=list)  # what was done each time, as summary.json has it

    def take(self, names: Sequence[str], numbers: Tensor) -> None:
        """What steps report, (steps, numbers), of which the first have these names."""
        if self.health.period:
            if self.names != names:
                self.names, self.window = names, []
            self.window.append(numbers[:, : len(names)])

    def due(self, step: int, total: int) -> bool:
        """Whether a look is due."""
        since = step - self.since
        beyond = since % self._every
        if not beyond:
            return step == total or budget.due(since, self._every, self._periods.reports) or self.probes(step)
        if step != total or since < _LEAST or not self.health.period:
            return False
        return beyond >= _LEAST or not self.due(step - beyond, total)

    @property
    def since(self) -> int:
        """The step at which the run last went back, from which on looks are as dense as at its beginning."""
        return self.recoveries[-1]["step"] if self.recoveries else 0

    @cached_property
    def _every(self) -> int:
        """Steps between which nothing is due; asked at each step."""
        return self.health.period or sys.maxsize

    def probes(self, step: int) -> bool:
        """Whether the look at this step is one at the chains too, which must be gathered then."""
        since = step - self.since
        if self.health.period <= 0 or since <= 0:
            return False
        waits = self.doubts > 0 and self.may_go_back and since % self.health.period == 0
        return waits or budget.due(since, self.health.period, self._periods.chains)

    @cached_property
    def _periods(self) -> Periods:
        assert self.parts is not None
        loop, spec = self.parts.loop, self.parts.components.model
        count = spec.parameters(self.parts.data.space)
        return budget.periods(self.health.period, self.health.allowance, count, loop.batch_size, _moving(self.parts, 0))

    @torch.no_grad()
    def look(self, state: TrainState) -> dict[str, float]:
        """The signals of now, and the verdict on them, to be logged; what became worse is said."""
        assert self.parts is not None
        window = Window(self.names, self._reports())
        before, self.measured = self.measured, signals.measured(window, self.history, self._about(state.step))
        found = self.measured
        self.history, self.window = signals.remembered(window, self.history, found), []
        if self.probes(state.step) and probe.looks(state.model):
            now = probe.look(self.seen(state))
            self.probed = {**now, **probe.still(now, self.probed), **self._scale}
            found = {**found, **self.probed}
        self.verdict = verdict(signs({**self.probed, **self.measured}))
        self._say(state.step, self.verdict)
        fine = _UNMENDABLE | learned(found, before, self.probed.get("r_hat_data"))
        anew, known = ({sign.name for sign in each} - fine for each in (signs(found), self.verdict.signs))
        if remedies.is_raise(self.recoveries) and not clear({**self.probed, **self.measured}):
            anew |= {_FURTHER}
        self.doubts = self.doubts + 1 if anew else self.doubts if known else 0
        return {f"health/{name}": value for name, value in {"level": float(self.verdict.level), **found}.items()}

    def _about(self, step: int) -> About:
        assert self.parts is not None
        loop = self.parts.loop
        return About(loop.batch_size, self.words, late=step > LATE * loop.steps)

    @cached_property
    def words(self) -> float:
        """In a training document, in the mean of those looked at; 0 of rows that all have the same sites."""
        if self.parts is None or not isinstance(self.parts.data.space, Counts):
            return 0.0
        split, rows = self._rows[0]
        return split.rows(rows, self._key.fold("fixed").fold("binarize")).sum(1).mean().item()

    @cached_property
    def _scale(self) -> dict[str, float]:
        assert self.parts is not None
        return {} if self.parts.components.model.builds.own_scale else of_scale(self.parts.data)

    @property
    def _key(self) -> Key:
        """Of all looks of the run."""
        assert self.parts is not None
        return stream(self.parts.loop.seed, "health")

    def _reports(self) -> signals.Numbers:
        """Of each step since the last look the numbers that have names, (steps, names)."""
        return torch.cat(self.window).cpu().numpy().astype(np.float64)

    def failed(self, why: str) -> None:
        """The run ended by itself, for this reason."""
        if self.health.period:
            self.verdict = Verdict(2, (Sign(_ENDED, 2, why),))

    def concluded(self, run: Run) -> dict[str, Any]:
        """For summary.json, `health`: the verdict in a word, why, what was said before it by what the run logged, and
        the newest signals; nothing before the first look. What is to be said in the end is then known too."""
        if self.verdict is None:
            return {}
        own = any(sign.name == _ENDED for sign in self.verdict.signs)
        earlier = past.before(past.looks(run.logged_lines(past.PREFIX)), ended=own)
        self.conclusion = None if own else past.said(self.verdict, earlier)  # what ended it is said anyhow
        why = [sign.text for sign in self.verdict.signs]
        was = {"before": [stretch.record for stretch in earlier]} if earlier else {}
        did = {"recoveries": self.recoveries} if self.recoveries else {}
        found = {"verdict": self.verdict.word, "why": why, **was, **did, "signals": {**self.probed, **self.measured}}
        return {"health": found}

    def seen(self, state: TrainState) -> Seen:
        """What a look at this state sees."""
        assert self.parts is not None
        engine = self.parts.device.engine.uncompiled()
        own, fixed = self._key.fold(state.step), self._key.fold("fixed")
        binarize, (train, *valid) = fixed.fold("binarize"), self._rows
        x = rows_at(*train, state.model, binarize)
        held_out = rows_at(*valid[0], state.model, binarize) if valid else None
        moving = _moving(remedies.applied(self.parts, self.recoveries), state.step)
        return Seen(state.model, x, held_out, state.store, moving, engine, own, fixed)

    @cached_property
    def _rows(self) -> list[tuple[Split, Tensor]]:
        """At which all looks are: as many of the training split as a step could draw, and of the validation split."""
        assert self.parts is not None
        data, seed = self.parts.data, self.parts.loop.seed
        splits = [split for split in (data.train, data.valid) if split is not None and len(split)]
        return [(split, batch_index(split, 0, budget.ROWS, seed).to(split.stored.device)) for split in splits]

    @property
    def _device(self) -> torch.device:
        assert self.parts is not None
        return self.parts.device.torch

    def _say(self, step: int, found: Verdict) -> None:
        for sign in found.signs:
            if sign.level > self.said.get(sign.name, 0):
                if self.health.acts != "none":
                    log.warning("step %d: %s: %s", step, LEVELS[sign.level], sign.text)
                self.said[sign.name] = sign.level

    @property
    def knows_gap(self) -> bool:
        """Whether the verdict has judged the gap of the last steps of the run."""
        return self.verdict is not None and "gap_steady" in self.measured

    @property
    def shown(self) -> dict[str, str]:
        """For the line of progress."""
        return {} if self.verdict is None else {"health": self.verdict.word}

    def saved(self) -> dict[str, Any]:
        """All that a run that goes on from here needs."""
        window = plain_json.plain(self._reports().tolist()) if self.window else []
        known = {"names": [*self.names], "window": window, "history": self.history}
        own = {"doubts": self.doubts, "healthy": self.healthy, "first": self.first, "recoveries": self.recoveries}
        did = own if self.health.most else {}
        return {**known, "measured": self.measured, "probed": self.probed, "said": self.said, **did}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take that over. Raises ValueError, KeyError, TypeError or AttributeError if it is no such thing."""
        self.names = tuple(map(str, saved["names"]))
        window = [
            [math.nan if value is None else float(value) for _, value in zip(self.names, step, strict=True)]
            for step in saved["window"]
        ]
        self.window = [torch.tensor(window, device=self._device)] if window else []
        self.history, self.measured, self.probed = (
            {str(name): float(value) for name, value in saved[key].items()} for key in ("history", "measured", "probed")
        )
        self.verdict = verdict(signs({**self.probed, **self.measured})) if self.history else None
        self.said = {str(name): int(level) for name, level in saved["said"].items()}
        self.doubts = int(saved.get("doubts", 0))
        self.healthy, self.first = (
            None if step is None else int(step) for step in (saved.get("healthy"), saved.get("first"))
        )
        self.recoveries = [remedies.read(did) for did in saved.get("recoveries", [])]

    def went_back(self, saved: Mapping[str, Any], did: Mapping[str, Any]) -> None:
        """The run goes on from a checkpoint that has `saved`; what was done is added to what was done before."""
        first, recoveries = self.first, [*self.recoveries, dict(did)]
        self.load({**saved, "window": [], "said": {}})
        self.healthy, self.first, self.recoveries = did["back_to"], first, recoveries

    @property
    def fails(self) -> bool:
        """Whether the run is failing, or a doubt stays, and it may go back."""
        failing = self.verdict is not None and self.verdict.level == _FAILING
        return self.doubts > 0 and (failing or self.doubts >= _STAYS) and self.may_go_back

    @property
    def keys(self) -> remedies.Keys:
        """Of other keys than the rate and the transitions those that are otherwise now."""
        return dict(self.recoveries[-1]["keys"]) if self.recoveries else {}

    def is_well(self, state: TrainState) -> bool:
        """Whether nothing is to be doubted of the chains and energies of a state."""
        found = probe.look(self.seen(state)) if probe.looks(state.model) else {}
        return clear(found) and not {sign.name for sign in signs(found)} - _UNMENDABLE

    @property
    def target(self) -> int:
        """The checkpoint to go back to: one from which the run failed anew was not healthy, so not twice to the same
        one, but to the first."""
        assert self.healthy is not None
        tried = any(did["back_to"] == self.healthy for did in self.recoveries if "raised" not in did)
        return self.first if tried and self.first is not None else self.healthy

    @property
    def kept(self) -> set[int]:
        """Checkpoints that stay."""
        return {step for step in (self.healthy, self.first) if step is not None}

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

    def raises(self, step: int) -> bool:
        """Whether the rate is higher from this step on, at which all is well."""
        assert self.parts is not None
        did = raising.raised(self.parts, self.recoveries, step, self.health.period)
        self.recoveries += [did] if did else []
        return did is not None

    def keeps(self, state: TrainState) -> bool:
        """Whether the state of now is one to come back to, for which there will be a checkpoint."""
        assert self.parts is not None
        if not self.health.most or self.verdict is None or self.verdict.level:
            return False
        if not clear({**self.probed, **self.measured}):
            return False
        check_weights(state, self.parts.components.objective)
        self.healthy = state.step
        return True


def _moving(parts: Parts, step: int) -> Moving:
    of, steps = parts.components, parts.loop.steps
    return Moving(
        of.chains, of.sampler, of.chains.transitions(step, steps), of.objective.negatives, of.objective.compares
    )
