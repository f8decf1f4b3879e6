"""The loop of a training run: steps, and at the steps that are due logging, evaluation and saving."""

import dataclasses
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from shlex import quote
from typing import Any, NamedTuple

from torch import Tensor

from ebm_cli.dataset import tables
from ebm_cli.dataset.base import Data
from ebm_cli.errors import RunError, advice
from ebm_cli.evaluation.base import Evaluation, Picture, Subject
from ebm_cli.evaluation.samples import draw
from ebm_cli.evaluation.together import Findings, infinite
from ebm_cli.record import checkpoint, picture
from ebm_cli.record.checkpoint_space import described
from ebm_cli.record.lease import Lease
from ebm_cli.record.plain_json import finite
from ebm_cli.record.run import Run
from ebm_cli.rng import stream
from ebm_cli.sampler.base import Sampler
from ebm_cli.signals import StopRequest
from ebm_cli.terminal import StepDisplay, log, short
from ebm_cli.tracker.base import Tracker
from ebm_cli.training import passed, recovery, retuning
from ebm_cli.training.along import Along
from ebm_cli.training.course import Course, course
from ebm_cli.training.early import Early
from ebm_cli.training.follower import Follower
from ebm_cli.training.health import Watcher
from ebm_cli.training.remedies import added
from ebm_cli.training.schedule import Schedule, due_at
from ebm_cli.training.sparse import Sparse
from ebm_cli.training.state import Best, Parts, TrainState
from ebm_cli.training.step import (
    Diverged,
    Report,
    Standstill,
    check,
    check_weights,
    gather_chains,
    train_step,
)
from ebm_cli.yardstick.statistics import Against, shown_by_statistics

_FANTASIES, _FANTASY_STEPS = 64, 100
_UNREAD = 25  # steps at most until the finite check sees one
_AGREE = 10  # steps between the ranks' asking each other whether to stop
_SHOWN = ("loss", "energy_gap", "gradient_norm")
_ABOUT = ("standard_error", "/rows")  # ends of names that say how sure another figure is, or of how many rows

Judge = Callable[[int, Mapping[str, float]], bool]
"""Asked after every evaluation, with the step and what was measured, whether the run ends there."""


