"""How chains move: traces of the energy and its autocorrelation, from what the evaluation of chains wrote down."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ebm_cli.page.chart import Chart, Line
from ebm_cli.record import files

_NAME = "chains.json"
_LARGEST = 1 << 20  # bytes
_MOST = 8  # lines


def of_run(path: Path) -> list[Chart]:
    """From the newest evaluation that has it, else from the end of the run; nothing where none has."""
    for place in _places(path):
        try:
            if 0 < (files.size(path, place) or 0) <= _LARGEST:
                return _charts(json.loads(files.text(path, place)))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
    return []


def _places(path: Path) -> list[str]:
    try:
        folders = files.names(path, "evaluations")
    except OSError:
        folders = []
    return [*(f"evaluations/{folder}/{_NAME}" for folder in reversed(folders)), f"samples/{_NAME}"]


def _charts(found: dict[str, Any]) -> list[Chart]:
    """Traces of some chains, those from data apart from those from noise by colour, and the autocorrelation."""
    steps = _numbers(found["steps"])
    lines = [
        Line(f"from {start}", steps, _numbers(values)[: len(steps)], colour)
        for colour, start in enumerate(("data", "noise"))
        for values in found["energy"][start][: _MOST // 2]
    ]
    lags, values = _numbers(found["lags"]), _numbers(found["autocorrelation"])
    apart = "where chains mix, those from data and from noise look alike"
    return [
        Chart("energy of chains", lines, note=f"nats, after the warm-up; {apart}"),
        Chart("autocorrelation of the energy", [Line("autocorrelation", lags, values)], x="steps apart",
              note="falls to 0 where chains forget where they were"),
    ]  # fmt: skip


def _numbers(values: Sequence[Any]) -> list[float]:
    return [float(value) if value is not None else math.nan for value in values]
