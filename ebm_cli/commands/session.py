"""A run with its parts built and checked, ready to train; what of it is written before the first step."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ebm_cli import registry
from ebm_cli.acceleration import for_evaluation, resolved, say_alone, threads
from ebm_cli.commands import composition, notify
from ebm_cli.commands.best import Reporting, Trained
from ebm_cli.commands.configuration import (
    Request,
    check_complete,
    check_evaluated,
    check_keys,
    choices,
    evaluations,
    health,
    load_plugins,
    loop_and_schedule,
    merged,
    reporting,
    stopping,
)
from ebm_cli.commands.data_again import load_again
from ebm_cli.commands.effects import without_effect
from ebm_cli.commands.following import following
from ebm_cli.commands.places import rooted
from ebm_cli.dataset.base import Data
from ebm_cli.dataset.columns import Columns, as_json
from ebm_cli.device import ranks
from ebm_cli.device.engine import Engine, Work
from ebm_cli.device.loops import Loops
from ebm_cli.device.memory import rows_at_once
from ebm_cli.device.replay import Graphs
from ebm_cli.errors import RunError, UserError
from ebm_cli.evaluation.base import Evaluation, refusal
from ebm_cli.health.limits import of_scale
from ebm_cli.model.base import EnergyModel
from ebm_cli.record import checkpoint, files, run
from ebm_cli.record.run import Run
from ebm_cli.sampler.base import Sampler
from ebm_cli.stop.base import Watch
from ebm_cli.terminal import log
from ebm_cli.tracker import several
from ebm_cli.tracker.base import TrackerSpec
from ebm_cli.training import checks, long_step, whole_step
from ebm_cli.training.along import Along
from ebm_cli.training.early import Early
from ebm_cli.training.health import Watcher
from ebm_cli.training.restore import Restored, restore
from ebm_cli.training.schedule import Schedule
from ebm_cli.training.state import Choice, Loop, Parts, TrainState, assemble, build_components, load_data, training_work

_ENOUGH = 10  # checkpoints
_SCALED = (
    "health.act = recover: columns are far from mean 0 and standard deviation 1, near which models of real numbers "
    "begin, so dataset.standardise=true; samples and likelihoods stay those of the data as they are"
)
USUAL = {"exact", "ais", "pseudo_likelihood", "chains", "samples"}  # what is measured where nothing was chosen


@dataclass
class Session:
    """A run with its parts built and checked, ready to train."""

    parts: Parts
    state: TrainState
    schedule: Schedule
    evaluations: dict[str, Evaluation]
    trackers: Mapping[str, TrackerSpec]
    run: Run
    config: Mapping[str, Any]
    notes: list[str]
    warnings: list[str]
    restored: Restored | None  # of a resumed run
    reporting: Reporting
    early: Early
    along: Along
    watcher: Watcher

    @property
    def trained(self) -> Trained:
        """What of it the final evaluation needs."""
        return Trained(self.run, self.parts, self.state, self.evaluations, self.schedule.monitor, self.plugins)

    @property
    def plugins(self) -> str:
        """What commands on this run end with."""
        return f" plugins=[{','.join(self.config['plugins'])}]" if self.config["plugins"] else ""


class Job(NamedTuple):
    """What is to be done: the run to resume, if any, and the whole configuration."""

    found: Run | None
    config: Mapping[str, Any]


def configured(request: Request) -> Job:
    """The run to resume, if any, and the configuration of this job, its keys checked."""
    registry.load_components()
    load_plugins(request.config["plugins"])
    composed = rooted(request.config)
    if request.config["resume"] is not None:
        found, saved = run.open_existing(request.directory, "resume = ")
        if ranks.current().leads:
            run.check_writable(request.directory, "resume = ")
        config = rooted(merged(saved, composition.as_saved(composed, saved), request.overrides))
        check_complete(config, request.directory)
        notify.address(config)
        return Job(found, config)
    if ranks.current().leads:
        run.check_free(request.directory)
    check_keys(composed)
    notify.address(composed)
    return Job(None, composition.resolved(composed))


def prepare(request: Request, job: Job) -> Session:
    """Check everything, read the data, load the checkpoint of a resumed run. Nothing is written."""
    found, config = job
    choice = choices(config, request.chosen if found is None else None)
    loop, schedule = loop_and_schedule(config)
    reports, chosen = reporting(config), evaluations(config)
    begins = found is None or not checkpoint.steps(found.checkpoints)
    parts, state, trackers = _build(config, loop, choice, None if begins else found)
    scaled = standardised(config, parts) if begins else None
    if scaled is not None:
        config, (parts, state, trackers) = scaled, _build(scaled, loop, choice, None)
    idle = without_effect(parts.data, config, () if found else request.overrides, choice)
    watch, along = watching(config, parts, choice), following(config, parts, state, choice)
    check_evaluated(chosen, parts.components.objective)
    kept = feasible(chosen, state.model, parts.components.sampler, choice)
    check_complete_data(kept, parts.data)
    work = [training_work(parts.components, parts.loop), *(evaluation.work for evaluation in kept.values())]
    parts, config, said = accelerated(parts, state, config, work)
    notes, restored, watcher = [said], None, Watcher(health(config), parts)
    if found is not None:
        restored = restore(found, parts, state, schedule, watcher)
        notes += [*restored.notes, f"resuming {found.path} at step {state.step}", *filter(None, [watcher.longer])]
        if state.step > watcher.now.loop.steps:
            raise UserError(f"steps = {loop.steps}: {found.path} is at step {state.step} already; give more, or none")
    few = watch.remark(len(state.store)) if watch is not None else None
    doubts = [remark for remark in (few, few_checkpoints(kept, schedule, loop.steps)) if remark]
    doubts += [_SCALED] if scaled is not None else []
    home, warnings = found or Run(request.directory), [*parts.data.remarks, *idle, *doubts]
    early = Early(watch)
    return Session(
        parts,
        state,
        schedule,
        kept,
        trackers,
        home,
        config,
        notes,
        warnings,
        restored,
        reports,
        early,
        along,
        watcher,
    )


def standardised(config: Mapping[str, Any], parts: Parts) -> dict[str, Any] | None:
    """The configuration of a run that may mend what is wrong, with standardised data where their scale is: from the
    first step on, for no later one could. None where nothing is to be mended."""
    off = of_scale(parts.data).get("scale_low", 0) > 0  # of columns that never change nothing is made
    if not (off and health(config).most and "standardise" in config["dataset"]):
        return None
    return {**config, "dataset": {**config["dataset"], "standardise": True}}


def watching(config: Mapping[str, Any], parts: Parts, choice: Choice) -> Watch | None:
    """What may end the run early; on ranks but the first it is never asked. Raises UserError if it cannot look."""
    stop = stopping(config, parts.components, choice)
    why = stop.refusal_of_data(parts.data)
    if why:
        raise UserError(why)
    return stop.watch(parts.data)


def _build(
    config: Mapping[str, Any], loop: Loop, choice: Choice, again: Run | None
) -> tuple[Parts, TrainState, dict[str, TrackerSpec]]:
    components = build_components(config, choice)
    trackers = several.built(config["tracker"])
    for tracker in trackers.values():
        tracker.check()
    device = registry.build("device", config["device"]).open()
    checks.check_shares(components.chains, loop.batch_size, device.ranks)
    checks.check_recovery(health(config), device.ranks)
    checks.check_alone(components.objective, device.ranks, choice)
    checks.check_batch(components.objective, loop.batch_size)
    checks.check_sparse(components.model, components.optimizer, device.ranks, choice)
    data = load_data(components, device) if again is None else load_again(components, device, again)
    if again is None:
        components = replace(components, initial=composition.initial(config["model"], data.space))
    parts, state = assemble(components, loop, device, data, choice)
    return parts, state, trackers


def accelerated(
    parts: Parts, state: TrainState, config: Mapping[str, Any], work: Iterable[Work], *, evaluating: bool = False
) -> tuple[Parts, dict[str, Any], str]:
    """The parts on a device whose every auto is decided, the configuration with that in it, and a sentence on it."""
    asked = parts.device.spec
    assert asked is not None
    total = Work(*(sum(column) for column in zip(*work, strict=True)))
    if evaluating and asked.compile == "updates":
        asked = replace(asked, compile="never")
    rows = parts.loop.batch_size + parts.components.chains.slots
    at_once = rows_at_once(state.model.drawn, parts.device.bytes_left(), parts.device.torch)
    whole = whole_step.refusal(parts, state, at_once)
    ahead = None if long_step.refusal(parts, state) is None else whole
    spec, said = resolved(asked, state.model, total, {"updates": whole, "ahead": ahead})
    say_alone(spec, ahead or said)
    spec = for_evaluation(spec) if evaluating else spec
    spec = replace(spec, threads=threads(spec, state.model, rows))
    decided = {"compile": spec.compile, "precision": spec.precision, "threads": spec.threads}
    device = spec.applied(parts.device)
    replays = device.engine.compiled and device.torch.type == "cuda"
    engine = Graphs(at_once) if replays else Engine(compiled=device.engine.compiled, rows=at_once)
    loops = Loops(at_once, _say_compiling) if spec.compile == "ahead" else None
    return (
        replace(parts, device=replace(device, engine=engine, loops=loops)),
        {**config, "device": {**config["device"], **decided}},
        f"{said}; precision {spec.precision}",
    )


def _say_compiling() -> None:
    log.info("compiling a step of annealing, some ten seconds; later runs of this shape find it there")


def feasible(
    chosen: Mapping[str, Evaluation], model: EnergyModel, sampler: Sampler[Any, Any], choice: Choice
) -> dict[str, Evaluation]:
    """Without those that cannot be done with these parts: an error if they were asked for, a line if not."""
    kept: dict[str, Evaluation] = {}
    asked = set(chosen) != USUAL
    for name, evaluation in chosen.items():
        why = refusal(evaluation, model, sampler)
        if why is None:
            kept[name] = evaluation
            continue
        why = why.replace("this sampler", f"sampler={choice['sampler']}")
        if evaluation.required and asked:
            possible = [other for other, found in chosen.items() if refusal(found, model, sampler) is None]
            rest = f"evaluation=[{','.join(possible)}]" if possible else "choose others: ebm list evaluation"
            raise UserError(f"evaluation={name}: {why}" + ("" if ";" in why else f"; leave it out ({rest})"))
        else:
            log.info("evaluation %s does not apply: %s", name, why)
    return kept


def check_complete_data(chosen: Mapping[str, Evaluation], data: Data) -> None:
    """Raise UserError if an evaluation needs of the data what they lack, before any work."""
    for name, evaluation in chosen.items():
        missing = evaluation.refusal_of_data(data)
        if missing:
            raise UserError(f"evaluation={name}: {missing}")


def few_checkpoints(chosen: Mapping[str, Evaluation], schedule: Schedule, steps: int) -> str | None:
    """That too few checkpoints will be left for an evaluation which goes along them, or None."""
    names = [name for name, evaluation in chosen.items() if evaluation.goes_by_checkpoints]
    often = steps // schedule.save_every if schedule.save_every else 1
    kept = schedule.log_spaced + min(schedule.keep_last, often)
    if not names or kept >= min(_ENOUGH, steps):
        return None
    return (
        f"evaluation={names[0]} goes along the checkpoints, of which only the last{f' {kept}' if kept > 1 else ''} "
        "will be left; with checkpoint.log_spaced=50 some from all along stay"
    )


def open_record(session: Session, request: Request) -> None:
    """Write the configuration of a new run, or bring the files of a resumed one back to its checkpoint."""
    home, overrides = session.run, list(request.overrides)
    try:
        if session.restored is None:
            named = {"name": request.label, "group": request.group} if request.label else {}
            facts = {"choices": dict(request.chosen), "overrides": overrides, **named}
            facts |= _agent(session.config, request.group)
            run.create(home.path, session.config, **facts)
        else:
            whole = session.restored.behind or home.changes(session.config)
            session.notes += home.go_back(session.restored.metrics_bytes, whole=whole)
            home.change(session.config, step=session.state.step, overrides=overrides)
        _record_words(home, session.parts.data.words)
        _record_columns(home, session.parts.data.columns)
    except OSError as error:
        raise RunError(f"hydra.run.dir = {home.path}: {error.strerror} ({error.filename or home.path})") from error


def _agent(config: Mapping[str, Any], group: str | None) -> dict[str, str]:
    """The id, and the sweep, that an agent of wandb gave this run; the jobs of a multirun have ids of their own."""
    given = {"id": os.environ.get("WANDB_RUN_ID"), "wandb_sweep": os.environ.get("WANDB_SWEEP_ID")}
    known = group is None and "wandb" in several.names(config["tracker"]) and run.is_id(given["id"])
    return {key: value for key, value in given.items() if value} if known else {}


def _record_columns(home: Run, columns: Columns | None) -> None:
    """Those of a table, so that samples get their names, and rows of the user's own are matched by them."""
    if columns is not None and not files.there(home.path, run.COLUMNS):
        home.write_json(run.COLUMNS, as_json(columns))


def _record_words(home: Run, words: Sequence[str]) -> None:
    """The vocabulary where there is one, so that samples can be read without the data."""
    if words and not files.there(home.path, run.VOCABULARY):
        home.write_text(run.VOCABULARY, "\n".join(words) + "\n")
