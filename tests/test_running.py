"""What is estimated along the way: log Z by chains that follow the model while it trains."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.cli import assert_refused, ebm, facts, last_step, outcome, train, trained
from helpers.components import SMALL_SPACES, component
from helpers.data import small_data
from helpers.models import small_model
from helpers.samplers import SAMPLERS
from safetensors.torch import load_file
from scipy.stats import t as student_t
from test_resume import Killed, at_step, die

from ebm_cli.commands.report import rows
from ebm_cli.device.engine import Work
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.bracket import contradictions
from ebm_cli.log_z import enumeration
from ebm_cli.rng import stream
from ebm_cli.running import log_z
from ebm_cli.sampler.rungs import resampled
from ebm_cli.space import Binary, Categorical, Real, Spin

LINE = (
    "model.hidden=3 chains.count=20 optimizer.lr=0.3 steps=60 eval_every=20 "
    "save_every=0 running=log_z running.chains=40 running.share=1 evaluation=[pseudo_likelihood,samples]"
)
PAIRS = [("rbm", Binary, "block_gibbs"), ("ising", Spin, "gibbs"), ("potts", Categorical, "gwg")]
LANGEVIN = component("sampler", "langevin", step_size=0.9)


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# The estimate


def test_looks_are_close_at_first_and_the_last_is_the_last_step():
    assert sorted(log_z.schedule(1000, 10)) == [10, 40, 90, 160, 250, 360, 490, 640, 810, 1000]
    assert sorted(log_z.schedule(10, 10)) == [1, 2, 3, 4, 5, 7, 9, 10], "some fall together"


def test_a_share_of_the_work_of_training_is_spent():
    """Each look is 500 energies and moves, the beginning 20 times as many; a step 100 moves and 100 rows."""
    running, work = component("running", "log_z"), Work(20000 * 100, 20000, 20000)
    spent = len(running.looks(work, 100)) * 500 * 2 + 500 * 20
    assert 0.019 < spent / (20000 * 200) <= 0.02
    assert len(running.looks(Work(0, 0, 20000), 100)) < len(running.looks(work, 100))
    few, short = Work(3000 * 100, 3000, 3000), Work(300 * 100, 300, 300)
    assert running.looks(few, 100) == {750, 3000}
    assert not component("running", "log_z_if_possible").looks(few, 100)
    assert not running.looks(short, 100)
    assert 40 < len(component("running", "log_z", share=1.0).looks(short, 100)) <= 50


def test_resampled_chains_are_as_many_as_their_weights_say():
    log_w = torch.randn(50, generator=torch.Generator().manual_seed(3)).double() * 2
    often = torch.bincount(resampled(log_w, stream(4)), minlength=50)
    share = 50 * log_w.softmax(0)
    assert ((often - share).abs() < 1).all()
    assert often.sum() == 50


def subject(model, sampler, step):
    data = small_data(model.space)
    return Subject(model, data, "valid", sampler, torch.empty(0, *model.space.shape), stream(5, "running", step))


def error_of(found):
    """The standard error that a band says, with the quantile of scipy's law for so many ancestors."""
    half = found["running/log_z_high"] - found["running/log_z"]
    return half / student_t.ppf(0.975, found["running/ancestors"])


def followed(running, models, sampler):
    """log Z, its error, and what was kept, having followed these models."""
    kept = running.begun(subject(models[0], sampler, 0))
    for step, model in enumerate(models[1:], 1):
        kept = running.followed(subject(model, sampler, step), kept)
    found = running.found(kept)
    return found, error_of(found), kept


@pytest.mark.parametrize(("name", "space", "sampler"), PAIRS)
def test_log_z_is_that_of_the_last_model(name, space, sampler):
    """By enumeration, after jumps to four other models; with so many chains the error is hundredths of a nat."""
    models = [small_model(name, SMALL_SPACES[space], seed).float() for seed in (1, 2, 3, 4, 5)]
    running = component("running", "log_z", chains=30000)
    found, error, _ = followed(running, models, SAMPLERS[sampler])
    exact = enumeration.log_z(models[-1]).item()
    assert error < 0.2
    assert abs(found["running/log_z"] - exact) < 5 * error


