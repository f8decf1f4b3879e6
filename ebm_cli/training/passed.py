"""The models that a run passed through, as its checkpoints have them."""

import copy
from functools import partial

import torch

from ebm_cli.health.past import PREFIX, Training
from ebm_cli.model.base import EnergyModel
from ebm_cli.record import checkpoint
from ebm_cli.record.checkpoint import Checkpoint, Invalid
from ebm_cli.record.run import Run
from ebm_cli.terminal import log
from ebm_cli.training.looks import moving_at
from ebm_cli.training.state import Parts, TrainState, take_over


def training(run: Run, parts: Parts, state: TrainState) -> Training:
    """How a run was trained until the step of `state`, for those who judge it."""
    return Training(state.store, moving_at(parts, state.step), state.step, partial(run.logged_lines, PREFIX))


def models(run: Run, state: TrainState) -> dict[int, EnergyModel]:
    """Those of the checkpoints before the step of `state`, by their steps in order.

    Each is the one to evaluate: with averaged weights where these are kept. What cannot be read is left out with a
    warning.
    """
    found = dict[int, EnergyModel]()
    for step in checkpoint.steps(run.checkpoints):
        if step >= state.step:
            break
        try:
            found[step] = _model(checkpoint.load(checkpoint.directory(run.checkpoints, step)), state)
        except (Invalid, ValueError) as error:
            log.warning("the checkpoint of step %d cannot be read (%s), so nothing goes by it", step, error)
    return found


@torch.no_grad()
def _model(saved: Checkpoint, state: TrainState) -> EnergyModel:
    model = copy.deepcopy(state.model)
    here = next(model.parameters()).device
    tensors = {name: value.to(here) for name, value in saved.tensors.items()}
    take_over("model", model.state_dict(), tensors)
    if state.average:
        average = {name: torch.empty_like(value) for name, value in state.average.items()}
        take_over("average", average, tensors)
        model.load_state_dict(average, strict=False)
    return model
