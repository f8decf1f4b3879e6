"""Names in configuration files <-> components: the only place where a string becomes a class.

A component is a frozen dataclass whose fields are the keys of its YAML file; types, ranges and choices are in the
annotations, defaults are in the YAML alone. Nothing here looks up a dotted path.
"""

import dataclasses
import functools
import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType, UnionType
from typing import Any, TypeVar, Union, cast, dataclass_transform, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import ErrorDetails

from ebm_cli.errors import UserError, nearest

GROUPS = (
    "dataset", "process", "model", "sampler", "chains", "noise", "objective", "optimizer", "sparsity", "stop",
    "running", "health", "device", "evaluation", "tracker",
)  # fmt: skip
WITHIN = ("process",)
"""Groups whose parts stand within others alone, as model.process does."""
TOP = tuple(group for group in GROUPS if group not in WITHIN)
_TABLE: dict[tuple[str, str], type] = {}
_FORMER: dict[tuple[str, str], str] = {}
"""Today's names by former ones, which runs that are there may have."""

T = TypeVar("T")
FILE_KEYS = ("path", "root", "file", "folder")
"""Keys of these names say where files are, whatever component has them."""


@dataclasses.dataclass(frozen=True)
class Files:
    """Marks a key of another name that says where files are too: `map: Annotated[str, Files()] | None`.

    A run keeps the absolute path. `moves`: another may be given when the run goes on, if the data there are the same.
    """

    moves: bool = True


@dataclasses.dataclass(frozen=True)
class Nested:
    """Marks a key that holds another component: its group, `kernel: Annotated[Any, Nested("sampler")]`."""

    group: str


@dataclasses.dataclass(frozen=True)
class Later:
    """Marks a key that came later, and what it is in runs without it: `array: Annotated[str | None, Later()]`."""

    value: Any = None


@dataclass_transform(frozen_default=True, kw_only_default=True)
def register(group: str, name: str, formerly: str | None = None) -> Callable[[type[T]], type[T]]:
    """Class decorator: a checked, frozen dataclass that configuration can name as `group.name: NAME`.

    Configurations of runs may name it as it was called `formerly` too. Raises ValueError if the name is taken,
    which would make a configuration mean two things.
    """

    def add(cls: type[T]) -> type[T]:
        if group not in GROUPS:
            raise ValueError(f"no component group {group!r}; there are {', '.join(GROUPS)}")
        if (group, name) in _TABLE:
            raise ValueError(f"{group} {name!r} is already {_TABLE[group, name].__qualname__}")
        config = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
        component: Any = pydantic_dataclass(cls, frozen=True, kw_only=True, config=config)
        _TABLE[group, name] = component
        if formerly is not None:
            _FORMER[group, formerly] = name
        return component

    return add


def load_components() -> None:
    """Import every file of every group, so that its `register` lines run."""
    for group in GROUPS:
        for name in _submodules(importlib.import_module(f"ebm_cli.{group}")):
            importlib.import_module(name)


def _submodules(module: ModuleType) -> list[str]:
    return [f"{module.__name__}.{found.name}" for found in pkgutil.iter_modules(getattr(module, "__path__", []))]


def load_plugins(modules: list[str]) -> None:
    """Import the user's own component modules, named on the command line as `plugins=[my_module]`.

    They are found where Python finds modules, and last in the working directory.
    """
    if modules and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise UserError(
                f"plugins: no Python module {name!r}; it must lie in the working directory or on PYTHONPATH"
            ) from error


def components(group: str) -> dict[str, type]:
    """Every registered component of a group by its name."""
    return dict(sorted((name, cls) for (g, name), cls in _TABLE.items() if g == group))


def file_keys(group: str, name: object) -> dict[str, bool]:
    """The keys of a component that say where files are, and whether another place may be given to a run."""
    found = {key: marks for key, marks in _marks(group, name).items() if key in FILE_KEYS or _of(Files, marks)}
    return {key: all(mark.moves for mark in _of(Files, marks)) for key, marks in found.items()}


def nested_keys(group: str, name: object) -> dict[str, str]:
    """The keys of a component that hold others, and of which group these are."""
    return {key: mark.group for key, marks in _marks(group, name).items() for mark in _of(Nested, marks)}


