"""Which checkpoint is judged in the end: the best where the last is worse, and both are reported."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm, facts, train, trained
from helpers.training import small_run

from ebm_cli.commands.best import Trained, judged
from ebm_cli.evaluation.base import Evaluation, Result
from ebm_cli.record import checkpoint
from ebm_cli.record.run import Run
from ebm_cli.training.state import Best

MONITOR = "pseudo_likelihood/valid/log_pseudo_likelihood"
WORSE = (  # the rate rises until it does harm
    "steps=20 save_every=5 eval_every=1 checkpoint.keep_last=1 optimizer.warmup=20 optimizer.lr=30 optimizer.ema=0 "
    "evaluation=[samples,pseudo_likelihood]"
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def recorded(run, metric=MONITOR):
    """A metric by step, the monitored one."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[metric] for line in lines if metric in line}


def without_times(run):
    return {key: value for key, value in facts(run, "summary.json").items() if "seconds" not in key}


@pytest.mark.long
def test_the_best_is_judged_and_both_are_reported():
    run, other = trained(WORSE), trained(f"{WORSE} report.checkpoint=last", "other")
    values, best, last = recorded(run), facts(run, "summary.json"), facts(other, "summary.json")
    step = max(values, key=values.get)
    assert (best["judged"], best["judged_step"], best["best/step"], best["last/step"]) == ("best", step, step, 20)
    assert (last["judged"], last["judged_step"]) == ("last", 20)
    for found in (best, last):
        assert found[f"best/{MONITOR}"] == pytest.approx(values[step], rel=1e-6)
        assert found[f"last/{MONITOR}"] == pytest.approx(values[20], rel=1e-6)
    for found, which in ((best, "best"), (last, "last")):
        assert ebm(f"evaluate run=run checkpoint={which} evaluation=[pseudo_likelihood]").code == 0
        (folder,) = (run / "evaluations").iterdir()
        results = json.loads((folder / "results.json").read_text())
        name = "pseudo_likelihood/log_pseudo_likelihood"
        assert results[name] == pytest.approx(found[name], rel=1e-6)
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


@pytest.mark.long
def test_the_way_to_the_best_is_said_with_its_command():
    trained(WORSE)
    assert "the best is judged here; sample from it with: ebm sample run=" in train_log("run")
    trained(f"{WORSE} report.checkpoint=last", "other")
    assert "the last is judged here (report.checkpoint = last), the best with: ebm evaluate run=" in train_log("other")


def train_log(name):
    with open(f"{name}/train.log") as file:
        return file.read()


@pytest.mark.long
def test_a_last_step_that_is_the_best_is_judged_as_the_last():
    found = facts(trained("steps=4 eval_every=4 evaluation=[samples,pseudo_likelihood]"), "summary.json")
    assert (found["judged"], found["judged_step"], found["best/step"]) == ("last", 4, 4)
    assert found[f"best/{MONITOR}"] == found[f"last/{MONITOR}"]


@pytest.mark.long
def test_where_nothing_is_monitored_the_last_is_judged_and_that_is_said():
    run = trained("steps=4 eval_every=0 evaluation=[samples,pseudo_likelihood]")
    assert facts(run, "summary.json")["judged"] == "last"
    assert f"the last step is judged: checkpoint.monitor = {MONITOR} was not measured" in train_log("run")


@pytest.mark.long
def test_without_validation_rows_that_is_why_none_is_kept():
    line = (
        "train dataset=bars_and_stripes model.hidden=4 steps=2 evaluation=[exact] evaluation.exact.while_training=true"
    )
    assert ebm(f"{line} eval_every=1 tracker=none device=cpu hydra.run.dir=run").code == 0
    assert "the last step is judged: the data have no validation rows, on which checkpoint.monitor = " in train_log(
        "run"
    )


@pytest.mark.long
def test_nobody_misses_what_nobody_asked_for():
    """Where nothing is measured while training, the usual monitor is not mentioned."""
    answer = ebm("train model.hidden=8 steps=2 batch_size=10 tracker=none device=cpu evaluation=[] hydra.run.dir=bare")
    assert answer.code == 0, answer.err
    assert "checkpoint.monitor" not in answer.out + answer.err


def test_both_are_in_the_units_of_the_data():
    rows = np.random.Generator(np.random.Philox(1)).normal(size=(60, 2)) * 1e4
    np.savez("table.npz", train=rows, valid=rows[:20], test=rows[:20])
    answer = ebm(
        "train tracker=none device=cpu dataset=array dataset.path=table.npz dataset.standardise=true seed=1 "
        "model=gaussian_rbm model.hidden=3 objective=exact evaluation=[exact] evaluation.exact.while_training=true "
        "checkpoint.monitor=exact/valid/log_likelihood steps=8 batch_size=60 optimizer=sgd "
        "optimizer.lr=3 eval_every=1 hydra.run.dir=run"
    )
    assert answer.code == 0, answer.err
    found = facts(Path("run"), "summary.json")
    values = recorded(Path("run"), "exact/valid/log_likelihood")
    best = max(values, key=values.get)
    assert (found["best/step"], found["last/step"]) == (best, 8)
    assert values[best] > values[8] + 0.1, "too large a rate makes the last far worse, or both are not measured"
    for which in ("best", "last"):
        value = found[f"{which}/exact/valid/log_likelihood"]
        assert value == pytest.approx(values[found[f"{which}/step"]], rel=1e-6)


