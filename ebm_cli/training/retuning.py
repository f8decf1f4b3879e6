"""The ladder of parallel tempering, moved while a run trains by how often its own steps refuse swaps."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ebm_cli.errors import UserError
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.parallel_tempering import ParallelTempering
from ebm_cli.training.state import Parts, TrainState
from ebm_cli.training.step import Report, Values

_BETAS, _SIZES, _REFUSED, _STEPS = "betas", "step_sizes", "refused", "steps"
_FIRST = "chains_swap_1"


@torch.no_grad()
def follow(parts: Parts, state: TrainState, report: Report) -> bool:
    """Take up what a step says of its swaps; whether the ladder is another from here on.

    `parts` are those that the run had at first. `TrainState.tempering` has the sum of the shares of refused swaps of
    each pair over the steps since the ladder was moved, how many steps these are, and the ladder once it was.
    """
    first, kept = parts.components.sampler, state.tempering
    if not isinstance(first, ParallelTempering) or not first.retune:
        return False
    refused = 1 - _swaps(report.values, first.replicas - 1).double()
    kept[_REFUSED] = kept.get(_REFUSED, 0) + refused
    kept[_STEPS] = kept.get(_STEPS, 0) + torch.ones_like(refused[0])
    if state.step % first.retune:
        return False
    rejected = rejections(kept.pop(_REFUSED), kept.pop(_STEPS), parts.loop.batch_size)
    moved = (_now(first, state) or first).listed().respaced(rejected, first.replicas)
    for name, values in ((_BETAS, moved.ladder), (_SIZES, moved.step_sizes)):
        if values is not None:
            kept[name] = torch.tensor(values, dtype=torch.float64, device=refused.device)
    return True


def rejections(refused: Tensor, steps: Tensor, chains: int) -> list[float]:
    """(refused n + 1) / (steps n + 1) of each pair, n = `chains`: with one refused swap that none was.

    Among pairs that hardly refuse any, one that happened to would otherwise draw all temperatures to itself.
    """
    found: list[float] = ((refused * chains + 1) / (steps * chains + 1)).tolist()
    return found


def tuned(parts: Parts, state: TrainState) -> Parts:
    """The parts with the ladder of now: that of the state, where the sampler is the one that moved it.

    Raises UserError if it is no ladder.
    """
    now = _now(parts.components.sampler, state)
    return parts if now is None else replace(parts, components=replace(parts.components, sampler=now))


def found(parts: Parts, state: TrainState) -> dict[str, float]:
    """The betas of now, from the hottest, of a run that moves them."""
    sampler = parts.components.sampler
    if not state.tempering or not isinstance(sampler, ParallelTempering):
        return {}
    betas = sampler.betas(torch.zeros((), dtype=torch.float64)).tolist()
    return {f"ladder/beta_{r}": beta for r, beta in enumerate(betas, 1)}


def ended(state: TrainState) -> list[float]:
    """The betas that training moved the ladder to; none where it did not."""
    return [*_numbers(state.tempering, _BETAS)]


def said(state: TrainState) -> str | None:
    """The same in a sentence, as they can be given to another run, or None."""
    betas = [f"{beta:.4g}" for beta in ended(state)]
    return f"the temperatures were moved while it trained, to sampler.ladder=[{','.join(betas)}]" if betas else None


def _now(sampler: Sampler[Any, Any], state: TrainState) -> ParallelTempering | None:
    """The sampler with the ladder and the step sizes of the state; None where it has none that are this sampler's."""
    if not isinstance(sampler, ParallelTempering) or not sampler.retune or sampler.ladder != "adaptive":
        return None
    betas = tuple(ended(state))
    if len(betas) != sampler.replicas or betas[0] != sampler.beta_min:
        return None
    if not (betas[-1] == 1 and all(low <= high for low, high in pairwise(betas))):
        raise UserError("the temperatures of the checkpoint do not rise to 1; take another checkpoint, or a new run")
    sizes = _numbers(state.tempering, _SIZES) or sampler.step_sizes
    return replace(sampler, ladder=betas, step_sizes=sizes, retune=0)


def _swaps(values: Values, pairs: int) -> Tensor:
    """The share of swaps that were taken, of each pair."""
    at = values.names.index(_FIRST)
    return values.metrics[at : at + pairs]


def _numbers(kept: Mapping[str, Tensor], name: str) -> tuple[float, ...]:
    return tuple(kept[name].tolist()) if name in kept else ()