def _marks(group: str, name: object) -> dict[str, list[Any]]:
    """What the annotations of a component's keys are marked with; nothing of a component that is not there."""
    cls = _TABLE.get((group, _FORMER.get((group, name), name))) if isinstance(name, str) else None
    return {} if cls is None else _marks_of(cls)


@functools.cache  # annotations that are text are evaluated anew each time, and a search asks for each of its jobs
def _marks_of(cls: Any) -> dict[str, list[Any]]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: [*_within(hints[field.name])] for field in dataclasses.fields(cls)}


def _within(hint: Any) -> Iterator[Any]:
    yield from getattr(hint, "__metadata__", ())
    for part in get_args(hint):
        yield from _within(part)


def _of(kind: type[T], marks: list[Any]) -> list[T]:
    return [mark for mark in marks if isinstance(mark, kind)]


def todays(group: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a component with its present name, and with those that came after the run that has them."""
    name = config.get("name")
    later = {key: mark.value for key, marks in _marks(group, name).items() for mark in _of(Later, marks)}
    named = {"name": _FORMER.get((group, name), name)} if isinstance(name, str) else {}
    return {**later, **config, **named}


def build(group: str, config: Mapping[str, Any], at: str | None = None) -> Any:
    """The component that `config["name"]` names, its fields checked. Raises UserError naming the key and the value.

    `at` is where its keys stand in the configuration, such as "sampler.kernel"; None: they are those of the group.
    """
    place, values = at or group, todays(group, config)
    name = values.pop("name", None)
    known = components(group)
    if not isinstance(name, str) or name not in known:
        raise UserError(
            f"{place}.name = {name!r}: no such {group}; there are {', '.join(known)}, and those of plugins=[MODULE]"
        )
    try:
        # JSON mode: strict about types, yet a YAML list may fill a tuple and an int a float.
        return TypeAdapter(known[name]).validate_json(json.dumps(values))
    except ValidationError as error:
        raise UserError(explain(error, known[name], place)) from error
    except UserError as error:
        raise UserError(placed(str(error), group, place)) from error


def placed(message: str, group: str, at: str) -> str:
    """A sentence on keys of a group, of which one component stands elsewhere: with the keys as they are there."""
    return message if at == group or f"{at}." in message else message.replace(f"{group}.", f"{at}.")


def explain(error: ValidationError, cls: type, prefix: str) -> str:
    """One sentence for the first thing pydantic found wrong with the fields of a class, below `prefix`."""
    detail, keys = _first(error.errors(), cls), [field.name for field in dataclasses.fields(cls)]
    path = ".".join([*([prefix] if prefix else []), *(str(part) for part in detail["loc"])])
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown key {path}{nearest(str(detail['loc'][-1]), keys)} (takes: {', '.join(keys) or 'no keys'})"
    if detail["type"] in ("missing", "missing_keyword_only_argument"):
        return f"{path} is missing"
    whole = detail["input"]
    if isinstance(whole, float) and detail["type"].startswith("int_") and whole.is_integer():
        return f"{path} = {whole}: must be a whole number, without point or exponent; write {path}={whole:.0f}"
    message = _plain(detail["msg"])
    return f"{path} = {json.dumps(detail['input'], default=str)}: {message[0].lower()}{message[1:]}"


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should be", "must be").replace("valid array", "list")


def _first(details: list[ErrorDetails], cls: type) -> ErrorDetails:
    """The first of pydantic's errors; of a key that takes values of several types one for all of them, since pydantic
    has one for each, with the type as a part of the path."""
    first = details[0]
    name = first["loc"][0] if first["loc"] else None
    if len(first["loc"]) == 1 or not _takes_several(get_type_hints(cls).get(str(name))):
        return first
    own = [detail for detail in details if detail["loc"][0] == name]
    within = next((detail for detail in own if len(detail["loc"]) > 2), None)
    if within is not None:  # the one type whose parts were looked at
        return cast(ErrorDetails, {**within, "loc": (name, *within["loc"][2:])})
    one, *others = dict.fromkeys(_plain(detail["msg"]) for detail in own)
    said = " or ".join([one, *(other.removeprefix("must be ") for other in others)])
    return cast(ErrorDetails, {**first, "loc": (name,), "msg": said, "type": "several"})


def _takes_several(hint: Any) -> bool:
    """Whether values of more than one type, None aside, may stand for it."""
    return (
        get_origin(hint) in (Union, UnionType) and len([kind for kind in get_args(hint) if kind is not type(None)]) > 1
    )