def test_unadjusted_moves_count_too():
    """Langevin with steps as long as the model is narrow, without which log Z would be of another law."""
    models = [small_model("gaussian_rbm", SMALL_SPACES[Real], 1).float() for _ in range(4)]
    for model, factor in zip(models, (0.2, 0.6, 1, 1.4), strict=True):
        model.W.data.mul_(factor)
    found, error, _ = followed(component("running", "log_z", chains=10000, steps=8), models, LANGEVIN)
    assert error < 0.04
    assert abs(found["running/log_z"] - enumeration.log_z(models[-1]).item()) < 0.1


@pytest.mark.long
def test_its_error_is_what_it_says():
    """Of 40 estimates with few chains that are drawn again on the way: their spread, and how many bands hold log Z."""
    models = [small_model("rbm", SMALL_SPACES[Binary], seed).float() for seed in (1, 2, 3, 4, 5, 6, 7, 8)]
    running, exact, off, said = component("running", "log_z", chains=100), enumeration.log_z(models[-1]).item(), [], []
    for seed in range(40):
        kept = running.begun(replace(subject(models[0], SAMPLERS["block_gibbs"], 0), key=stream(seed, 0)))
        for step, model in enumerate(models[1:], 1):
            about = replace(subject(model, SAMPLERS["block_gibbs"], step), key=stream(seed, step))
            kept = running.followed(about, kept)
        found = running.found(kept)
        off.append(found["running/log_z"] - exact)
        said.append(error_of(found))
    off, said = torch.tensor(off), torch.tensor(said)
    assert kept["ancestor"].unique().numel() < 100, "they were drawn again"
    assert 0.9 < said.mean() / off.square().mean().sqrt() < 2
    assert (off.abs() < 1.96 * said).sum() >= 35