@dataclass
class Recorder:
    """Everything a run writes while it trains and holds the lease of its directory."""

    run: Run
    lease: Lease
    tracker: Tracker
    schedule: Schedule
    evaluations: Mapping[str, Evaluation]
    ladder: set[int] = field(default_factory=set)
    warned: bool = False
    said: set[str] = field(default_factory=set)
    saved: bool = False
    standstill: Standstill = field(init=False)
    standing: bool = False
    newest: dict[str, float] = field(default_factory=dict)
    against: Against | None = None
    judge: Judge | None = None
    ended: bool = False  # the judge has ended the run
    early: Early = field(default_factory=Early)
    along: Along = field(default_factory=Along)
    watcher: Watcher = field(default_factory=Watcher)
    spent: Callable[[], Mapping[str, float]] = dict  # seconds until this moment, kept in case the process is killed

    def begin(self, total: int, step: int, sampler: Sampler[Any, Any]) -> None:
        """Which checkpoints will stay, and what is watched."""
        self.ladder = checkpoint.log_spaced(self.schedule.log_spaced, total) | self._rungs_there(step)
        self.standstill = Standstill(sampler, step + 1)

    def saves(self, step: int, total: int) -> bool:
        """Whether a checkpoint is due."""
        return step in self.ladder or due_at(step, self.schedule.save_every, total)

    @contextmanager
    def disk_watched(self, state: TrainState) -> Iterator[None]:
        """A file that cannot be written within becomes a RunError."""
        try:
            yield
        except OSError as error:
            if error.errno is None:  # of a library, which has its own way of saying something else
                raise
            raise RunError(_disk_full(error, self.run, state.step)) from error

    def _rungs_there(self, step: int) -> set[int]:
        """The steps of a ladder that stay when a resumed run is given another number of steps, hence other rungs."""
        older = [there for there in checkpoint.steps(self.run.checkpoints) if there <= step]
        return set(older[: -self.schedule.keep_last]) if self.schedule.log_spaced else set()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """To metrics.jsonl, with null for what is not finite, and the rest to the tracker."""
        self.lease.check(look=False)
        self.run.append_metrics(step, values)
        self.tracker.log(step, finite(values))
        self._say(infinite(values), step)

    def judged(self, state: TrainState) -> dict[str, float]:
        """What the watcher finds."""
        return self.watcher.look(state)

    def goes_back(self, parts: Parts, state: TrainState, why: Diverged) -> bool:
        """Whether a run that fails has gone back to where it was healthy, from its `parts` as they were at first."""
        ran_away = not isinstance(why, Failing)
        if not self.watcher.may_go_back:
            return False
        try:
            recovery.gone_back(parts, state, self.watcher, self._checkpoint, str(why), ran_away=ran_away)
        except (checkpoint.Invalid, ValueError) as error:
            log.warning("the healthy checkpoint cannot be read (%s), so the run cannot go back to it", error)
            return False
        log.warning("%s", recovery.said(parts, self.watcher))
        self.metrics(state.step, recovery.metrics(self.watcher))
        self.run.update_metadata(added_steps=added(self.watcher.recoveries))
        self.saves_once(parts, state)
        return True

    def _checkpoint(self, step: int) -> checkpoint.Checkpoint:
        """That of a step. Raises checkpoint.Invalid."""
        return checkpoint.load(checkpoint.directory(self.run.checkpoints, step))

    def keeps(self, state: TrainState) -> bool:
        """Whether the state of now is one to come back to; the rate may be higher from here on."""
        keeps = self.watcher.keeps(state)
        if keeps and self.watcher.raises(state.step):
            log.info("%s", recovery.raised(self.watcher))
            self.metrics(state.step, recovery.metrics(self.watcher))
        return keeps

    def saves_once(self, parts: Parts, state: TrainState) -> None:
        """A checkpoint of this step, unless there is one."""
        if state.step not in checkpoint.steps(self.run.checkpoints):
            self.save(parts, state)

    def logged(self, name: str) -> list[float]:
        """The numbers that a metric had so far."""
        return self.run.logged(name)

    def follow(self, parts: Parts, state: TrainState) -> None:
        """What follows the model looks at it."""
        found = self.along.look(subject_of(parts, state, "train", "running"), state)
        if found:
            self.metrics(state.step, found)

    def look(self, reports: Sequence[Report], *, last: bool) -> None:
        """Warn, once, of chains that stand still."""
        found = [] if self.standing else self.standstill.look(reports, last=last)
        for sentence in found:
            log.warning("%s", sentence)
        self.standing = self.standing or bool(found)

    def _say(self, sentences: Iterable[str], step: int) -> None:
        """Warn of each, once in a run."""
        for sentence in sentences:
            if sentence not in self.said:
                log.warning("step %d: %s", step, sentence)
                self.said.add(sentence)

    def evaluate(self, parts: Parts, state: TrainState) -> bool:
        """The cheap evaluations on held-out data; whether the monitored one is the best so far."""
        findings, split = Findings(), "valid" if parts.data.valid else "train"
        for name, evaluation in self.evaluations.items():
            if evaluation.while_training:
                about = subject_of(parts, state, split, name, self.run)
                findings.made(name, evaluation.while_it_trains(), about)
        self._say([f"evaluation {name} failed: {why}" for name, why in findings.failed.items()], state.step)
        values = findings.numbers | self.along.of_rows(partial(subject_of, parts, state, split, "running"), state)
        if values:
            self.metrics(state.step, values)
            self.newest = newest(values, self.schedule.monitor)
        self._show(parts, state)
        self.ended = self.judge is not None and self.judge(state.step, values)
        value, best = self._monitored(values, parts), state.best
        if value is None or (best and best.metric in (None, self.schedule.monitor) and value <= best.value):
            return False
        state.best = Best(state.step, value, self.schedule.monitor)
        return True

    def _monitored(self, values: Mapping[str, float], parts: Parts) -> float | None:
        """The value that decides which checkpoint is best; a monitor that nothing measures is said, once."""
        monitor = self.schedule.monitor
        if monitor is None or monitor in values:
            return None if monitor is None else finite(values).get(monitor)
        if values and parts.data.valid and not self.warned:
            self.warned = True
            log.warning(
                "checkpoint.monitor = %s is not measured while training (%s): no best checkpoint is kept",
                monitor, ", ".join(name for name in values if not name.endswith(_ABOUT)),
            )  # fmt: skip
        return None

    def _show(self, parts: Parts, state: TrainState) -> None:
        """Chains as a picture, weights and ages of the chains as histograms."""
        statistics = shown_by_statistics(parts.data.space)
        if parts.data.space.pictured and (not statistics or self._seldom(state.step, parts.loop.steps)):
            subject = subject_of(parts, state, "train", "fantasies")
            x = state.chains() if len(state.store) else draw(subject, _FANTASIES, _FANTASY_STEPS, "noise")[0]
            image = self._picture(parts.data, x)
            self.run.write_image(f"samples/step-{state.step:08d}.png", image)
            self.tracker.images(state.step, {"chains": image})
        weights = {
            f"weights/{n}": p.detach().float().flatten().cpu().numpy() for n, p in state.model.named_parameters()
        }
        if len(state.ages):
            weights["chains/age"] = state.ages.cpu().numpy()
        self.tracker.histograms(state.step, weights)

    def _seldom(self, step: int, last: int) -> bool:
        """Whether it is the first, second, fourth, ... evaluation or the last: a plot takes a fifth of a second."""
        count = step // max(self.schedule.eval_every, 1)
        return step == last or count & (count - 1) == 0

    def _picture(self, data: Data, x: Tensor) -> Picture:
        """Chains x (n, *shape): some of them as images, or statistics of all."""
        if not shown_by_statistics(data.space):
            return picture.grid(data.space, x[:_FANTASIES])
        self.against = self.against or Against(data)
        return self.against.picture(x, "chains")

    def save(self, parts: Parts, state: TrainState) -> None:
        """A checkpoint of this moment, and the superseded ones deleted. Raises RunError if a weight is not finite."""
        check_weights(state, parts.components.objective)
        self.lease.check()
        if state.step == 0 and checkpoint.steps(self.run.checkpoints):
            return  # a run of no steps was resumed
        checkpoint.save(self.run.checkpoints, state.step, state.tensors(), self._recorded(parts.data, state.best))
        first = {} if self.saved else {"checkpoint": state.step}  # so that its loss would be noticed
        self.saved = True
        if facts := {**first, **self.spent()}:
            self.run.update_metadata(**facts)
        protected = self.ladder | ({state.best.step} if state.best else set()) | self.watcher.kept
        checkpoint.prune(self.run.checkpoints, state.step, self.schedule.keep_last, protected)

    def _recorded(self, data: Data, best: Best | None) -> dict[str, Any]:
        own = {"health": self.watcher.saved()} if self.watcher.health.period else {}
        return recorded(self.run, data, best) | own


