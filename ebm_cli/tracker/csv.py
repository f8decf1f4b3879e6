"""Metrics as one table in a CSV file and pictures as PNG files, for a spreadsheet or a notebook."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import override

from ebm_cli.record import files
from ebm_cli.registry import register
from ebm_cli.tracker.base import RunInfo, Tracker, TrackerSpec, shown

_METRICS = "metrics.csv"
_LONG = ["step", "key", "value"]  # heads of a file with a row for each number, which is read as well

Rows = dict[int, dict[str, str]]


class CsvTracker(Tracker):
    """A row for each step in metrics.csv and a column for each metric, empty where it was not measured.

    A metric that comes for the first time adds a column at the end: the file is then replaced by one with more columns,
    so that it is a table at any time. Else a row is added, or the last one written again with what came later.
    """

    def __init__(self, directory: Path, step: int | None = None, *, in_sweep: bool = False) -> None:
        self._directory = directory
        self._in_sweep = in_sweep
        self._heads, rows = _read(directory)
        self._last: tuple[int, int | None, dict[str, str]] = (0, None, {})  # the row: where it begins, its step, itself
        self._replace({at: row for at, row in rows.items() if step is None or at <= step})

    @override
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        values = {key: repr(float(value)) for key, value in metrics.items()}
        new = [key for key in values if key not in self._heads]
        if new:
            self._heads += new
            _, rows = _read(self._directory)
            rows[step] = rows.get(step, {}) | values
            self._replace(rows)
        else:
            self._put(step, values)

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
        """The file is whole already, and the summary in the run directory."""
        return None if self._in_sweep else f"csv: {shown(self._directory / _METRICS)}"

    def _put(self, step: int, values: Mapping[str, str]) -> None:
        """Add a row, or write the last one again, at whose beginning the file is cut."""
        start, last, row = self._last
        with files.append(self._directory, _METRICS) as file:
            if step != last:
                start, row = file.tell(), {}
            file.truncate(start)
            row = {**row, **values}
            file.write(_text([self._cells(step, row)]))
        self._last = (start, step, row)

    def _replace(self, rows: Rows) -> None:
        ordered = sorted(rows)
        before = _text([["step", *self._heads], *(self._cells(step, rows[step]) for step in ordered[:-1])])
        last = _text(self._cells(step, rows[step]) for step in ordered[-1:])
        files.replace(self._directory, _METRICS, before + last)
        self._last = (len(before), ordered[-1], rows[ordered[-1]]) if ordered else (len(before), None, {})

    def _cells(self, step: int, row: Mapping[str, str]) -> list[str]:
        return [str(step), *(row.get(head, "") for head in self._heads)]


def _text(rows: Iterable[Sequence[str]]) -> bytes:
    found = io.StringIO()
    csv.writer(found, lineterminator="\n").writerows(rows)
    return found.getvalue().encode()


def _read(directory: Path) -> tuple[list[str], Rows]:
    """The metrics and rows of the file that is there, without a row that a killed run left half-written."""
    if not files.there(directory, _METRICS):
        return [], {}
    whole = files.read(directory, _METRICS).decode("utf-8", "replace").rpartition("\n")[0]
    heads, *lines = [*csv.reader(io.StringIO(whole))] or [["step"]]
    if heads == _LONG:
        return _unfolded(lines)
    good = [line for line in lines if len(line) == len(heads) and line[0].isdecimal()]
    return heads[1:], {int(line[0]): _filled(heads[1:], line[1:]) for line in good}


def _filled(heads: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    return {head: cell for head, cell in zip(heads, cells, strict=True) if cell}


def _unfolded(lines: Iterable[Sequence[str]]) -> tuple[list[str], Rows]:
    """Rows of one number as rows of one step."""
    rows: Rows = {}
    for line in lines:
        if len(line) == len(_LONG) and line[0].isdecimal():
            rows.setdefault(int(line[0]), {})[line[1]] = line[2]
    return list(dict.fromkeys(key for row in rows.values() for key in row)), rows


@register("tracker", "csv")
class Csv(TrackerSpec):
    """Write metrics.csv and images/*.png into the run directory."""

    shows_histograms = False

    @override
    def open(self, run: RunInfo) -> Tracker:
        """Start the file, or go on with the one of the interrupted run."""
        return CsvTracker(run.directory, run.step, in_sweep=run.in_sweep)
