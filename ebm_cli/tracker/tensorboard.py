"""Event files for TensorBoard."""

import importlib.util
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from ebm_cli.errors import UserError, install
from ebm_cli.record import files
from ebm_cli.registry import register
from ebm_cli.tracker.base import RunInfo, Tracker, TrackerSpec, finite, shown


class TensorboardTracker(Tracker):
    """A SummaryWriter in <run>/tensorboard; a resumed run adds a second event file, which TensorBoard joins.

    That file says from which step on those before it no longer count.
    """

    def __init__(self, run: RunInfo) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._directory = run.directory / "tensorboard"
        self._last = 0
        self._in_sweep = run.in_sweep
        files.check(run.directory, self._directory.name)
        beyond = None if run.step is None else run.step + 1
        self._writer: Any = SummaryWriter(str(self._directory), purge_step=beyond)
        text = json.dumps(dict(run.config), indent=2, default=str)
        self._writer.add_text("config", "    " + text.replace("\n", "\n    "))  # four spaces: shown as it is

    @override
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._last = step
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)

    @override
    def images(self, step: int, images: Mapping[str, NDArray[np.uint8]]) -> None:
        for key, pixels in images.items():
            self._writer.add_image(key, pixels, step, dataformats="HW" if pixels.ndim == 2 else "HWC")

    @override
    def histograms(self, step: int, values: Mapping[str, NDArray[np.float32]]) -> None:
        for key, array in values.items():
            if (kept := finite(array)).size:
                self._writer.add_histogram(key, kept, step)

    @override
    def close(self, summary: Mapping[str, float]) -> str | None:
        """Add the summary as scalars of the last step, then flush."""
        for key, value in summary.items():
            self._writer.add_scalar(f"summary/{key}", value, self._last)
        self._writer.close()
        if self._in_sweep:
            return None
        return f"tensorboard: look at it with  tensorboard --logdir {shown(self._directory)}"


@register("tracker", "tensorboard")
class Tensorboard(TrackerSpec):
    """Write event files for TensorBoard into <run>/tensorboard."""

    @override
    def check(self) -> None:
        """Raise UserError if the optional package is missing."""
        if importlib.util.find_spec("tensorboard") is None:
            raise UserError(f"tracker=tensorboard: the tensorboard package is not installed; {install('tensorboard')}")

    @override
    def open(self, run: RunInfo) -> Tracker:
        self.check()
        return TensorboardTracker(run)
