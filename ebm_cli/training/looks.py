"""Looks at how a run goes: what is remembered of its steps, when it is looked at, what is then said."""

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
from ebm_cli.health.limits import of_scale, signs
from ebm_cli.health.none import NoHealth
from ebm_cli.health.probe import Seen
from ebm_cli.health.signals import LATE, About, Window
from ebm_cli.record import plain_json
from ebm_cli.record.run import Run
from ebm_cli.rng import Key, stream
from ebm_cli.space import Counts
from ebm_cli.terminal import log
from ebm_cli.training import retuning
from ebm_cli.training.state import Parts, TrainState
from ebm_cli.training.step import rows_at

_LEAST = 10  # steps that say something
_ENDED = "ended"


@dataclass
class Looks:
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
        """The step from which on looks become rarer."""
        return 0

    @property
    def waits(self) -> bool:
        """Whether what was doubted is to be looked at again as soon as may be, at chains too."""
        return False

    @property
    def now(self) -> Parts:
        """The parts of the run as they are now."""
        assert self.parts is not None
        return self.parts

    @property
    def done(self) -> dict[str, Any]:
        """What summary.json has of what was done about it."""
        return {}

    @property
    def mended(self) -> str | None:
        """What the last line says of that."""
        return None

    @property
    def _ways(self) -> Mapping[str, str]:
        """The way out of signs that are the objective's own."""
        return self.now.components.objective.ways

    @cached_property
    def _every(self) -> int:
        """Steps between which nothing is due; asked at each step."""
        return self.health.period or sys.maxsize

    def probes(self, step: int) -> bool:
        """Whether the look at this step is one at the chains too, which must be gathered then."""
        since = step - self.since
        if self.health.period <= 0 or since <= 0:
            return False
        waits = self.waits and since % self.health.period == 0
        return waits or budget.due(since, self.health.period, self._periods.chains)

    @cached_property
    def _periods(self) -> Periods:
        assert self.parts is not None
        loop, spec = self.parts.loop, self.parts.components.model
        count = spec.parameters(self.parts.data.space)
        return budget.periods(
            self.health.period, self.health.allowance, count, loop.batch_size, moving_at(self.parts, 0)
        )

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
        self.verdict = verdict(signs({**self.probed, **self.measured}, self._ways))
        self._say(state.step, self.verdict)
        self._weigh(state.step, found, before)
        return {f"health/{name}": value for name, value in {"level": float(self.verdict.level), **found}.items()}

    def _weigh(self, step: int, found: Mapping[str, float], before: Mapping[str, float]) -> None:
        """Take note of what a look at this step `found`, where the signals of the look before were these."""

    def _about(self, step: int) -> About:
        assert self.parts is not None
        loop = self.now.loop
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
        if self.verdict is None or not self.health.period:
            return {}
        own = any(sign.name == _ENDED for sign in self.verdict.signs)
        earlier = past.before(past.looks(run.logged_lines(past.PREFIX), self._ways), ended=own)
        said = [None if own else past.said(self.verdict, earlier), self.mended]  # what ended it is said anyhow
        self.conclusion = "; ".join(filter(None, said)) or None
        why = [sign.text for sign in self.verdict.signs]
        was = {"before": [stretch.record for stretch in earlier]} if earlier else {}
        found = {
            "verdict": self.verdict.word,
            "why": why,
            **was,
            **self.done,
            "signals": {**self.probed, **self.measured},
        }
        return {"health": found}

    def seen(self, state: TrainState) -> Seen:
        """What a look at this state sees."""
        assert self.parts is not None
        engine = self.parts.device.engine.uncompiled()
        own, fixed = self._key.fold(state.step), self._key.fold("fixed")
        binarize, (train, *valid) = fixed.fold("binarize"), self._rows
        x = rows_at(*train, state.model, binarize)
        held_out = rows_at(*valid[0], state.model, binarize) if valid else None
        moving = moving_at(retuning.tuned(self.now, state), state.step)
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
        return {} if self.verdict is None or not self.health.period else {"health": self.verdict.word}

    def saved(self) -> dict[str, Any]:
        """All that a run that goes on from here needs."""
        window = plain_json.plain(self._reports().tolist()) if self.window else []
        known = {"names": [*self.names], "window": window, "history": self.history}
        return {**known, "measured": self.measured, "probed": self.probed, "said": self.said}

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
        self.verdict = verdict(signs({**self.probed, **self.measured}, self._ways)) if self.history else None
        self.said = {str(name): int(level) for name, level in saved["said"].items()}


def moving_at(parts: Parts, step: int) -> Moving:
    """How the negatives of a run come about at a step."""
    of, steps = parts.components, parts.loop.steps
    return Moving(
        of.chains, of.sampler, of.chains.transitions(step, steps), of.objective.negatives, of.objective.compares,
        of.objective.ways,
    )  # fmt: skip
