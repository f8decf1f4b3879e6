"""Which checkpoint the final evaluation judges, the best or the last, and how far the two are apart."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from shlex import quote
from typing import Literal, NamedTuple

from torch import Tensor

from ebm_cli import rng
from ebm_cli.comparison.likelihood import log_z_error
from ebm_cli.dataset.base import Split
from ebm_cli.dataset.sparse import SparseRows
from ebm_cli.dataset.stored import some
from ebm_cli.device.base import evaluation_precision
from ebm_cli.evaluation.base import Evaluation, measured, on_split
from ebm_cli.evaluation.table import Numbers
from ebm_cli.evaluation.together import Findings
from ebm_cli.record import checkpoint
from ebm_cli.record.checkpoint import Invalid
from ebm_cli.record.run import Run
from ebm_cli.terminal import log
from ebm_cli.training.loop import subject_of
from ebm_cli.training.state import Best, Parts, TrainState

Which = Literal["best", "last"]
_SURE = 2  # standard errors
_COMMAND = "ebm evaluate run={run} checkpoint=best{plugins}"


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """The keys of `report`. `checkpoint`: which one the final evaluation judges."""

    checkpoint: Which


@dataclass(frozen=True)
class Trained:
    """A run whose training is over. `plugins` is what its commands end with, " plugins=[...]" or nothing."""

    run: Run
    parts: Parts
    state: TrainState
    evaluations: Mapping[str, Evaluation]
    monitor: str | None
    plugins: str


@dataclass(frozen=True)
class Judged:
    """Which of the two is judged, what the summary has of both, and what there is to say."""

    which: Which
    numbers: dict[str, float | str]
    said: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def note(self, findings: Findings) -> None:
        """The numbers among what was found."""
        for key, value in self.numbers.items():
            if isinstance(value, str):
                findings.about[key] = value
            else:
                findings.numbers[key] = value

    def say(self) -> None:
        """The sentences."""
        for line in self.said:
            log.info("%s", line)
        for warning in self.warnings:
            log.warning("%s", warning)


class Seen(NamedTuple):
    """The monitored metric of a state: its mean, and its value for each row where that is known.

    `common` is the standard error of what all rows share, log Z.
    """

    mean: float
    by_row: Tensor | None
    common: float = 0.0


class Sides(NamedTuple):
    """The same on validation rows, and on training rows where these can be taken alike."""

    held_out: Seen | None = None
    training: Seen | None = None


class Pair(NamedTuple):
    """The best and the last step, and what the monitored metric is there."""

    best: Best
    last_step: int
    at_best: Sides
    at_last: Sides

    def numbers(self, which: Which) -> dict[str, float | str]:
        """What the summary has: which is judged, and step and value of both."""
        found: dict[str, float | str] = {
            "judged": which,
            "judged_step": self.best.step if which == "best" else self.last_step,
            "best/step": self.best.step,
            f"best/{self.best.metric}": self.best.value,
            "last/step": self.last_step,
        }
        last = self.at_last.held_out
        return found if last is None else found | {f"last/{self.best.metric}": last.mean}


@contextmanager
def judged(trained: Trained, wanted: Which) -> Iterator[Judged]:
    """The state as it is to be judged, for as long as this lasts; afterwards it is that of the last step again.

    `best` is judged where it is wanted, can be read, and the last is worse by more than twice the standard error of
    their difference, row by row. With less between them there is nothing to choose, and the last is judged.
    """
    state, best = trained.state, _named(trained)
    if best is None or best.step == state.step:
        yield _without_choice(trained, best)
        return
    step, last = state.step, {name: tensor.clone() for name, tensor in state.tensors().items()}
    at_last = _measured(trained, best.metric)
    try:
        why = _taken_over(trained, best.step)
        both = Pair(best, step, _measured(trained, best.metric) if why is None else Sides(), at_last)
        found = _compared(trained, both, wanted) if why is None else _unreadable(both, why)
        if found.which == "last":
            state.load(step, last)
        yield found
    finally:
        state.load(step, last)


def _taken_over(trained: Trained, step: int) -> str | None:
    """The state becomes that of the checkpoint of a step, or why it cannot."""
    try:
        saved = checkpoint.load(checkpoint.directory(trained.run.checkpoints, step))
        trained.state.load(saved.step, saved.tensors)
    except (Invalid, ValueError) as error:
        return str(error)
    return None


def _named(trained: Trained) -> Best | None:
    """The best so far with the metric it was best by, which older checkpoints do not record."""
    best = trained.state.best
    return best if best is None or best.metric else replace(best, metric=trained.monitor)


def _without_choice(trained: Trained, best: Best | None) -> Judged:
    """The last step is the best one, or none is known to be better."""
    step = trained.state.step
    if best is not None:
        return Judged("last", Pair(best, step, Sides(), Sides(Seen(best.value, None))).numbers("last"))
    said = f"the last step is judged: {_why_none_is_kept(trained)}"
    return Judged("last", {"judged": "last", "judged_step": step}, (said,) if _missed(trained) else ())


def _why_none_is_kept(trained: Trained) -> str:
    if trained.parts.data.valid is None and "/valid/" in str(trained.monitor):
        return f"the data have no validation rows, on which checkpoint.monitor = {trained.monitor} would be measured"
    return (
        f"checkpoint.monitor = {trained.monitor} was not measured, so no other is kept; name one that an evaluation "
        "measures while training, or set it to null"
    )


def _missed(trained: Trained) -> bool:
    """Whether somebody misses the monitored metric: it was typed, or others are measured while training."""
    words = trained.run.read_json("metadata.json").get("overrides") or ()
    typed = any(str(word).lstrip("+").startswith("checkpoint.monitor=") for word in words)
    measured = any(evaluation.while_training for evaluation in trained.evaluations.values())
    return trained.monitor is not None and (typed or measured)


def _unreadable(both: Pair, why: str) -> Judged:
    warning = f"the best checkpoint, of step {both.best.step}, cannot be read ({why}); the last step is judged"
    return Judged("last", both.numbers("last"), warnings=(warning,))


def _measured(trained: Trained, metric: str | None) -> Sides:
    """Of the state as it is."""
    name = (metric or "").split("/")[0]
    evaluation, data = trained.evaluations.get(name), trained.parts.data
    if metric is None or evaluation is None or data.valid is None:
        return Sides()
    alike = _as_many(data.train, len(data.valid))
    held_out = _seen(trained, trained.parts, evaluation, metric)
    if alike is None:
        return Sides(held_out)
    return Sides(held_out, _seen(trained, replace(trained.parts, data=replace(data, valid=alike)), evaluation, metric))


def _seen(trained: Trained, parts: Parts, evaluation: Evaluation, metric: str) -> Seen | None:
    """On the validation rows of these parts, as it was measured while training and with the same draws."""
    subject = subject_of(parts, trained.state, "valid", metric.split("/")[0], trained.run)
    with evaluation_precision():
        result = measured(evaluation.while_it_trains(), subject)
    found = on_split(result.metrics, "valid")
    by_row = on_split(result.by_row, "valid").get(metric)
    return Seen(found[metric], by_row, _common(found, metric)) if metric in found else None


def _common(found: Mapping[str, float], metric: str) -> float:
    """The error of a log-likelihood that is not of its rows: of log Z."""
    place, _, name = metric.rpartition("/")
    return log_z_error(place, found) if name == "log_likelihood" else 0.0


def _as_many(train: Split, count: int) -> Split | None:
    """As many training rows, or None of documents."""
    if isinstance(train.stored, SparseRows):
        return None
    index = rng.permutation(len(train), rng.stream(0, "as many"))[:count].to(train.stored.device)
    labels, weights = (None if t is None else t[index.to(t.device)] for t in (train.labels, train.weights))
    return replace(train, stored=some(train.stored, index), labels=labels, weights=weights)


def below(last: Seen, best: Seen) -> tuple[float, float]:
    """How far the last is below the best, and the standard error of that: over rows where these are known, of log Z."""
    common = math.hypot(last.common, best.common)
    if last.by_row is None or best.by_row is None or len(last.by_row) < 2:
        return best.mean - last.mean, common
    difference = best.by_row - last.by_row
    return difference.mean().item(), math.hypot(difference.std().item() / len(difference) ** 0.5, common)


def _compared(trained: Trained, both: Pair, wanted: Which) -> Judged:
    """Which is judged, and a sentence where the last is worse."""
    last, best = both.at_last.held_out, both.at_best.held_out
    if last is None or best is None:
        return _unsure(both, wanted)
    worse, error = below(last, best)
    if worse <= _SURE * error:
        return Judged("last", both.numbers("last"))
    beyond = f", {worse:.2f} ± {error:.2f} less" if error else ""
    how = (
        f"{both.best.metric} fell from {best.mean:.2f} at step {both.best.step}, the best, to {last.mean:.2f} at step "
        f"{both.last_step}, the last{beyond}{_overfit(both)}"
    )
    command = _COMMAND.format(run=quote(str(trained.run.path)), plugins=trained.plugins)
    way = f"the best is judged here; sample from it with: {command.replace('evaluate', 'sample')}"
    if wanted == "last":
        way = f"the last is judged here (report.checkpoint = last), the best with: {command}"
    return Judged(wanted, both.numbers(wanted), warnings=(f"{how}; {way}",))


def _unsure(both: Pair, wanted: Which) -> Judged:
    """The evaluation that the metric is of is not there to compare the two by."""
    said = (
        f"{both.best.metric} is not measured here: how much better step {both.best.step} was than the last is not known"
    )
    return Judged(wanted, both.numbers(wanted), (said,))


def _overfit(both: Pair) -> str:
    """Named where the training rows are fitted better meanwhile."""
    before, after = both.at_best.training, both.at_last.training
    if before is None or after is None:
        return ""
    rise, error = below(before, after)
    if rise <= _SURE * error:
        return ""
    return f", while on as many training rows it rose from {before.mean:.2f} to {after.mean:.2f}: the model overfits"


def lines(values: Numbers) -> dict[str, str]:
    """Which checkpoint all of a table is of, and how the monitored metric was there and at the other one."""
    values.leave("best/", "last/", "judged")
    if not values.has("judged_step", "judged"):
        return {}
    found = {"checkpoint": f"step {values['judged_step']:.0f}, the {values['judged']}"}
    for metric in (key.removeprefix("best/") for key in values if key.startswith("best/") and key != "best/step"):
        found[f"  {metric}"] = f"best {values[f'best/{metric}']:.2f} at step {values['best/step']:.0f}"
        if f"last/{metric}" in values:
            found[f"  {metric}"] += f"; last {values[f'last/{metric}']:.2f} at step {values['last/step']:.0f}"
    return found
