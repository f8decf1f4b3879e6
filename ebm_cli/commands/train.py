"""`ebm train`: a new run, or one resumed where it stopped."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebm_cli import registry, run
from ebm_cli.commands import report
from ebm_cli.commands.parts import choices, evaluations, feasible, loop_and_plan
from ebm_cli.commands.resume import merged
from ebm_cli.errors import RunError, UserError
from ebm_cli.evaluation.base import Evaluation
from ebm_cli.fit import Plan, Recorder, fit, restore, subject_of
from ebm_cli.run import Run
from ebm_cli.signals import StopRequest, watching
from ebm_cli.terminal import log, logging_to
from ebm_cli.tracker.base import RunInfo, TrackerSpec
from ebm_cli.tracker.guard import Guarded
from ebm_cli.train import Choice, Loop, Parts, TrainState, assemble, build_components, load_data


@dataclass(frozen=True)
class Request:
    """One job as the command line composed it, in plain data."""

    config: Mapping[str, Any]
    chosen: Mapping[str, str]  # group -> choice
    overrides: tuple[str, ...]  # "steps=300", as typed
    directory: Path
    group: str | None  # name of the multirun this job belongs to


@dataclass
class Session:
    """A run with its parts built and checked, ready to train."""

    parts: Parts
    state: TrainState
    plan: Plan
    evaluations: dict[str, Evaluation]
    tracker: TrackerSpec
    run: Run
    config: Mapping[str, Any]
    notes: list[str]


def train(request: Request) -> int:
    """Train, evaluate, write the summary; the exit code. Raises UserError before any work, RunError while running."""
    with logging_to(None):
        try:
            session = prepare(request)
        except UserError:
            with suppress(OSError):  # an empty directory that was made for the run that is not to be
                request.directory.rmdir()
            raise
    with logging_to(session.run.path / "train.log"), watching() as stop:
        return _train(session, stop, request.group)


def prepare(request: Request) -> Session:
    """Check everything, read the data, claim the run directory or restore its checkpoint."""
    resumed = request.config["resume"] is not None
    registry.load_components()
    registry.load_plugins(list(request.config["plugins"]))
    found, config = None, request.config
    if resumed:
        found, saved = run.open_existing(request.directory)
        config = merged(saved, request.config, request.overrides)
    choice = choices(config, None if resumed else request.chosen)
    loop, plan = loop_and_plan(config)
    chosen = evaluations(config)
    parts, state, tracker = _build(config, loop, choice)
    notes: list[str] = []
    if found is not None:
        notes = [f"not valid, so left aside: {reason}" for reason in restore(found, state)]
        notes.append(f"resuming {found.path} at step {state.step}")
    kept = feasible(chosen, state.model)
    if found is None:
        found = run.create(request.directory, config, choices=dict(request.chosen), overrides=list(request.overrides))
    return Session(parts, state, plan, kept, tracker, found, config, notes)


def _build(config: Mapping[str, Any], loop: Loop, choice: Choice) -> tuple[Parts, TrainState, TrackerSpec]:
    components = build_components(config, choice)
    tracker: TrackerSpec = registry.build("tracker", config["tracker"])
    tracker.check()
    device = registry.build("device", config["device"]).open()
    parts, state = assemble(components, loop, device, load_data(components, device, choice), choice)
    return parts, state, tracker


def _train(session: Session, stop: StopRequest, group: str | None) -> int:
    """The run itself. Whatever ends it, its metadata say how."""
    home, state = session.run, session.state
    meta = home.read_json("metadata.json")
    began, spent = time.perf_counter(), float(meta.get("seconds", 0.0))
    home.update_metadata(status="running", device=session.parts.device.description)
    tracker = Guarded(session.tracker, RunInfo(home.path, meta["id"], home.path.name, group, session.config))
    recorder = Recorder(home, tracker, session.plan, session.evaluations)
    status, code, summary = "failed", 1, {}
    try:
        _announce(session)
        fit(session.parts, state, recorder, stop)
        if stop.exit_code is None:
            summary = _evaluate(session, recorder, stop)
        status, code = ("done", 0) if stop.exit_code is None else ("stopped", stop.exit_code)
    except RunError as error:
        log.error("%s", error)
        home.update_metadata(error=str(error))
    except KeyboardInterrupt:
        status, code = "stopped", 130
    finally:
        seconds = spent + time.perf_counter() - began
        summary = {"status": status, "steps": state.step, "seconds": round(seconds, 3), **summary}
        home.write_json("summary.json", summary)
        home.update_metadata(status=status, seconds=seconds, step=state.step)
        farewell = tracker.close({key: value for key, value in summary.items() if isinstance(value, float)})
    _finish(session, summary, code, farewell)
    return code


def _announce(session: Session) -> None:
    parts, names = session.parts, choices(session.config)
    count = sum(p.numel() for p in session.state.model.parameters())
    data = parts.data
    for note in session.notes:
        log.info("%s", note)
    log.info(
        "%s on %s: %d parameters, %d training rows of %s%s, %s",
        names["model"], names["dataset"], count, len(data.train), "x".join(map(str, data.space.shape)),
        f" {data.space.name}", parts.device.description,
    )  # fmt: skip
    log.info("run directory %s", session.run.path)


def _evaluate(session: Session, recorder: Recorder, stop: StopRequest) -> dict[str, float]:
    """Every evaluation on the test split, into the summary, the tracker and `samples/`."""
    found: dict[str, float] = {}
    parts, state = session.parts, session.state
    for name, evaluation in session.evaluations.items():
        if stop.signal:
            raise KeyboardInterrupt
        result = evaluation.evaluate(subject_of(parts, state, "test", f"final {name}"))
        found |= result.metrics
        for warning in result.warnings:
            log.warning("%s: %s", name, warning)
        for label, image in result.images.items():
            session.run.write_image(f"samples/{label}.png", image)
        recorder.tracker.images(state.step, dict(result.images))
    return found


def _finish(session: Session, summary: Mapping[str, Any], code: int, farewell: str | None) -> None:
    """What the user reads last."""
    home = session.run.path
    if code == 0:
        report.show(f"{home.name}", summary, "test")
    if farewell:
        log.info("%s", farewell)
    if code in (75, 130):
        log.info("stopped at step %d with a checkpoint; go on with: ebm train resume=%s", session.state.step, home)
    pictures = sorted(str(path) for path in (home / "samples").glob("[!s]*.png")) if code == 0 else []
    grid = home / "samples" / "samples.png"
    if grid.exists() and code == 0:
        log.info("samples %s", " ".join([str(grid), *pictures]))
    log.info("run directory %s", home)
