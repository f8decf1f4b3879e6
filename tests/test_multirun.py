"""Several runs from one command line: each in its own directory, one table, and no failure stops the others."""

import json
import os
import signal
from pathlib import Path

import pytest
from helpers.cli import TINY, assert_refused, ebm, facts, snapshot
from test_resume import at_step


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def sweep(line: str):
    return ebm("train -m", *TINY, "hydra.sweep.dir=sweep", *line.split())


def jobs() -> list[dict]:
    return json.loads(Path("sweep/summary.json").read_text())["jobs"]


def test_four_jobs():
    answer = sweep("objective=cd,pcd model.hidden=4,8")
    assert answer.code == 0, answer.err
    assert sorted(path.name for path in Path("sweep").iterdir() if path.is_dir()) == ["0", "1", "2", "3"]
    assert all(facts(Path("sweep", name))["status"] == "done" for name in "0123")
    assert [job["status"] for job in jobs()] == ["done"] * 4
    swept = [f"objective={objective} model.hidden={hidden}" for objective in ("cd", "pcd") for hidden in (4, 8)]
    found = [{word for word in job["overrides"] if word.startswith(("objective=", "model.hidden="))} for job in jobs()]
    assert sorted(map(sorted, found)) == sorted(sorted(words.split()) for words in swept)
    assert answer.out.count("multirun sweep") == 1
    assert all(f"objective={name}" in answer.out for name in ("cd", "pcd"))
    assert all("samples/copies" in job["summary"] for job in jobs())


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("model.hidden=0,4", "model.hidden = 0: must be greater than or equal to 1"),
        ("optimizer.lr=1e38,0.1", "is not finite"),
        pytest.param(
            "steps=12 sampler=block_gibbs,gibbs objective.centered=true,false model.hidden=4 seed=-1,1",
            "seed = -1",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_job_that_fails_does_not_stop_the_others(line, why):
    answer = sweep(line)
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert jobs()[0]["status"] == "failed"
    assert why in jobs()[0]["error"]
    assert jobs()[-1]["status"] == "done"
    assert "failed" in answer.out
    assert why.split()[-1] in answer.out


def test_a_repeated_multirun_is_refused_and_changes_nothing():
    assert sweep("seed=1,2").code == 0
    before = snapshot(Path("sweep"))
    assert_refused(sweep("seed=3,4"), "hydra.sweep.dir = sweep: the jobs of a multirun are there", "resume=auto")
    assert snapshot(Path("sweep")) == before


def test_multiruns_of_the_same_second_do_not_share_a_directory():
    for _ in range(2):
        assert ebm("train -m", *TINY, "steps=1").code == 0
    assert len(list(Path("outputs").glob("multirun_*"))) == 2


def test_a_job_in_the_directory_of_a_run_leaves_it_alone():
    assert ebm("train", *TINY, "hydra.run.dir=sweep/deep/0").code == 0
    before = snapshot(Path("sweep/deep/0"))
    assert_refused(sweep("seed=1,2 hydra.sweep.subdir=deep/${hydra.job.num}"), "sweep/deep/0: a run is there already")
    assert snapshot(Path("sweep/deep/0")) == before


def test_a_run_that_is_put_there_meanwhile_is_left_alone(monkeypatch):
    def meanwhile():
        if not Path("sweep/1").exists():
            assert ebm("train", *TINY, "steps=5 hydra.run.dir=sweep/1").code == 0

    at_step(monkeypatch, 8, meanwhile)
    answer = sweep("seed=1,2")
    assert answer.code == 1
    assert "job 1 failed: steps: a resumed run keeps its own" in answer.out or "seed" in answer.out
    assert facts(Path("sweep/1"))["status"] == "done"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_the_whole_multirun(number, code, monkeypatch):
    at_step(monkeypatch, 5, lambda: os.kill(os.getpid(), number))
    assert sweep("seed=1,2,3").code == code
    assert [job["status"] for job in jobs()] == ["stopped", "new", "new"]
    assert facts(Path("sweep/0"))["status"] == "stopped"
