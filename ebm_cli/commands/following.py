"""What is estimated along the way of a run, and whether it can be: as far as its keys say, and then its model."""

import math
from collections.abc import Mapping
from typing import Any

from ebm_cli import registry
from ebm_cli.errors import UserError
from ebm_cli.record.run import LATER_GROUPS
from ebm_cli.running.base import Running
from ebm_cli.training.along import Along
from ebm_cli.training.state import Choice, Components, Loop, Parts, TrainState, training_work


def following(config: Mapping[str, Any], parts: Parts, state: TrainState, choice: Choice) -> Along:
    """What is estimated along the way. Raises UserError if it cannot be and was asked for."""
    running, components, loop = _running(config), parts.components, parts.loop
    if not running.follows:
        return Along()
    why = running.refusal(state.model, components.sampler)
    work = training_work(components, loop)
    looks = frozenset[int]() if why else running.looks(work, loop.batch_size)
    if looks or not running.required:
        return Along(running, looks)
    raise _refused(why or _too_short(running, components, loop), choice)


def check_following(config: Mapping[str, Any], components: Components, loop: Loop, choice: Choice) -> None:
    """Raise UserError if keys and kinds of parts alone say that what was asked for cannot be."""
    running = _running(config)
    if not (running.follows and running.required):
        return
    why = running.refusal_of_kinds(components.model.builds, components.sampler)
    if why is None and not running.looks(training_work(components, loop), loop.batch_size):
        why = _too_short(running, components, loop)
    if why:
        raise _refused(why, choice)


def _running(config: Mapping[str, Any]) -> Running:
    found: Running = registry.build("running", {**LATER_GROUPS, **config}["running"])
    return found


def _refused(why: str, choice: Choice) -> UserError:
    said = why.replace("this sampler", f"sampler={choice['sampler']}").replace("this model", f"model={choice['model']}")
    return UserError(f"running={choice['running']}: {said}; leave running out, or take running=none")


def _too_short(running: Running, components: Components, loop: Loop) -> str:
    steps, least = loop.steps, running.least_share(training_work(components, loop), loop.batch_size)
    share, enough = math.ceil(1000 * least) / 1000, math.ceil(least * steps)
    would = f"running.share={share:g} would be" if share <= 1 else f"{enough} steps with running.share=1 would be"
    return f"its share of the work of {steps} steps is not worth one look; {would}"
