"""One run in a store of MLflow."""

import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from ebm_cli.tracker.base import End, Tracker, lacking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_AT_ONCE = 1000  # metrics that mlflow takes in a batch
_SECONDS = 1.0  # for which metrics wait for others: a batch costs the database as much as a single one
_OTHER = re.compile(r"[^\w./ :-]")  # what mlflow allows in no name
_STATUS = {"done": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}


def named(key: str) -> str:
    """The key with _ in place of every character that mlflow refuses."""
    return _OTHER.sub("_", key)


@dataclass(frozen=True)
class Record:
    """A run in the store: its id there, the step from which it goes on, and what the store has beyond that step."""

    id: str
    step: int = 0
    metrics: Collection[tuple[int, str]] = ()
    pictures: Collection[tuple[int, str]] = ()


class MlflowTracker(Tracker):
    """Metrics go to the store by the second. mlflow's functions for "the" active run are not used: runs could mix.

    A resumed run passes steps that the store has already: their values are the same, and are not sent again.
    """

    def __init__(self, client: "MlflowClient", record: Record, line: str | None) -> None:
        self._client = client
        self._record = record
        self._line = line
        self._waiting: list[Metric] = []
        self._sent = -_SECONDS
        self._last = record.step
        self._status = "KILLED"  # of a run whose end was not seen

    @override
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._last = step
        self._add(step, lacking(self._record.metrics, step, {named(key): value for key, value in metrics.items()}))
        if len(self._waiting) >= _AT_ONCE or time.monotonic() - self._sent >= _SECONDS:
            self._send()

    @override
    def images(self, step: int, images: Mapping[str, NDArray[np.uint8]]) -> None:
        shown = {named(key): pixels for key, pixels in images.items()}
        for key, pixels in lacking(self._record.pictures, step, shown).items():
            self._client.log_image(self._record.id, pixels, key=key, step=step, synchronous=True)

    @override
    def histograms(self, step: int, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Not kept: mlflow has no place for a distribution."""

    @override
    def ended(self, end: End) -> None:
        """Into the status of mlflow, which shows failed runs as such, and into tags."""
        self._status = _STATUS.get(end.status, "KILLED")
        told = {"status": end.status, **({} if end.error is None else {"error": end.error[:5000]})}
        for key, value in told.items():
            self._client.set_tag(self._record.id, key, value)

    @override
    def close(self, summary: Mapping[str, float]) -> str | None:
        """Send what waits and the summary, as metrics of the last step, and end the run."""
        self._add(self._last, {named(key): value for key, value in summary.items()})
        self._send()
        self._client.set_terminated(self._record.id, status=self._status)
        return self._line

    def _add(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(key, float(value), now, step) for key, value in metrics.items()]

    def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
            self._client.log_batch(self._record.id, metrics=batch)
        self._sent = time.monotonic()
