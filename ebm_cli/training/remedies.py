"""What a run that goes back does otherwise from there on: by what looked wrong, and where it did so already."""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from ebm_cli.health.limits import MET
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.langevin import Langevin
from ebm_cli.training.state import Components, Parts

Keys = dict[str, float | None]
"""Values of keys, by GROUP.KEY."""

LOWER = 1 / 5
"""Factor on the rate, each time that it is lowered, but for energies that say by how much."""
_HALF = LOWER**0.5  # the highest factor, of a rate that held for long
_LOWEST = LOWER**2  # of that factor, for energies say too much where they are no linear function of the weights
_LONGER, _LONGEST = 4, 16  # factor on the transitions of a step, each time, and on those at first at most
_ASKED = 32  # times as many as at first at most, of a sampler whose jumps say how many it takes
_FORGETS = 0.7  # jump from which on a look cannot tell how many transitions it takes
_SHORTER = 1 / 30  # of proposals that are hardly accepted
_FARTHER, _UNTESTED = 0.5, 0.25  # jump that steps are lengthened to; of steps that nothing rejects, however wrong
_BOUNDS = (10.0, 1e4)  # of the factor for it, of chains that hardly move; others are lengthened at least
_SLOW = 2.0  # times, and twice as many each time more
_PAST = 2.0  # jump beyond which longer steps bring nothing
_BLIND, _BLIND_TIMES = 30.0, 2  # the factor for chains that never moved, and how often it is taken at once at most
_COOLER = 1 / 10  # of the noise
_INERT, _CALM = 0.9, 0.5  # momentum from which on it is lowered, and to what
_RESTART = 0.05  # share of chains of a reservoir that begin anew, where none did
_SPIKE = 2.0  # times the norm of a gradient, in which a longer one is cut
_HOT = {"heat", "heat_words", "idle", "above"}  # signs of a model that went too far, however its chains move
_STEP = "sampler.step_size"
_PLACES = {"r_hat_data", "jump", "distinct", "offset", "breadth", "narrow"}


@dataclass(frozen=True)
class Diagnosis:
    """Signs of a failure by name, those that the model and the chains of the healthy checkpoint have already, and
    weights of that model that are drawn anew, by key.

    `jump` and `r_hat` are the signals `jump` and `r_hat_data` of that checkpoint, found in `moves` transitions.
    `beyond`: how many times as far as they may the energies of rows vary in the failing model; infinite of one that
    failed at once. `share`: the steps that the rate of now held for, over those that are left. `norm`: of a run whose
    numbers ran away, the lowest of the gradient's median norms between its looks; 0 of all others.
    """

    signs: Collection[str]
    already: Collection[str] = ()
    jump: float | None = None
    start: Mapping[str, float] = field(default_factory=dict)
    r_hat: float = 1.0
    moves: int = 0
    beyond: float = 1.0
    share: float = 0.0
    norm: float = 0.0

    @property
    def refuses(self) -> bool:
        """Whether hardly any proposal is accepted."""
        return "acceptance" in self.signs

    @property
    def slow(self) -> bool:
        """Whether chains did not meet those that begin at the data, and hardly did before the model went anywhere."""
        return "r_hat_data" in self.signs and self.r_hat > MET and not _HOT & {*self.signs}


KEYS = {
    "optimizer.momentum", "optimizer.clip", "sampler.noise", _STEP, "chains.restart",
    "model.weight_std", "model.coupling",
}  # fmt: skip
"""What other keys a record may have."""


def read(did: Mapping[str, Any]) -> dict[str, Any]:
    """A record as a checkpoint has it. Raises ValueError, KeyError or TypeError if it is none."""
    keys = {str(name): None if value is None else float(value) for name, value in did["keys"].items()}
    if not {*keys} <= KEYS:
        raise ValueError(f"no recovery sets {', '.join(sorted({*keys} - KEYS))}")
    numbers = {
        "step": int(did["step"]),
        "more": int(did.get("more", 0)),
        "lr": float(did["lr"]),
        "chains.steps": int(did["chains.steps"]),
    }
    return {**did, **numbers, "keys": keys}


