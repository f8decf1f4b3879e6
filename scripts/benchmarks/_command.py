"""The command line in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from _case import AbsentError

ROOT = Path(__file__).resolve().parent.parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


class TrainingRun(NamedTuple):
    """Seconds of a run of `ebm train`."""

    whole: float  # from the start of the process to its end
    first_record: float  # from the start of the process until the metrics of the last logged step were written
    training: float  # as its summary.json says


def ebm(*arguments: str, root: str | None = None) -> float:
    """Seconds that one command takes, of another clone, by the environment of its own, where one is named."""
    environment = dict(os.environ)
    if SHARED_DATA.exists():
        environment.setdefault("EBM_DATA", str(SHARED_DATA))
    begin = time.perf_counter()
    command = [sys.executable if root is None else python_of(root), "-m", "ebm_cli", *arguments]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ebm {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return time.perf_counter() - begin


def python_of(clone: str) -> str:
    """The interpreter of another clone, whose defaults are the installed ones; AbsentError where it has none yet."""
    found = Path(clone, ".venv", "bin", "python")
    if not found.exists():
        raise AbsentError(f"{clone} has no .venv: run its scripts/ebm once")
    return str(found)


def train(*overrides: str) -> TrainingRun:
    """One run in a directory that is then removed."""
    with tempfile.TemporaryDirectory(prefix="ebm-bench-") as parent:
        directory, begin = Path(parent, "run"), time.time()
        whole = ebm("train", *overrides, f"hydra.run.dir={directory}")
        recorded = (directory / "metrics.jsonl").stat().st_mtime - begin
        summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
        return TrainingRun(whole, recorded, summary["training_seconds"])
