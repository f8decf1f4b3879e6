"""A whole run with the default tracker, read back from wandb's own offline file."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers import wandb_reader

from ebm_cli.cli.main import dispatch
from ebm_cli.registry import build, load_components
from ebm_cli.tracker import process
from ebm_cli.tracker.base import RunInfo

ARGUMENTS = [
    "train", "hydra.run.dir=outputs/run", "model.hidden=8", "steps=40", "log_every=5", "eval_every=20", "tracker=wandb",
    "evaluation=[pseudo_likelihood,samples]", "evaluation.samples.count=9",
]  # fmt: skip


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No account, no configuration of wandb's, no process that waits since another test, an empty directory."""
    monkeypatch.setattr(process, "_waiting", {})
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_ENTITY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.long
def test_wandb_holds_every_metric_of_metrics_jsonl_and_the_pictures(offline, capfd):
    assert dispatch(ARGUMENTS) == 0
    run = offline / "outputs" / "run"
    assert "wandb sync" in capfd.readouterr().err
    shown = {entry["_step"]: entry for entry in wandb_reader.history(run)}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 10
    for line in lines:
        step = line.pop("step")
        assert line == {key: shown[step][key] for key in line}
    pictures = {key for entry in shown.values() for key, value in entry.items() if isinstance(value, dict)}
    assert {"chains", "samples", "neighbours", "weights/W"} <= pictures
    summary = json.loads((run / "summary.json").read_text())
    found = wandb_reader.summary(run)
    assert found["pseudo_likelihood/log_pseudo_likelihood"] == summary["pseudo_likelihood/log_pseudo_likelihood"]


@pytest.mark.long
def test_a_process_that_waited_opens_the_tracker_where_the_run_is(offline, monkeypatch):
    """Of a job that was refused, for one: the next may run elsewhere."""
    (offline / "elsewhere").mkdir()
    monkeypatch.chdir(offline / "elsewhere")
    process.start("wandb")
    monkeypatch.chdir(offline)
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = process.apart(spec(), "wandb").open(RunInfo(Path("run"), "r1", "n", None, {}))
    tracker.log(0, {"x": 1.0})
    assert tracker.close({}).startswith("wandb (offline): look at it with  wandb leet run/wandb/")
    assert [row["x"] for row in wandb_reader.history(offline / "run")] == [1.0]


def spec():
    load_components()
    return build("tracker", yaml.safe_load((Path(__file__).parents[1] / "conf/tracker/wandb.yaml").read_text()))


BROKEN = """
Error, Settings = Exception, dict

class Broken:
    def __getattr__(self, name):
        raise OSError("wandb is broken")

def setup(**_):
    pass

def init(**_):
    {init}
    return Broken()
"""


@pytest.mark.long
@pytest.mark.quick("death")
@pytest.mark.parametrize(
    ("init", "expected"),
    [
        ('raise OSError("wandb is broken")', "tracker stopped: OSError: wandb is broken; metrics.jsonl is complete"),
        ("pass", "tracker stopped: OSError: wandb is broken; metrics.jsonl is complete"),
        ("import os; os._exit(7)", "tracker stopped: its process ended with exit code 7; metrics.jsonl is complete"),
    ],
    ids=["init", "log", "death"],
)
def test_a_wandb_that_fails_does_not_stop_the_run(offline, monkeypatch, capfd, init, expected):
    (offline / "fake").mkdir()
    (offline / "fake" / "wandb.py").write_text(BROKEN.format(init=init))
    monkeypatch.syspath_prepend(offline / "fake")
    assert dispatch(ARGUMENTS) == 0
    assert expected in capfd.readouterr().err
    assert len((offline / "outputs" / "run" / "metrics.jsonl").read_text().splitlines()) == 10


@pytest.mark.long
def test_the_tracker_of_a_killed_run_ends_and_leaves_what_it_has(offline):
    """On its own, but not with Ctrl-C or SIGTERM, which batch systems send to every process."""
    command = [sys.executable, "-m", "ebm_cli", *ARGUMENTS, "steps=1000000", "device.compile=never"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    run = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: any(map(has_history, offline.glob("outputs/run/wandb/*/*.wandb"))))
        tracker = child(run.pid)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(tracker, number)
        time.sleep(1)
        assert alive(tracker)
    finally:
        run.kill()
        run.wait()
    wait_for(lambda: not alive(tracker))
    (record,) = offline.glob("outputs/run/wandb/offline-run-*/*.wandb")
    assert has_history(record)
    assert 0 not in wandb_reader.exit_codes(record), "a run that broke off must not look finished"


def has_history(path):
    return any(record.WhichOneof("record_type") == "history" for record in wandb_reader.records(path))


def child(parent):
    """The process that runs the tracker."""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return next(int(pid) for pid in found if "tracker.worker" in Path(f"/proc/{pid}/cmdline").read_text())


def alive(pid):
    """Whether it runs; nobody may have taken note of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_tracker_that_is_stuck_does_not_outlive_the_run():
    code = "from ebm_cli.tracker import worker; worker._GRACE = 0.1; worker._outlive(-1)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=30, check=False).returncode == 1
