"""Rungs among the checkpoints of a run: for log Z along them, and for chains that exchange with replicas on them."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

from ebm_cli.acceleration import full_arithmetic
from ebm_cli.chains import AlongTrajectory
from ebm_cli.errors import UserError
from ebm_cli.evaluation.annealing import independent_units
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.invariance import refusal_to_anneal
from ebm_cli.model.base import Conditional, EnergyModel, Intractable, Normalised
from ebm_cli.rng import Key
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.rungs import Size, chosen
from ebm_cli.sampler.trajectory import Laid, TrajectoryTempering
from ebm_cli.space import Counts
from ebm_cli.terminal import log

_SPACED = 50  # checkpoints all along, which do for most runs
_FEW = 5  # from which on checkpoints may be a way from independent units to the model
_NEARLY = 0.6  # of these are there at least, of a run that was asked for them: the first of them are the same steps
_TRIAL, _TRIAL_STEPS = 500, 20  # chains by which rungs are chosen, at least, and their transitions at each


def more(kept: int) -> str:
    """What to do where `kept` checkpoints are too few."""
    if kept < _NEARLY * _SPACED:
        return f"train with checkpoint.log_spaced={_SPACED}, which keeps checkpoints all along"
    asked = 2 * _SPACED * math.ceil(kept / _SPACED)
    return f"the {kept} checkpoints that the run kept are too few; train with checkpoint.log_spaced={asked}"


class Ladder(NamedTuple):
    """p_0, and the rungs above it, of which the last is the model itself; what each of them is called, and how many
    checkpoints there were to choose among."""

    base: Normalised
    models: list[EnergyModel]
    names: list[str]
    kept: int


def ladder(subject: Subject, kernel: Sampler[Any, Any], chains: int, least: float, key: Key) -> Ladder:
    """From independent units with the means of the training data, the least share of exchanges being `least`."""
    passed = subject.passed()
    models = [full_arithmetic(model, subject.device) for model in [*passed.values(), subject.model]]
    names = [*(f"the checkpoint of step {step}" for step in passed), "the model itself"]
    base: Normalised = independent_units(subject.data, subject.model, 0.0).to(next(subject.model.parameters()))
    kept = chosen(base, models, kernel, Size(max(chains, _TRIAL), _TRIAL_STEPS, least), key)
    called = ["independent units", *(names[number] for number in kept)]
    return Ladder(base, [models[number] for number in kept], called, len(passed))


def laid(sampler: Sampler[Any, Any], subject: Subject) -> Sampler[Any, Any]:
    """Trajectory tempering with its rungs, which it says how many there are of; another sampler as it is.

    Raises UserError if the model or the run has none.
    """
    if not isinstance(sampler, TrajectoryTempering) or isinstance(sampler, Laid):
        return sampler
    own = sampler.moved_by(subject.sampler)
    why = refusal_of_past(subject.model, own)
    passed = {} if why else subject.passed()
    if not (why or passed):
        why = f"the run has kept no checkpoint before this one; {more(0)}, or take sampler=parallel_tempering"
    if why:
        raise UserError(f"sampler=trajectory: {why}")
    along = replace(subject, passed=lambda: passed)
    found = ladder(along, own.inner, 0, own.acceptance, subject.key.fold("rungs"))
    log.info("%s", _said(found, len(passed)))
    keys = {name: getattr(own, name) for name in ("kernel", "transitions", "acceptance")}
    return Laid(base=found.base, lower=found.models[:-1], names=found.names, kept=found.kept, **keys)


def moved_by(own: Sampler[Any, Any], sampler: Sampler[Any, Any]) -> Sampler[Any, Any]:
    """With what moves the run's own chains where that is left open."""
    return sampler.moved_by(own) if isinstance(sampler, TrajectoryTempering) else sampler


def refusal_of_past(model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
    """Why trajectory tempering has no ladder from independent units to this model; None of another sampler."""
    return _refusal(model, sampler) if isinstance(sampler, TrajectoryTempering) else None


def along(subject: Subject) -> str | None:
    """Trajectory tempering as the way out for chains of another sampler, in words; None where it is none."""
    training = subject.training
    if isinstance(subject.sampler, TrajectoryTempering) or _refusal(subject.model, subject.sampler):
        return None
    kept = len(subject.passed())
    if kept >= _FEW:
        return f"sampler=trajectory, along the {kept} checkpoints that the run kept"
    exchanged = training is not None and isinstance(training.moving.policy, AlongTrajectory)
    return f"sampler=trajectory, of a run with checkpoint.log_spaced={_SPACED}" if exchanged else None


def _refusal(model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
    if isinstance(model, Normalised):
        return "this model is drawn exactly, without steps; leave it out"
    if isinstance(model, Intractable | Conditional) or isinstance(model.space, Counts):
        return "begins at independent units, and this model has no one energy of their states; take another sampler"
    return model.improper() or refusal_to_anneal(model, sampler)


def _said(found: Ladder, count: int) -> str:
    steps = [name.removeprefix("the checkpoint of step ") for name in found.names[1:-1]]
    few = "none is a rung" if not steps else f"{len(steps)} {'are rungs' if len(steps) > 1 else 'is a rung'}"
    which = f" (steps {', '.join(steps)})" if steps else ""
    kept = f"{count} checkpoint{'s' * (count != 1)}"
    return f"sampler=trajectory: of {kept} before this one {few}{which}, between independent units and the model"
