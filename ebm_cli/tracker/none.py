"""No tracker: the run directory alone keeps the record."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from ebm_cli.registry import register
from ebm_cli.tracker.base import RunInfo, Tracker, TrackerSpec


class Silent(Tracker):
    """Takes everything and shows nothing."""

    @override
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    @override
    def images(self, step: int, images: Mapping[str, NDArray[np.uint8]]) -> None:
        """Nothing."""

    @override
    def histograms(self, step: int, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Nothing."""

    @override
    def close(self, summary: Mapping[str, float]) -> str | None:
        return None


@register("tracker", "none")
class NoTracker(TrackerSpec):
    """Show nothing."""

    shows = False

    @override
    def open(self, run: RunInfo) -> Tracker:
        """A tracker that does nothing."""
        return Silent()
