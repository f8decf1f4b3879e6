"""`ebm evaluate`: measure a trained model."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from ebm_cli.commands import judged, report, results
from ebm_cli.commands.configuration import check_evaluated, checked, evaluations
from ebm_cli.commands.kept_rows import keep_rows
from ebm_cli.commands.session import accelerated, check_complete_data, feasible
from ebm_cli.commands.trained import Trained, Wanted, open_trained
from ebm_cli.commands.verdict import conclude
from ebm_cli.device.memory import watched
from ebm_cli.errors import UserError
from ebm_cli.evaluation.base import Evaluation, Subject, of_split
from ebm_cli.evaluation.laid import laid
from ebm_cli.evaluation.together import Findings, one_by_one
from ebm_cli.record.run import Run
from ebm_cli.rng import stream
from ebm_cli.signals import finishing
from ebm_cli.space import Counts, Words
from ebm_cli.terminal import log, logging_to, output
from ebm_cli.training import passed
from ebm_cli.training.state import Parts, TrainState


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of `ebm evaluate` beside its groups."""

    run: Annotated[str, Field(min_length=1)]
    checkpoint: str  # last, best or a step
    split: Literal["train", "valid", "test"]
    out: Annotated[str, Field(min_length=1)] | None  # a new folder for the results; None: evaluations/<time> of the run
    seed: Annotated[int, Field(ge=0)]
    plugins: list[str]


@dataclass(frozen=True)
class Found:
    """What evaluations found so far: numbers, pictures and files by name."""

    findings: Findings = field(default_factory=Findings)
    images: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


@watched(torch.device("cpu"))
def evaluate(config: Mapping[str, Any]) -> int:
    """Run the chosen evaluations, write `evaluations/<time>/results.json` and pictures; the exit code.

    Raises RunError in the end if an evaluation failed; what the others found is written before.
    """
    measured(config)
    return 0


def measured(config: Mapping[str, Any]) -> Run:
    """The folder with what was found, which is also shown. Raises RunError if an evaluation failed."""
    groups = ("sampler", "device", "evaluation", "dataset", "noise", "model")
    settings = {key: value for key, value in config.items() if key not in groups}
    asked = checked(Settings, settings | {"checkpoint": str(config["checkpoint"])})
    if not config.get("evaluation"):
        raise UserError("evaluation = []: name at least one, e.g. evaluation=[ais,chains]")
    with logging_to(None), results.folder(Path(asked.run), "evaluations", asked.out) as home:
        anew = {group: config.get(group) for group in ("sampler", "dataset", "noise", "model")}
        wanted = Wanted(Path(asked.run), asked.checkpoint, config["device"], plugins=asked.plugins, **anew)
        trained = open_trained(wanted, with_data=True)
        if asked.split == "valid" and trained.parts.data.valid is None:
            raise UserError("split = valid: no validation rows were kept; use split=test or split=train")
        asked_for = evaluations(config)
        chosen = feasible(asked_for, trained.state.model, trained.parts.components.sampler, trained.choice)
        _check_chosen(chosen, asked_for, trained.parts)
        work = [evaluation.work for evaluation in chosen.values()]
        parts, _, said = accelerated(trained.parts, trained.state, config, work, evaluating=True)
        parts = _laid(trained.run, parts, trained.state, asked)
        log.info("%s at step %d; %s", asked.run, trained.state.step, said)
        findings = _recorded(home, trained, asked, partial(_evaluate, trained.run, parts, trained.state, chosen, asked))
    _show(trained, asked, findings)
    output.print(f"results: {' '.join(map(str, sorted(home.path.iterdir(), key=_json_first)))}", soft_wrap=True)
    findings.check()
    return home


def _recorded(home: Run, trained: Trained, asked: Settings, evaluating: Callable[[Found], None]) -> Findings:
    """Evaluate, and write down what was found; of work that is stopped what evaluations found that were done."""
    began, found = time.perf_counter(), Found()
    try:
        evaluating(found)
        finishing()
    except KeyboardInterrupt:
        if found.findings.warnings:
            _write(home, trained, asked, time.perf_counter() - began, found)
            log.warning("stopped; what %s found is kept in %s", " and ".join(found.findings.warnings), home.path)
        raise
    _write(home, trained, asked, time.perf_counter() - began, found)
    return found.findings


def _write(home: Run, trained: Trained, asked: Settings, seconds: float, found: Found) -> None:
    """results.json, with what the evaluations warned of; what was found on other data stands under keys that say so."""
    findings = found.findings
    about: dict[str, Any] = {"step": trained.state.step, "split": asked.split, "seconds": round(seconds, 3)}
    if trained.others is not None:
        findings.relabel(judged.OTHER)
        about["data"] = dict(trained.others)
    keep_rows(home, trained.parts.data, asked.split, findings)
    home.write_json("results.json", {**about, "warnings": findings.warnings, **findings.record})
    home.write_all("", found.images, found.files)


def _show(trained: Trained, asked: Settings, findings: Findings) -> None:
    by = judged.said(asked.split, trained.parts.data, trained.others, trained.state.step)
    output.print(f"judged by: {by}", highlight=False, soft_wrap=True)
    other, which = (" on other data", f"other {asked.split}") if trained.others else ("", asked.split)
    shown = of_split(of_split(findings.known, judged.OTHER), asked.split)
    report.show(f"{trained.run.path.name} at step {trained.state.step}{other}", shown, which)


def _check_chosen(chosen: Mapping[str, Evaluation], asked_for: Mapping[str, Evaluation], parts: Parts) -> None:
    if not chosen:
        which = "none of these can be done on this model; use" if asked_for else "name at least one, e.g."
        fits = {Counts: "perplexity", Words: "words"}.get(type(parts.data.space), "samples")
        raise UserError(f"evaluation = [{','.join(asked_for)}]: {which} evaluation=[{fits}]")
    check_evaluated(chosen, parts.components.objective)
    check_complete_data(chosen, parts.data)


def _json_first(path: Path) -> tuple[bool, str]:
    return path.suffix != ".json", path.name


def _laid(run: Run, parts: Parts, state: TrainState, asked: Settings) -> Parts:
    """With its checkpoints as rungs, where the sampler exchanges along them. Raises UserError if it cannot."""
    key, before = stream(asked.seed, "evaluation", "rungs", state.step), partial(passed.models, run, state)
    sampler, model, chains = parts.components.sampler, state.averaged_model(), state.chains()
    subject = Subject(model, parts.data, asked.split, sampler, chains, key, parts.device, passed=before)
    return replace(parts, components=replace(parts.components, sampler=laid(sampler, subject)))


def _evaluate(
    run: Run, parts: Parts, state: TrainState, chosen: Mapping[str, Evaluation], asked: Settings, found: Found
) -> None:
    """Add what each evaluation finds, one after the other, and the verdict."""
    model = state.averaged_model()

    def subject(name: str) -> Subject:
        key = stream(asked.seed, "evaluation", f"final {name}", asked.split, state.step)
        before, sampler = partial(passed.models, run, state), parts.components.sampler
        chains, beside, training = state.chains(), state.auxiliary, passed.training(run, parts, state)
        return Subject(model, parts.data, asked.split, sampler, chains, key, parts.device, beside, before, training)

    for result in one_by_one(chosen, subject, found.findings):
        found.images.update(result.images)
        found.files.update(result.files)
    conclude(subject("verdict"), found.findings, asked.split, asked=False)
