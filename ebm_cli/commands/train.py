"""`ebm train`: a new run, or one resumed where it stopped."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from ebm_cli import terminal
from ebm_cli.commands import finished, notify, pages, pruning, report, same_data
from ebm_cli.commands.best import judged
from ebm_cli.commands.configuration import Request, check_launch, choices, ranks_wanted
from ebm_cli.commands.kept_rows import keep_rows
from ebm_cli.commands.notify import Notice
from ebm_cli.commands.session import Job, Session, configured, open_record, prepare
from ebm_cli.commands.verdict import conclude, runaway
from ebm_cli.device import ranks
from ebm_cli.device.launch import launch
from ebm_cli.device.memory import watched
from ebm_cli.errors import RunError, UserError
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.together import Findings, one_by_one
from ebm_cli.record import checkpoint, files, lease
from ebm_cli.record.lease import Lease, LeaseLost
from ebm_cli.record.run import Run
from ebm_cli.sampler.remarks import remarks_on
from ebm_cli.signals import StopRequest, watching
from ebm_cli.terminal import log, logging_to
from ebm_cli.tracker import process
from ebm_cli.tracker.base import End, RunInfo
from ebm_cli.tracker.guard import guarded
from ebm_cli.tracker.several import together
from ebm_cli.training import retuning, taken_back
from ebm_cli.training.follower import Follower
from ebm_cli.training.loop import Recorder, fit, subject_of


@watched(torch.device("cpu"))
def train(request: Request) -> int:
    """Train, evaluate, write the summary; the exit code. Raises UserError before any work, RunError while running.

    With `device.ranks` this process only waits for those that do it. Raises KeyboardInterrupt for a request to stop
    before there is anything to save.
    """
    with watching() as stop, ExitStack() as held:
        stop.at_once()
        among = ranks.current()
        with logging_to(None):
            job = configured(request)
            done = finished.said(request, job)
            if done is not None:
                log.info("%s", done)
                return 0
            wanted = ranks_wanted(job.config)
            if among.count == 1 and wanted > 1:
                check_launch(job.config, choices(job.config, request.chosen if job.found is None else None), wanted)
                if job.found is not None:
                    lease.refuse_held(request.directory, "resume = ")
        if among.count == 1 and wanted > 1:
            return launch(_rank, request, wanted, stop)
        if wanted not in (1, among.count):
            raise UserError(f"device.ranks = {wanted}: torchrun started {among.count}; leave device.ranks out")
        return _begin(request, job, stop, held)


def _begin(request: Request, job: Job, stop: StopRequest, held: ExitStack) -> int:
    """The run in this process. Its directory is claimed before anything in it is read that another may change."""
    leads = ranks.current().leads
    own = _claimed(request.directory, "resume = ", held) if leads and job.found is not None else None
    with logging_to(None):
        session = prepare(request, job if job.found is None else configured(request))
    if leads and job.found is None and request.sweep is not None:
        same_data.check(request.sweep, session.config, session.parts.data)
    device = session.parts.device
    held.enter_context(ranks.joined(device.torch))
    device.ranks.check_same(session.state.step, device.torch)
    stop.at_once()
    stop.after_step()
    if not leads:
        fit(
            session.parts, session.state, Follower(session.schedule, early=session.early, watcher=session.watcher), stop
        )
        return stop.exit_code or 0
    own = own or _claimed(request.directory, "hydra.run.dir = ", held)
    open_record(session, request)
    with logging_to(session.run.path / "train.log"):
        return _train(session, own, stop, request)


def _claimed(directory: Path, said: str, held: ExitStack) -> Lease:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return held.enter_context(lease.claimed(directory, said))
    except OSError as error:
        raise RunError(f"{said}{directory}: {error.strerror} ({error.filename or directory})") from error


def _rank(request: Request) -> int:
    """One of several processes; only the first says what is wrong."""
    if not ranks.current().leads:
        terminal.silence()
    with watching() as stop:
        try:
            return train(request)
        except (UserError, RunError) as error:
            said, code = str(error), error.exit_code
        except KeyboardInterrupt:
            said, code = stop.said, stop.exit_code or 130
    with logging_to(None):
        log.error("ebm train: %s", said)
    return code


@dataclass
class Ending:
    """How a run ended."""

    status: str = "failed"
    code: int = 1
    why: dict[str, str] = field(default_factory=dict)
    results: Findings = field(default_factory=Findings)


def _train(session: Session, own: Lease, stop: StopRequest, request: Request) -> int:
    """The run itself. Whatever ends it, its metadata say how."""
    home, state = session.run, session.state
    meta = {key: value for key, value in home.metadata().items() if key != "error"}
    began, spent = time.perf_counter(), {name: float(meta[name]) for name in ("seconds", "training_seconds")}
    since = {"step": state.step, "time": round(time.time(), 3)}
    device = session.parts.device.description
    about = {"status": "running", "device": device, **lease.about(), "trains_since": since}
    home.write_json("metadata.json", {**meta, **about})
    shown = _shown_as(session, meta, request)
    tracker = together([guarded(process.apart(spec, name), shown) for name, spec in session.trackers.items()])
    recorder = Recorder(
        home, own, tracker, session.schedule, session.evaluations, early=session.early, along=session.along,
        watcher=session.watcher,
        spent=_until_now(spent),
    )  # fmt: skip
    _be_judged(recorder, session, request)
    ending = Ending()
    if own.taken_from:
        session.notes.insert(0, f"{own.taken_from} held this run and died; this process goes on with it")
    try:
        _work(session, recorder, stop, spent, ending)
    finally:
        stop.noted()
        spent["seconds"] += time.perf_counter() - began
        known = {**_rounded(spent), **session.watcher.concluded(home), **ending.results.record}
        summary = {"status": ending.status, "steps": state.step, **known}
        kept = _record(home, own, summary, {"status": ending.status, **spent, "step": state.step, **ending.why})
        notice = _notice(session, request, summary, ending)
        tracker.ended(End(ending.status, ending.code, ending.why.get("error")))
        farewell = tracker.close({**_rounded(spent), **ending.results.known})
        notice.wait()
    way = "go on with" if request.sweep is None else "go on with this run alone"
    _finish(session, summary, ending.code, (farewell, way), page=kept)
    return ending.code


def _be_judged(recorder: Recorder, session: Session, request: Request) -> None:
    """A run of a search may end early, and has perhaps done so already."""
    if request.trial is not None and session.parts.device.ranks.count == 1:
        recorder.judge = pruning.judge(request.trial, session.parts.loop.steps)
        recorder.ended = recorder.judge(session.state.step, {})


def _notice(session: Session, request: Request, summary: Mapping[str, Any], ending: Ending) -> Notice:
    """Of jobs of a multirun those that fail; of the others their multirun tells."""
    home = session.run.path
    url = notify.address(session.config) if request.sweep is None or ending.code == 1 else None
    name = request.label or home.name
    return Notice(url, notify.of_run(str(home.absolute()), name, summary, ending.why.get("error")))


def _shown_as(session: Session, meta: Mapping[str, Any], request: Request) -> RunInfo:
    """What trackers may know of the run. A job of a multirun keeps its name when it is resumed by itself."""
    home, known = session.run.path, {key: meta[key] for key in ("name", "group") if isinstance(meta.get(key), str)}
    place = {key: value for key, value in lease.about().items() if key != "pid"}
    return RunInfo(
        home,
        meta["id"],
        known.get("name") or request.label or home.name,
        known.get("group") or request.group,
        session.config,
        {"overrides": meta.get("overrides"), **place, "directory": str(home.absolute())},
        in_sweep=request.sweep is not None,
        step=session.state.step if session.restored else None,
    )


def _work(session: Session, recorder: Recorder, stop: StopRequest, spent: dict[str, float], ending: Ending) -> None:
    """Train and evaluate; `ending` says what came of it. What is no failure of a run is raised again."""
    state, device = session.state, session.parts.device.torch
    try:
        _announce(session)
        with _timed(spent, "training_seconds"), watched(device):
            fit(session.parts, state, recorder, stop)
        if recorder.ended:
            ending.status, ending.code = "pruned", 0
            return
        stop.at_once()
        with recorder.disk_watched(state), watched(device):
            _evaluate(session, recorder, ending.results)
        stop.at_once()
        ending.status, ending.code = "done", 0
        ending.results.about["ended"] = finished.ended(session.early.met, session.watcher.now.loop.steps)
        stop.noted()
    except RunError as error:
        log.error("%s", error)
        ending.why = {"error": str(error)}
    except (KeyboardInterrupt, Exception) as error:
        if not stop.broke(error):
            ending.why = {"error": f"{type(error).__name__}: {error}"}
            log.debug("this is a fault of the program", exc_info=True)
            raise
        ending.status, ending.code = "stopped", stop.exit_code or 130


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in seconds.items()}


def _until_now(spent: Mapping[str, float]) -> Callable[[], dict[str, float]]:
    """Asked later, the same seconds with those that have passed since."""
    before, began = dict(spent), time.perf_counter()
    return lambda: {name: seconds + time.perf_counter() - began for name, seconds in before.items()}


@contextmanager
def _timed(spent: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds spent inside."""
    began = time.perf_counter()
    try:
        yield
    finally:
        spent[name] += time.perf_counter() - began