def recorded(run: Run, data: Data, best: Best | None) -> dict[str, Any]:
    """What a checkpoint holds beside its tensors: space and hash of the data, what was logged so far, the best."""
    logged = run.sync_metrics()
    return {
        "space": described(data.space),
        "data": data.fingerprint,
        "metrics_bytes": logged,
        "metrics_sha256": run.metrics_sha256(logged),
        "best": best and dataclasses.asdict(best),
    }


def newest(values: Mapping[str, float], monitor: str | None) -> dict[str, float]:
    """Of what was measured on held-out rows the monitored value, else the first one, as `<split> <metric>`."""
    key = next(iter(values)) if monitor is None or monitor not in values else monitor
    return {short(key): values[key]}


def subject_of(parts: Parts, state: TrainState, split: str, purpose: str, run: Run | None = None) -> Subject:
    """What an evaluation sees of a training run, with the checkpoints of `run`.

    It draws from its own keys, so it cannot change the training.
    """
    key, parts = stream(parts.loop.seed, "evaluation", purpose, split, state.step), retuning.tuned(parts, state)
    model, sampler = state.averaged_model(), parts.components.sampler
    before = dict if run is None else partial(passed.models, run, state)
    training = None if run is None else passed.training(run, parts, state)
    chains, beside = state.chains(), state.auxiliary
    return Subject(model, parts.data, split, sampler, chains, key, parts.device, beside, before, training)


