"""Run directories written by hand: what `ebm compare` reads of a run, without training one."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import yaml

from ebm_cli.comparison.making import Asked, compared
from ebm_cli.comparison.shown import show
from ebm_cli.record import rows, runs
from ebm_cli.terminal import plain_console
from helpers.cli import ebm

ROWS = {
    "data": "d", "split": "test", "count": 4, "binarised": "threshold", "levels": 0, "noise": 0.0,
    "space": "2x2 binary", "fingerprint": "f",
}  # fmt: skip
EXACT = "exact/log_likelihood"


def written(
    path: Path,
    config: dict | None = None,
    metrics: dict | None = None,
    *,
    facts: dict | None = None,
    judged: dict | None = None,
    log_p: dict | None = None,
    index: dict | None = None,
) -> Path:
    """A run that is done. `judged` changes which rows were; `log_p` is of rows, by metric."""
    path.mkdir(parents=True, exist_ok=True)
    settings = {"steps": 10, "seed": 0, "dataset": {"name": "digits", "binarize": "auto"}, **(config or {})}
    (path / "config.yaml").write_text(yaml.safe_dump(settings))
    (path / "metadata.json").write_text(json.dumps({"status": "done", "overrides": [], **(facts or {})}))
    about = {"rows": ROWS | (judged or {})}
    summary = {"status": "done", "steps": 10, "judged_step": 10, **about, **(metrics or {})}
    if (facts or {}).get("status", "done") == "done":
        (path / "summary.json").write_text(json.dumps(summary))
    if log_p is not None:
        columns = {name: np.asarray(values, float) for name, values in log_p.items()}
        (path / rows.NAME).write_bytes(rows.pack(columns, index or {}, about["rows"]["fingerprint"]))
    return path


def evaluated(path: Path, time: str, results: dict) -> None:
    """One more evaluation of a run."""
    folder = path / "evaluations" / time
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"step": 10, "split": "test", "rows": ROWS, **results}))


def exact(path: Path, log_p: list[float], config: dict | None = None, **more) -> Path:
    """One of which exact log p of every row is known."""
    return written(path, config, {EXACT: float(np.mean(log_p))}, log_p={EXACT: log_p}, **more)


def ais(path, low, high, **more):
    """With a bracket, and an error of log Z of 0.1 nats."""
    half = 0.1 * 1.959963984540054
    found = {
        "ais/log_likelihood": high, "raise/log_likelihood": low, "ais/gap": high - low, "ais/weight_ess": 50.0,
        "ais/log_z": 3.0, "ais/log_z_low": 3.0 - half, "ais/log_z_high": 3.0 + half,
    }  # fmt: skip
    spread = np.array([-0.3, 0.1, 0.3, -0.1])
    return written(path, more.pop("config", None), found, log_p={"ais/log_likelihood": high + spread}, **more)


def table(*words: str, width: int = 120, whole: bool = False, **asked) -> str:
    found = io.StringIO()
    console = plain_console(file=found, width=width, color_system=None)
    show(compared(runs.named(words), Asked(**asked)), console, whole=whole)
    return found.getvalue()


def lines_of(*words: str) -> list[dict]:
    answer = ebm("compare format=csv", *words)
    assert answer.code == 0, answer.err
    return list(csv.DictReader(io.StringIO(answer.out)))
