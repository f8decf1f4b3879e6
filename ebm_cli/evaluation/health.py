"""Did the training go well? The verdict of health on a run that is over."""

from collections.abc import Mapping, Sequence

import torch
from typing_extensions import override

from ebm_cli.chains import FromData
from ebm_cli.dataset.base import Data
from ebm_cli.evaluation.base import Evaluation, Result, Subject, some_rows
from ebm_cli.evaluation.table import Numbers
from ebm_cli.health import past, probe
from ebm_cli.health.base import LEVELS, Verdict, verdict
from ebm_cli.health.budget import ROWS, Moving
from ebm_cli.health.limits import of_scale, signs
from ebm_cli.health.past import Look, Training
from ebm_cli.health.probe import Seen
from ebm_cli.registry import register

_FALLBACK = "nothing was logged by which a run of this model is judged; train it with health=watch"


@register("evaluation", "health")
class HealthVerdict(Evaluation):
    """healthy, suspicious or failing, by the limits of `health=watch`: of a look at the model and the chains of the
    checkpoint (`health/probe.py`), and of what its steps reported before it, from metrics.jsonl.
    """

    while_training: bool

    of_counts = True
    of_words = True
    asks_for_energy = False

    standing = 49
    compared = ("health/level",)

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The verdict in a word."""
        if not values.has("health/level"):
            return {}
        level = int(values["health/level"])
        values.leave("health/")
        return {"health": LEVELS[level]}

    @override
    def refusal_of_data(self, data: Data) -> str | None:
        """Rows must be whole: what is missing of them is drawn while training alone."""
        if data.train.missing is None:
            return None
        return "training rows have missing sites; what health=watch said of the run is in its summary.json"

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`health/level`, 0 to 2, and the signals, with a warning for each that is beyond its limit."""
        looks = _looks(subject.training)
        found = dict(looks[-1].signals) if looks else {}
        if probe.looks(subject.model):
            reported = {name: value for name, value in found.items() if name in past.REPORTED}
            scale = {} if subject.model.own_scale else of_scale(subject.data)
            found = {**reported, **probe.look(_seen(subject)), **scale}
        if not found:
            return Result({}, warnings=(_FALLBACK,))
        now = verdict(signs(found, _ways(subject.training)))
        metrics = {f"health/{name}": value for name, value in {"level": float(now.level), **found}.items()}
        return Result(metrics, warnings=tuple(sign.text for sign in now.signs), said=_said(now, looks))


def _said(now: Verdict, looks: Sequence[Look]) -> tuple[str, ...]:
    """What was worse before; what is wrong now is a warning."""
    earlier = past.stretches(looks)
    worse = earlier and max(stretch.level for stretch in earlier) > now.level
    sentence = past.said(Verdict(now.level), earlier) if worse else None
    return (f"health: {sentence}",) if sentence else ()


def _looks(training: Training | None) -> list[Look]:
    """Those up to the checkpoint."""
    if training is None:
        return []
    lines = (line for line in training.logged() if line["step"] <= training.step)
    return past.looks(lines, _ways(training))


def _ways(training: Training | None) -> Mapping[str, str]:
    """The way out of signs that are those of the run's objective."""
    return {} if training is None else training.moving.ways


def _seen(subject: Subject) -> Seen:
    """Rows of training and validation, as many as while training, and the chains as they are stored."""
    data, key, training = subject.data, subject.key, subject.training
    x = some_rows(data.train, ROWS, key.fold("train"))
    valid = some_rows(data.valid, ROWS, key.fold("valid")) if data.valid is not None and len(data.valid) else None
    unmoved = Moving(FromData(steps=1, final_steps=None), subject.sampler, 1, negatives=False)
    store, moving = (x[:0], unmoved) if training is None else (training.store, training.moving)
    engine = subject.device.engine.uncompiled()
    return Seen(subject.model, x, valid, store, moving, engine, key, key.fold("fixed"))