def fit(parts: Parts, state: TrainState, recorder: Recorder | Follower, stop: StopRequest) -> None:
    """Train until the last step, a target that is met, the verdict of a judge, or until a rank is asked to stop.

    Whichever it was, `recorder` and `stop` then say. A checkpoint of the last step is there.

    Raises RunError if a gradient is not finite or the disk is full; the newest checkpoint then stays valid.
    """
    _taken_up(parts, state, recorder)
    saved, unread, now = state.step or None, list[Report](), _course(parts, state, recorder)
    with recorder.disk_watched(state), StepDisplay(now.steps, state.step) as display, _not_searched():
        _begun(parts, state, recorder)
        while state.step < now.steps and not _over(recorder) and not _stopping(parts, state, stop):
            stop.loses = saved != (state.step or None)
            report, now = _step(now, parts, state, recorder)
            unread.append(report)
            last, due = unread[-1], _due_at(recorder, now.sparse, state.step, now.steps)
            try:
                if len(unread) == _UNREAD or any(due):
                    unread = _read(now.parts, state, recorder, unread)
                if _attend(now.sparse, recorder, due, _numbers(last, now, state) if due.logs else {}):
                    saved = state.step
            except Diverged as error:
                if recorder.goes_back(parts, state, error):
                    saved, now = state.step, _course(parts, state, recorder)
                    display.ends_at(now.steps)
                elif not isinstance(error, Failing):
                    raise
                unread = []
            _display(display, recorder, state.step, last)
        _read(now.parts, state, recorder, unread)
        gather_chains(now.parts, state)
        if saved != state.step:
            recorder.save(now.parts, state)
        recorder.early.say(state.step, now.steps)
        _agree(parts, stop)


def _taken_up(parts: Parts, state: TrainState, recorder: Recorder | Follower) -> None:
    """What watches the run knows where it begins or goes on."""
    recorder.begin(parts.loop.steps, state.step, parts.components.sampler)
    recorder.early.again(parts, state, recorder.logged)
    recorder.along.begin(partial(subject_of, parts, state, "train", "running"), state)


def _step(now: Course, parts: Parts, state: TrainState, recorder: Recorder | Follower) -> tuple[Report, Course]:
    """One update and what comes of it, of a run that had these `parts` at first; how it goes on."""
    if recorder.watcher.raised_at(state.step):
        now = _course(parts, state, recorder)
    now.ladder.ready()
    report = train_step(now.parts, state, now.how)
    if now.ladder.follow() or retuning.follow(parts, state, report):
        now = _course(parts, state, recorder)._replace(ladder=now.ladder)
    return report, now


def _course(parts: Parts, state: TrainState, recorder: Recorder | Follower) -> Course:
    """How a run of these `parts` at first goes on."""
    return course(retuning.tuned(parts, state), state, recorder.watcher.recoveries)


def _numbers(last: Report, now: Course, state: TrainState) -> dict[str, float]:
    """What is logged of the last step."""
    return {**last.numbers(), **now.ladder.found, **retuning.found(now.parts, state)}


def _begun(parts: Parts, state: TrainState, recorder: Recorder | Follower) -> None:
    """A run that may go back has its beginning to go back to."""
    watcher = recorder.watcher
    if watcher.health.most and watcher.healthy is None:
        watcher.healthy = watcher.first = state.step
        recorder.saves_once(parts, state)


class Failing(Diverged):
    """A run may go back to where it was healthy."""


class Due(NamedTuple):
    """What is due at a step."""

    logs: bool
    follows: bool
    evaluates: bool
    looks: bool
    judges: bool
    changes: bool
    saves: bool


def _due_at(recorder: Recorder | Follower, sparse: Sparse, step: int, total: int) -> Due:
    schedule = recorder.schedule
    logs, evaluates = due_at(step, schedule.log_every, total), due_at(step, schedule.eval_every, total)
    follows, judges = recorder.along.due(step, evaluates=evaluates), recorder.watcher.due(step, total)
    looks, changes = recorder.early.due(step, total), sparse.due(step)
    return Due(logs, follows, evaluates, looks, judges, changes, recorder.saves(step, total))


