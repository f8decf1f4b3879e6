"""From composed configuration (plain data) to checked parts; shared by the three commands."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ebm_cli import registry
from ebm_cli.errors import UserError
from ebm_cli.evaluation.base import Evaluation
from ebm_cli.fit import Plan
from ebm_cli.model.base import EnergyModel
from ebm_cli.terminal import log
from ebm_cli.train import Choice, Loop

T = TypeVar("T")
LOOP_KEYS = ("steps", "batch_size", "seed")
PLAN_KEYS = ("log_every", "eval_every", "save_every")


def checked(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """A dataclass of plain settings from configuration. Raises UserError naming the key and the value."""
    try:
        return TypeAdapter(cls).validate_json(json.dumps(dict(values)), strict=True)
    except ValidationError as error:
        raise UserError(registry.explain(error.errors()[0], prefix, list(values))) from error


def loop_and_plan(config: Mapping[str, Any]) -> tuple[Loop, Plan]:
    """The numbers at the top of the configuration."""
    checked(Loop, {key: config[key] for key in LOOP_KEYS})
    plan = {key: config[key] for key in PLAN_KEYS} | dict(config["checkpoint"])
    return checked(Loop, {key: config[key] for key in LOOP_KEYS}), checked(Plan, plan)


def evaluations(config: Mapping[str, Any]) -> dict[str, Evaluation]:
    """Every configured evaluation by name, its keys checked."""
    chosen = config["evaluation"] or {}
    return {name: registry.build("evaluation", values) for name, values in chosen.items()}


def feasible(chosen: Mapping[str, Evaluation], model: EnergyModel) -> dict[str, Evaluation]:
    """Without those that cannot be done on this model: an error if they are required, a line if not."""
    kept: dict[str, Evaluation] = {}
    for name, evaluation in chosen.items():
        why = evaluation.refusal(model)
        if why is None:
            kept[name] = evaluation
        elif evaluation.required:
            others = [other for other in chosen if other != name] or ["ais", "chains"]
            raise UserError(f"evaluation={name}: {why}; leave it out (evaluation=[{','.join(others)}])")
        else:
            log.info("evaluation %s is left out: %s", name, why)
    return kept


def choices(config: Mapping[str, Any], chosen: Mapping[str, Any] | None = None) -> Choice:
    """What was chosen in each group, for messages; the component's own name where that is not known."""
    own = {group: str((config.get(group) or {}).get("name")) for group in registry.GROUPS if group != "evaluation"}
    return own | {group: str(name) for group, name in (chosen or {}).items() if group in own}
