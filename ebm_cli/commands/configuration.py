"""The configuration of a job: what the command line composed, or what the run to resume has saved; its keys checked."""

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from pydantic import TypeAdapter, ValidationError

from ebm_cli import registry
from ebm_cli.commands.best import Reporting
from ebm_cli.commands.following import check_following
from ebm_cli.commands.places import names_file, without
from ebm_cli.commands.search import Trial
from ebm_cli.device import memory
from ebm_cli.device.ranks import Ranks
from ebm_cli.errors import UserError, nearest
from ebm_cli.evaluation.base import Evaluation
from ebm_cli.health.base import Health
from ebm_cli.objective.base import Objective
from ebm_cli.record.run import LATER_GROUPS
from ebm_cli.stop.base import OBJECTIVE, Stop
from ebm_cli.tracker import several
from ebm_cli.training import checks
from ebm_cli.training.schedule import Schedule
from ebm_cli.training.state import Choice, Components, Loop, build_components


@dataclass(frozen=True)
class Request:
    """One job as the command line composed it, in plain data."""

    config: Mapping[str, Any]
    chosen: Mapping[str, str]  # group -> choice
    overrides: tuple[str, ...]  # "steps=300", as typed
    directory: Path
    sweep: Path | None = None  # directory of the multirun this job belongs to
    fail_fast: bool = False  # whether the other jobs of it stop beginning if this one fails
    label: str | None = None  # what tells it from the other jobs of the multirun
    trial: Trial | None = None  # of a search, in which a run may end early

    @property
    def group(self) -> str | None:
        """Name of the multirun."""
        return None if self.sweep is None else self.sweep.name


T = TypeVar("T")

UNSAID = {"checkpoint": "last"}
"""What `report` was before a run's configuration had it."""

_UNNAMED = {"run_name": None, "group": None, "notes": None, "job_type": None}
"""Keys of wandb that the configuration of a run may lack."""

LOOP_KEYS = ("steps", "batch_size", "seed")

SCHEDULE_KEYS = ("log_every", "eval_every", "save_every")

FREE = (
    "steps", "log_every", "eval_every", "save_every", "checkpoint", "report", "stop", "running", "health",
    "tracker", "evaluation", "device", "notify", "plugins",
)  # fmt: skip
"""Keys that change what is recorded, how long and where it runs, but not what is trained."""

_OF_THE_COMMAND = ("resume", "hydra")


def checked(cls: type[T], values: Mapping[str, Any], prefixes: Mapping[str, str] | None = None) -> T:
    """A dataclass of plain settings from configuration. Raises UserError naming the key and the value.

    `prefixes` says where in the configuration a key stands, if not at the top.
    """
    known, spec = [field.name for field in fields(cls)], cast(Any, cls)  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise UserError(f"unknown key {(prefixes or {}).get(key, '')}{key}{nearest(key, known)}")
    try:
        found: T = _adapter(spec).validate_json(json.dumps(dict(values)), strict=True)
    except ValidationError as error:
        detail = error.errors()[0]
        prefix = (prefixes or {}).get(str(detail["loc"][0]), "").rstrip(".")
        raise UserError(registry.explain(error, spec, prefix)) from error
    return found


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    """Made once: that of all the jobs of a multirun is asked for before the first begins."""
    return TypeAdapter(cls)


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


def stopping(config: Mapping[str, Any], components: Components, choice: Choice) -> Stop:
    """When the run ends early. Raises UserError if with these parts there is nothing to look at."""
    asked = {**LATER_GROUPS, **config}["stop"]
    found: Stop = registry.build("stop", asked)
    kept, every = evaluations(config).items(), config.get("eval_every")
    measured = {part for name, one in kept if one.while_training and every for part in (name, *prefixes(type(one)))}
    why = found.refusal(components.objective, components.chains, measured)
    if components.sparsity.needs_stop and asked == LATER_GROUPS["stop"]:
        why = "sparsity=prune: couplings are dropped whenever the target of stop is met; take stop=pearson"
    if components.sparsity.changes and ranks_wanted(config) > 1:
        why = f"device.ranks = {ranks_wanted(config)}: sparsity changes couplings in one process alone; leave one out"
    if why:
        raise UserError(why.replace(OBJECTIVE, f"objective={choice['objective']}"))
    return found


def health(config: Mapping[str, Any]) -> Health:
    """How it is watched whether the run goes well."""
    found: Health = registry.build("health", {**LATER_GROUPS, **config}["health"])
    return found


def prefixes(evaluation: type[Evaluation]) -> set[str]:
    """Beginnings of the names of what an evaluation finds, besides its own."""
    return {key.split("/")[0] for key in evaluation.compared}


def check_keys(config: Mapping[str, Any]) -> None:
    """Raise UserError for a key at the top that nothing reads, such as `+stpes=3` adds."""
    known = [*registry.TOP, *LOOP_KEYS, *SCHEDULE_KEYS, "checkpoint", "report", "notify", "resume", "plugins"]
    if config.get("experiment"):
        raise UserError("experiment: its file must begin with the line '# @package _global_', so that its keys count")
    for key in config:
        if key not in known:
            raise UserError(f"unknown key {key}{nearest(key, known)} (see: ebm train --help)")
    for group in (*registry.TOP, "checkpoint", "report"):
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
    if isinstance(chosen, dict) and isinstance(chosen.get("name"), str):
        name = chosen["name"]
        raise UserError(
            f"evaluation={name}: its file must begin with the line '# @package evaluation.{name}', so that its keys "
            "stand under its name"
        )
    if not isinstance(chosen, dict) or not all(isinstance(values, dict) for values in chosen.values()):
        raise UserError(f"evaluation = {json.dumps(chosen)}: choose by name, e.g. evaluation=[ais,chains]")
    return {
        name: registry.build("evaluation", values, at=f"evaluation.{name}")
        for name, values in chosen.items()
        if "name" in values
    }