def _attend(sparse: Sparse, recorder: Recorder | Follower, due: Due, last: Mapping[str, float]) -> bool:
    """Do what is due, and log the numbers of the `last` step; whether a checkpoint was saved, after all of it."""
    parts, state = sparse.parts, sparse.state
    if due.evaluates or due.looks or due.saves or (due.judges and recorder.watcher.probes(state.step)):
        gather_chains(parts, state)
    said = recorder.judged(state) if due.judges else {}
    if due.logs or said:
        recorder.metrics(state.step, {**last, **said})
    if due.judges and recorder.watcher.fails(state.step):
        raise Failing(recorder.watcher.why)
    keeps = due.judges and recorder.keeps(state)
    if _measure(sparse, recorder, due) or due.saves or keeps:
        recorder.save(parts, state)
        return True
    return False


def _measure(sparse: Sparse, recorder: Recorder | Follower, due: Due) -> bool:
    """Measure what is due, and change what follows from it; whether the run was never better."""
    parts, state = sparse.parts, sparse.state
    if due.follows:
        recorder.follow(parts, state)
    better = due.evaluates and recorder.evaluate(parts, state)
    if due.looks:
        recorder.metrics(state.step, recorder.early.look(parts, state, recorder.logged))
    if due.looks or due.changes:
        changed = sparse.attend(recorder.early)
        if changed:
            recorder.metrics(state.step, changed)
    return better


def _over(recorder: Recorder | Follower) -> bool:
    """Whether the run ends before its last step."""
    return recorder.ended or recorder.early.met is not None


@contextmanager
def _not_searched() -> Iterator[None]:
    """Within, no search for garbage looks through what is there before: the libraries, half a million objects."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _display(display: StepDisplay, recorder: Recorder | Follower, step: int, last: Report) -> None:
    """The progress line of a step that was logged, once all that was due at it is done."""
    if due_at(step, recorder.schedule.log_every, display.total):
        found = {**_shown(last.numbers()), **recorder.newest, **recorder.early.shown}
        display.show(step, {**found, **recorder.watcher.shown})
    else:
        display.goes_on(step)


def _shown(values: Mapping[str, float]) -> dict[str, float]:
    """What of a step the progress line has room for; of a loss that is the energy gap, the gap alone."""
    idle = {"loss"} if "energy_gap" in values and values.get("loss") == values["energy_gap"] else set()
    return {name: values[name] for name in _SHOWN if name in values and name not in idle}


def _read(parts: Parts, state: TrainState, recorder: Recorder | Follower, unread: list[Report]) -> list[Report]:
    """What the steps say, which waits for the device: were they healthy, did the chains move? None is left."""
    try:
        numbers = _checked(parts, state, unread)
    except RunError as error:
        recorder.watcher.failed(str(error))
        raise
    if unread:
        recorder.watcher.take(unread[0].values.names, numbers)
    recorder.look(unread, last=state.step == parts.loop.steps)
    return []


def _checked(parts: Parts, state: TrainState, reports: list[Report]) -> Tensor:
    """What they say, as `check` has it.

    Raises Diverged for a step that was not healthy, with what the scale of the data may have to do with it.
    """
    try:
        return check(state, reports, parts.components.objective, parts.components.sampler)
    except Diverged as error:
        why = tables.scale(parts.data)
        raise Diverged(f"{error}. The data may be at fault: {why}" if why else str(error)) from error


def _stopping(parts: Parts, state: TrainState, stop: StopRequest) -> bool:
    """Whether to stop before the next step: all ranks at the same one, so they ask each other now and then."""
    if parts.device.ranks.count > 1:
        return state.step % _AGREE == 0 and _agree(parts, stop)
    return stop.signal is not None


def _agree(parts: Parts, stop: StopRequest) -> bool:
    """Whether any rank has been asked to stop; if so, each rank has."""
    number = parts.device.ranks.highest(stop.signal or 0, parts.device.torch)
    if number:
        stop.ask(number)
    return number > 0


def _disk_full(error: OSError, run: Run, step: int) -> str:
    kept = checkpoint.steps(run.checkpoints)
    left = f"the newest checkpoint is step {kept[-1]}" if kept else "there is no checkpoint yet"
    return (
        f"step {step}: {error.strerror} while writing to {run.path}; {left}. "
        f"{advice(error).capitalize()}, then: ebm train resume={quote(str(run.path))}"
    )
