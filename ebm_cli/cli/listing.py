"""`ebm list`: every part read from the configuration files and the source text, so that torch need not be imported."""

import ast
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from ebm_cli.cli.tuning import BASE, KEYS
from ebm_cli.errors import UserError, nearest
from ebm_cli.terminal import output, plain_console

GROUPS = {
    "dataset": "what is learned from",
    "model": "the energy",
    "process": "how noise is added to data, level by level",
    "objective": "what is minimised",
    "chains": "where negative chains start",
    "noise": "what contrastive objectives tell the data from",
    "sampler": "how chains move",
    "optimizer": "how weights follow the gradient",
    "sparsity": "which couplings a model has",
    "stop": "when training ends before its last step",
    "running": "what is estimated along the way",
    "health": "whether somebody looks how training goes",
    "evaluation": "what is measured",
    "tracker": "where a run is shown",
    "device": "where it runs",
    "experiment": "recipes: a whole configuration by one name",
}
USAGE = "usage: ebm list [GROUP [NAME]] [--markdown]\n"
_OVERRIDE = re.compile(r"override /(\w+)")
_FILE_NAME = re.compile(r"# *(@package\b|\S+\.yaml$)")  # a line that says nothing of the part
_COMMENT = re.compile(r"\s#\s*(.*)$")


@dataclass(frozen=True)
class YamlKey:
    """One key of a part: its default as written, and what it is."""

    name: str
    default: str
    note: str


@dataclass(frozen=True)
class Choice:
    """One choice of a group, as its YAML file describes it."""

    group: str
    choice: str
    text: str
    component: str
    keys: list[YamlKey] = field(default_factory=list)
    brings: list[str] = field(default_factory=list)  # choices of other groups, "chains=persistent"


def folders() -> list[Path]:
    """Configuration folders in the order in which a choice is looked for: the package's, then the user's own."""
    packaged = Path(str(resources.files("ebm_cli.conf")))
    return [packaged, *(own for own in folders_of_the_user() if own.resolve() != packaged.resolve())]


def folders_of_the_user() -> list[Path]:
    """./conf and those of EBM_CONFIG_PATH, as far as they exist."""
    named = os.environ.get("EBM_CONFIG_PATH", "").split(os.pathsep)
    return [folder for folder in (Path.cwd() / "conf", *(Path(name) for name in named if name)) if folder.is_dir()]


def choices(group: str) -> list[str]:
    """Names of the choices of a group."""
    return sorted({path.stem for folder in folders() for path in (folder / group).glob("*.yaml")})


def group_of(name: str) -> str | None:
    """The first group that has a choice of this name."""
    return next((group for group in GROUPS if name in choices(group)), None)


def choices_of(group: str) -> list[Choice]:
    """Every part of a group."""
    files = {path.stem: path for folder in reversed(folders()) for path in (folder / group).glob("*.yaml")}
    return [_read(group, files[name]) for name in sorted(files)]


def no_choice(group: str, name: str) -> str:
    """That a group has no such choice, in one sentence with what was perhaps meant: a name, or the value of a key."""
    known = choices(group)
    valued = [
        f"{group}={part.choice} {group}.{key.name}={name}"
        for part in choices_of(group)
        for key in part.keys
        if name in _options(key.note)
    ]
    meant = f"; did you mean {' or '.join(valued[:2])}?" if valued else nearest(name, known)
    return f"no {group} named {name}{meant} ({group} is one of: {', '.join(known)})"


def _options(note: str) -> list[str]:
    """The values a note names side by side: "dna (180) | nips (500)" or "rings, moons or band"; none of a sentence."""
    found = [re.sub(r"\s*\(.*", "", item) for item in re.split(r" \| |, | or ", note)]
    return found if len(found) > 1 and all(item.isidentifier() for item in found[:2]) else []


def _read(group: str, path: Path) -> Choice:
    lines = path.read_text().splitlines()
    text = next((line[1:].strip() for line in lines if line.startswith("#") and not _FILE_NAME.match(line)), "")
    values = yaml.safe_load("\n".join(lines)) or {}
    shown = {key: value for key, value in values.items() if key not in ("name", "defaults")}
    keys = [YamlKey(key, _written(lines, key, value), _note(lines, key)) for key, value in shown.items()]
    return Choice(group, path.stem, text, str(values.get("name", path.stem)), keys, _brought(path))