@pytest.mark.long
def test_a_finished_run_that_is_resumed_says_the_same_again():
    run = trained(WORSE)
    before = without_times(run)
    assert ebm("train resume=run").code == 0
    assert without_times(run) == before


@pytest.mark.long
@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_without_its_checkpoint_the_last_is_judged_and_that_is_said(damage):
    run = trained(WORSE)
    step = facts(run, "summary.json")["best/step"]
    folder = run / "checkpoints" / f"step-{step:08d}"
    for file in sorted(folder.iterdir()):
        if damage == "lost":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:-1])
    answer = ebm("train resume=run")
    assert answer.code == 0
    assert f"the best checkpoint, of step {step}, cannot be read (" in answer.err
    found = facts(run, "summary.json")
    assert (found["judged"], found["judged_step"], found["best/step"]) == ("last", 20, step)


@pytest.mark.long
def test_another_monitor_begins_to_count_anew():
    """A pseudo-likelihood, below 0, is not compared with a share of distinct samples, up to 1."""
    other = "samples/valid/distinct"
    run = trained(f"{WORSE} evaluation.samples.while_training=true checkpoint.monitor={other}")
    assert facts(run, "summary.json")[f"best/{other}"] > 0
    assert ebm(f"train resume=run steps=22 checkpoint.monitor={MONITOR}").code == 0
    found = facts(run, "summary.json")
    assert found[f"best/{MONITOR}"] < 0
    assert found["best/step"] > 20


class Fixed(Evaluation):
    """An evaluation whose values by row go with the step of the state."""

    while_training = True

    def __init__(self, values, name, wide):
        self.values, self.name, self.wide = values, name, wide

    def evaluate(self, subject):
        rows = torch.tensor(self.values[subject.model.W[0, 0].item() == 1])
        log_z = {"fixed/log_z_low": 7 - self.wide / 2, "fixed/log_z_high": 7 + self.wide / 2}
        return Result({self.name: rows.mean().item(), **log_z}, by_row={self.name: rows})


def of_two_steps(tmp_path, last, best, name="score", wide=0.0):
    """A run at step 9 whose best was step 4, where its first weight was 1 instead of 2."""
    tmp_path.mkdir(exist_ok=True)
    parts, state = small_run()
    state.model.W.data[0, 0] = 1.0
    checkpoint.save(tmp_path / "checkpoints", 4, state.tensors(), {})
    state.model.W.data[0, 0] = 2.0
    state.step, state.best = 9, Best(4, 0.5, f"fixed/valid/{name}")
    parts = replace(parts, data=replace(parts.data, valid=parts.data.train))
    fixed = Fixed({True: best, False: last}, f"fixed/{name}", wide)
    return Trained(Run(tmp_path), parts, state, {"fixed": fixed}, f"fixed/valid/{name}", "")


def test_the_state_is_that_of_the_last_step_again(tmp_path):
    run = of_two_steps(tmp_path, [0.0, 0.1, 0.0], [1.0, 1.1, 1.0])
    with judged(run, "best") as found:
        assert found.which == "best"
        assert (run.state.step, run.state.model.W[0, 0].item()) == (4, 1)
    assert (run.state.step, run.state.model.W[0, 0].item()) == (9, 2)
    with judged(run, "last") as found:
        assert found.which == "last"
        assert (run.state.step, run.state.model.W[0, 0].item()) == (9, 2)


def test_within_the_error_the_last_is_judged(tmp_path):
    """1 ± 1 less is no less; 1 ± 0.1 is, though rows differ among each other by far more."""
    with judged(of_two_steps(tmp_path / "a", [0.0, 9.0, 0.0], [3.0, 9.0, 0.0]), "best") as found:
        assert found.which == "last"
        assert not found.warnings
    with judged(of_two_steps(tmp_path / "b", [0.0, 9.0, 20.0], [1.1, 9.9, 21.0]), "best") as found:
        assert found.which == "best"
        assert "1.00 ± 0.06 less" in found.warnings[0]


def test_the_error_of_log_z_counts_though_all_rows_share_it(tmp_path):
    """0.1 less for every row, of two estimates of log Z that err by 0.04 or by 0.2 each."""
    last, best = [0.0, 1.0, 2.0], [0.1, 1.1, 2.1]
    for wide, which in ((0.08, "best"), (0.4, "last")):
        with judged(of_two_steps(tmp_path / which, last, best, "log_likelihood", wide), "best") as found:
            assert found.which == which
    with judged(of_two_steps(tmp_path / "score", last, best, "score", 0.4), "best") as found:
        assert found.which == "best", "a score has no log Z"


@pytest.mark.long
def test_what_is_no_checkpoint_to_judge_is_refused():
    assert_refused(train("report.checkpoint=worst"), 'report.checkpoint = "worst": must be ')
    assert_refused(train("+report.when=3"), "unknown key report.when")
    assert_refused(train("report.when=3"), "unknown key report.when")
    assert_refused(train("report=best"), 'report = "best": must be a set of keys')
