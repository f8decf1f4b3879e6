"""What was said of a run at each look, from the signals that it logged."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ebm_cli.health.base import LEVELS, Verdict, verdict
from ebm_cli.health.budget import Moving
from ebm_cli.health.limits import signs

PREFIX = "health/"
REPORTED = (
    "gap", "gap_now", "gap_nats", "gap_steady", "words", "above", "felt", "rise", "loss", "gradient", "zero",
    "acceptance", "swaps",
)  # fmt: skip
"""Signals of what steps report, which each look has; all others are of looks at the chains."""
_NAMED = 3  # stretches


class Training(NamedTuple):
    """What a finished run is judged by: its chains as they are stored, how they moved in the end, the step, and the
    lines of what health logged, read when asked for."""

    store: Tensor  # (slots, *shape), or (slots, replicas, *shape)
    moving: Moving
    step: int
    logged: Callable[[], Sequence[Mapping[str, Any]]]


class Look(NamedTuple):
    """The step of a look, what was known then, and the verdict on it."""

    step: int
    signals: Mapping[str, float]
    verdict: Verdict


class Stretch(NamedTuple):
    """Looks one after the other with the same level: the first step, the last one, and why, by the names of signs."""

    level: int
    first: int
    last: int
    why: Mapping[str, str]

    @property
    def steps(self) -> str:
        """In words."""
        return f"{self.first} to {self.last}" if self.first < self.last else str(self.first)

    @property
    def record(self) -> dict[str, Any]:
        """For summary.json."""
        return {"verdict": LEVELS[self.level], "steps": [self.first, self.last], "why": [*self.why.values()]}


def looks(lines: Iterable[Mapping[str, Any]], ways: Mapping[str, str]) -> list[Look]:
    """Those of a run that logged these lines, with the verdicts of today's limits and the ways out of `limits.signs`.
    Of a look at the chains is known at the next looks what it found."""
    probed, found = dict[str, float](), list[Look]()
    for line in lines:
        if f"{PREFIX}level" not in line:
            continue
        now = {name.removeprefix(PREFIX): value for name, value in line.items() if name.startswith(PREFIX)}
        own = {name: float(value) for name, value in now.items() if isinstance(value, int | float) and name != "level"}
        seen = {name: value for name, value in own.items() if name not in REPORTED}
        probed = seen or probed
        known = {**probed, **{name: value for name, value in own.items() if name in REPORTED}}
        found.append(Look(int(line["step"]), known, verdict(signs(known, ways))))
    return found


def stretches(seen: Sequence[Look]) -> list[Stretch]:
    """Of looks in their order those with a doubt, as long as their level stays; of each sign the first sentence."""
    found = list[Stretch]()
    goes_on = False
    for look in seen:
        level, why = look.verdict.level, {sign.name: sign.text for sign in look.verdict.signs}
        if level and goes_on and found[-1].level == level:
            found[-1] = Stretch(level, found[-1].first, look.step, {**why, **found[-1].why})
        elif level:
            found.append(Stretch(level, look.step, look.step, why))
        goes_on = level > 0
    return found


def before(seen: Sequence[Look], *, ended: bool = False) -> list[Stretch]:
    """The stretches that were over by the last look, or all where the run `ended` by itself after it."""
    found = stretches(seen)
    now = bool(found) and found[-1].last == seen[-1].step and not ended
    return found[:-1] if now else found


def said(now: Verdict, earlier: Sequence[Stretch]) -> str | None:
    """The verdict in the end and what was worse before, in a sentence; None of a run that was healthy all along."""
    level = max((stretch.level for stretch in earlier), default=0)
    if level <= now.level:
        return f"{now.word} at the end: {_reasons(sign.text for sign in now.signs)}" if now.level else None
    worst = [stretch for stretch in earlier if stretch.level == level]
    steps = ", ".join(stretch.steps for stretch in worst[:_NAMED])
    more = f" and {len(worst) - _NAMED} more times" if len(worst) > _NAMED else ""
    why = _reasons({name: text for stretch in reversed(worst) for name, text in stretch.why.items()}.values())
    end = f": {_reasons(sign.text for sign in now.signs)}" if now.level else ""
    return f"{now.word} at the end{end}; was {LEVELS[level]} at steps {steps}{more}: {why}"


def _reasons(texts: Iterable[str]) -> str:
    return "; ".join(texts)