def _brought(path: Path) -> list[str]:
    """The overrides in a defaults list, `override /chains@_global_.chains: persistent`, and in the files it names."""
    found: list[str] = []
    for entry in (yaml.safe_load(path.read_text()) or {}).get("defaults", []):
        if isinstance(entry, dict):
            named = ((_OVERRIDE.match(str(key)), value) for key, value in entry.items())
            found += [f"{match[1]}={_chosen(value)}" for match, value in named if match]
        elif entry != "_self_":
            found += _brought(path.parent / f"{entry}.yaml")
    return found


def _chosen(value: object) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _written(lines: list[str], key: str, value: object) -> str:
    found = next((line for line in lines if line.startswith(f"{key}:")), "")
    written = _COMMENT.sub("", found.partition(":")[2]).strip()
    return written or yaml.safe_dump(value, default_flow_style=True).strip()


def _note(lines: list[str], key: str) -> str:
    found = next((_COMMENT.search(line) for line in lines if line.startswith(f"{key}:")), None)
    return found.group(1) if found else ""


def packaged(command: str) -> dict[str, Any]:
    """A command's own configuration file."""
    return yaml.safe_load((folders()[0] / f"{BASE.get(command, command)}.yaml").read_text())


def keys_of(command: str) -> list[str]:
    """Dotted keys of a command's own file and of every choice of its groups; for suggestions."""
    values = packaged(command)
    groups = {name for entry in values["defaults"] if isinstance(entry, dict) for name in entry}
    own = [key for key in values if key not in ("defaults", "hydra")]
    nested = [f"{key}.{inner}" for key in own if isinstance(values[key], dict) for inner in values[key]]
    found = dict.fromkeys([*own, *nested, *(KEYS if command == "tune" else ())])
    for group in [group for group in GROUPS if group in groups and group != "experiment"]:
        for part in choices_of(group):
            found |= dict.fromkeys(f"{prefix(part)}.{key.name}" for key in part.keys)
    for part in choices_of("hydra/launcher") if command == "train" else ():
        found |= dict.fromkeys(f"hydra.launcher.{key.name}" for key in part.keys if not key.name.startswith("_"))
    return list(found)


def prefix(part: Choice) -> str:
    """Where the keys of a part stand in a configuration."""
    if part.group == "evaluation":
        return f"evaluation.{part.component}"
    return "model.process" if part.group == "process" else part.group


_NO_PART = "sklearn.py"
"""Holds an estimator that bears the name of a model."""


@dataclass(frozen=True)
class ClassSource:
    """A class as its source text declares it."""

    bases: tuple[str, ...]
    declares: dict[str, tuple[str, ...]]  # class attribute -> names in its value
    registered: tuple[str, str] | None  # group, name


def sources() -> dict[str, ClassSource]:
    """Every class of the package by its name, and those of plugins in the working directory."""
    return _sources(Path.cwd())


@lru_cache
def _sources(own: Path) -> dict[str, ClassSource]:
    return {**_classes(_plugins(own)), **_packaged()}


@lru_cache
def _packaged() -> dict[str, ClassSource]:
    return _classes(ast.parse(path.read_text()) for path in files())


def files() -> list[Path]:
    """Those of the package that may hold parts, and classes that parts are made of."""
    return [path for path in sorted(Path(str(resources.files("ebm_cli"))).rglob("*.py")) if path.name != _NO_PART]


