"""A trained run, opened for the commands on one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from torch import Tensor

from ebm_cli import registry
from ebm_cli.commands.configuration import check_complete, choices, load_plugins, loop_and_schedule
from ebm_cli.commands.data_again import load_again
from ebm_cli.commands.judged import as_trained, other_than_trained
from ebm_cli.commands.places import given_anew, rooted
from ebm_cli.dataset.base import Data, placeholder
from ebm_cli.device import ranks
from ebm_cli.device.base import Device
from ebm_cli.errors import UserError
from ebm_cli.record import checkpoint, hub, lease, run
from ebm_cli.record.checkpoint import Checkpoint, Invalid
from ebm_cli.record.checkpoint_space import recorded_space
from ebm_cli.record.run import Run
from ebm_cli.terminal import log
from ebm_cli.training import retuning
from ebm_cli.training.restore import OTHER_DATA, other_data
from ebm_cli.training.state import Choice, Parts, TrainState, assemble, build_components


@dataclass(frozen=True)
class Trained:
    """A run with the state of one of its checkpoints."""

    run: Run
    config: Mapping[str, Any]
    choice: Choice
    parts: Parts
    state: TrainState
    saved: Checkpoint  # without its tensors
    others: Mapping[str, Any] | None = None  # of data that the run was not trained on: which they are


@dataclass(frozen=True)
class Wanted:
    """Which run, which of its checkpoints (last, best or a step), where, with which sampler, and on which data.

    None: the run's own; keys without a name change those of the run's own. Of noise and model these are files alone.
    """

    path: Path
    checkpoint: str
    device: Mapping[str, Any]
    plugins: list[str]
    sampler: Mapping[str, Any] | None = None
    dataset: Mapping[str, Any] | None = None
    noise: Mapping[str, Any] | None = None
    model: Mapping[str, Any] | None = None


def open_trained(wanted: Wanted, with_data: bool) -> Trained:
    """Build the run's own parts and load a checkpoint. Without data the splits are placeholders of the right space.

    Raises UserError if the run, the checkpoint or what is changed does not fit.
    """
    found, own = run.open_existing(wanted.path, "run = ")
    _say_status(found)
    registry.load_components()
    load_plugins(wanted.plugins)
    check_complete(own, wanted.path)
    if edited := found.edited():
        log.warning("%s", edited)
    config = _wished(own, wanted)
    choice = choices(config)
    loop, _ = loop_and_schedule(config)
    components = build_components(config, choice, trains=False)
    bare = hub.there(found.path)
    saved = (_of_hub if bare else _checkpoint)(found, wanted.checkpoint)
    space, opened = recorded_space(saved), _device(wanted.device)
    data = as_trained(load_again(components, opened, found), saved, space, found) if with_data else placeholder(space)
    others = other_than_trained(saved, data, own, config) if with_data else None
    if others is not None and wanted.dataset is None:
        log.warning("%s: %s", wanted.path, OTHER_DATA)
    parts, state = assemble(components, loop, opened, data, choice, trains=with_data and not bare)
    try:
        if bare:
            state.load_model(saved.tensors)
            state.step = saved.step
        else:
            tensors = saved.tensors if wanted.sampler is None else _respread(saved, parts)
            state.load(saved.step, tensors if with_data else _for_sampling(tensors))
    except (ValueError, IndexError) as error:
        raise UserError(f"{saved.path} is a checkpoint of another model: {error}") from error
    return Trained(found, config, choice, retuning.tuned(parts, state), state, replace(saved, tensors={}), others)


def _device(wanted: Mapping[str, Any]) -> Device:
    """Where this process computes alone."""
    spec = registry.build("device", wanted)
    if spec.ranks > 1:
        raise UserError(f"device.ranks = {spec.ranks}: only training is shared among processes; leave it out")
    if ranks.current().count > 1:
        raise UserError("torchrun: only training is shared among processes; use ebm itself")
    opened: Device = spec.open()
    return opened


def its_data(trained: Trained) -> Data:
    """The data of a run that was opened without them. Raises UserError if they cannot be read or are others."""
    parts, saved = trained.parts, trained.saved
    data = load_again(parts.components, parts.device, trained.run)
    if other_data(saved, data):
        raise UserError(OTHER_DATA)
    return as_trained(data, saved, parts.data.space, trained.run)


def _wished(own: Mapping[str, Any], wanted: Wanted) -> dict[str, Any]:
    """The run's configuration with what is wanted in its place."""
    changed = {
        "sampler": wanted.sampler and _changed(own["sampler"], wanted.sampler),
        "dataset": wanted.dataset and {**({} if "name" in wanted.dataset else own["dataset"]), **wanted.dataset},
        "noise": wanted.noise and given_anew(own["noise"], wanted.noise, "noise"),
        "model": wanted.model and given_anew(own["model"], wanted.model, "model"),
    }
    return rooted({**own, **{group: values for group, values in changed.items() if values is not None}})


