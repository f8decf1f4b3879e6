"""Trackio, in its database on this machine."""

import importlib
import importlib.util
import os
import shlex
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from ebm_cli.errors import UserError, install
from ebm_cli.registry import register
from ebm_cli.tracker.base import End, RunInfo, Tracker, TrackerSpec, finite, lacking, shown

if TYPE_CHECKING:
    import trackio


class TrackioError(Exception):
    """What trackio only warned of: a record that is not complete must not look so."""


class TrackioTracker(Tracker):
    """One run of trackio, by its own id: runs of one name stay apart, and a resumed one finds its own.

    `begin` makes the run with a status in its configuration: trackio has no other place for how a run ended, and
    writes a configuration but once. A resumed run passes steps that the store has already: they are not sent again.
    """

    def __init__(
        self,
        begin: Callable[[Mapping[str, str]], "trackio.Run"],
        run: RunInfo,
        there: Collection[tuple[int, str]],
        line: str | None,
    ) -> None:
        self._caught = warnings.catch_warnings(record=True)
        self._warned: Any = self._caught.__enter__()  # the list that warnings are put into
        warnings.simplefilter("always")
        self._begin = begin
        self._there = there
        self._line = line
        self._last = run.step or 0
        self._end: dict[str, str] = {"status": "broken off"}  # of a run whose end was not seen
        self._run = begin({"status": "running"})

    @override
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._send(step, metrics)

    @override
    def images(self, step: int, images: Mapping[str, NDArray[np.uint8]]) -> None:
        import trackio

        fresh = lacking(self._there, step, images)
        self._send(step, {key: trackio.Image(pixels) for key, pixels in fresh.items()})

    @override
    def histograms(self, step: int, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Distributions, binned here: trackio stores 64 counts, not the values."""
        import trackio

        kept = {key: finite(array) for key, array in lacking(self._there, step, values).items()}
        binned = {key: np.histogram(array, 64) for key, array in kept.items() if array.size}
        self._send(step, {key: trackio.Histogram(np_histogram=bins) for key, bins in binned.items()})

    @override
    def ended(self, end: End) -> None:
        """Kept for the configuration; a failure is an alert as well, which the page of trackio shows by itself."""
        import trackio

        self._end = {"status": end.status, **({} if end.error is None else {"error": end.error})}
        if end.status == "failed":
            self._run.alert("failed", end.error, level=trackio.AlertLevel.ERROR, step=self._last)

    @override
    def close(self, summary: Mapping[str, float]) -> str | None:
        """The summary as metrics of the last step, and how the run ended; returns when all is written."""
        try:
            self._run.finish()
            last = self._begin(self._end)
            last.log(dict(summary), step=self._last)
            last.finish()
            self._complain()
        finally:
            self._caught.__exit__(None, None, None)
        return self._line

    def _send(self, step: int, values: Mapping[str, Any]) -> None:
        self._last = step
        if fresh := lacking(self._there, step, values):
            self._run.log(fresh, step=step)
        self._complain()

    def _complain(self) -> None:
        """Raise TrackioError for what trackio has warned of since, in its own thread too."""
        said = [str(one.message) for one in self._warned if "trackio" in Path(one.filename).parts]
        self._warned.clear()
        if said:
            raise TrackioError(said[0])


@register("tracker", "trackio")
class Trackio(TrackerSpec):
    """Log to the database of Trackio on this machine; nothing is sent anywhere."""

    project: str | None
    folder: str | None
    run_name: str | None
    group: str | None
    tags: tuple[str, ...]
    notes: str | None

    @override
    def check(self) -> None:
        """Raise UserError if the optional package is missing."""
        if importlib.util.find_spec("trackio") is None:
            raise UserError(f"tracker=trackio: the trackio package is not installed; {install('trackio')}")

    @override
    def open(self, run: RunInfo) -> Tracker:
        """Start the run, or go on with the one of the interrupted run. Raises UserError like `check`."""
        self.check()
        if self.folder is not None:
            os.environ["TRACKIO_DIR"] = str(
                Path(self.folder).expanduser().absolute()
            )  # which trackio reads when it is imported
        load()
        from trackio.sqlite_storage import SQLiteStorage

        SQLiteStorage.validate_project_name(self._project())
        there = set() if run.step is None else _beyond(self._project(), run.run_id, run.step)
        return TrackioTracker(partial(self._begun, run), run, there, None if run.in_sweep else self.look())

    @override
    def look(self) -> str:
        place = "" if self.folder is None else f"TRACKIO_DIR={shown(Path(self.folder))} "
        return f"trackio: look at it with  {place}trackio show --project {shlex.quote(self._project())}"

    def _project(self) -> str:
        return self.project or "ebm"

    def _begun(self, run: RunInfo, end: Mapping[str, str]) -> "trackio.Run":
        """The run with its configuration, to which all belongs that trackio has no other place for."""
        import trackio

        about = {**run.about, "tags": list(self.tags), "notes": self.notes, **end}
        return trackio.Run(
            url=None,
            project=self._project(),
            client=None,
            name=(self.run_name or run.name).replace("/", "_"),  # a folder of pictures is called so
            run_id=run.run_id,
            group=self.group or run.group,
            config={**run.config, "run": about},
        )


def load() -> None:
    """Import what trackio needs. It would ask the server of Hugging Face for the name of who is logged in there."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for name in ("gradio_client", "huggingface_hub", "numpy", "PIL.Image", "starlette.applications", "uvicorn"):
        importlib.import_module(name)


def _beyond(project: str, run_id: str, step: int) -> set[tuple[int, str]]:
    """What the store has of steps beyond this one: trackio can delete whole runs alone."""
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs(project, run_id=run_id)
    return {(row["step"], key) for row in rows if row["step"] > step for key in row}