def applied(parts: Parts, recoveries: Sequence[Mapping[str, Any]]) -> Parts:
    """The parts of a run that went back, with the values of `recoveries[-1]`: rate, transitions and other keys."""
    if not recoveries:
        return parts
    of, did = parts.components, recoveries[-1]
    lower, longer = did["lr"] / of.optimizer.lr, did["chains.steps"] // of.chains.steps
    final = None if of.chains.final_steps is None else of.chains.final_steps * longer
    optimizer = replace(of.optimizer, lr=did["lr"], final_lr=of.optimizer.final_lr * lower, **_of("optimizer", did))
    chains = replace(of.chains, steps=did["chains.steps"], final_steps=final, **_of("chains", did))
    sampler = replace(cast(Any, of.sampler), **_of("sampler", did))
    loop = replace(parts.loop, steps=parts.loop.steps + added(recoveries))
    return replace(parts, loop=loop, components=replace(of, optimizer=optimizer, chains=chains, sampler=sampler))


def added(recoveries: Sequence[Mapping[str, Any]]) -> int:
    """Steps that the run is longer by, in place of those that were lost."""
    return int(recoveries[-1].get("more", 0)) if recoveries else 0


def _of(group: str, did: Mapping[str, Any]) -> dict[str, Any]:
    """Other keys of one group and their values; a schedule that leads elsewhere ends where it begins."""
    own = {name.removeprefix(f"{group}."): value for name, value in did["keys"].items() if name.startswith(f"{group}.")}
    return own | ({"anneal": 0, "final_step_size": None, "final_noise": None} if "noise" in own else {})


def chosen(parts: Parts, recoveries: Sequence[Mapping[str, Any]], found: Diagnosis) -> dict[str, Any]:
    """The next record's `lr`, `chains.steps` and other `keys`, of a run that began with these parts.

    A start that is at fault is drawn anew, and nothing else. A rate that was raised goes back to what it was.
    Temperature, and steps of chains that were too short or too long where the model was healthy still, are no matter of
    the rate, unless the model went too far as well, or steps that were shortened once are too long again. All else is,
    and of the transitions of a step.
    """
    now = applied(parts, recoveries).components
    before: Keys = dict(recoveries[-1]["keys"]) if recoveries else {}
    if found.start:
        return _record(now, {**before, **found.start})
    if is_raise(recoveries):
        return _record(applied(parts, recoveries[:-1]).components, before)
    own = _noise(now, found) or _step_size(now, found, _lengthened(parts.components, recoveries))
    keys = {**before, **own, **_restart(now, found)}
    rate = found.refuses and "jump" not in found.already and _STEP in before
    rate = rate or (_STEP in own and bool(_HOT & {*found.signs}))
    if own and not rate:
        return _record(now, keys)
    clip = _clip(now, found)
    lower = 1 if clip else _lower(found)
    return _record(now, {**keys, **_momentum(now), **clip}, lower, _longer_by(parts.components, now, found))


