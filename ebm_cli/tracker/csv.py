"""Metrics as one CSV file and pictures as PNG files, for a spreadsheet or a notebook."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import override

from ebm_cli.record import files
from ebm_cli.registry import register
from ebm_cli.tracker.base import RunInfo, Tracker, TrackerSpec, shown

_METRICS = "metrics.csv"


class CsvTracker(Tracker):
    """Rows `step,key,value` in metrics.csv: the long form stays valid when a later step has other keys."""

    def __init__(self, directory: Path, step: int | None = None, *, in_sweep: bool = False) -> None:
        self._directory = directory
        self._in_sweep = in_sweep
        if step is not None:
            _cut(directory, step)
        self._file = _append_to(directory, _METRICS)
        self._writer = csv.writer(self._file, lineterminator="\n")
        if self._file.tell() == 0:
            self._write([("step", "key", "value")])

    @override
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write([(step, key, repr(float(value))) for key, value in metrics.items()])

    @override
    def images(self, step: int, images: Mapping[str, NDArray[np.uint8]]) -> None:
        """One PNG file per picture in images/."""
        for key, pixels in images.items():
            found = io.BytesIO()
            Image.fromarray(pixels).save(found, format="png")
            files.replace(self._directory, f"images/{key.replace('/', '_')}-{step:08d}.png", found.getvalue())

    @override
    def histograms(self, step: int, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Not kept: a distribution has no place in rows of one value."""

    @override
    def close(self, summary: Mapping[str, float]) -> str | None:
        """Close the file; the summary is in the run directory already."""
        self._file.close()
        return None if self._in_sweep else f"csv: {shown(self._directory / _METRICS)}"

    def _write(self, rows: list[tuple[int | str, str, str]]) -> None:
        self._writer.writerows(rows)
        self._file.flush()  # somebody may be watching the file


def _cut(directory: Path, step: int) -> None:
    """Drop the rows beyond a step, which the resumed run logs again."""
    if (directory / _METRICS).exists():
        lines = files.read(directory, _METRICS).splitlines(keepends=True)
        files.replace(directory, _METRICS, b"".join(line for line in lines if _until(step, line)))


def _until(step: int, line: bytes) -> bool:
    number = line.partition(b",")[0]
    return line.endswith(b"\n") and (not number.isdigit() or int(number) <= step)


def _append_to(directory: Path, name: str) -> TextIO:
    """The file opened at its end, on a new line even if a killed run left half a row."""
    file = files.append_text(directory, name)
    torn = files.read(directory, name)[-1:] not in (b"", b"\n")
    if torn:
        file.write("\n")
    return file


@register("tracker", "csv")
class Csv(TrackerSpec):
    """Write metrics.csv and images/*.png into the run directory."""

    shows_histograms = False

    @override
    def open(self, run: RunInfo) -> Tracker:
        """Start the file, or go on with the one of the interrupted run."""
        return CsvTracker(run.directory, run.step, in_sweep=run.in_sweep)
