"""Updates after which chains no longer stand for the model are taken back, and the rate is halved."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_cli.errors import RunError
from ebm_cli.training.state import Parts, TrainState

MOST = 30  # updates in a row
_KEPT, _LATER = "tally", ("rungs.", "running.", "sparsity.")


class Tally(NamedTuple):
    """What is kept of them: how often the rate is halved now, how many were taken back in a row and in all.

    `fresh` is 1 where the last update added a rung.
    """

    halved: int = 0
    in_a_row: int = 0
    total: int = 0
    fresh: int = 0


def tally(state: TrainState) -> Tally:
    """That of a run. Raises ValueError if it cannot be one."""
    kept = state.rungs.get(_KEPT)
    if kept is None:
        return Tally()
    if kept.shape != (len(Tally._fields),) or kept.dtype != torch.int64 or (kept < 0).any():
        raise ValueError(f"{_KEPT} is not {len(Tally._fields)} numbers of updates")
    return Tally(*kept.tolist())


def keep(state: TrainState, now: Tally) -> None:
    """Make it part of the checkpoint."""
    state.rungs[_KEPT] = torch.tensor(now)


def halved(parts: Parts, state: TrainState) -> Parts:
    """The parts with the rate of now."""
    times, of = tally(state).halved, parts.components
    if not times:
        return parts
    lower = replace(of.optimizer, lr=of.optimizer.lr * 0.5**times, final_lr=of.optimizer.final_lr * 0.5**times)
    return replace(parts, components=replace(of, optimizer=lower))


def found(state: TrainState) -> dict[str, float]:
    """How many updates were taken back, and what share of its rate a run has now; nothing where none may be."""
    now = tally(state)
    return {"rungs/taken_back": float(now.total), "rungs/rate": 0.5**now.halved} if _KEPT in state.rungs else {}


def said(state: TrainState) -> str | None:
    """The same in a sentence, or None."""
    now = tally(state)
    if not now.total:
        return None
    rate = "its whole rate" if not now.halved else f"1/{2**now.halved} of its rate"
    return f"{now.total} updates were taken back, after which chains stood for the model no more; it ended at {rate}"


def snapshot(state: TrainState) -> dict[str, Tensor]:
    """What an update changes, as it is."""
    return {name: value.clone() for name, value in state.tensors().items() if not name.startswith(_LATER)}


def restore(state: TrainState, before: Mapping[str, Tensor]) -> None:
    """The state as it was, in place, with an optimizer that remembers nothing, and half the rate.

    Raises RunError where that was done too often in a row.
    """
    for name, value in state.tensors().items():
        if name in before:
            value.copy_(before[name])
    for value in state.optimizer.values():
        value.zero_()
    now = tally(state)
    keep(state, Tally(now.halved + 1, now.in_a_row + 1, now.total + 1, now.fresh))
    if now.in_a_row + 1 == MOST:
        raise RunError(
            f"step {state.step}: {MOST} updates in a row were taken back, for the chains stood for none of the models "
            "that they led to; start a run with more chains.count or chains.steps, or with chains.least=0"
        )