def _classes(trees: Iterable[ast.Module]) -> dict[str, ClassSource]:
    return {node.name: _source(node) for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


def _plugins(folder: Path) -> Iterator[ast.Module]:
    """The files there that register parts; what cannot be read is no business of a list."""
    for path in sorted(folder.glob("*.py")):
        with suppress(OSError, SyntaxError, ValueError):
            text = path.read_text()
            if "register" in text and "ebm_cli" in text:
                yield ast.parse(text)


def _source(node: ast.ClassDef) -> ClassSource:
    declares = {
        target.id: tuple(name.id for name in ast.walk(statement.value) if isinstance(name, ast.Name))
        for statement in node.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    bases = tuple(name.id for base in node.bases for name in ast.walk(base) if isinstance(name, ast.Name))
    return ClassSource(bases, declares, _registration(node))


def _registration(node: ast.ClassDef) -> tuple[str, str] | None:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "register":
            group, name = (argument.value for argument in decorator.args if isinstance(argument, ast.Constant))
            return (str(group), str(name))
    return None


def component(group: str, name: str) -> ClassSource | None:
    """The registered class behind a `name:`; None for a user's own that is not in the working directory."""
    return next((source for source in sources().values() if source.registered == (group, name)), None)


def _lineage(name: str) -> Iterator[str]:
    yield name
    for base in sources()[name].bases if name in sources() else ():
        yield from _lineage(base)


def models_of(sampler: Choice) -> list[str]:
    """The models that a sampler moves, as far as its class declares them."""
    source = component(sampler.group, sampler.component)
    if source is None:
        return []
    return [other.choice for other in choices_of("model") if _sampler_fits(source, component("model", other.component))]


def fits(part: Choice) -> str:
    """What a part goes with, from what its class declares."""
    source = component(part.group, part.component)
    if source is None:
        return ""
    if part.group == "model":
        return ", ".join(space.lower() for space in source.declares.get("spaces", ()))
    if part.group == "sampler":
        found = models_of(part)
        return f"models {', '.join(found)}" if found else "the model of a run that is there"
    if part.group == "objective":
        return ", ".join(space.lower() for space in source.declares.get("spaces", ()))
    return ""


def _sampler_fits(sampler: ClassSource, model: ClassSource | None) -> bool:
    if model is None:
        return False
    lineage = set(_lineage(next(iter(model.declares.get("builds", ())), "")))
    spaces = set(sampler.declares.get("spaces", ())) & set(model.declares.get("spaces", ()))
    needs = sampler.declares.get("needs", ())
    blind = "Intractable" in lineage and not any("Intractable" in _lineage(need) for need in needs)
    return bool(spaces) and set(needs) <= lineage and not blind


def main(arguments: list[str]) -> int:
    """`ebm list [GROUP [NAME]] [--markdown]`."""
    arguments = [argument for argument in arguments if not argument.startswith("plugins=")]  # they are shown anyway
    flags = {argument for argument in arguments if argument.startswith("-")}
    names = [name for argument in arguments if argument not in flags for name in re.split("[=/]", argument, maxsplit=1)]
    if flags & {"-h", "--help"}:
        output.print(USAGE, end="")
        return 0
    if len(names) > 2 or flags - {"--markdown"}:
        raise UserError(f"{' '.join(arguments)}: not understood; {USAGE.strip()}")
    if names and names[0] not in GROUPS:
        of = group_of(names[0])
        meant = f"; it is a choice of a group: ebm list {of} {names[0]}" if of else nearest(names[0], list(GROUPS))
        raise UserError(f"no group {names[0]!r}{meant} (one of: {', '.join(GROUPS)})")
    if len(names) == 2 and names[1] not in choices(names[0]):
        known = choices(names[0])
        raise UserError(f"no {names[0]} named {names[1]}{nearest(names[1], known)} (one of: {', '.join(known)})")
    if "--markdown" in flags:
        plain_console(width=10_000).print(markdown(), highlight=False)
    elif names:
        _print_group(names[0], names[1] if len(names) == 2 else None)
    else:
        _print_all()
    return 0


def _print_all() -> None:
    console = output
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for group, purpose in GROUPS.items():
        table.add_row(Text(group, "bold"), "", Text(purpose, "dim"))
        for part in choices_of(group):
            table.add_row("", part.choice, part.text)
    console.print(table)
    console.print("Choose with GROUP=NAME; the keys of a part: ebm list GROUP [NAME]", highlight=False)


def _print_group(group: str, name: str | None) -> None:
    console = output
    for part in choices_of(group):
        if name in (None, part.choice):
            console.print(Text(f"{group}={part.choice}", "bold"), f" {part.text}", highlight=False, soft_wrap=True)
            table = Table(box=None, padding=(0, 2, 0, 4), show_header=False)
            for key in part.keys if group != "experiment" else []:
                table.add_row(f"{prefix(part)}.{key.name}", key.default, Text(key.note, "dim"))
            if table.row_count:
                console.print(table)
            if part.brings:
                console.print(f"    brings {' '.join(part.brings)}", highlight=False, soft_wrap=True)
            fit = fits(part)
            if fit:
                console.print(f"    fits {fit}", highlight=False, soft_wrap=True)


def markdown() -> str:
    """The table of parts for the README."""
    lines = ["| group | choice | what it is |", "|---|---|---|"]
    for group in GROUPS:
        lines += [f"| {group} | `{part.choice}` | {part.text} |" for part in choices_of(group)]
    return "\n".join(lines)
