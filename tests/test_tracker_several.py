"""Several trackers of one run."""

import csv
from pathlib import Path

import pytest
import yaml
from helpers.cli import TINY, assert_refused, ebm, train, trained

from ebm_cli.errors import UserError
from ebm_cli.registry import load_components
from ebm_cli.tracker import csv as tables
from ebm_cli.tracker import several


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_components()


def table():
    return [*csv.DictReader(Path("run/metrics.csv").read_text().splitlines())]


def saved(run="run"):
    return yaml.safe_load(Path(run, "config.yaml").read_text())["tracker"]


@pytest.mark.long
def test_each_records_the_run():
    pytest.importorskip("tensorboard")
    answer = train("tracker=[csv,tensorboard]")
    assert answer.code == 0
    assert "csv: run/metrics.csv\n" in answer.err
    assert "tensorboard --logdir run/tensorboard\n" in answer.err
    assert len(table()) == 12
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator("run/tensorboard").Reload()
    assert [event.step for event in events.Scalars("loss")] == [*range(1, 13)]
    assert saved() == {"name": ["csv", "tensorboard"]}


def test_what_befalls_one_is_no_matter_to_the_others(monkeypatch):
    pytest.importorskip("tensorboard")

    def fails(*_):
        raise OSError("no space left")

    monkeypatch.setattr(tables.CsvTracker, "log", fails)
    answer = train("tracker=[csv,tensorboard]")
    assert answer.code == 0
    assert "tracker stopped: OSError: no space left" in answer.err
    assert "tensorboard --logdir run/tensorboard\n" in answer.err


@pytest.mark.long
def test_a_resumed_run_keeps_them_or_takes_others():
    trained("tracker=[csv,none] steps=6")
    assert ebm("train resume=run steps=8").code == 0
    assert saved() == {"name": ["csv", "none"]}
    assert ebm("train resume=run steps=9 tracker=none").code == 0
    assert saved() == {"name": "none"}
    assert ebm("train resume=run steps=10 tracker=[none,csv]").code == 0
    assert [row["step"] for row in table()] == [*map(str, range(1, 9)), "10"]


@pytest.mark.long
def test_jobs_of_a_multirun_have_all_of_them():
    assert ebm("train -m hydra.sweep.dir=sweep", *TINY, "tracker=[csv,none]", "seed=1,2").code == 0
    assert Path("sweep/0/metrics.csv").exists()
    assert Path("sweep/1/metrics.csv").exists()


def test_each_takes_the_keys_that_it_has():
    keys = {
        "project": "p",
        "entity": None,
        "mode": "offline",
        "run_name": None,
        "group": None,
        "tags": [],
        "notes": None,
    }
    found = several.built({"name": ["csv", "wandb"], **keys, "job_type": None})
    assert list(found) == ["csv", "wandb"]
    assert found["wandb"].project == "p"
    with pytest.raises(UserError, match=r"unknown key tracker.projekt \(takes: no keys\)"):
        several.built({"name": ["csv", "none"], "projekt": 1})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tracker=[]", "tracker=[]: name at least one; tracker=none for none"),
        ("tracker=[csv,csv]", "csv"),
        ("tracker=[csv,nope]", "nope"),
    ],
)
def test_what_is_refused(line, words):
    assert_refused(train(line), words)
    assert not Path("run").exists()
