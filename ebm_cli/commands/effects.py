"""Keys of the data set that did nothing while these data were read for this model."""

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import yaml

from ebm_cli.dataset.base import Data
from ebm_cli.errors import UserError
from ebm_cli.training.state import Choice


def without_effect(data: Data, config: Mapping[str, Any], typed: Iterable[str], choice: Choice) -> list[str]:
    """A sentence for each such key whose value is not the default. Raises UserError for one that was typed.

    `typed` are overrides of the command line, such as dataset.box=symmetric.
    """
    values, said = config["dataset"], []
    default = _defaults(str(values.get("name")))
    for key in sorted(data.idle & values.keys()):
        if key in _keys(typed):
            raise UserError(f"{_sentence(key, values[key], data, choice)}; leave it out")
        if default is not None and values[key] != default.get(key):
            said.append(_sentence(key, values[key], data, choice))
    return said


def _sentence(key: str, value: Any, data: Data, choice: Choice) -> str:
    shown = value if isinstance(value, str) else json.dumps(value)
    return (
        f"dataset.{key} = {shown}: has no effect on dataset={choice['dataset']} as model={choice['model']} takes it, "
        f"{data.kind}"
    )


def _keys(typed: Iterable[str]) -> set[str]:
    """Of the data set, as the overrides name them."""
    names = [override.lstrip("+").partition("=")[0].replace("/", ".").split(".") for override in typed]
    return {path[1] for path in names if len(path) > 1 and path[0] == "dataset"}


def _defaults(name: str) -> dict[str, Any] | None:
    """Of a data set of this package; None for one of a plugin."""
    file = resources.files("ebm_cli.conf") / "dataset" / f"{name}.yaml"
    return yaml.safe_load(file.read_text()) if file.is_file() else None
