"""`ebm sample steps=auto`: as many steps as twice the mixing time of the run's own model and sampler."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_cli.acceleration import full_arithmetic
from ebm_cli.errors import UserError
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.mixing_time import measured
from ebm_cli.evaluation.overlap import Look, mixing_time
from ebm_cli.evaluation.samples import sampled_exactly
from ebm_cli.sampler.adaptation import Warmed, adapted, adapts, recorded
from ebm_cli.space import Discrete
from ebm_cli.terminal import log

USUAL = 1000
"""Steps by which it is judged whether compiling repays its cost, before the mixing time is known."""
MOST = 10_000
"""The longest mixing time that is looked for where nothing else is said."""
_CHAINS, _THRESHOLD, _WARMUP = 1000, 0.1, 500  # as in conf/evaluation/mixing_time.yaml


class Taken(NamedTuple):
    """What is sampled, its step size found; how many steps, and why in words; and what is recorded of that."""

    subject: Subject
    steps: int
    why: str
    found: dict[str, float]


def check(subject: Subject, start: str) -> None:
    """Raise UserError where there is no mixing time to measure, with what to do."""
    if sampled_exactly(subject, start) is not None:
        raise UserError("steps = auto: this model is drawn exactly, without steps; leave steps out")
    if not isinstance(subject.model.space, Discrete):
        raise UserError(
            "steps = auto: the mixing time is of bits, spins and categories, this model is of "
            f"{subject.model.space.name} data; give a number"
        )


@torch.no_grad()
def taken(subject: Subject, steps: int | None, start: str, most: int) -> Taken:
    """The number of steps; of auto, None, twice the mixing time of 1000 chains that start where the samples will.

    Where they do not mix within `most` steps twice that many are taken, and that is warned of. A sampler that adapts
    does so here, so that no part of the samples' own steps is spent on it.
    """
    if steps is not None:
        return Taken(subject, steps, "", {})
    measuring = replace(subject, key=subject.key.fold("auto"))  # none of its draws are those of the samples
    begin, found = _begin(measuring, start), dict[str, float]()
    if adapts(subject.sampler):
        model = full_arithmetic(subject.model, subject.device)
        sampler, _ = adapted(subject.sampler, model, begin, _WARMUP, measuring.key.fold("adapt"))
        found, sampler = recorded(sampler), sampler.frozen() if isinstance(sampler, Warmed) else sampler
        for name, value in found.items():
            log.info("sampler.%s = %.4g, found before the mixing time is measured", name, value)
        subject, measuring = replace(subject, sampler=sampler), replace(measuring, sampler=sampler)
    log.info("measuring the mixing time: %d chains, until they have mixed or %d steps are done", _CHAINS, most)
    seen = measured(measuring, begin, most, _THRESHOLD, _WARMUP)
    time = mixing_time(seen, _THRESHOLD)
    if time is None:
        log.warning("%s", _unmixed(seen[-1], most))
        return Taken(subject, 2 * most, ", twice max_steps", {**found, "steps": 2 * most})
    found |= {"steps": 2 * time, "mixing_time": time}
    return Taken(subject, 2 * time, f", twice the mixing time {time}", found)


def _begin(subject: Subject, start: str) -> Tensor:
    """Where chains of these samples start, (chains, *shape): the run's own again and again, or noise."""
    store = subject.store
    if start == "chains" and len(store):
        return store[torch.arange(_CHAINS, device=store.device) % len(store)]
    here = subject.data.train.stored.device
    return subject.model.space.noise(_CHAINS, subject.key.fold("noise"), here)


def _unmixed(last: Look, most: int) -> str:
    return (
        f"steps = auto: chains do not mix in {most} steps ({100 * last.own:.1f} % of their sites are as they were "
        f"{last.steps} steps before, {100 * last.others:.1f} % agree between chains), so samples may depend on where "
        "they started; take another sampler, or a higher max_steps"
    )
