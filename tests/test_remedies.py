"""What a run that goes back does otherwise: by cause, recorded, and the same where it is resumed."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import ebm, facts, outcome, train, trained
from helpers.components import component, shipped
from helpers.training import small_run
from test_health import LINE
from test_resume import Killed, at_step, die

from ebm_cli.health.watch import WatchHealth
from ebm_cli.training import remedies
from ebm_cli.training.health import Watcher
from ebm_cli.training.recovery import _stand_still
from ebm_cli.training.remedies import LOWER, Diagnosis, applied, chosen

RECOVER = LINE + " optimizer.schedule=constant checkpoint.keep_last=1 health.act=recover"


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def with_sampler(name, **changes):
    """Parts of a run whose chains move so; only their keys count here."""
    parts, _ = small_run()
    return replace(parts, components=replace(parts.components, sampler=component("sampler", name, **changes)))


def test_a_rate_is_lowered_each_time():
    """To a fifth, and where its schedule ends too; chains move four times as far, sixteen times at most."""
    parts, _ = small_run(optimizer=shipped("optimizer")["sgd"] | {"lr": 8.0, "final_lr": 0.8})
    recoveries = []
    for attempt in range(1, 5):
        recoveries.append(chosen(parts, recoveries, Diagnosis({"gap"})))
        now = applied(parts, recoveries).components
        assert now.optimizer.lr == pytest.approx(8 * LOWER**attempt)
        assert now.optimizer.final_lr == pytest.approx(0.8 * LOWER**attempt)
        assert now.chains.steps == min(4**attempt, 16)


@pytest.mark.parametrize(
    ("sampler", "found", "keys"),
    [
        (("langevin", {"noise": 0.0}), Diagnosis({"breadth"}), {"sampler.noise": None}),
        (("langevin", {"noise": 0.0}), Diagnosis({"gap"}, {"jump"}, 0.005), {"sampler.noise": None}),
        (("langevin", {"noise": 3.0}), Diagnosis({"scatter"}), {"sampler.noise": None}),
        (("langevin", {"noise": 0.1}), Diagnosis({"felt"}), {"sampler.noise": pytest.approx(0.01)}),
        (("metropolis", {"step_size": 0.001}), Diagnosis({"jump"}, {"jump"}, 0.005), {"sampler.step_size": 0.1}),
        (("langevin", {"step_size": 1e-6}), Diagnosis({"gap"}, {"jump"}, 0.005), {"sampler.step_size": 2.5e-3}),
        (("dmala", {"step_size": 1e-5}), Diagnosis({"gap"}, {"jump"}, 0.0), {"sampler.step_size": 3e-4}),
        (("mala", {"step_size": 90.0}), Diagnosis({"acceptance"}, {"jump"}, 0.0), {"sampler.step_size": 3.0}),
    ],
)
def test_what_is_wrong_with_the_moves_is_no_matter_of_the_rate(sampler, found, keys):
    """Their temperature, and steps that are too short or too long already where the model was healthy."""
    parts = with_sampler(sampler[0], **sampler[1])
    did = chosen(parts, [], found)
    assert did["keys"] == {name: value if value is None else pytest.approx(value) for name, value in keys.items()}
    assert (did["lr"], did["chains.steps"]) == (parts.components.optimizer.lr, parts.components.chains.steps)
    now = applied(parts, [did]).components.sampler
    assert all(getattr(now, name.removeprefix("sampler.")) == did["keys"][name] for name in did["keys"])


def test_a_model_that_went_too_far_as_well_has_a_lower_rate():
    """Which its chains may not have told, as long as they did not move."""
    parts = with_sampler("dmala", step_size=1e-3)
    did = chosen(parts, [], Diagnosis({"jump", "heat"}, {"jump"}, 0.0))
    assert did["keys"] == {"sampler.step_size": pytest.approx(0.03)}
    assert did["lr"] == pytest.approx(parts.components.optimizer.lr * LOWER)


def test_proposals_that_only_the_trained_model_refuses_may_be_the_rate():
    """Where shorter ones were tried before, or have no length."""
    parts = with_sampler("mala", step_size=0.1)
    first = chosen(parts, [], Diagnosis({"acceptance"}))
    assert first["keys"]["sampler.step_size"] < 0.1
    assert first["lr"] == parts.components.optimizer.lr
    again = chosen(parts, [first], Diagnosis({"acceptance"}))
    assert again["keys"]["sampler.step_size"] < first["keys"]["sampler.step_size"]
    assert again["lr"] < first["lr"]
    gwg = with_sampler("gwg")
    assert chosen(gwg, [], Diagnosis({"acceptance"}))["lr"] < gwg.components.optimizer.lr
    hot = chosen(with_sampler("langevin", noise=1e-3), [], Diagnosis({"gap"}))
    assert hot["keys"] == {}, "chains of image models are colder on purpose"


def test_steps_that_were_lengthened_in_vain_are_lengthened_by_more():
    """Twice as far the first time, four times the second; never beyond what comes to another row twice over."""
    parts = with_sampler("langevin", step_size=1e-4, noise=None)
    slow, did = Diagnosis({"r_hat_data"}, jump=0.2, r_hat=2.0), []
    for times, size in ((2.0, 4e-4), (4.0, 64e-4)):
        did.append(chosen(parts, did, slow))
        assert did[-1]["keys"] == {"sampler.step_size": pytest.approx(size)}, times
    far = chosen(parts, did, replace(slow, jump=0.8))
    assert far["keys"]["sampler.step_size"] == pytest.approx(64e-4 * 2.5**2)


def test_steps_of_chains_that_never_moved_are_lengthened_by_the_square_in_vain():
    """Where steps that are too long are refused; those of Langevin chains would do harm."""
    still = Diagnosis({"jump"}, {"jump"}, 0.0)
    for name, size, factors in (("dmala", 1e-6, (30, 900, 900)), ("langevin", 1e-9, (30, 30, 30))):
        parts, did, now = with_sampler(name, step_size=size), [], size
        for factor in factors:
            did.append(chosen(parts, did, still))
            now *= factor
            assert did[-1]["keys"] == {"sampler.step_size": pytest.approx(now)}, name


def test_gradients_of_a_run_whose_numbers_ran_away_are_cut():
    """At twice their median, once it is known, with the rate as it is; a run whose gradients are bounded has a lower
    rate."""
    parts, _ = small_run()
    gone = Diagnosis({"scatter"}, norm=3.0)
    first = chosen(parts, [], gone)
    assert (first["keys"], first["lr"]) == ({"optimizer.clip": 6.0}, parts.components.optimizer.lr)
    assert applied(parts, [first]).components.optimizer.clip == 6.0
    again = chosen(parts, [first], gone)
    assert again["keys"] == first["keys"]
    assert again["lr"] == pytest.approx(first["lr"] * LOWER)
    assert chosen(parts, [], Diagnosis({"scatter"}))["keys"] == {}, "before the first look"
    adam, _ = small_run(optimizer=shipped("optimizer")["adam"])
    assert chosen(adam, [], gone)["keys"] == {}


def test_momentum_and_restarts_of_a_reservoir():
    """Both beside the rate; what was done before stays."""
    parts, _ = small_run(optimizer=shipped("optimizer")["sgd"] | {"momentum": 0.99})
    first = chosen(parts, [], Diagnosis({"gap"}))
    assert first["keys"] == {"optimizer.momentum": 0.5}
    assert first["lr"] < parts.components.optimizer.lr
    again = chosen(parts, [first], Diagnosis({"gap"}))
    assert applied(parts, [first, again]).components.optimizer.momentum == 0.5
    replay = replace(parts.components, chains=component("chains", "replay", restart=0.0))
    kept = chosen(replace(parts, components=replay), [], Diagnosis({"r_hat_data"}))
    assert kept["keys"] == {"optimizer.momentum": 0.5, "chains.restart": 0.05}
    assert "chains.restart" not in chosen(replace(parts, components=replay), [], Diagnosis({"rise"}))["keys"]


def test_a_record_of_something_else_is_no_record():
    did = {"step": 3, "more": 2, "lr": 0.1, "chains.steps": 2, "keys": {"sampler.noise": None}}
    assert remedies.read(did) == did
    with pytest.raises(ValueError, match=r"no recovery sets optimizer\.lr"):
        remedies.read({**did, "keys": {"optimizer.lr": 1.0}})


@pytest.mark.usefixtures("_elsewhere")
def test_weights_that_are_too_large_to_begin_with_are_drawn_anew():
    """At a thousandth of their size, from the same key, with the rate as it is: what a run of such weights begins with.

    A run whose weights are as large and that begins with a file of them keeps these.
    """
    run = trained(f"{RECOVER} model.hidden=8 model.weight_std=20 steps=40")
    found = facts(run, "summary.json")["health"]
    assert found["recoveries"][0]["keys"] == {"model.weight_std": 0.02}
    assert (found["recoveries"][0]["lr"], found["recoveries"][0]["chains"]) == (0.1, "anew")
    assert found["verdict"] == "healthy"
    assert len(found["recoveries"]) == 1


@pytest.mark.usefixtures("_elsewhere")
def test_at_the_last_step_a_run_goes_back_if_it_may_be_longer():
    """Else what was learned until then would be lost, and nothing learned instead."""
    line = f"{RECOVER} model.hidden=8 model.weight_std=20 steps=10"
    found = facts(trained(f"{line} health.extra_steps=0"), "summary.json")["health"]
    assert found["verdict"] == "failing"
    assert "recoveries" not in found
    shutil.rmtree("run")
    longer = facts(trained(line), "summary.json")
    assert (longer["steps"], longer["health"]["verdict"]) == (20, "healthy")
    assert [each["back_to"] for each in longer["health"]["recoveries"]] == [0]


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_killed_amid_such_a_recovery_and_resumed_it_does_the_same(monkeypatch):
    line = f"{RECOVER} model.hidden=8 model.weight_std=20 optimizer.lr=20 optimizer.momentum=0.95"
    whole = trained(line).rename("whole")
    did = facts(whole, "summary.json")["health"]["recoveries"]
    assert {"model.weight_std", "optimizer.momentum"} <= did[-1]["keys"].keys()
    with monkeypatch.context() as patch:
        at_step(patch, did[-1]["step"] + 3, die)
        with pytest.raises(Killed):
            train(line)
    assert ebm("train resume=run").code == 0
    assert outcome(Path("run")) == outcome(whole)
    assert facts(Path("run"), "summary.json")["health"] == facts(whole, "summary.json")["health"]


@pytest.mark.usefixtures("_elsewhere")
def test_data_of_another_scale_are_standardised_from_the_first_step():
    """Where the run may mend what is wrong; its configuration says so, so that what is made of it later knows."""
    rows = 300 * np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    np.savez("wide.npz", train=rows, test=rows[:10])
    line = "model=gaussian_rbm model.hidden=2 dataset=array dataset.path=wide.npz steps=20 health.every=10"
    line += " evaluation=[exact] eval_every=0 tracker=none device=cpu"
    answer = ebm(f"train {line} health.act=recover hydra.run.dir=mended")
    assert answer.code == 0, answer.err
    assert "so dataset.standardise=true" in answer.err
    asked = ebm(f"train {line} dataset.standardise=true hydra.run.dir=asked")
    assert "so dataset.standardise=true" not in asked.err
    found, other = (facts(Path(run), "summary.json")["exact/log_likelihood"] for run in ("mended", "asked"))
    assert found == other
    assert ebm("train resume=mended steps=30").code == 0


def test_a_gap_above_zero_that_comes_down_is_no_reason_to_go_back():
    """As of a model that begins narrower than its data, and learns."""
    parts, state = small_run()
    names = ("loss", "gradient_norm", "energy_data", "energy_gap")
    watcher = Watcher(
        WatchHealth(every=10, share=0.1, act="recover", attempts=3, extra_steps=0.0), parts, healthy=0, first=0
    )

    def look(gap):
        gaps, wide = torch.full((9,), gap), 1000 * torch.arange(9.0).cos()
        watcher.take(names, torch.stack([gaps, torch.ones(9), wide, gaps], 1))
        watcher.look(replace(state, step=25))
        return watcher.doubts, watcher.fails(25)

    assert [look(gap) for gap in (60.0, 40.0, 30.0)] == [(1, False), (0, False), (0, False)]
    assert [look(gap) for gap in (40.0, 50.0)] == [(1, False), (2, True)]


def test_a_doubt_of_the_chains_outlasts_looks_at_reports_alone(monkeypatch):
    """These say nothing of the chains, neither good nor bad."""
    parts, state = small_run()
    looks, heat = iter((True, False, True)), {"heat": 40.0}
    watcher = Watcher(
        WatchHealth(every=10, share=0.1, act="recover", attempts=3, extra_steps=0.0), parts, healthy=0, first=0
    )
    monkeypatch.setattr(Watcher, "probes", lambda *_: next(looks))
    monkeypatch.setattr("ebm_cli.training.health.probe.look", lambda _: heat)
    monkeypatch.setattr("ebm_cli.training.health.probe.still", lambda *_: {})
    found = []
    for step in (10, 15, 20):
        watcher.take(("loss", "gradient_norm"), torch.ones(9, 2))
        watcher.look(replace(state, step=step))
        found.append((watcher.doubts, watcher.fails(step)))
    assert found == [(1, False), (1, False), (2, True)]


def test_not_twice_to_where_a_run_failed_anew():
    """But to its first checkpoint, which stays as the newest healthy one does."""
    watcher = Watcher(WatchHealth(every=10, share=0.1, act="recover", attempts=3, extra_steps=0.0), healthy=50, first=0)
    assert (watcher.targets, watcher.kept) == ([50, 0], {0, 50})
    watcher.went_back(Watcher().saved(), {"back_to": 50, "step": 100})
    assert (watcher.healthy, watcher.targets) == (50, [0])
    watcher.healthy = 150
    assert watcher.targets == [150, 0], "it was healthy since"


def test_velocity_of_a_higher_momentum_is_lost():
    _, state = small_run(optimizer=shipped("optimizer")["sgd"] | {"momentum": 0.99})
    state.optimizer = {name: torch.ones_like(value) for name, value in state.optimizer.items()}
    _stand_still(state)
    assert state.optimizer
    assert not any(value.any() for value in state.optimizer.values())
