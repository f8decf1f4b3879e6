"""The space of the data that a model was trained on, as its checkpoints hold it."""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping
from typing import Any

from ebm_cli.errors import UserError
from ebm_cli.record.checkpoint import Checkpoint
from ebm_cli.space import SPACES, Box, Counts, Mixed, Real, Space, Units, Words

_LONGEST = 2**24  # words of a document


def described(space: Space) -> dict[str, object]:
    """As JSON has it, where tuples are lists."""
    found: dict[str, object] = json.loads(json.dumps({"name": space.name, **dataclasses.asdict(space)}))
    return found


def in_words(space: Space) -> str:
    """Shape and kind, and what else is to agree where models are compared."""
    named = ("shape", "length", "units")
    more = {f.name: getattr(space, f.name) for f in dataclasses.fields(space) if f.name not in named}
    more |= {"values": _spelled(space.values)} if isinstance(space, Mixed) else {}
    beside = [f"{key} {value if isinstance(value, str) else f'{value:g}'}" for key, value in more.items()]
    beside += ["standardised"] * (getattr(space, "units", None) is not None)
    return f"{'x'.join(map(str, space.shape))} {space.name}" + (f" ({', '.join(beside)})" if beside else "")


def _spelled(values: tuple[int, ...]) -> str:
    """How many values each site has, as "2x3, 1x4, 5xreal": two of three, one of four, five real ones."""
    runs = [(count, len([*group])) for count, group in itertools.groupby(values)]
    return ", ".join(f"{number}x{count or 'real'}" for count, number in runs)


def recorded_space(saved: Checkpoint) -> Space:
    """The space of the data the model was trained on, as the checkpoint records it. Raises UserError if it does not."""
    described = saved.numbers.get("space")
    name, shape = (described.get("name"), described.get("shape")) if isinstance(described, dict) else (None, None)
    kind = SPACES.get(name) if isinstance(name, str) else None
    if (
        kind is None
        or not isinstance(described, dict)
        or not isinstance(shape, list)
        or not all(type(n) is int and n > 0 for n in shape)
    ):
        raise UserError(f"{saved.path} records no known space: {described}")
    if math.prod(shape) > sum(tensor.numel() for tensor in saved.tensors.values()):
        raise UserError(f"{saved.path} records {math.prod(shape)} sites, more than it holds numbers")
    if kind is Words:
        return Words(tuple(shape), _whole(saved, described, "values", sum(t.numel() for t in saved.tensors.values())))
    if kind is Mixed:
        return Mixed(tuple(shape), _columns(saved, described), units=_units(saved, described))
    if kind is Counts:
        return Counts(tuple(shape), _whole(saved, described, "length", _LONGEST))
    if kind is Box:
        return Box(tuple(shape), *_bounds(saved, described))
    return Real(tuple(shape), units=_units(saved, described)) if kind is Real else kind(tuple(shape))


def _columns(saved: Checkpoint, described: Mapping[str, Any]) -> tuple[int, ...]:
    """How many values each site has, 0 for real ones, never more than the model can have weights for."""
    values, most = described.get("values"), sum(tensor.numel() for tensor in saved.tensors.values())
    sites = math.prod(described["shape"])
    if not isinstance(values, list) or len(values) != sites or len(described["shape"]) != 1:
        raise UserError(f"{saved.path} records no known space: {described}")
    if not all(type(v) is int and (v == 0 or v > 1) for v in values) or sum(values) > most:
        raise UserError(f"{saved.path} records no known space: {described}")
    return tuple(values)


def _units(saved: Checkpoint, described: Mapping[str, Any]) -> Units | None:
    """Those of the data, a finite mean and a deviation above 0 for each site, or None."""
    units, sites = described.get("units"), math.prod(described["shape"])
    if units is None:
        return None
    mean, deviation = (units.get("mean"), units.get("deviation")) if isinstance(units, dict) else (None, None)
    if not (isinstance(mean, list) and isinstance(deviation, list) and len(mean) == len(deviation) == sites):
        raise UserError(f"{saved.path} records no known units of its {sites} sites")
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in (*mean, *deviation)) or min(deviation) <= 0:
        raise UserError(f"{saved.path} records units that are none: deviations must be above 0, and all numbers finite")
    return Units(tuple(map(float, mean)), tuple(map(float, deviation)))


def _whole(saved: Checkpoint, described: Mapping[str, Any], key: str, most: int) -> int:
    """A number of the space, from 1 to `most`."""
    value = described.get(key)
    if type(value) is not int or not 0 < value <= most:
        raise UserError(f"{saved.path} records no known space: {described}")
    return value


def _bounds(saved: Checkpoint, described: Mapping[str, Any]) -> tuple[float, float]:
    low, high = described.get("low"), described.get("high")
    if not (isinstance(low, int | float) and isinstance(high, int | float) and low < high):
        raise UserError(f"{saved.path} records no known space: {described}")
    return float(low), float(high)