def test_chains_of_one_ancestor_count_as_one():
    running = component("running", "log_z", chains=100)
    _, error, kept = followed(running, [small_model("rbm", SMALL_SPACES[Binary]).float()], SAMPLERS["block_gibbs"])
    ten = {**kept, "ancestor": kept["ancestor"] // 10, "log_w": torch.zeros(100).double()}
    few = running.found({**ten, "log_w": (kept["ancestor"] % 3).double()})
    assert running.found(ten)["running/ancestors"] == pytest.approx(10)
    assert few["running/ancestors"] < 10
    one = running.found({**ten, "ancestor": torch.zeros(100, dtype=torch.int64)})
    assert one["running/ancestors"] == pytest.approx(1)
    half = one["running/log_z_high"] - one["running/log_z"]
    assert half / 12.706 == pytest.approx(error_of(one), rel=1e-4), "one degree of freedom"
    assert error_of(one) == pytest.approx((1 + kept["variance"].item()) ** 0.5)
    assert error < 1


def test_where_an_energy_is_not_finite_nothing_is_found_any_more():
    running, model = component("running", "log_z", chains=10), small_model("rbm", SMALL_SPACES[Binary]).float()
    about = subject(model, SAMPLERS["block_gibbs"], 0)
    kept = running.begun(about)
    with torch.no_grad():
        next(model.parameters()).fill_(math.inf)
    lost = running.followed(about, kept)
    assert running.is_lost(lost)
    assert not running.found(lost)
    assert not running.of_rows(about, lost, about.held_out.all())
    assert all(tensor.isfinite().all() for tensor in lost.values()), "it goes into a checkpoint"
    assert running.followed(about, lost) is lost
    assert running.is_lost(running.begun(about))


# Within a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("running"))
        return trained(LINE).absolute()


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_what_is_found_is_logged(run):
    """Log Z at each look, and at each evaluation the log-likelihood of all rows by the newest log Z."""
    of_log_z = {line["step"]: line for line in lines(run) if "running/log_z" in line}
    of_rows = {line["step"]: line for line in lines(run) if "running/valid/log_likelihood" in line}
    looks = component("running", "log_z", chains=40, share=1.0).looks(Work(60 * 20, 60, 60), 10)
    assert [*of_log_z] == sorted(looks | {20, 40, 60})
    assert [*of_rows] == [20, 40, 60]
    last = of_log_z[60]
    assert last["running/log_z_low"] < last["running/log_z"] < last["running/log_z_high"]
    tensors = load_file(last_step(run) / "state.safetensors")
    assert {name for name in tensors if name.startswith("running.")} == {
        f"running.{name}" for name in ("x", "energy", "log_w", "ancestor", "log_z", "variance", "lost")
    }


def test_the_last_table_and_the_summary_have_it(run):
    """That of the checkpoint that is judged."""
    found = facts(run, "summary.json")
    (there,) = [line for line in lines(run) if "running/log_z" in line and line["step"] == found["judged_step"]]
    assert all(found[name] == there[name] for name in there if name.startswith("running/"))
    shown = rows(found, "test")
    assert shown["  log Z, along the way"] == (
        f"{found['running/log_z']:.2f}, 95 % [{found['running/log_z_low']:.2f}, {found['running/log_z_high']:.2f}]"
    )
    assert not any(name.startswith("running/") for name in shown)


def test_chains_along_the_way_and_those_of_an_evaluation_may_contradict_each_other():
    """By more than half a nat between their intervals, the more trustworthy evaluation first."""
    along = {"running/log_z": 87.3, "running/log_z_low": 87.1, "running/log_z_high": 87.5}
    ais = {"ais/log_z": 84.0, "ais/log_z_low": 83.9, "ais/log_z_high": 84.1}
    (sentence,) = contradictions({**along, **ais})
    assert sentence.startswith("log Z by ais, 84 in [83.9, 84.1], and along the way, 87.3 in [87.1, 87.5], are 3 nats")
    assert contradictions({**along, **ais, "ais/log_z_high": 86.7}) == []
    bridge = {name.replace("ais", "bridge"): value + 3 for name, value in ais.items()}
    assert contradictions({**along, **bridge}) == []
    (sentence,) = contradictions({**along, **ais, **bridge})
    assert sentence.startswith(
        "log Z by bridge, 87 in [86.9, 87.1], and by ais, 84 in [83.9, 84.1], are 2.8 nats apart"
    )
    low = {name: value - 9 for name, value in along.items()}
    assert len(contradictions({**low, **ais, **bridge})) == 2
    assert contradictions(ais) == contradictions(along) == []


@pytest.mark.usefixtures("_elsewhere")
def test_the_log_likelihood_is_that_of_the_rows():
    """Beside the exact one, whose error the band of log Z tells; real data in their own units alike."""
    run = trained(LINE.replace("[pseudo_likelihood,samples]", "[exact,samples] evaluation.exact.while_training=true"))
    line = [line for line in lines(run) if "exact/valid/log_likelihood" in line][-1]
    log_z = [line for line in lines(run) if "running/log_z" in line][-1]
    shift = line["running/valid/log_likelihood"] - line["exact/valid/log_likelihood"]
    assert shift == pytest.approx(line["exact/valid/log_z"] - log_z["running/log_z"], abs=1e-4)
    assert line["running/valid/standard_error"] == pytest.approx(line["exact/valid/standard_error"], rel=1e-5)


@pytest.mark.usefixtures("_elsewhere")
def test_training_is_the_same_without_it(run):
    """Weights, chains, and all that else is logged."""
    trained(f"{LINE} running=none".replace("running=log_z running.chains=40 running.share=1 ", ""))
    alone, beside = (load_file(last_step(each) / "state.safetensors") for each in (Path("run"), run))
    assert all(torch.equal(value, beside[name]) for name, value in alone.items())
    assert lines(Path("run")) == [
        kept
        for line in lines(run)
        if (kept := {name: value for name, value in line.items() if not name.startswith("running/")}).keys() != {"step"}
    ]


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_killed_and_resumed_it_is_the_same(run, monkeypatch):
    with monkeypatch.context() as patch:
        at_step(patch, 47, die)
        with pytest.raises(Killed):
            train(LINE.replace("save_every=0", "save_every=15"))
    answer = ebm("train resume=run save_every=0")
    assert answer.code == 0, answer.err
    assert outcome(Path("run")) == outcome(run)


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_a_resumed_run_may_begin_with_it_and_end_it():
    trained(LINE.replace("steps=60", "steps=30"))
    answer = ebm("train resume=run steps=60 running.chains=50")
    assert answer.code == 0, answer.err
    assert load_file(last_step(Path("run")) / "state.safetensors")["running.x"].shape[0] == 50
    answer = ebm("train resume=run steps=90 running=none")
    assert answer.code == 0, answer.err
    assert not any(name.startswith("running.") for name in load_file(last_step(Path("run")) / "state.safetensors"))
    found = [line["step"] for line in lines(Path("run")) if "running/log_z" in line]
    assert max(found) == 60


@pytest.mark.usefixtures("_elsewhere")
def test_the_best_checkpoint_may_be_chosen_by_it():
    run = trained(f"{LINE} checkpoint.monitor=running/valid/log_likelihood")
    found = {
        line["step"]: line["running/valid/log_likelihood"]
        for line in lines(run)
        if "running/valid/log_likelihood" in line
    }
    best = json.loads((last_step(run) / "state.json").read_text())["best"]
    assert best["value"] == max(found.values())
    assert found[best["step"]] == best["value"]


@pytest.mark.usefixtures("_elsewhere")
def test_it_follows_the_average_that_is_evaluated():
    """With an average that hardly moves, the model at the end is the one at the start."""
    run = trained(f"{LINE} optimizer.ema=0.999999 optimizer.ema_start=0.0 optimizer.lr=3")
    found = [line["running/log_z"] for line in lines(run) if "running/log_z" in line]
    assert max(found) - min(found) < 0.01


@pytest.mark.usefixtures("_elsewhere")
def test_energies_that_are_not_finite_are_said_once(monkeypatch):
    energy = log_z.RunningLogZ._energy
    calls = iter(range(10**6))
    broken = lambda *args: energy(*args) + (math.nan if next(calls) > 6 else 0)  # noqa: E731
    monkeypatch.setattr(log_z.RunningLogZ, "_energy", broken)
    answer = train(LINE)
    assert answer.code == 0
    assert len(re.findall("log Z is no longer followed", answer.err)) == 1
    assert facts(Path("run"), "summary.json")["status"] == "done"
    assert max(line["step"] for line in lines(Path("run")) if "running/log_z" in line) < 60


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "model=gaussian_rbm sampler=langevin sampler.noise=0.01",
            "sampler=langevin does not leave the model invariant",
        ),
        ("steps=3 running.share=0.02", "not worth one look; "),
        ("running.share=0", "running.share = 0"),
        ("running.chains=1", "running.chains = 1"),
        ("running=", "running"),
    ],
)
@pytest.mark.usefixtures("_elsewhere")
def test_what_cannot_be_followed_is_refused(line, words):
    assert_refused(train(f"running=log_z steps=10 {line}" if "running=" not in line else line), words)
    assert not Path("run").exists()


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("steps=2 seed=1,2", "jobs 0, 1: running=log_z: its share of the work of 2 steps is not worth one look"),
        (
            "steps=60 model=gaussian_rbm sampler=langevin sampler.clip=1,2",
            "sampler=langevin does not leave the model inv",
        ),
    ],
)
def test_a_multirun_that_cannot_be_followed_is_refused_once(keys, said):
    answer = ebm(f"train -m running=log_z tracker=none device=cpu hydra.sweep.dir=sweep {keys}")
    assert_refused(answer, said, "no job was begun")
    assert not Path("sweep").exists()


@pytest.mark.usefixtures("_elsewhere")
def test_the_share_that_a_short_run_needs_is_the_one_that_is_said():
    said = train("running=log_z steps=10 running.share=0.02").err
    steps = re.search(r"look; (\d+) steps with running.share=1 would be", said)[1]
    said = train(f"running=log_z steps={steps} running.share=0.02").err
    share = re.search(r"running.share=([\d.]+) would be", said)[1]
    assert train(f"running=log_z steps={steps} running.share={share}").code == 0


@pytest.mark.usefixtures("_elsewhere")
def test_short_runs_and_others_that_it_does_not_fit_are_not_followed():
    for line in ("steps=5 eval_every=0", "model=gaussian_rbm sampler=langevin sampler.clip=1 steps=2"):
        assert not any("running/log_z" in line for line in lines(trained(line, line[:5])))