def _say_status(found: Run) -> None:
    """Whether the run goes on, or ended before its time."""
    now = lease.status(found.path, found.read_json("metadata.json").get("status"))
    who = lease.trainer(found.path) or "its process"
    if now == "running":
        log.info("%s trains this run; what it saved last is taken", who)
    if now == "died":
        log.warning("%s died before the run was done; go on with: ebm train resume=%s", who, quote(str(found.path)))


def _changed(own: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Another sampler with its keys or, where none is named, the run's own with some keys changed."""
    if "name" in wanted:
        return _with_kernel(own, wanted)
    for key in wanted.keys() - own.keys():
        for name, within in own.items():
            if isinstance(within, dict) and key in within:
                raise UserError(f"sampler.{key}: is a key of its {name} in this run; use sampler.{name}.{key}")
    inner = {key: _changed(own[key], new) for key, new in wanted.items() if isinstance(own.get(key), dict)}
    return {**own, **wanted, **inner}


def _with_kernel(own: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Another sampler; one that leaves its kernel open has that of the run's own, or this itself."""
    is_open = "kernel" in wanted and wanted["kernel"] is None
    return {**wanted, "kernel": own.get("kernel") or own} if is_open else dict(wanted)


def _respread(saved: Checkpoint, parts: Parts) -> dict[str, Tensor]:
    """The tensors with the chains as another sampler than the run's own has them, with its replicas or without."""
    spread = parts.components.sampler.spread
    return {n: spread(t, parts.data.space) if n == "chains" else t for n, t in saved.tensors.items()}


def _for_sampling(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what the objective trained beside the model, which may need the data to be built."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith("auxiliary.") and not (name.startswith("optimizer.") and ".auxiliary." in name)
    }


def _newest(found: Run) -> Checkpoint:
    """The newest checkpoint that can be used; if the run got further, that is said."""
    newest, reasons = checkpoint.newest(found.checkpoints)
    for reason in reasons:
        log.warning("not valid, so an older checkpoint is used: %s", reason)
    if not reasons and found.recorded_step() > newest.step:
        behind = "%s got to step %d, its newest checkpoint is of step %d"
        log.warning(behind, found.path, found.recorded_step(), newest.step)
    return newest


def _of_hub(found: Run, which: str) -> Checkpoint:
    only = checkpoint.of_hub(found.path)
    if which not in ("last", str(only.step)):
        raise UserError(f"checkpoint={which}: {found.path} holds one model, of step {only.step}; leave it out")
    return only


def _checkpoint(found: Run, which: str) -> Checkpoint:
    """The checkpoint asked for. One that a training process deletes meanwhile is looked for anew."""
    newest = _newest(found)
    if which == "last":
        return newest
    best = newest.numbers.get("best")
    step = (best.get("step") if isinstance(best, dict) else None) if which == "best" else which
    if step is None:
        raise UserError(f"checkpoint=best: no held-out metric was monitored in {found.path}; use checkpoint=last")
    available = checkpoint.steps(found.checkpoints)
    if which == "best" and step not in available and checkpoint.superseded(newest):
        return _checkpoint(found, which)
    if str(step) not in map(str, available):
        raise UserError(f"checkpoint={which}: {found.path} has steps {', '.join(map(str, available))}, last and best")
    try:
        return checkpoint.load(checkpoint.directory(found.checkpoints, int(step)))
    except Invalid as error:
        if which == "best" and checkpoint.superseded(newest):
            return _checkpoint(found, which)
        raise UserError(f"checkpoint={which}: {error}; the newest valid one is step {newest.step}") from error
