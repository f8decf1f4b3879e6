"""Several runs from one command line: each in its own directory, one table, and no failure stops the others."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.cli import TINY, assert_refused, ebm, facts, snapshot
from test_resume import at_step

from ebm_cli.commands import multi, same_data
from ebm_cli.record import files


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def sweep(line: str):
    return ebm("train -m", *TINY, "hydra.sweep.dir=sweep", *line.split())


def jobs() -> list[dict]:
    return json.loads(Path("sweep/summary.json").read_text())["jobs"]


@pytest.mark.long
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


@pytest.mark.quick("optimizer*")
@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("optimizer.lr=1e38,0.1", "is not finite"),
        ("dataset=array dataset.path=nowhere.npz,rows.npz", "nowhere.npz"),
    ],
)
def test_a_job_that_fails_does_not_stop_the_others(line, why):
    np.savez("rows.npz", train=np.random.default_rng(0).integers(0, 2, (40, 6)).astype(float))
    answer = sweep(line)
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert jobs()[0]["status"] == "failed"
    assert why in jobs()[0]["error"]
    assert jobs()[-1]["status"] == "done"
    assert "failed" in answer.out
    assert why.split()[-1] in answer.out


@pytest.mark.quick("seed=1,2,-1*", "model.hidden=16*", "device.ranks*", "model=product*")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("model.hidden=16,-3,64", ["job 1: model.hidden = -3: must be greater than or equal to 1; no job was begun"]),
        ("seed=1,2,-1 model.hidden=0,4", ["jobs 0, 1: model.hidden = 0: ", "; jobs 2, 5: seed = -1: must be "]),
        ("seed=-1 model.hidden=1,2,3,4,5,6,7", ["jobs 0, 1, 2, 3, 4 and 2 more: seed = -1"]),
        ("sampler=gibbs,mala", ["job 1: sampler=mala wants a", "model=rbm is not; samplers that fit: "]),
        ("steps=1,-1,-2,-3,-4,-5", ["job 3: steps = -3: must be ", "; and 2 more jobs; no job was begun"]),
        ("device.ranks=2 batch_size=10,11", ["job 1: batch_size = 11", "device.ranks"]),
        ("batch_size=10,20 tracker.colour=red", ["colour"]),
        ("model=product,rbm model.parts=[nowhere]", ["model.parts"]),
        ("+stpes=1,2", ["jobs 0, 1: unknown key stpes; did you mean steps or stop?"]),
    ],
)
def test_what_is_wrong_with_any_job_is_said_before_the_first_begins(line, words):
    assert_refused(sweep(line), *words)
    assert not Path("sweep").exists()


@pytest.mark.long
def test_a_multirun_that_is_taken_up_with_a_wrong_value_is_left_as_it_was():
    assert sweep("seed=1,2").code == 0
    before = snapshot(Path("sweep"))
    assert_refused(ebm("train -m resume=sweep seed=3,-4"), "job 3: seed = -4: must be greater than or equal to 0")
    assert snapshot(Path("sweep")) == before


@pytest.mark.long
def test_several_trackers_are_looked_at_as_each_job_has_them(monkeypatch):
    begun = []
    monkeypatch.setattr("ebm_cli.tracker.process.start", lambda name: None)
    monkeypatch.setattr(multi, "train", lambda request: begun.append(request.config["seed"]) or 0)
    ebm("train -m hydra.sweep.dir=sweep seed=1,2 tracker=[wandb,csv] tracker.project=mine")
    assert begun == [1, 2]


@pytest.mark.long
def test_a_repeated_multirun_is_refused_and_changes_nothing():
    assert sweep("seed=1,2").code == 0
    before = snapshot(Path("sweep"))
    assert_refused(sweep("seed=3,4"), "hydra.sweep.dir = sweep: the jobs of a multirun are there", "resume=auto")
    assert snapshot(Path("sweep")) == before


@pytest.mark.long
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


@pytest.mark.long
def test_a_job_that_begins_after_its_data_changed_is_refused():
    rows = np.random.default_rng(0).integers(0, 2, (40, 6)).astype(float)
    np.savez("rows.npz", train=rows)
    np.savez("more.npz", train=rows)
    assert sweep("dataset=array dataset.path=rows.npz seed=1,2").code == 0
    np.savez("rows.npz", train=1 - rows)
    answer = ebm("train -m resume=sweep seed=3 dataset.path=rows.npz,more.npz")
    assert answer.code == 1
    assert "rows.npz: holds other rows than when jobs of sweep began before; put those back, or " in answer.out
    assert [job["status"] for job in jobs()] == ["done", "done", "failed", "done"]
    np.savez("rows.npz", train=rows)
    assert ebm("train -m resume=sweep").code == 0
    assert facts(Path("sweep/2"))["status"] == "done"


def test_jobs_that_begin_at_the_same_time_note_their_data(tmp_path, monkeypatch):
    """Each in a process of its own: one has written its file whole when another begins to."""
    config = {"dataset": {"name": "a"}, "model": {"name": "rbm"}}
    data, written, others = SimpleNamespace(fingerprint="f"), files._written, [1]

    def interrupted(*file):
        written(*file)
        if others:
            others.pop()
            same_data.check(tmp_path, config, data)

    monkeypatch.setattr(files, "_written", interrupted)
    same_data.check(tmp_path, config, data)
    assert os.listdir(tmp_path) == [same_data.NAME]
    assert list(json.loads((tmp_path / same_data.NAME).read_text()).values()) == ["f"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_the_whole_multirun(number, code, monkeypatch):
    at_step(monkeypatch, 5, lambda: os.kill(os.getpid(), number))
    assert sweep("seed=1,2,3").code == code
    assert [job["status"] for job in jobs()] == ["stopped", "new", "new"]
    assert facts(Path("sweep/0"))["status"] == "stopped"


@pytest.mark.long
def test_a_signal_that_comes_when_all_jobs_are_done_changes_nothing(monkeypatch):
    def asked(path):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(path)

    original = multi.table
    monkeypatch.setattr(multi, "table", asked)
    assert sweep("seed=1,2").code == 0
    assert [job["status"] for job in jobs()] == ["done", "done"]
