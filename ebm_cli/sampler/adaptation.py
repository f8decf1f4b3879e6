"""The scale of a proposal, found in a warm-up and then left alone: a kernel that goes on adapting is none."""

import dataclasses
import math
from typing import Any, TypeGuard

import torch
from torch import Tensor

from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import Key
from ebm_cli.sampler.base import M, S, Sampler, run

_BLOCK = 10  # transitions between two looks at the acceptance
_GAIN, _DECAY = 3.0, 0.6  # of the n-th correction: _GAIN / n^_DECAY, whose sum diverges and whose squares' does not


class Adapting(Sampler[M, S]):
    """A kernel whose proposals grow with `step_size` and whose Info has `acceptance`."""

    step_size: float
    adapt: float | None
    """Acceptance that `adapted` aims at; None leaves the step size alone."""


@torch.no_grad()
def adapted(
    sampler: Sampler[Any, Any], model: EnergyModel, x: Tensor, steps: int, key: Key
) -> tuple[Sampler[Any, Any], Tensor]:
    """The sampler with another `step_size`, and where its chains are after `steps` transitions from x.

    log step_size += 3 n^-0.6 (acceptance - `sampler.adapt`) after the n-th ten transitions, the acceptance being the
    mean of all chains (Robbins & Monro 1951; Andrieu & Thoms 2008, eq. 20); what is left is the mean of log step_size
    over the second half of them (Polyak & Juditsky 1992). Only a sampler that `adapts` may be given.
    """
    assert adapts(sampler)
    assert sampler.adapt is not None
    tried = [math.log(sampler.step_size)]
    for n in range(math.ceil(steps / _BLOCK)):
        trial = dataclasses.replace(sampler, step_size=math.exp(tried[-1]))  # type: ignore[type-var]
        x, info = run(trial, model, x, min(_BLOCK, steps - n * _BLOCK), key.fold(n))
        error = info["acceptance"].double().mean().item() - sampler.adapt
        tried.append(tried[-1] + _GAIN * (n + 1) ** -_DECAY * error)
    late = tried[len(tried) // 2 :]
    return dataclasses.replace(sampler, step_size=math.exp(sum(late) / len(late))), x  # type: ignore[type-var]


def adapts(sampler: Sampler[Any, Any]) -> TypeGuard[Adapting[Any, Any]]:
    """Whether it wants a warm-up that finds its step size."""
    return isinstance(sampler, Adapting) and sampler.adapt is not None


def step_size(sampler: Sampler[Any, Any]) -> dict[str, float]:
    """What is recorded of a sampler that has been adapted: `step_size`; nothing of another."""
    return {"step_size": sampler.step_size} if adapts(sampler) else {}
