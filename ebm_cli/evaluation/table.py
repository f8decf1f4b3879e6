"""What evaluations found as a person reads it: lines and tables, from flat numbers such as those of summary.json."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from typing_extensions import override

UNSURE = 1.1
"""R-hat from which on chains do not agree."""


class Numbers(Mapping[str, Any]):
    """Found values by key; what is no finite number is not among them. It knows which of them were looked up.

    A number that no line has looked up is shown under its own key.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {k: v for k, v in values.items() if not isinstance(v, float) or math.isfinite(v)}
        self._seen: set[str] = set()

    @override
    def __getitem__(self, key: str) -> Any:
        self._seen.add(key)
        return self._values[key]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    @override
    def __len__(self) -> int:
        return len(self._values)

    @override
    def __contains__(self, key: object) -> bool:
        return key in self._values

    def has(self, *keys: str) -> bool:
        """Whether all of them are there."""
        return all(key in self for key in keys)

    def leave(self, *beginnings: str) -> None:
        """Do not show what begins so: another table has it, or the lines say it."""
        self._seen |= {key for key in self if key.startswith(beginnings)}

    @property
    def unseen(self) -> Mapping[str, Any]:
        """The same values for who decides by them and does not show them."""
        return self._values

    def rest(self) -> dict[str, Any]:
        """What nobody has looked up."""
        return {key: value for key, value in self._values.items() if key not in self._seen}


class Table(NamedTuple):
    """Things that are compared: a column for each of `heads`, a line for each name in `rows`."""

    title: str
    heads: list[str]
    rows: dict[str, list[str]]
    caption: str


def plus_minus(values: Mapping[str, Any], name: str, of: str = "log_likelihood", digits: int = 2) -> str:
    """`<name>/<of>` with its standard error, where it has one."""
    error = f" ± {values[f'{name}/standard_error']:.{digits}f}" if f"{name}/standard_error" in values else ""
    return f"{values[f'{name}/{of}']:.{digits}f}{error}"


def log_z_line(values: Numbers, name: str, said: str) -> dict[str, str]:
    """log Z with its interval, if `<name>/...` has them all."""
    keys = [f"{name}/{key}" for key in ("log_z", "log_z_low", "log_z_high")]
    if not values.has(*keys):
        return {}
    log_z, low, high = (values[key] for key in keys)
    return {f"  log Z, {said}": f"{log_z:.2f}, 95 % [{low:.2f}, {high:.2f}]"}


def likelihood_lines(values: Numbers, name: str, split: str) -> dict[str, str]:
    """The log-likelihood of a split and log Z with its interval, if `<name>/...` has them all."""
    if not values.has(*(f"{name}/{key}" for key in ("log_likelihood", "log_z", "log_z_low", "log_z_high"))):
        return {}
    likely = {f"log-likelihood ({split}), {name}": f"{plus_minus(values, name)} nats"}
    return likely | log_z_line(values, name, name)


def short(value: float) -> str:
    """Three digits, or all of a large number's before the point."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
