"""Run directories written by hand: what `ebm compare` reads of a run, without training one."""

import json
from pathlib import Path

import numpy as np
import yaml

from ebm_cli.record import rows

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
