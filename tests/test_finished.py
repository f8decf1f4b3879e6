"""`resume=auto` on a run that is done: the same command asks nothing more of it."""

import shutil
from pathlib import Path

import pytest
from helpers.cli import facts, snapshot, train, trained

from ebm_cli.record.run import Run


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.quick("steps=12")
@pytest.mark.parametrize("line", ["", "tracker=csv", "device.threads=1", "steps=12"])
def test_a_run_that_is_done_is_left_as_it_is(line):
    trained("report.checkpoint=last")
    before = snapshot(Path("run"))
    answer = train(f"report.checkpoint=last {line} resume=auto")
    assert answer.code == 0
    assert "run is done, 12 steps and all its evaluations; to measure more: ebm evaluate run=run\n" in answer.err
    assert snapshot(Path("run")) == before


@pytest.mark.parametrize("line", ["steps=14", "evaluation=[samples,pseudo_likelihood]", "evaluation.samples.count=5"])
def test_what_is_new_is_done(line):
    trained()
    answer = train(f"{line} resume=auto")
    assert answer.code == 0
    assert "is done" not in answer.err
    assert facts(Path("run"))["changes"]


@pytest.mark.parametrize("status", ["failed", "stopped", "running"])
def test_a_run_that_is_not_done_goes_on(status):
    run = trained()
    Run(run).update_metadata(status=status)
    assert "is done" not in train("resume=auto").err
    assert facts(run)["status"] == "done"


@pytest.mark.long
def test_a_run_that_lost_its_newest_checkpoint_is_not_called_done():
    run = trained("save_every=4")
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    answer = train("save_every=4 resume=auto")
    assert "is done" not in answer.err
    assert (run / "checkpoints" / "step-00000012").exists()
