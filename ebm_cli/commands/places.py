"""Keys of a configuration that say where files are: they may be given anew, since a run and its data may be moved."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ebm_cli import registry
from ebm_cli.errors import UserError

_GROUPS = tuple(group for group in registry.TOP if group != "evaluation")
_TRAINED = ("dataset", "model", "noise")  # what a run has learned from or is made of


def names_file(key: Sequence[str], config: Mapping[str, Any]) -> bool:
    """Whether a key of the configuration, as ("dataset", "path"), is one of those that may be given anew."""
    group, *rest = key
    return group in _TRAINED and _movable(group, config.get(group), rest)


def _movable(group: str, values: Any, key: Sequence[str]) -> bool:
    if not isinstance(values, Mapping) or not key:
        return False
    name, (first, *rest) = values.get("name"), key
    within = registry.nested_keys(group, name)
    if rest:
        return first in within and _movable(within[first], values.get(first), rest)
    return registry.file_keys(group, name).get(first, False)


def rooted(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with absolute paths of files, which a run is to find from any working directory."""
    found = dict(config) | {group: _mapped(group, config[group], _absolute) for group in _GROUPS if group in config}
    chosen = config.get("evaluation")
    if isinstance(chosen, Mapping):  # anything else is refused where its keys are checked
        found["evaluation"] = {name: _mapped("evaluation", values, _absolute) for name, values in chosen.items()}
    return found


def without(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same without the files of dataset, model and noise."""
    return dict(config) | {group: _left(group, config[group]) for group in _TRAINED if group in config}


def bare(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the files' names alone, without the folders of this machine, for whoever gets the configuration."""
    return dict(config) | {group: _mapped(group, config[group], _name) for group in _GROUPS if group in config}


def given_anew(own: Mapping[str, Any], wanted: Mapping[str, Any], group: str) -> dict[str, Any]:
    """A group of a run's own configuration with other files. Raises UserError for a key that names none."""
    for key, value in wanted.items():
        deeper = key in registry.nested_keys(group, own.get("name")) and isinstance(value, Mapping)
        for inner in value if deeper else (None,):
            path = (group, key) if inner is None else (group, key, inner)
            if not names_file(path, {group: own}):
                raise UserError(
                    f"{'.'.join(path)}: the run keeps its own {group}; only keys that name files can change"
                )
    return {**own, **{key: {**own[key], **new} if isinstance(new, Mapping) else new for key, new in wanted.items()}}


def of_dataset(values: Mapping[str, Any]) -> dict[str, Any]:
    """Where the files of a data set are, by key."""
    keys = registry.file_keys("dataset", values.get("name"))
    return {key: values[key] for key in keys if values.get(key) is not None}


def _mapped(group: str, values: Any, change: Callable[[Any], Any]) -> Any:
    """A component's keys with those that name files changed, within it too; anything else as it is."""
    if not isinstance(values, Mapping):
        return values
    name = values.get("name")
    several = name if isinstance(name, list) else [name]  # as of trackers, which share their keys
    files = {key for one in several for key in registry.file_keys(group, one)}
    within = registry.nested_keys(group, name)
    inner = {key: _mapped(within[key], values[key], change) for key in within if key in values}
    return {**values, **inner, **{key: change(values[key]) for key in files if key in values}}


def _left(group: str, values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    name = values.get("name")
    files, within = registry.file_keys(group, name), registry.nested_keys(group, name)
    kept = {key: value for key, value in values.items() if not files.get(key)}
    return kept | {key: _left(within[key], kept[key]) for key in within if key in kept}


def _name(value: Any) -> Any:
    if isinstance(value, list):
        return [_name(part) for part in value]
    return Path(value).name if isinstance(value, str) and value else value


def _absolute(value: Any) -> Any:
    """A path, or those in a list, from the root; what is empty or no path stays."""
    if isinstance(value, list):
        return [_absolute(part) for part in value]
    return str(Path(value).expanduser().absolute()) if isinstance(value, str) and value else value