def is_raise(recoveries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the newest record is of a rate that was raised."""
    return bool(recoveries) and "raised" in recoveries[-1]


def _record(now: Components, keys: Keys, lower: float = 1, longer: int = 1) -> dict[str, Any]:
    return {"lr": now.optimizer.lr * lower, "chains.steps": now.chains.steps * longer, "keys": keys}


def _lower(found: Diagnosis) -> float:
    """The factor on the rate: weights are as large as the rate, and the variance of energies as their square. A rate
    that held for t steps holds at a factor of it for t over the factor, and that is asked for all steps that are left.
    """
    held = min(max(found.share, LOWER), _HALF)
    return max(min(held, 1 / math.sqrt(found.beyond)), _LOWEST)


def _longer_by(first: Components, now: Components, found: Diagnosis) -> int:
    """The factor on the transitions of a step; 1 of a model that failed at once, whatever its chains did.

    Of samplers whose moves have no length it takes moves / jump^2 transitions to come as far as to another row, as
    chains diffuse, by how far they jump where the model was healthy.
    """
    if math.isinf(found.beyond):
        return 1
    longer = _LONGER if now.chains.steps < first.chains.steps * _LONGEST else 1
    if getattr(now.sampler, "step_size", None) is not None or not 0 < (found.jump or 0) < _FORGETS:
        return longer
    asked = min(found.moves / cast(float, found.jump) ** 2, first.chains.steps * _ASKED)
    while now.chains.steps * longer < asked:
        longer *= _LONGER
    return longer


def _noise(now: Components, found: Diagnosis) -> Keys:
    """Noise of temperature 1 where there is none or it is hotter; a tenth where chains do not feel the model."""
    sampler = now.sampler
    if not isinstance(sampler, Langevin) or sampler.noise is None:
        return {}
    if not 0 < sampler.temperature(*sampler.rates(0)) <= 1:
        return {"sampler.noise": None}
    return {"sampler.noise": sampler.noise * _COOLER} if "felt" in found.signs else {}


def at_one(sampler: Sampler[Any, Any]) -> bool:
    """Whether chains are at temperature 1."""
    return not isinstance(sampler, Langevin) or sampler.noise is None


def _lengthened(first: Components, recoveries: Sequence[Mapping[str, Any]]) -> int:
    """How often steps of the chains were made longer."""
    own = [did["keys"].get(_STEP) for did in recoveries]
    sizes = [size for size in (getattr(first.sampler, "step_size", None), *own) if size is not None]
    return sum(after > before for before, after in itertools.pairwise(sizes))


def _step_size(now: Components, found: Diagnosis, before: int) -> Keys:
    """Shorter where proposals are hardly accepted; longer where chains of the healthy model hardly move, or of those
    at temperature 1 where they are slow: twice, or four times where they were lengthened `before`, and so on."""
    size = getattr(now.sampler, "step_size", None)
    if not isinstance(size, float):
        return {}
    if found.refuses:
        return {_STEP: size * _SHORTER}
    if "jump" in found.already:
        return {_STEP: size * _longer(now, found.jump, _BOUNDS[0], before)}
    if not (at_one(now.sampler) and found.slow):
        return {}
    return {_STEP: size * _longer(now, found.jump, _SLOW ** (1 + before), before)}


def _longer(now: Components, jump: float | None, least: float, before: int) -> float:
    """By how much, so that chains move half as far as to another row; noise goes with the root of `step_size`.

    Of chains that never moved nothing is known: where steps that are too long are refused, and so found out, the square
    of what was tried before in vain.
    """
    if not jump:
        return _BLIND ** min(1 + before, _BLIND_TIMES) if now.sampler.rejects else _BLIND
    far = _FARTHER if now.sampler.rejects else _UNTESTED
    factor = min(max(far / jump, min(least, _PAST / jump)), _BOUNDS[1])
    return factor**2 if isinstance(now.sampler, Langevin) else factor


def _restart(now: Components, found: Diagnosis) -> Keys:
    """Some chains of a reservoir begin anew, where none did and they are not in their place."""
    stays = getattr(now.chains, "restart", None) == 0 and bool(_PLACES & {*found.signs, *found.already})
    return {"chains.restart": _RESTART} if stays else {}


def _momentum(now: Components) -> Keys:
    """Less, where a step goes on for more than ten."""
    return {"optimizer.momentum": _CALM} if getattr(now.optimizer, "momentum", 0.0) > _INERT else {}


def _clip(now: Components, found: Diagnosis) -> Keys:
    """No gradient much longer than those of a healthy run, where few of them made it run away."""
    return {"optimizer.clip": _SPIKE * found.norm} if found.norm and not now.optimizer.bounded else {}
