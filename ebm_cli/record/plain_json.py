"""JSON that every reader takes: it has no word for what is no finite number, so that is null."""

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(value: Any, indent: int | None = None) -> str:
    """The value as JSON (RFC 8259), with null for nan and the infinities, which `json` would write by name."""
    return json.dumps(plain(value), indent=indent, allow_nan=False)


def no_number(name: str) -> None:
    """For `parse_constant` of `json.loads`: nan and the infinities by name are refused. Raises ValueError."""
    raise ValueError(f"{name} is no number")


def finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """Those of the values that are finite numbers."""
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}


def plain(value: Any) -> Any:
    """The value with None for what is no finite number."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value
