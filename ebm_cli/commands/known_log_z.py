"""What is known of log Z of a run's model: exactly, or by what its evaluations found."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ebm_cli.commands.trained import Trained
from ebm_cli.evaluation.base import of_split
from ebm_cli.evaluation.bracket import doubt
from ebm_cli.record import files
from ebm_cli.record.run import Run

_BY = {
    "exact": "exact",
    "density_2d": "the map",
    "log_likelihood": "the bracket",
    "trajectory": "the trajectory",
    "bridge": "bridge sampling",
    "ais": "AIS",
}
"""Evaluations that find log Z, the most trustworthy first."""


class Known(NamedTuple):
    """log Z in nats, its ends, and where it is from, in words."""

    value: float
    low: float
    high: float
    said: str


def found(trained: Trained) -> Known | None:
    """By the newest evaluation of the run at the step of its checkpoint that found any; None if none has."""
    for place, values in _newest_first(trained.run, trained.state.step):
        known = _known(values, place)
        if known is not None:
            return known
    return None


def _known(values: Mapping[str, Any], place: str) -> Known | None:
    """By the most trustworthy of one set of evaluations, whatever split they were on: Z is the model's alone."""
    for name in _BY:
        keys = [key for key in values if key.startswith(f"{name}/") and key.endswith("/log_z")]
        if not keys:
            continue
        split = keys[0].removeprefix(name).removesuffix("log_z").strip("/")
        found = of_split(values, split) if split else values
        numbers = {key: value for key, value in found.items() if isinstance(value, float | int)}
        unsure = doubt(name, numbers)
        if f"{name}/log_z" in numbers:
            return Known(*_ends(name, numbers), f"by {_BY[name]} of {place}" + (f"; but {unsure}" if unsure else ""))
    return None


def _ends(name: str, values: Mapping[str, float]) -> tuple[float, float, float]:
    """log Z and the ends of what is known: its interval, and of AIS up to where RAISE has it.

    RAISE bounds the mean of log p = -E - log Z from below, so log Z by as much from above: it is `ais/gap` above AIS.
    """
    value = values[f"{name}/log_z"]
    ends = [value, values.get(f"{name}/log_z_low", value), values.get(f"{name}/log_z_high", value)]
    if name == "ais" and "ais/gap" in values:
        ends.append(value + values["ais/gap"])
    return value, min(ends), max(ends)


def _newest_first(home: Run, step: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """What evaluations of that step found, with where it lies: those asked for later first, that of training last."""
    for name in reversed(files.names(home.path, "evaluations")):
        values = home.read_json(f"evaluations/{name}/results.json")
        if values.get("step") == step:
            yield f"evaluations/{name}", values
    summary = home.read_json("summary.json")
    if summary.get("judged_step", summary.get("steps")) == step:
        yield "summary.json", summary
