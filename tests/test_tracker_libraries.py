"""Whole runs with MLflow and Trackio themselves, read back by their own readers. Both are extras."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.cli import TINY, ebm, trained
from test_resume import at_step

from ebm_cli.errors import RunError
from ebm_cli.record.run import Run
from ebm_cli.tracker import process

pytestmark = pytest.mark.long

MLFLOW = """
import json, sys
from mlflow import MlflowClient
client, found = MlflowClient(tracking_uri="sqlite:///mlflow.db"), []
for run in client.search_runs([client.get_experiment_by_name("ebm").experiment_id]):
    key = run.info.run_id
    points = [[point.step, point.value] for point in client.get_metric_history(key, "loss")]
    pictures = [file.path for file in client.list_artifacts(key, "images") if file.path.endswith(".png")]
    about = {"name": run.info.run_name, **run.data.tags, **run.data.params, "state": run.info.status}
    found.append({"points": points, "pictures": pictures, "about": about})
print(json.dumps(found))
"""
TRACKIO = """
import json
import trackio
from trackio.sqlite_storage import SQLiteStorage
found = []
for run in trackio.Api().runs("ebm"):
    rows = SQLiteStorage.get_logs("ebm", run_id=run.id)
    points = [[row["step"], row["loss"]] for row in rows if "loss" in row]
    pictures = [row["samples"]["file_path"] for row in rows if "samples" in row]
    about = {"name": run.name, **run.config["run"], "model.hidden": str(run.config["model"]["hidden"])}
    found.append({"points": points, "pictures": pictures, "about": about})
print(json.dumps(found))
"""
READERS = {"mlflow": MLFLOW, "trackio": TRACKIO}
FAILED = {"mlflow": "FAILED", "trackio": "failed"}
DONE = {"mlflow": "FINISHED", "trackio": "done"}


@pytest.fixture(params=["mlflow", "trackio"])
def name(request, monkeypatch, tmp_path):
    """In an empty directory, with no process that waits since another test."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed (extra {request.param})")
    monkeypatch.setattr(process, "_waiting", {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return request.param


def held(name):
    """The runs in the store, read in another process: each library keeps what it was imported with."""
    done = subprocess.run(
        [sys.executable, "-c", READERS[name]], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    return json.loads(done.stdout.splitlines()[-1])


def losses(run="run"):
    return [*enumerate(Run(Path(run)).logged("loss"), 1)]


def test_the_store_holds_the_run(name, capfd):
    trained(f"tracker={name}")
    (run,) = held(name)
    assert [tuple(point) for point in run["points"]] == losses()
    assert len(run["pictures"]) >= 1
    assert run["about"] | {"name": "run", "status": run["about"]["status"], "model.hidden": "8"} == run["about"]
    assert capfd.readouterr().out == ""


def test_a_run_that_failed_is_failed_there_and_goes_on_with_each_step_once(name, monkeypatch):
    def fails():
        raise RunError("out of luck")

    with monkeypatch.context() as patched:
        at_step(patched, 9, fails)
        assert ebm("train", *TINY, f"tracker={name}", "hydra.run.dir=run", "save_every=4").code == 1
    (before,) = held(name)
    assert FAILED[name] in before["about"].values()
    assert before["about"]["error"] == "out of luck"
    assert ebm("train resume=run").code == 0
    (run,) = held(name)
    assert DONE[name] in run["about"].values()
    assert [tuple(point) for point in run["points"]] == losses()
    assert len(run["points"]) == 12


def test_jobs_of_a_multirun_make_the_store_at_once(name):
    words = [*TINY, f"tracker={name}", "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    answer = ebm("train -m hydra.sweep.dir=sweep", *words)
    assert answer.code == 0, answer.err
    assert answer.out.count(f"{name}: look at it with") == 1
    assert sorted(run["about"]["name"] for run in held(name)) == ["seed=1", "seed=2"]
    assert {len(run["points"]) for run in held(name)} == {12}