def _record(home: Run, own: Lease, summary: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """How the run ended, unless it is another's, and whether it is; a full disk must not hide why it did."""
    try:
        own.check()
        home.write_json("summary.json", summary)
        home.update_metadata(**facts)
        return True
    except LeaseLost:
        log.error("summary.json and metadata.json are left as they are")
    except OSError as error:
        log.error("summary.json and metadata.json are not up to date: %s", error.strerror)
    return False


def _announce(session: Session) -> None:
    parts, names = session.parts, choices(session.config)
    count = sum(p.numel() for p in session.state.model.parameters())
    data = parts.data
    for note in session.notes:
        log.info("%s", note)
    components, steps = parts.components, parts.loop.steps
    remarks = (
        *remarks_on(components.sampler, session.state.model),
        components.objective.remark(session.state.model, steps),
    )
    for remark in (*session.warnings, *remarks):
        if remark:
            log.warning("%s", remark)
    log.info("%s with %d parameters, %s", names["model"], count, parts.device.description)
    log.info("%s: %s", names["dataset"], data.describe())
    log.info("run directory %s; look at it with: ebm watch %s", session.run.path, quote(str(session.run.path)))


def _evaluate(session: Session, recorder: Recorder, findings: Findings) -> None:
    """Every evaluation on the test split, into the findings, the tracker and `samples/`.

    Raises RunError in the end if one of them failed.
    """
    parts, state, step = session.parts, session.state, session.state.step

    def subject(name: str) -> Subject:
        return subject_of(parts, state, "test", f"final {name}", session.run)

    with judged(session.trained, session.reporting.checkpoint) as chosen:
        chosen.note(findings)
        for result in one_by_one(session.evaluations, subject, findings):
            session.run.write_all("samples/", result.images, result.files)
            recorder.tracker.images(step, dict(result.images))
        findings.numbers |= session.along.found(state) | taken_back.found(state)
        conclude(subject("verdict"), findings, "test")
        keep_rows(session.run, parts.data, "test", findings)
        chosen.say()
    if betas := retuning.ended(state):
        findings.about["ladder"] = betas
    for came in filter(None, (taken_back.said(state), retuning.said(state))):
        log.info("%s", came)
    said = None if session.watcher.knows_gap else runaway(session.run.logged("energy_gap"), session.watcher.words)
    if said:
        log.warning("%s", said)
    findings.check()


def _show(session: Session, summary: Mapping[str, Any], code: int) -> None:
    if summary["status"] == "pruned":
        log.info("pruned at step %d: others were better by then", session.state.step)
    elif terminal.alone() and (code == 0 or "failed" in summary):
        report.show(str(session.run.path), summary, "test")


def _finish(
    session: Session, summary: Mapping[str, Any], code: int, said: tuple[str | None, str], *, page: bool
) -> None:
    """What the user reads last."""
    home, (farewell, way) = session.run.path, said
    _show(session, summary, code)
    if session.watcher.conclusion:
        log.info("health: %s", session.watcher.conclusion)
    if farewell:
        log.info("%s", farewell)
    kept = checkpoint.steps(session.run.checkpoints)
    have = f"the newest checkpoint is of step {kept[-1]}" if kept else "there is no checkpoint yet"
    if code == 1:
        log.info("%s", have)
    if code in (75, 130):
        done = session.state.step == session.watcher.now.loop.steps
        log.info("stopped %s; %s", "while evaluating, training is complete" if done else
                 f"at step {session.state.step}", have)  # fmt: skip
        log.info("%s: ebm train resume=%s%s", way, quote(str(home)), session.plugins)
    shown = [name for name in files.names(home, "samples") if name.endswith(".png")] if code == 0 else []
    pictures = [str(home / "samples" / name) for name in shown if not name.startswith(("step-", "samples."))]
    grid = home / "samples" / "samples.png"
    if grid.name in shown:
        log.info("samples %s", " ".join([str(grid), *pictures]))
    elif pictures:
        log.info("pictures %s", " ".join(pictures))
    if page and code in (0, 1):
        pages.of_run(home)
    log.info("run directory %s", home)
