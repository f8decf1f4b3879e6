"""Several trackers of one run, `tracker=[wandb,csv]`: what befalls one of them is no matter to the others."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from ebm_cli import registry
from ebm_cli.errors import UserError
from ebm_cli.tracker.base import End, Tracker, TrackerSpec


def names(config: Any) -> list[str]:
    """Of the trackers in a configuration, whose `name` is one or a list of them; empty if it names none."""
    found = config.get("name") if isinstance(config, Mapping) else None
    several = found if isinstance(found, list) else [found]
    return [name for name in several if isinstance(name, str)]


def built(config: Mapping[str, Any]) -> dict[str, TrackerSpec]:
    """Every tracker by its name, its keys checked; each takes of the keys those that it has.

    Raises UserError for a key that none of them has, and for a tracker that is named twice.
    """
    chosen = config.get("name")
    if not isinstance(chosen, list):
        return {str(chosen): registry.build("tracker", config)}
    if not chosen or len(set(map(str, chosen))) < len(chosen):
        raise UserError(f"tracker = [{','.join(map(str, chosen))}]: name at least one, and each once")
    known, components = set[str](), registry.components("tracker")
    found: dict[str, TrackerSpec] = {}
    for name in chosen:
        own = _keys(components.get(name)) if isinstance(name, str) else set()
        found[str(name)] = registry.build("tracker", {k: v for k, v in config.items() if k in own} | {"name": name})
        known |= own
    for key in config.keys() - known - {"name"}:
        raise UserError(f"unknown key tracker.{key} (takes: {', '.join(sorted(known)) or 'no keys'})")
    return found


def _keys(component: Any) -> set[str]:
    return set() if component is None else {field.name for field in dataclasses.fields(component)}


def together(trackers: Sequence[Tracker]) -> Tracker:
    """The tracker itself if it is one, else one that passes everything on to all."""
    return trackers[0] if len(trackers) == 1 else _All(trackers)


class _All(Tracker):
    """Tells each of them everything. They are guarded, so that none raises an exception."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    @override
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, metrics)

    @override
    def images(self, step: int, images: Mapping[str, NDArray[np.uint8]]) -> None:
        for tracker in self._trackers:
            tracker.images(step, images)

    @override
    def histograms(self, step: int, values: Mapping[str, NDArray[np.float32]]) -> None:
        for tracker in self._trackers:
            tracker.histograms(step, values)

    @override
    def ended(self, end: End) -> None:
        for tracker in self._trackers:
            tracker.ended(end)

    @override
    def close(self, summary: Mapping[str, float]) -> str | None:
        """The lines of all, one below the other."""
        lines = [tracker.close(summary) for tracker in self._trackers]
        return "\n".join(line for line in lines if line) or None
