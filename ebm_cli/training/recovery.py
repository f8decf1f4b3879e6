"""A run that fails goes back to where it was healthy, and goes on from there otherwise."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch

from ebm_cli.health import limits, probe
from ebm_cli.health.base import LEVELS
from ebm_cli.health.budget import transitions_of
from ebm_cli.model.base import EnergyModel, ModelSpec
from ebm_cli.record.checkpoint import Checkpoint
from ebm_cli.rng import stream
from ebm_cli.training.health import Watcher
from ebm_cli.training.remedies import Diagnosis, Keys, added, chosen, is_raise
from ebm_cli.training.state import Parts, TrainState, built, put_first_chains

_ANEW = 2  # from this attempt on chains begin anew
_AT_ONCE = 5  # steps in which a rate that fails is far too high: numbers are no longer finite before any look
_SAYS = 2.0  # nats by which random weights make energies of rows differ, from which on they have to be unlearned
_MODEL, _MOMENTUM = "model.", "optimizer.momentum"


@torch.no_grad()
def gone_back(
    parts: Parts, state: TrainState, watcher: Watcher, load: Callable[[int], Checkpoint], why: str, *, ran_away: bool
) -> Mapping[str, Any]:
    """What was done: the state becomes that of the healthy checkpoint, but for its step, which goes on, so that other
    random numbers come. `parts` are those before the first time, `load` gives the checkpoint of a step; `ran_away`:
    whether it failed because numbers were no longer finite, or beyond what an objective takes.

    Raises checkpoint.Invalid or ValueError if it cannot be read, or is of another run.
    """
    step, store, ages, weights = state.step, state.store, state.ages, state.weighted
    attempt, tried = watcher.attempts + 1, is_raise(watcher.recoveries)
    norm = watcher.history.get("gradient", 0.0) if ran_away or watcher.flew_apart else 0.0
    saved = _loaded(state, watcher, load)
    redrawn = _redraw(parts, state, watcher.keys)
    held = step - watcher.since
    more = added(watcher.recoveries) + min(step - saved.step, watcher.room)
    share = 0.0 if watcher.too_long else held / max(parts.loop.steps + more - step, 1)
    found = replace(_diagnosis(parts, state, watcher), share=share, norm=norm)
    if held <= _AT_ONCE:
        found = replace(found, beyond=math.inf)
    now = chosen(parts, watcher.recoveries, found)
    redrawn = redrawn or _redraw(parts, state, now["keys"])
    state.step = step
    if _MOMENTUM in now["keys"]:
        _stand_still(state)
    anew = (attempt >= _ANEW or redrawn) and not tried and bool(len(store))  # under the rate that held chains were well
    if anew:
        key = stream(parts.loop.seed, "health", "recovery", attempt)
        put_first_chains(parts.components, parts.data, state, key)
    state.store, state.ages = store.copy_(state.store), ages.copy_(state.ages)  # compiled steps have their addresses
    for mine, new in zip(weights or (), state.weighted or (), strict=True):
        mine.copy_(new)
    state.weighted = weights
    did = {"step": step, "back_to": saved.step, "why": why, **now, "chains": "anew" if anew else "kept", "more": more}
    watcher.went_back(saved.numbers.get("health") or Watcher().saved(), did)
    return did


def _loaded(state: TrainState, watcher: Watcher, load: Callable[[int], Checkpoint]) -> Checkpoint:
    """The checkpoint that the state now is: the newest healthy one, unless it looks ill when its chains and energies
    are looked at once more, for most looks are at reports alone; else the newest whose chains were; else the first."""
    *better, last = watcher.targets
    for step in better:
        saved = load(step)
        state.load(saved.step, saved.tensors)
        if watcher.is_well(state):
            return saved
    saved = load(last)
    state.load(saved.step, saved.tensors)
    return saved


def _diagnosis(parts: Parts, state: TrainState, watcher: Watcher) -> Diagnosis:
    """Of a run that failed, from the state that it goes back to."""
    signs = {sign.name for sign in watcher.verdict.signs} if watcher.verdict else set[str]()
    if not probe.looks(state.model):
        return Diagnosis(signs)
    seen = watcher.seen(state)
    there = probe.look(seen)
    already = {sign.name for sign in limits.signs(there)}
    return Diagnosis(
        signs, already, there.get("jump"), _calmer(parts, state, watcher),
        there.get("r_hat_data", 1.0), transitions_of(seen.moving.steps), limits.beyond(watcher.probed),
    )  # fmt: skip


def _calmer(parts: Parts, state: TrainState, watcher: Watcher) -> dict[str, float]:
    """Keys of the weights to begin with, each at a thousandth, where these make energies of rows of the data differ:
    by more than 2 nats of standard deviation beyond what they do with such small ones, before anything is learned.
    """
    calmer = parts.components.model.calmer
    if state.step or parts.components.initial or not calmer:
        return {}
    x = watcher.seen(state).train
    beyond = state.model.energy(x) - _built(parts, calmer).energy(x)
    return {f"{_MODEL}{key}": value for key, value in calmer.items()} if beyond.std() > _SAYS else {}


def _built(parts: Parts, keys: Mapping[str, float | None]) -> EnergyModel:
    """The model as it begins with other values of these keys."""
    of, data = parts.components.model, parts.data
    spec: ModelSpec = replace(cast(Any, of), **keys)
    return built(spec, data, parts.loop.seed).to(data.train.stored.device)


def _of_model(keys: Mapping[str, float | None]) -> Keys:
    return {name.removeprefix(_MODEL): value for name, value in keys.items() if name.startswith(_MODEL)}


def _redraw(parts: Parts, state: TrainState, keys: Keys) -> bool:
    """Whether the state is that of step 0, and its model became that of these keys."""
    own = _of_model(keys)
    if state.step or not own:
        return False
    new = dict(_built(parts, own).named_parameters())
    for name, p in state.model.named_parameters():
        p.copy_(new[name] * state.mask.get(name, 1))
        if name in state.average:
            state.average[name].copy_(p)
    return True


def _stand_still(state: TrainState) -> None:
    """No velocity is left of a higher momentum."""
    for name, moment in state.optimizer.items():
        if name.startswith("momentum."):
            moment.zero_()


def metrics(watcher: Watcher) -> dict[str, float]:
    """What is logged of the newest recovery; of a rate that was raised that alone."""
    did = watcher.recoveries[-1]
    if is_raise(watcher.recoveries):
        return {"health/raised_lr": float(did["lr"])}
    numbers = {"attempt": watcher.attempts, "back_to": did["back_to"], "lr": did["lr"]}
    return {f"health/recovery_{name}": float(value) for name, value in numbers.items()}


def said(parts: Parts, watcher: Watcher) -> str:
    """The newest recovery in a sentence, with those keys that it changed."""
    did = watcher.recoveries[-1]
    anew = ["chains that begin anew"] if did["chains"] == "anew" else []
    count = f"attempt {watcher.attempts} of health.attempts = {watcher.health.most}"
    which = "the rate that was tried failed" if is_raise(watcher.recoveries[:-1]) else count
    keys = _listed([*_changed(parts, watcher.recoveries), *anew])
    why = "" if did["why"].startswith(LEVELS) else f" ({did['why']})"  # signs of a verdict are told when they appear
    back = f"step {did['step']}: {which}{why}: back to the model of step {did['back_to']}, with {keys}"
    more = added(watcher.recoveries) - added(watcher.recoveries[:-1])
    return f"{back}; training ends at step {watcher.now.loop.steps}" if more else back


def _changed(parts: Parts, recoveries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that the newest record has otherwise than the one before, or than the run began with."""
    did, of = recoveries[-1], parts.components
    first: Mapping[str, Any] = {"lr": of.optimizer.lr, "chains.steps": of.chains.steps, "keys": {}}
    before = recoveries[-2] if len(recoveries) > 1 else first
    keys = {"optimizer.lr": did["lr"], "chains.steps": did["chains.steps"], **did["keys"]}
    old = {"optimizer.lr": before["lr"], "chains.steps": before["chains.steps"], **before["keys"]}
    return [f"{name}={_shown(value)}" for name, value in keys.items() if name not in old or old[name] != value]


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def raised(watcher: Watcher) -> str:
    """That of a rate that was raised."""
    did = watcher.recoveries[-1]
    return f"step {did['step']}: {did['why']}, so optimizer.lr={did['lr']:.3g} is tried, nearer to what failed"


def _shown(value: float | None) -> str:
    return "null" if value is None else f"{value:.3g}"