def ranks_wanted(config: Mapping[str, Any]) -> int:
    """How many processes are to train together."""
    return registry.build("device", config["device"]).ranks


def check_whole(config: Mapping[str, Any], choice: Choice) -> None:
    """Raise UserError for a wrong key and for parts that do not fit each other, as far as nothing need be read."""
    check_keys(config)
    loop, _ = loop_and_schedule(config)
    reporting(config)
    components, shared = build_components(config, choice), Ranks(0, ranks_wanted(config))
    stopping(config, components, choice)
    health(config)
    check_following(config, components, loop, choice)
    several.built(config["tracker"])
    checks.check_shares(components.chains, loop.batch_size, shared)
    checks.check_alone(components.objective, shared, choice)
    checks.check_batch(components.objective, loop.batch_size)
    checks.check_sparse(components.model, components.optimizer, shared, choice)
    check_evaluated(evaluations(config), components.objective)


def check_evaluated(chosen: Mapping[str, Evaluation], objective: Objective) -> None:
    """Raise UserError if an evaluation measures what runs of this objective do not train, before any work."""
    for name, evaluation in chosen.items():
        why = evaluation.refusal_of_objective(objective)
        if why:
            raise UserError(f"evaluation={name}: {why}")


def check_launch(config: Mapping[str, Any], choice: Choice, count: int) -> None:
    """Raise UserError if so many processes cannot share the work or the memory, before any of them is started."""
    components, (loop, _) = build_components(config, choice), loop_and_schedule(config)
    reporting(config)
    stopping(config, components, choice)
    checks.check_shares(components.chains, loop.batch_size, Ranks(0, count))
    checks.check_recovery(health(config), Ranks(0, count))
    checks.check_alone(components.objective, Ranks(0, count), choice)
    checks.check_sparse(components.model, components.optimizer, Ranks(0, count), choice)
    needed = {f"{count} processes": count * memory.PROCESS, "data of each": count * components.dataset.bytes_to_read()}
    needed = {what: size for what, size in needed.items() if size}
    memory.check(needed, memory.available(torch.device("cpu")), dict.fromkeys(needed, "fewer device.ranks"))


def choices(config: Mapping[str, Any], chosen: Mapping[str, Any] | None = None) -> Choice:
    """What was chosen in each group, for messages; the component's own name where that is not known."""
    own = {group: str((config.get(group) or {}).get("name")) for group in registry.TOP if group != "evaluation"}
    return own | {group: str(name) for group, name in (chosen or {}).items() if group in own}


def merged(saved: Mapping[str, Any], composed: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The saved configuration with the free keys that were typed; plain data, so nothing in it is interpreted.

    So it takes keys that name files, whose contents are compared with what the run was trained on once they are read.
    Other keys may be typed if they change nothing, as when a scheduler starts the run's own command again. Raises
    UserError for one that would make it another run, or that the saved configuration lacks.
    """
    command = {"plugins": composed["plugins"], "resume": composed["resume"]}
    named = {group: saved[group] for group in registry.TOP if isinstance(saved.get(group), dict)}
    saved = {**saved, **{group: registry.todays(group, values) for group, values in named.items()}}
    since = {"report": dict(UNSAID), "notify": {"url": None}, **copy.deepcopy(dict(LATER_GROUPS))}
    result = since | copy.deepcopy(dict(saved)) | command
    tracker = result.get("tracker")
    if isinstance(tracker, dict) and "wandb" in several.names(tracker):
        result["tracker"] = _UNNAMED | tracker
    here, there = without(composed), without(saved)
    other = [key for key in here if key not in (*FREE, *_OF_THE_COMMAND) and here[key] != there.get(key)]
    for override in overrides:
        path = override.lstrip("+~").split("=")[0].split("@")[0].replace("/", ".").split(".")
        anew = names_file(path, saved)
        if path[0] in _OF_THE_COMMAND or (path[0] not in FREE and not other and not anew):
            continue
        if path == ["checkpoint"]:
            raise UserError(
                f"{override}: a run goes on from its newest checkpoint; leave it out (ebm sample and ebm evaluate take "
                "checkpoint=best)"
            )
        if path[0] not in FREE and not anew:
            raise UserError(
                f"{'.'.join(path)}: a resumed run keeps its own; only {', '.join(FREE)} can change. "
                "Leave it out, or start a new run"
            )
        _copy(composed, result, path)
    return result


def _copy(source: Mapping[str, Any], target: dict[str, Any], path: list[str]) -> None:
    for part in path[:-1]:
        if not isinstance(target.get(part), dict):
            raise UserError(f"{'.'.join(path)}: the run's own config.yaml has no {part}")
        source, target = source.get(part, {}), target[part]
    if path[-1] in source:
        target[path[-1]] = copy.deepcopy(source[path[-1]])
    else:  # evaluation=[] or ~evaluation.ais
        target.pop(path[-1], None)
