"""From composed configuration (plain data) to checked parts; shared by the three commands."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError

from ebm_cli import registry
from ebm_cli.acceleration import for_evaluation, resolved, threads, units
from ebm_cli.commands.best import Reporting
from ebm_cli.dataset.base import Data
from ebm_cli.device import memory
from ebm_cli.device.engine import Engine, Work
from ebm_cli.device.memory import rows_at_once
from ebm_cli.device.ranks import Ranks
from ebm_cli.errors import UserError, nearest
from ebm_cli.evaluation.base import Evaluation, refusal
from ebm_cli.model.base import EnergyModel
from ebm_cli.sampler.base import Sampler
from ebm_cli.terminal import log
from ebm_cli.training import checks
from ebm_cli.training.loop import Schedule
from ebm_cli.training.state import Choice, Loop, Parts, TrainState, build_components

T = TypeVar("T")
UNSAID = {"checkpoint": "last"}
"""What `report` was before a run's configuration had it."""
LOOP_KEYS = ("steps", "batch_size", "seed")
SCHEDULE_KEYS = ("log_every", "eval_every", "save_every")


def checked(cls: type[T], values: Mapping[str, Any], prefixes: Mapping[str, str] | None = None) -> T:
    """A dataclass of plain settings from configuration. Raises UserError naming the key and the value.

    `prefixes` says where in the configuration a key stands, if not at the top.
    """
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise UserError(f"unknown key {(prefixes or {}).get(key, '')}{key}{nearest(key, known)}")
    try:
        return TypeAdapter(cls).validate_json(json.dumps(dict(values)), strict=True)
    except ValidationError as error:
        detail = error.errors()[0]
        prefix = (prefixes or {}).get(str(detail["loc"][0]), "").rstrip(".")
        raise UserError(registry.explain(detail, prefix, known)) from error


def loop_and_schedule(config: Mapping[str, Any]) -> tuple[Loop, Schedule]:
    """The numbers at the top of the configuration."""
    loop = checked(Loop, {key: config[key] for key in LOOP_KEYS if key in config})
    kept = dict(config["checkpoint"])
    schedule = {key: config[key] for key in SCHEDULE_KEYS if key in config} | kept
    return loop, checked(Schedule, schedule, dict.fromkeys(kept, "checkpoint."))


def reporting(config: Mapping[str, Any]) -> Reporting:
    """The keys of `report`."""
    found = config.get("report", UNSAID)
    return checked(Reporting, found, dict.fromkeys((*found, *UNSAID), "report."))


def check_keys(config: Mapping[str, Any]) -> None:
    """Raise UserError for a key at the top that nothing reads, such as `+stpes=3` adds."""
    known = [*registry.GROUPS, *LOOP_KEYS, *SCHEDULE_KEYS, "checkpoint", "report", "resume", "plugins"]
    if config.get("experiment"):
        raise UserError("experiment: its file must begin with the line '# @package _global_', so that its keys count")
    for key in config:
        if key not in known:
            raise UserError(f"unknown key {key}{nearest(key, known)} (see: ebm train --help)")
    for group in (*registry.GROUPS, "checkpoint", "report"):
        if not isinstance(config.get(group) or {}, dict):
            raise UserError(f"{group} = {json.dumps(config[group])}: must be a set of keys (see: ebm train --help)")


def check_complete(config: Mapping[str, Any], path: Path) -> None:
    """Raise UserError unless the configuration of a run that is there has all its groups."""
    groups = ("dataset", "model", "sampler", "chains", "noise", "objective", "optimizer", "device", "tracker")
    for key in (*groups, "checkpoint"):
        if not isinstance(config.get(key), dict):
            raise UserError(f"{path / 'config.yaml'} lacks {key}: it is not the configuration of a whole run")


def load_plugins(names: Any) -> None:
    """Import the modules that this command line names."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"plugins = {json.dumps(names)}: must be a list of Python modules, plugins=[my_module]")
    registry.load_plugins(names)


def evaluations(config: Mapping[str, Any]) -> dict[str, Evaluation]:
    """Every configured evaluation by name, its keys checked.

    An experiment may set keys of an evaluation that the command line then leaves out: those have no `name`.
    """
    chosen = config.get("evaluation") or {}
    if not isinstance(chosen, dict) or not all(isinstance(values, dict) for values in chosen.values()):
        raise UserError(f"evaluation = {json.dumps(chosen)}: choose by name, e.g. evaluation=[ais,chains]")
    return {name: _evaluation(name, values) for name, values in chosen.items() if "name" in values}


def _evaluation(name: str, values: Mapping[str, Any]) -> Evaluation:
    try:
        return registry.build("evaluation", values)
    except UserError as error:
        raise UserError(str(error).replace("evaluation.", f"evaluation.{name}.", 1)) from error


def ranks_wanted(config: Mapping[str, Any]) -> int:
    """How many processes are to train together."""
    return registry.build("device", config["device"]).ranks


def check_launch(config: Mapping[str, Any], choice: Choice, count: int) -> None:
    """Raise UserError if so many processes cannot share the work or the memory, before any of them is started."""
    components, (loop, _) = build_components(config, choice), loop_and_schedule(config)
    reporting(config)
    checks.check_shares(components.chains, loop.batch_size, Ranks(0, count))
    checks.check_sparse(components.model, components.optimizer, Ranks(0, count), choice)
    needed = {f"{count} processes": count * memory.PROCESS, "data of each": count * components.dataset.bytes_to_read()}
    needed = {what: size for what, size in needed.items() if size}
    memory.check(needed, memory.available(torch.device("cpu")), dict.fromkeys(needed, "fewer device.ranks"))


def accelerated(
    parts: Parts, state: TrainState, config: Mapping[str, Any], work: Iterable[Work], *, evaluating: bool = False
) -> tuple[Parts, dict[str, Any], str]:
    """The parts on a device whose every auto is decided, the configuration with that in it, and a sentence on it."""
    total = Work(*(sum(column) for column in zip(*work, strict=True)))
    spec, said = resolved(registry.build("device", config["device"]), state.model, total)
    spec = for_evaluation(spec) if evaluating else spec
    rows = parts.loop.batch_size + parts.components.chains.slots
    spec = replace(spec, threads=threads(spec, state.model, rows))
    decided = {"compile": spec.compile, "precision": spec.precision, "threads": spec.threads}
    device = spec.open()
    engine = Engine(
        compiled=device.engine.compiled, rows=rows_at_once(units(state.model), device.bytes_left(), device.torch)
    )
    return (
        replace(parts, device=replace(device, engine=engine)),
        {**config, "device": {**config["device"], **decided}},
        f"{said}; precision {spec.precision}",
    )


USUAL = {"exact", "ais", "pseudo_likelihood", "chains", "samples"}  # what is measured where nothing was chosen


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


def choices(config: Mapping[str, Any], chosen: Mapping[str, Any] | None = None) -> Choice:
    """What was chosen in each group, for messages; the component's own name where that is not known."""
    own = {group: str((config.get(group) or {}).get("name")) for group in registry.GROUPS if group != "evaluation"}
    return own | {group: str(name) for group, name in (chosen or {}).items() if group in own}
