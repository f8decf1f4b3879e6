"""What `ebm tune` searches: the space, by which metric, and how. `tune.json` in its directory keeps the latter."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from ebm_cli.errors import UserError, of_file
from ebm_cli.record import files, plain_json
from ebm_cli.registry import explain

NAME = "tune.json"
_ROUNDING = 1e-12
BY = ("metric", "direction", "pruner")
"""Keys by which trials are judged: they stay once a trial has a value."""

Value = float | int | str
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Axis:
    """A key that is searched: numbers from `low` to `high`, both included, or one of the `choices`, as typed."""

    key: str
    kind: Literal["float", "int", "choice"]
    low: float = 0
    high: float = 0
    step: int = 1  # of int
    log: bool = False  # evenly spaced in the logarithm
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise UserError for an empty range, and for a logarithm of what is not above 0."""
        if self.kind == "choice" and not self.choices:
            raise UserError(f"{self.key}: there is nothing to choose from; name the values, choice(x,y)")
        if self.kind == "choice" and len(set(self.choices)) != len(self.choices):
            raise UserError(f"{self.key}: choice({','.join(self.choices)}) names a value twice; leave one out")
        if self.kind != "choice" and not self.low < self.high:
            raise UserError(f"{self.key}: {self.low} to {self.high} holds nothing to search; give the lower end first")
        if self.log and self.low <= 0:
            raise UserError(
                f"{self.key}: log needs a lower end above 0, which {self.low} is not; raise it, or leave out log"
            )
        if self.log and self.step != 1:
            raise UserError(f"{self.key}: log and a step do not go together; leave one out")

    @property
    def ends(self) -> tuple[Value, ...]:
        """The outermost values, or all choices."""
        return self.choices if self.kind == "choice" else (self.low, self.high)

    def word(self, value: Value) -> str:
        """As the command line has it."""
        if self.kind == "float":  # an end but for rounding is that end, and no other run
            value = next((end for end in self.ends if math.isclose(float(end), float(value), rel_tol=_ROUNDING)), value)
        return f"{self.key}={value if isinstance(value, str) else repr(value)}"


@checked(frozen=True)
class Search:
    """The keys of `ebm tune` itself, which no run has."""

    metric: tuple[str, ...]
    direction: tuple[Literal["max", "min"], ...]
    trials: Count = 40
    startup: Count = 10  # trials at random before the search proper
    pruner: Literal["none", "median", "halving", "hyperband"] = "none"
    search: Literal["tpe", "random", "gp", "nsga2"] = "tpe"
    search_seed: Annotated[int, Field(ge=0)] = 0
    study: str = "ebm"
    """Which one of the journal: another metric, as long as no trial has a value, makes another study of it."""

    @property
    def while_training(self) -> bool:
        """Whether what is searched for is one number that is measured while a run trains."""
        return len(self.metric) == 1 and measured_while_training(self.metric[0])


def measured_while_training(metric: str) -> bool:
    """Names of the final evaluation have no split in them."""
    return metric.split("/")[1:2] in (["valid"], ["train"])


def usual_pruner(metric: Sequence[str]) -> str:
    """Where none is typed."""
    return "median" if len(metric) == 1 and measured_while_training(metric[0]) else "none"


@dataclass(frozen=True)
class Trial:
    """Which trial of which search a run is."""

    path: Path  # the directory of the search
    number: int  # as optuna counts
    search: Search
    steps: tuple[int, int]  # between evaluations, and of the whole run


def built(values: dict[str, Any]) -> Search:
    """From what the command line has. Raises UserError naming the key and the value."""
    given = {key: _several(value) if key in ("metric", "direction") else value for key, value in values.items()}
    metric, direction = given["metric"], given["direction"]
    if len(direction) == 1:
        given["direction"] = direction * len(metric)
    elif len(direction) != len(metric):
        raise UserError(
            f"direction = {','.join(direction)}: {len(metric)} metrics need one direction, max or min, or one for each"
        )
    if len(set(metric)) != len(metric):
        raise UserError(f"metric = {','.join(metric)}: names one twice; leave it out")
    if given.get("pruner") is None:
        given["pruner"] = usual_pruner(metric)
    found = _checked(given)
    if found.pruner != "none" and not found.while_training:
        why = "is measured at the end of a run" if len(metric) == 1 else "are several metrics"
        raise UserError(f"pruner = {found.pruner}: {','.join(metric)} {why}, so no run can end early; leave pruner out")
    return found


def _several(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]


def _checked(values: dict[str, Any]) -> Search:
    try:
        return TypeAdapter(Search).validate_json(plain_json.dumps(values), strict=True)
    except ValidationError as error:
        raise UserError(explain(error, Search, "")) from error


def write(path: Path, search: Search) -> None:
    """Replace tune.json in one motion."""
    files.replace(path, NAME, (plain_json.dumps(asdict(search), indent=1) + "\n").encode())


def there(path: Path) -> bool:
    """Whether a search is in this directory."""
    try:
        return files.there(path, NAME)
    except OSError:
        return False


def read(path: Path) -> Search:
    """The search of a directory, which may come from anybody. Raises UserError unless it makes sense."""
    try:
        return TypeAdapter(Search).validate_json(files.text(path, NAME), strict=True)
    except (ValidationError, UnicodeDecodeError, OSError) as error:
        why = of_file(error) if isinstance(error, OSError) else "is not what ebm tune wrote"
        raise UserError(f"{path / NAME}: {why}; put the file back, or start another search") from error


def key_of(word: str) -> str:
    """The key that a word of the command line sets."""
    return word.lstrip("+~").partition("=")[0]


def differing(was: Sequence[str], now: Sequence[str]) -> str | None:
    """The first word of one command line that another has not, or None."""
    return next((word for word in [*now, *was] if word not in was or word not in now), None)
