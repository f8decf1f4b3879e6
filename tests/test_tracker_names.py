"""What trackers are told of a run: its name, its sweep, where it runs, and how it ended."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from helpers import wandb_reader
from helpers.cli import TINY, assert_refused, ebm, facts, train
from test_resume import at_step
from test_tracker import _nobody, info, spec  # noqa: F401 - a fixture

from ebm_cli.commands import looking
from ebm_cli.commands import train as command
from ebm_cli.commands.configuration import merged
from ebm_cli.commands.places import rooted
from ebm_cli.errors import RunError
from ebm_cli.record.ledger import Entry, Ledger
from ebm_cli.registry import load_components
from ebm_cli.tracker.base import End, Tracker, TrackerSpec
from ebm_cli.tracker.guard import Guarded
from ebm_cli.tracker.wandb import _has_leet


class Note(Tracker):
    """Keeps what it is told of a run."""

    def __init__(self, run):
        self.run, self.end = run, None

    def log(self, step, metrics):
        pass

    images = histograms = log

    def ended(self, end):
        self.end = end

    def close(self, summary):
        assert self.end is not None, "closed before it was told how the run ended"


@pytest.fixture
def noted(monkeypatch):
    """The trackers of the runs of a test, in place of those that were asked for."""
    seen = []

    def opened(_, run):
        seen.append(Note(run))
        return seen[-1]

    monkeypatch.setattr(command, "guarded", opened)
    return seen


@pytest.mark.long
def test_a_job_of_a_multirun_is_called_what_it_varies_also_when_it_goes_on_by_itself(noted):
    words = [*(word for word in TINY if not word.startswith("model.")), "tracker=csv", "optimizer.lr=0.1"]
    assert ebm("train -m hydra.sweep.dir=sweep", *words, "model.hidden=4,8", "seed=1,2").code == 0
    names = ["model.hidden=4 seed=1", "model.hidden=4 seed=2", "model.hidden=8 seed=1", "model.hidden=8 seed=2"]
    assert [(note.run.name, note.run.group) for note in noted] == [(name, "sweep") for name in names]
    assert ebm("train resume=sweep/1 steps=14").code == 0
    last, before = noted[-1].run, noted[1].run
    assert (last.name, last.group, last.run_id) == (names[1], "sweep", before.run_id)
    assert (last.in_sweep, before.in_sweep) == (False, True)


def test_a_run_is_called_as_its_directory_and_says_where_it_runs(noted, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "417")
    assert train("seed=3", "out/mine").code == 0
    run = noted[0].run
    assert (run.name, run.group) == ("mine", None)
    assert "seed=3" in run.about["overrides"]
    assert run.about["job"] == "417"
    assert run.about["host"] == facts(Path("out/mine"))["host"]
    assert run.about["directory"] == str(Path("out/mine").absolute())


@pytest.mark.long
def test_trackers_are_told_how_a_run_ended(noted, monkeypatch):
    def fails():
        raise RunError("out of luck")

    def stops():
        raise KeyboardInterrupt

    assert train().code == 0
    for number, act in enumerate((fails, stops)):
        with monkeypatch.context() as patched:
            at_step(patched, 6, act)
            train(directory=f"run-{number}")
    assert [note.end for note in noted] == [
        End("done", 0), End("failed", 1, "out of luck"), End("stopped", 130),
    ]  # fmt: skip


def test_the_guard_tells_how_a_run_ended(tmp_path):
    class Spec(TrackerSpec):
        def open(self, run):
            self.made = Note(run)
            return self.made

    for given, found in ((End("done", 0), End("done", 0)), (None, None)):
        asked = Spec()
        tracker = Guarded(asked, info(tmp_path), timeout=5)
        if given:
            tracker.ended(given)
        said = tracker.close({})
        assert asked.made.end == found
        assert ("AssertionError" in (said or "")) == (given is None)


@pytest.mark.quick("end1*")
@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        (End("done", 0), 0, {"status": "done"}),
        (End("failed", 1, "not finite"), 1, {"status": "failed", "error": "not finite"}),
        (End("stopped", 75), 75, {"status": "stopped"}),
        (None, 1, {}),
    ],
)
def test_wandb_records_how_a_run_ended(tmp_path, end, code, told):
    tracker = spec("wandb").open(info(tmp_path / "out"))
    if end:
        tracker.ended(end)
    tracker.close({"loss": 1.0})
    (record,) = wandb_reader.segments(tmp_path / "out")
    assert wandb_reader.exit_codes(record) == [code]
    found = wandb_reader.summary(tmp_path / "out")
    assert {key: value for key, value in found.items() if not key.startswith("_")} == {"loss": 1.0, **told}


KEYS = {
    "project": ("WANDB_PROJECT", "ebm"),
    "entity": ("WANDB_ENTITY", None),
    "run_name": ("WANDB_NAME", "run-one"),
    "group": ("WANDB_RUN_GROUP", "sweep-1"),
    "notes": ("WANDB_NOTES", None),
    "job_type": ("WANDB_JOB_TYPE", "train"),
}


@pytest.mark.parametrize("key", KEYS)
def test_a_key_comes_before_the_variable_of_wandb_and_that_before_the_run(monkeypatch, tmp_path, key):
    variable, usual = KEYS[key]
    shown = "name" if key == "run_name" else key
    assert spec("wandb")._named(info(tmp_path))[shown] == usual
    monkeypatch.setenv(variable, "of the environment")
    assert spec("wandb")._named(info(tmp_path))[shown] == "of the environment"
    assert spec("wandb", **{key: "typed"})._named(info(tmp_path))[shown] == "typed"


def test_tags(monkeypatch, tmp_path):
    assert spec("wandb")._named(info(tmp_path))["tags"] == ()
    monkeypatch.setenv("WANDB_TAGS", "one,two")
    assert spec("wandb")._named(info(tmp_path))["tags"] == ("one", "two")
    assert spec("wandb", tags=["mine"])._named(info(tmp_path))["tags"] == ("mine",)


def test_wandb_shows_a_run_by_its_keys(tmp_path):
    about = {"overrides": ["seed=3"], "host": "here", "job": None}
    named = {"project": "p", "run_name": "n", "group": "g", "tags": ["t"], "notes": "why", "job_type": "j"}
    spec("wandb", **named).open(dataclasses.replace(info(tmp_path / "out"), about=about)).close({})
    run = wandb_reader.runs(tmp_path / "out")[0]
    shown = {key: run["name" if key == "run_name" else key] for key in named}
    assert shown == named
    assert run["config"]["run"] == about
    assert run["config"]["seed"] == 3


def test_the_configuration_of_an_older_run_has_not_all_keys_of_wandb():
    saved = {"steps": 3, "tracker": {"name": "wandb", "project": "ebm", "entity": None, "mode": "auto", "tags": []}}
    composed = {"plugins": [], "resume": "run", "tracker": {"name": "wandb", "group": "g"}}
    found = merged(saved, composed, ["tracker.group=g"])["tracker"]
    assert found == saved["tracker"] | {"run_name": None, "group": "g", "notes": None, "job_type": None}


@pytest.mark.long
def test_the_name_of_a_run_is_not_that_of_a_tracker(noted):
    assert train("tracker=wandb 'tracker.name=my run'").code == 0
    assert noted[0].run.config["tracker"] | {"name": "wandb", "run_name": "my run"} == noted[0].run.config["tracker"]
    assert_refused(ebm("train tracker.name=csv"), "choose with tracker=csv")


def test_one_line_sends_all_jobs_of_a_multirun(tmp_path):
    found = Ledger(Path("my sweep"), [], [Entry(n, place, (), {}) for n, place in enumerate(("a/0", "a/1", "2"))])
    assert looking.at_sweep(found) == []
    for name in ("a/0/wandb/offline-run-x", "2/wandb/offline-run-y", "a/1/tensorboard"):
        Path("my sweep", name).mkdir(parents=True)
    assert looking.at_sweep(found) == [
        "wandb (offline): send all of it with  wandb sync 'my sweep'/*/wandb/offline-run-* "
        "'my sweep'/*/*/wandb/offline-run-*",
        "tensorboard: look at all of it with  tensorboard --logdir 'my sweep'",
    ]


def test_a_store_of_all_jobs_of_a_multirun_is_named_once(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    load_components()
    for place in ("sweep/0", "sweep/1"):
        Path(place).mkdir(parents=True)
    found = Ledger(Path("sweep"), [], [Entry(n, str(n), (), {}) for n in range(2)])
    keys = ("project", "tracking_uri", "folder", "run_name", "group", "notes")
    config = {"tracker": dict.fromkeys(keys) | {"name": ["csv", "mlflow", "trackio"], "tags": []}}
    Path("sweep/1/config.yaml").write_text(yaml.safe_dump(config))
    assert looking.at_sweep(found) == [
        "mlflow: look at it with  mlflow ui --backend-store-uri sqlite:///mlflow.db",
        "trackio: look at it with  trackio show --project ebm",
    ]
    Path("sweep/1/config.yaml").write_text(yaml.safe_dump({"tracker": {"name": "of yore"}}))
    assert looking.at_sweep(found) == []


@pytest.mark.parametrize("name", ["trackio", ["csv", "trackio"]])
def test_a_resumed_run_finds_the_store_from_any_working_directory(tmp_path, name):
    load_components()
    tracker = {"name": name, "project": "rel", "folder": "store"}
    assert rooted({"tracker": tracker})["tracker"] == tracker | {"folder": str(tmp_path / "store")}


@pytest.mark.parametrize(
    ("version", "there"), [("0.27.9", False), ("0.28.0", True), ("1.0.0rc1", True), ("dev", False)]
)
def test_leet_is_named_where_wandb_has_it(monkeypatch, version, there):
    monkeypatch.setattr("wandb.__version__", version)
    assert _has_leet() == there


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "csv"])
def test_a_job_of_a_multirun_leaves_that_line_to_it(tmp_path, name):
    pytest.importorskip(name)
    tracker = spec(name).open(dataclasses.replace(info(tmp_path), in_sweep=True))
    tracker.log(0, {"x": 1.0})
    assert tracker.close({}) is None
