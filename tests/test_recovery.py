"""Runs that fail and go back to where they were healthy, by themselves."""

import re
import shutil
from pathlib import Path

import pytest
from helpers.cli import ebm, facts, outcome, train, trained
from test_health import LINE, lines
from test_resume import Killed, at_step, die

from ebm_cli.training import recovery
from ebm_cli.training.remedies import LOWER
from ebm_cli.watching.look import Watched


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


WILD = (
    LINE.replace("optimizer.lr=0.1", "optimizer.lr=50")
    + " optimizer.schedule=constant checkpoint.keep_last=1 health.act=recover"
)


@pytest.fixture(scope="module")
def mended(tmp_path_factory):
    """A run of far too high a rate that went back by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("mended"))
        return trained(WILD).absolute()


def test_a_failing_run_goes_back_and_goes_on_more_slowly(mended):
    """What was done is in the metrics and in the summary, and the rate that is logged is that of now."""
    did = facts(mended, "summary.json")["health"]["recoveries"]
    assert (did[0]["back_to"], did[0]["lr"], did[0]["chains.steps"]) == (0, 10, 4)
    logged = [line for line in lines(mended) if {"health/recovery_attempt", "health/raised_lr"} & {*line}]
    assert [line["step"] for line in logged] == [each["step"] for each in did]
    assert [line.get("health/recovery_lr", line.get("health/raised_lr")) for line in logged] == [
        each["lr"] for each in did
    ]
    assert ["health/raised_lr" in line for line in logged] == ["raised" in each for each in did]
    said = (mended / "train.log").read_text()
    assert f"; it went back {sum('raised' not in each for each in did)} times, trained with optimizer.lr=" in said
    rates = {line["step"]: line["learning_rate"] for line in lines(mended) if "learning_rate" in line}
    assert rates[did[0]["step"]] == 50
    assert rates[did[1]["step"]] == pytest.approx(50 * LOWER)
    assert rates[max(rates)] == pytest.approx(did[-1]["lr"])
    before = facts(mended, "summary.json")["health"]["before"]
    assert before[0]["steps"][0] == did[0]["step"]
    assert len(did) > 1, "the healthy checkpoint outlives those that are written when the run goes back"
    assert did[1]["chains"] == "anew"


def test_steps_that_were_lost_are_taken_again(mended):
    """As many as lie between each failure and its checkpoint; what reads the run knows where it ends."""
    summary, did = facts(mended, "summary.json"), facts(mended, "summary.json")["health"]["recoveries"]
    lost = sum(each["step"] - each["back_to"] for each in did)
    assert 0 < did[-1]["more"] == lost < 70
    assert summary["steps"] == 70 + did[-1]["more"] == max(line["step"] for line in lines(mended))
    look = Watched(mended, "mended").look()
    assert (look.step, look.steps) == (summary["steps"], summary["steps"])


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.quick("0")
@pytest.mark.parametrize(("extra", "steps"), [(0, 70), (0.3, 91)], ids=["0", "0.3"])
def test_no_more_are_taken_again_than_may_be(extra, steps):
    run = trained(f"{WILD} health.extra_steps={extra}")
    found = facts(run, "summary.json")
    assert found["health"]["recoveries"]
    assert found["steps"] == steps


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_a_longer_run_is_done_with_all_its_steps(mended, monkeypatch):
    """It has nothing more to do when it is asked for again; a run that is given more steps has those beside."""
    shutil.copytree(mended, "run")
    total = facts(Path("run"), "summary.json")["steps"]
    answer = train(f"{WILD} resume=auto")
    assert answer.code == 0
    assert f"is done, {total} steps" in answer.err
    answer = ebm("train resume=run steps=80")
    assert answer.code == 0
    said = f"{total - 70} steps were added for those that were lost, so training ends at step {total + 10}"
    assert said in answer.err
    assert facts(Path("run"), "summary.json")["steps"] == total + 10


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_killed_amid_a_recovery_and_resumed_it_does_the_same(mended, monkeypatch):
    """Killed when the run has gone back and nothing of it is written yet, then some steps later."""
    kills = iter(("gone back", "later"))

    def dying(parts, watcher):
        if next(kills, None) == "gone back":
            die()
        return said(parts, watcher)

    said = recovery.said
    monkeypatch.setattr(recovery, "said", dying)
    with pytest.raises(Killed):
        train(WILD)
    with monkeypatch.context() as patch:
        at_step(patch, facts(mended, "summary.json")["health"]["recoveries"][0]["step"] + 3, die)
        with pytest.raises(Killed):
            ebm("train resume=run")
    assert ebm("train resume=run").code == 0
    assert outcome(Path("run")) == outcome(mended)
    assert facts(Path("run"), "summary.json")["health"] == facts(mended, "summary.json")["health"]


@pytest.mark.usefixtures("_elsewhere")
def test_a_run_that_diverges_goes_back_as_often_as_it_may():
    """Then it ends as it would have ended without; attempts stay where it was healthy.

    A rate at which numbers are no longer finite after some steps is lowered twice as far at once.
    """
    line = LINE.replace("dataset=bars_and_stripes dataset.side=3", "model=gaussian_rbm dataset=points_2d")
    line = line.replace("optimizer.lr=0.1", "optimizer.lr=1e9") + " health.act=recover"
    answer = train(f"{line} health.attempts=2")
    assert answer.code == 1, answer.err
    assert len(re.findall(r"of health.attempts = 2 \(.*\): back to the model of step 0", answer.err)) == 2
    assert "beyond objective.max_gap" in answer.err or "not finite" in answer.err, "why"
    assert "chains that begin anew" in answer.err
    found = facts(Path("run"), "summary.json")["health"]
    assert [did["lr"] for did in found["recoveries"]] == [pytest.approx(4e7), pytest.approx(1.6e6)]
    assert [did["chains"] for did in found["recoveries"]] == ["kept", "anew"]
    assert not list(Path("run/checkpoints").glob("*invalid*")), "no checkpoint of a step is written twice"


@pytest.mark.usefixtures("_elsewhere")
def test_a_run_of_ranks_does_not_go_back():
    answer = train(f"{LINE} health.act=recover device.ranks=2")
    assert answer.code == 2
    assert "health.act = recover: with device.ranks = 2" in answer.err


@pytest.mark.usefixtures("_elsewhere")
def test_a_verdict_may_be_written_down_alone():
    words = "model=boltzmann dataset=bars_and_stripes dataset.side=3 sampler=dmala sampler.step_size=1e-6 steps=20"
    answer = ebm(f"train {words} health.every=10 health.act=none evaluation=[] tracker=none device=cpu hydra.run.dir=q")
    assert answer.code == 0, answer.err
    assert "step 10: failing" not in answer.err
    assert facts(Path("q"), "summary.json")["health"]["verdict"] == "failing"


@pytest.mark.usefixtures("_elsewhere")
def test_a_resumed_run_may_be_watched_otherwise():
    """It is looked at by the keys of now, with what it remembers; what it knew of before is not lost."""
    trained(LINE)
    answer = ebm("train resume=run steps=160 health.every=10 health.act=recover health.attempts=2")
    assert answer.code == 0, answer.err
    assert facts(Path("run"), "summary.json")["health"]["verdict"] == "healthy"
    looks = [line["step"] for line in lines(Path("run")) if "health/level" in line]
    assert max(looks) == 160
    answer = ebm("train resume=run steps=170 health=none")
    assert answer.code == 0
    assert "health" not in facts(Path("run"), "summary.json"), "nobody looks"
    assert "healthy" not in answer.err
    assert max(line["step"] for line in lines(Path("run")) if "health/level" in line) == 160
