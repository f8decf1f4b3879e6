"""A run that fails goes back to where it was healthy, and goes on from there more slowly."""

from collections.abc import Mapping
from typing import Any

import torch

from ebm_cli.record.checkpoint import Checkpoint
from ebm_cli.rng import stream
from ebm_cli.training.health import Watcher
from ebm_cli.training.slower import slower
from ebm_cli.training.state import Parts, TrainState, put_first_chains

_ANEW = 2  # from this attempt on chains begin anew


@torch.no_grad()
def gone_back(parts: Parts, state: TrainState, watcher: Watcher, saved: Checkpoint, why: str) -> Mapping[str, Any]:
    """What was done: the state becomes that of the checkpoint, but for its step, which goes on, so that other random
    numbers come. `parts` are those before the first time. Raises ValueError if the checkpoint is of another run.
    """
    step, store, ages, weights = state.step, state.store, state.ages, state.weighted
    attempt = len(watcher.recoveries) + 1
    state.load(saved.step, saved.tensors)
    state.step = step
    if attempt >= _ANEW and len(store):
        key = stream(parts.loop.seed, "health", "recovery", attempt)
        put_first_chains(parts.components, parts.data, state, key)
    state.store, state.ages = store.copy_(state.store), ages.copy_(state.ages)  # compiled steps have their addresses
    for mine, new in zip(weights or (), state.weighted or (), strict=True):
        mine.copy_(new)
    state.weighted = weights
    now = slower(parts, attempt).components
    did = {
        "step": step, "back_to": saved.step, "why": why, "lr": now.optimizer.lr, "chains.steps": now.chains.steps,
        "chains": "anew" if attempt >= _ANEW and len(store) else "kept",
    }  # fmt: skip
    watcher.went_back(saved.numbers.get("health") or Watcher().saved(), did)
    return did


def metrics(watcher: Watcher) -> dict[str, float]:
    """What is logged of the newest recovery."""
    did = watcher.recoveries[-1]
    numbers = {"attempt": len(watcher.recoveries), "back_to": did["back_to"], "lr": did["lr"]}
    return {f"health/recovery_{name}": float(value) for name, value in numbers.items()}


def said(watcher: Watcher) -> str:
    """The newest recovery in a sentence."""
    did, count = watcher.recoveries[-1], len(watcher.recoveries)
    anew = ", with chains that begin anew" if did["chains"] == "anew" else ""
    return (
        f"step {did['step']}: attempt {count} of health.attempts = {watcher.health.most}: back to the model of step "
        f"{did['back_to']}, with optimizer.lr={did['lr']:.3g} and chains.steps={did['chains.steps']}{anew}"
    )
