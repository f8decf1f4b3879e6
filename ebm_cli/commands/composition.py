"""What `model.parts` of a product or a mixture names, read once when a run begins: models, weights, log Z."""

import copy
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ebm_cli import registry
from ebm_cli.dataset.base import placeholder
from ebm_cli.device import memory
from ebm_cli.errors import UserError
from ebm_cli.log_z import enumeration
from ebm_cli.model.base import EnergyModel
from ebm_cli.record import checkpoint, run
from ebm_cli.record.checkpoint import Checkpoint, Invalid
from ebm_cli.record.checkpoint_space import recorded_space
from ebm_cli.rng import stream
from ebm_cli.space import Space
from ebm_cli.training.state import take_over

_COMPOSED = ("product", "mixture", "leveled_product")


def resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with `model.structure`: every part's complete keys and, of runs, the step taken and log Z.

    With it the run can be built again from its own directory alone. Raises UserError naming the part and what is wrong.
    """
    model = config["model"]
    if not isinstance(model, Mapping) or model.get("name") not in _COMPOSED or not isinstance(model.get("parts"), list):
        return dict(config)
    if model.get("structure") is not None:
        raise UserError("model.structure: is filled in when the run begins; leave it out and give model.parts")
    if not model["parts"]:
        raise UserError(
            "model.parts = []: name what to compose, runs or models: model.parts=[outputs/A,outputs/B] or "
            "'model.parts=[{name: NAME, KEY: VALUE},...]'"
        )
    known = model["name"] == "mixture" and model.get("log_z") is None
    structure = [_part(part, f"model.parts[{i}]", known) for i, part in enumerate(model["parts"])]
    return {**config, "model": {**model, "structure": structure}}


def as_saved(composed: Mapping[str, Any], saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration as typed, with what a resumed run filled in where the rest of its model is the same."""
    model, own = composed["model"], saved.get("model")
    same = isinstance(own, dict) and isinstance(model, Mapping) and {**own, "structure": None} == dict(model)
    return {**composed, "model": own} if same else composed


def initial(model: Mapping[str, Any], space: Space, within: str = "") -> dict[str, Tensor]:
    """The tensors that the parts of a model for this space begin with, by name, of those that are from runs.

    Raises UserError if a run's space is another, or its checkpoint is gone.
    """
    found: dict[str, Tensor] = {}
    for i, part in enumerate(model.get("structure") or []):
        name = f"{within}parts.{i}."
        if part["run"] is None:
            found |= initial(part["model"], space, name)
            continue
        said = f"model.parts[{i}] = {part['run']}"
        try:
            saved = checkpoint.load(checkpoint.directory(run.Run(Path(part["run"])).checkpoints, part["step"]))
        except Invalid as error:
            raise UserError(f"{said}: step {part['step']}, which the run began with: {error}") from error
        if recorded_space(saved) != space:
            there, here = (f"{'x'.join(map(str, s.shape))} {s.name}" for s in (recorded_space(saved), space))
            raise UserError(f"{said}: was trained on {there} data, these are {here}; compose runs on data of one kind")
        found |= {name + key: value for key, value in _weights(saved)}
    return found


def _part(part: Any, said: str, known: bool) -> dict[str, Any]:
    if isinstance(part, str):
        return _of_run(part, f"{said} = ", known)
    if not isinstance(part, Mapping) or part.get("name") not in registry.components("model"):
        raise UserError(f"{said} = {part}: neither a run's directory nor the keys of a model, {{name: NAME, ...}}")
    whole = copy.deepcopy({**_defaults(part["name"]), **part})  # else YAML would have aliases, which it may not
    return {"model": resolved({"model": whole})["model"], "run": None, "step": None, "log_z": None}


def _defaults(name: str) -> dict[str, Any]:
    """Of a model of this package; of a plugin's none."""
    file = resources.files("ebm_cli.conf") / "model" / f"{name}.yaml"
    found = yaml.safe_load(file.read_text()) if file.is_file() else {}
    return {key: value for key, value in found.items() if key != "defaults"}


def _of_run(path: str, said: str, known: bool) -> dict[str, Any]:
    """The model of a run and the step of its newest checkpoint, both seen to fit each other."""
    found, config = run.open_existing(Path(path), said)
    model = config.get("model")
    if not isinstance(model, dict):
        raise UserError(f"{said}{path}: its config.yaml has no model, so it is not the configuration of a whole run")
    try:
        saved, _ = checkpoint.newest(found.checkpoints)
        part = _built(model, saved)
    except (UserError, ValueError) as error:
        raise UserError(f"{said}{path}: {error}") from error
    log_z = enumeration.log_z(part.double()).item() if known and enumeration.refusal(part) is None else None
    return {"model": model, "run": str(path), "step": saved.step, "log_z": log_z}


def _built(model: Mapping[str, Any], saved: Checkpoint) -> EnergyModel:
    """The model as the checkpoint has it. Raises ValueError if it is one of another model."""
    spec, space = registry.build("model", model), recorded_space(saved)
    weights = {"weights": 4 * spec.parameters(space)}
    memory.check(weights, memory.available(torch.device("cpu")), {"weights": spec.smaller()})
    part: EnergyModel = spec.build(space, placeholder(space).smoothed_mean(), stream(0))
    take_over("model", part.state_dict(), {f"model.{name}": value for name, value in _weights(saved)})
    return part


def _weights(saved: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """Tensors of the model by name: its own or, where they are kept, their averages."""
    for name, value in saved.tensors.items():
        group, _, own = name.partition(".")
        if group == "model":
            yield own, saved.tensors.get(f"average.{own}", value)
