"""The loop of a training run: steps, and at the steps that are due logging, evaluation and saving."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from shlex import quote
from typing import Annotated

from pydantic import Field

from ebm_cli import checkpoint, picture
from ebm_cli.errors import DISK_ERRORS, RunError, UserError
from ebm_cli.evaluation.base import Evaluation, Subject, on_split
from ebm_cli.evaluation.samples import draw
from ebm_cli.rng import stream
from ebm_cli.run import Run
from ebm_cli.signals import StopRequest
from ebm_cli.step import Report, check, check_weights, train_step
from ebm_cli.terminal import StepDisplay, log
from ebm_cli.tracker.base import Tracker
from ebm_cli.train import Best, Parts, TrainState

_FANTASIES, _FANTASY_STEPS = 64, 100
_UNREAD = 100  # steps at most until the finite check sees one
_SHOWN = ("loss", "energy_gap", "gradient_norm")

Every = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """When what is due, in steps (0: never), and which checkpoints stay."""

    log_every: Annotated[int, Field(ge=1)]
    eval_every: Every
    save_every: Every
    keep_last: Annotated[int, Field(ge=1)]
    log_spaced: Every
    monitor: str | None

    def due(self, step: int, total: int) -> bool:
        """Whether anything at all is."""
        return any(_due(step, every, total) for every in (self.log_every, self.eval_every, self.save_every))


@dataclass
class Recorder:
    """Everything a run writes while it trains."""

    run: Run
    tracker: Tracker
    plan: Plan
    evaluations: Mapping[str, Evaluation]
    ladder: set[int] = field(default_factory=set)
    warned: bool = False

    def rungs_there(self, step: int) -> set[int]:
        """The steps of a ladder that stay when a resumed run is given another number of steps, hence other rungs."""
        older = [there for there in checkpoint.steps(self.run.checkpoints) if there <= step]
        return set(older[: -self.plan.keep_last]) if self.plan.log_spaced else set()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """To metrics.jsonl and the tracker."""
        self.run.append_metrics(step, values)
        self.tracker.log(step, values)

    def evaluate(self, parts: Parts, state: TrainState) -> bool:
        """The cheap evaluations on held-out data; whether the monitored one is the best so far."""
        values: dict[str, float] = {}
        for name, evaluation in self.evaluations.items():
            if evaluation.while_training:
                subject = subject_of(parts, state, "valid" if parts.data.valid else "train", name)
                values |= on_split(evaluation.evaluate(subject).metrics, subject.split)
        if values:
            self.metrics(state.step, values)
        self._show(parts, state)
        value = self._monitored(values, parts)
        if value is None or (state.best and value <= state.best.value):
            return False
        state.best = Best(state.step, value)
        return True

    def _monitored(self, values: Mapping[str, float], parts: Parts) -> float | None:
        """The value that decides which checkpoint is best; a monitor that nothing measures is said, once."""
        monitor = self.plan.monitor
        if monitor is None or monitor in values:
            return None if monitor is None else values[monitor]
        if values and parts.data.valid and not self.warned:
            self.warned = True
            log.warning(
                "checkpoint.monitor = %s is not measured while training (%s): no best checkpoint is kept",
                monitor, ", ".join(values),
            )  # fmt: skip
        return None

    def _show(self, parts: Parts, state: TrainState) -> None:
        """Chains as a picture, weights as histograms."""
        subject = subject_of(parts, state, "train", "fantasies")
        x = state.store if len(state.store) else draw(subject, _FANTASIES, _FANTASY_STEPS, "noise")
        image = picture.grid(parts.data.space, x[:_FANTASIES])
        self.run.write_image(f"samples/step-{state.step:08d}.png", image)
        self.tracker.images(state.step, {"chains": image})
        weights = {
            f"weights/{n}": p.detach().float().flatten().cpu().numpy() for n, p in state.model.named_parameters()
        }
        self.tracker.histograms(state.step, weights)

    def save(self, parts: Parts, state: TrainState) -> None:
        """A checkpoint of this moment, and the superseded ones deleted. Raises RunError if a weight is not finite."""
        check_weights(state)
        best = state.best and {"step": state.best.step, "value": state.best.value}
        space = {"name": parts.data.space.name, "shape": parts.data.space.shape}
        numbers = {"space": space, "metrics_bytes": self.run.sync_metrics(), "best": best}
        checkpoint.save(self.run.checkpoints, state.step, state.tensors(), numbers)
        protected = self.ladder | ({state.best.step} if state.best else set())
        checkpoint.prune(self.run.checkpoints, state.step, self.plan.keep_last, protected)


def subject_of(parts: Parts, state: TrainState, split: str, purpose: str) -> Subject:
    """What an evaluation sees of a training run; it draws from its own keys, so it cannot change the training."""
    key = stream(parts.loop.seed, "evaluation", purpose, split, state.step)
    model = state.averaged_model()
    return Subject(model, parts.data, split, parts.components.sampler, state.store, key, parts.device)


def restore(run: Run, state: TrainState) -> list[str]:
    """Load the newest valid checkpoint; a sentence for each newer, invalid one.

    A run that stopped before its first checkpoint stays at step 0, its metrics are dropped. Raises UserError if there
    are checkpoints and none is valid.
    """
    if not checkpoint.steps(run.checkpoints):
        run.truncate_metrics(0)
        return ["no checkpoint was written yet, so the run starts again"]
    found, reasons = checkpoint.newest(run.checkpoints)
    try:
        state.load(found.step, found.tensors)
        best = found.numbers["best"]
        state.best = Best(int(best["step"]), float(best["value"])) if best else None
        run.truncate_metrics(int(found.numbers["metrics_bytes"]))
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise UserError(f"{found.path} is a checkpoint of another model or run: {error}") from error
    return [f"not valid, so an older checkpoint is used: {reason}" for reason in reasons]


def fit(parts: Parts, state: TrainState, recorder: Recorder, stop: StopRequest) -> None:
    """Train until the last step or until asked to stop; either way a checkpoint of the last step is there.

    Raises RunError if the gradient is not finite or the disk is full; the newest checkpoint then stays valid.
    """
    plan, total = recorder.plan, parts.loop.steps
    recorder.ladder = checkpoint.log_spaced(plan.log_spaced, total) | recorder.rungs_there(state.step)
    saved = state.step if state.step else None
    unread: list[Report] = []
    with disk_watched(recorder.run, state):
        with StepDisplay(total, state.step) as display:
            while state.step < total and not stop.signal:
                unread.append(train_step(parts, state))
                step, last = state.step, unread[-1]
                if len(unread) == _UNREAD or step in recorder.ladder or plan.due(step, total):
                    check(state, unread)
                    unread = []
                if _due(step, plan.log_every, total):
                    values = last.numbers()
                    recorder.metrics(step, values)
                    display.show(step, {name: values[name] for name in _SHOWN if name in values})
                better = _due(step, plan.eval_every, total) and recorder.evaluate(parts, state)
                if better or step in recorder.ladder or _due(step, plan.save_every, total):
                    recorder.save(parts, state)
                    saved = step
        check(state, unread)
        if saved != state.step:
            recorder.save(parts, state)


@contextmanager
def disk_watched(run: Run, state: TrainState) -> Iterator[None]:
    """A disk that is full within becomes a RunError."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise RunError(_disk_full(error, run, state.step)) from error


def _due(step: int, every: int, total: int) -> bool:
    return every > 0 and (step % every == 0 or step == total)


def _disk_full(error: OSError, run: Run, step: int) -> str:
    kept = checkpoint.steps(run.checkpoints)
    left = f"the newest checkpoint is step {kept[-1]}" if kept else "there is no checkpoint yet"
    return (
        f"step {step}: {error.strerror} while writing to {run.path}; {left}. Free space, then: "
        f"ebm train resume={quote(str(run.path))}"
    )
