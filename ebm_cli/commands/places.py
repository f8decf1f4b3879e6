"""Keys of a configuration that name files: they may be given anew, since a run and its data may be moved."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ebm_cli.errors import UserError

KEYS = {"dataset": ("root", "path", "contacts", "vocabulary_file"), "model": ("path",)}


def names_file(key: Sequence[str]) -> bool:
    """Whether a key, as ("dataset", "path"), is one of those."""
    group, *rest = key
    if group == "noise" and rest[:1] == ["source"]:
        group, rest = "dataset", rest[1:]
    return len(rest) == 1 and rest[0] in KEYS.get(group, ())


def rooted(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with absolute paths of files, which a run is to find from any working directory."""
    found = dict(config) | {group: _absolute(config[group], keys) for group, keys in KEYS.items() if group in config}
    noise = config.get("noise")
    if isinstance(noise, Mapping) and "source" in noise:
        found["noise"] = {**noise, "source": _absolute(noise["source"], KEYS["dataset"])}
    parts = config["model"].get("parts") if isinstance(config.get("model"), Mapping) else None
    if isinstance(parts, list):
        found["model"]["parts"] = [_path(part) if isinstance(part, str) else part for part in parts]
    chosen = config.get("evaluation")
    if isinstance(chosen, Mapping):  # anything else is refused where its keys are checked
        found["evaluation"] = {name: _absolute(values, ("root",)) for name, values in chosen.items()}
    return found


def without(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same without those keys of dataset, model and noise."""
    found = dict(config) | {group: _left(config[group], keys) for group, keys in KEYS.items() if group in config}
    noise = config.get("noise")
    if isinstance(noise, Mapping) and "source" in noise:
        found["noise"] = {**noise, "source": _left(noise["source"], KEYS["dataset"])}
    return found


def given_anew(own: Mapping[str, Any], wanted: Mapping[str, Any], group: str) -> dict[str, Any]:
    """A group of a run's own configuration with other files. Raises UserError for a key that names none."""
    for key, value in wanted.items():
        deeper = group == "noise" and key == "source" and isinstance(value, Mapping)
        for inner in value if deeper else (None,):
            path = (group, key) if inner is None else (group, key, inner)
            if not names_file(path):
                raise UserError(
                    f"{'.'.join(path)}: the run keeps its own {group}; only keys that name files can change"
                )
    source = {"source": {**own.get("source", {}), **wanted["source"]}} if "source" in wanted else {}
    return {**own, **wanted, **source}


def _left(values: Any, keys: Iterable[str]) -> Any:
    return {k: v for k, v in values.items() if k not in keys} if isinstance(values, Mapping) else values


def _absolute(values: Any, keys: Iterable[str]) -> Any:
    """A set of keys with those of them that name files made absolute; anything else as it is."""
    if not isinstance(values, Mapping):
        return values
    paths = {key: values.get(key) for key in keys}
    return {**values, **{k: _path(v) for k, v in paths.items() if isinstance(v, str) and v}}


def _path(value: str) -> str:
    return str(Path(value).expanduser().absolute())
