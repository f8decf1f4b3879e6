"""Health: what signals are, when they are looked at, what is said, and that nothing of the run changes by it."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import ebm, facts, last_step, outcome, train, trained
from helpers.components import component, shipped
from helpers.data import small_data
from helpers.models import PAIRS, small_model
from helpers.training import small_run
from safetensors.torch import load_file
from test_resume import Killed, at_step, die

from ebm_cli.commands.verdict import runaway
from ebm_cli.device.engine import EAGER
from ebm_cli.health import budget, limits, past, probe, signals
from ebm_cli.health.base import Sign, verdict
from ebm_cli.health.budget import Moving
from ebm_cli.health.past import Training
from ebm_cli.health.probe import Seen, nested_r_hat
from ebm_cli.health.signals import About, Window
from ebm_cli.health.watch import WatchHealth
from ebm_cli.record.checkpoint import NUMBERS, TENSORS
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Counts
from ebm_cli.training.health import Watcher
from ebm_cli.training.loop import subject_of

LINE = (
    "dataset=bars_and_stripes dataset.side=3 objective=pcd chains.count=40 optimizer.lr=0.1 steps=70 log_every=10 "
    "eval_every=0 checkpoint.monitor=null report.checkpoint=last health.every=10 health.share=0.2"
)


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run that was never interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("watched"))
        return trained(LINE).absolute()


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# What is measured


def window(**columns):
    return Window([*columns], np.stack([np.asarray(column, float) for column in columns.values()], 1))


def test_the_gap_is_in_standard_deviations_of_a_row():
    """Energies of data whose standard deviation is 3, means over 25 rows, with a trend that must not count."""
    noise = np.random.default_rng(0).normal(size=4000) * 3 / 5
    data = noise + 0.01 * np.arange(4000)
    given = window(energy_data=data, energy_gap=np.full(4000, 6.0), gradient_norm=np.ones(4000), loss=data)
    found = signals.measured(given, {}, About(25))
    assert found == {
        "zero": 0, "gap_now": pytest.approx(2, rel=0.05), "gap_nats": pytest.approx(6), "above": pytest.approx(6),
    }  # fmt: skip
    found = signals.measured(given, {"gap": -1.5, "gradient": 0.25, "gap_nats": -2.0}, About(25))
    assert (found["gap"], found["gap_nats"], found["gradient"]) == (-1.5, -2, 4), "what was smaller before did not stay"
    assert signals.measured(given, {"gap": 7.0}, About(25))["gap"] == pytest.approx(2, rel=0.05)
    same = window(energy_data=[1.0] * 9, energy_gap=[1.0] * 9, gradient_norm=[1.0] * 9)
    assert signals.measured(same, {}, About(25)) == {"zero": 0, "gap_nats": 1, "above": 1}


def test_a_gap_that_is_small_in_deviations_and_large_in_nats_is_doubted_in_the_end():
    """14 nats where rows differ by 20 are 0.7 deviations; so many nats that waver, or are of long documents, are fine.

    The end of a run that nobody watched is judged by the same limits.
    """
    noise = np.random.default_rng(0).normal(size=400)

    def found(wavering=1.0, late=True, words=0.0, history=None):
        gap = -14 + wavering * noise
        given = window(energy_data=2 * noise, energy_gap=gap, gradient_norm=noise, loss=gap)
        return signals.measured(given, history or {}, About(100, words, late=late)), gap

    measured, gap = found()
    apart = {"gap": measured["gap_now"], "r_hat_data": 1.5}
    (sign,) = limits.signs(measured | apart)
    assert (sign.name, sign.level) == ("gap", 1)
    assert "stay apart in energy (gap -0.7" in sign.text
    assert " standard deviations, -14 nats)" in sign.text
    assert runaway([*gap[:40]]) is not None
    for fine in (found(late=False), found(wavering=5), found(words=200), found(history={"gap_nats": -8.0})):
        assert limits.signs(fine[0] | apart) == []
    for met in ({}, {"r_hat_data": 1.1}):
        assert limits.signs(measured | apart | {"r_hat_data": 1.0} | met) == [], (
            "the model has yet to learn: not chains"
        )
    assert limits.signs(measured | {"gap": measured["gap_now"]}) == [], "chains that are begun at the data each time"
    assert runaway([*found(wavering=5)[1]]) is None is runaway([*gap], 200)


def test_a_gradient_that_is_zero_is_doubted():
    """As of a network whose units are all off: no step changes anything, however small or large the gradient was."""
    noise = np.random.default_rng(0).normal(size=20)
    for zeros, level in ((2, 0), (15, 1), (20, 2)):
        gradient = np.where(np.arange(20) < zeros, 0.0, 1e-9)
        given = window(energy_data=noise, energy_gap=noise, gradient_norm=gradient, loss=noise)
        found = limits.signs({"zero": signals.measured(given, {}, About(25))["zero"]})
        assert [(sign.name, sign.level) for sign in found] == ([("zero", level)] if level else [])


def test_spread_of_documents_is_free_of_their_lengths():
    """Energies of data and chains of the same lengths, which differ by 100 nats, and by 3 beyond that."""
    generator = np.random.default_rng(0)
    lengths, data, chains = (size * generator.normal(size=4000) for size in (100, 3, 3))
    given = window(
        energy_data=(lengths + data) / 5, energy_gap=6 + (data - chains) / 5, gradient_norm=np.ones(4000), loss=data
    )
    assert signals.measured(given, {}, About(25, 80))["gap_now"] == pytest.approx(2, rel=0.05)


def test_a_loss_begins_before_the_first_update():
    """Which steps that are far too long bring to where no later one can be above it."""
    loss = [0.5] + [99.5] * 19
    found = signals.measured(window(loss=loss, gradient_norm=loss), {}, About(10))
    assert found["rise"] == pytest.approx((94.55 - 0.5) / (1 + 0.5))


def test_a_loss_is_held_against_its_beginning_and_its_best():
    loss = [3.0] * 5 + [11.0] * 15
    found = signals.measured(window(loss=loss, gradient_norm=loss), {}, About(10))
    assert found == {"zero": 0, "rise": pytest.approx((9 - 3) / (1 + 3))}
    beside = signals.measured(window(loss=loss, gradient_norm=loss, critic_norm=loss), {}, About(10))
    assert beside == {"zero": 0}, "the loss rises as the critic learns"
    beside = signals.measured(window(loss=loss, gradient_norm=loss, energy_gap=loss), {}, About(10))
    assert beside == {"zero": 0}, "the height of a gap says nothing"
    later = window(loss=[2.0, 2.2] * 10, gradient_norm=[1.0] * 20)
    history = signals.remembered(later, {"first": 5.0, "lowest": 1.0, "gradient": 0.5}, {})
    assert history == {"first": 5.0, "lowest": 1.0, "gradient": 0.5}
    assert signals.measured(later, history, About(10))["loss"] == pytest.approx(1.1 / 4)


def test_nested_r_hat_is_that_of_the_definition():
    """sqrt(1 + B / W) by loops (Margossian et al. 2024); frozen groups that are apart have 1000."""
    generator = torch.Generator().manual_seed(1)
    groups = [torch.randn(20, 2, generator=generator).double() + torch.tensor([0.0, shift]) for shift in (0, 3)]
    ratios = []
    for quantity in range(2):
        means = [group[:, quantity].mean().item() for group in groups]
        centre = sum(means) / 2
        between = sum((mean - centre) ** 2 for mean in means)
        within = sum(((g[:, quantity] - g[:, quantity].mean()) ** 2).sum().item() / 19 for g in groups) / 2
        ratios.append(math.sqrt(1 + between / within))
    assert nested_r_hat(groups) == pytest.approx(max(ratios))
    assert nested_r_hat([torch.zeros(5, 1), torch.ones(5, 1)]) == pytest.approx(1000, rel=1e-5)
    assert nested_r_hat([torch.ones(5, 1)] * 2) == 1


def look(chains, change=None):
    """Signals of a small RBM whose chains are these rows; `change` is done to its weights before."""
    parts, state = small_run(
        dataset=shipped("dataset")["bars_and_stripes"] | {"side": 3}, model=shipped("model")["rbm"] | {"hidden": 4},
        chains=shipped("chains")["persistent"] | {"count": 60},
    )  # fmt: skip
    rows = parts.data.train.all()
    if change is not None:
        with torch.no_grad():
            change(state.model)
    rows = rows[torch.arange(budget.ROWS) % len(rows)]
    moving = Moving(parts.components.chains, parts.components.sampler, 1, negatives=True)
    return probe.look(Seen(state.model, rows, rows, chains(rows), moving, EAGER, stream(0, "look"), stream(0, "rows")))


def test_chains_like_the_data_show_nothing():
    found = look(lambda rows: rows[:60].clone())
    assert limits.signs(found) == []
    assert found["distinct"] == pytest.approx(1, abs=0.3)
    assert found["breadth"] == pytest.approx(1, abs=0.2)
    assert found["offset"] < 0.05


@pytest.mark.parametrize("name", sorted(PAIRS.keys() - {"exponential_family-mixed"}))  # which no sampler moves
def test_there_is_a_look_at_every_model_in_every_space(name):
    """By chains that go on and by chains that begin at the data anew."""
    choice, space = PAIRS[name]
    model = small_model(choice, space).float()
    sampler = component("sampler", "block_gibbs" if name == "mixed_rbm-mixed" else "metropolis")
    x = small_data(space).train.all()
    for chains, store in (("persistent", x), ("data", x[:0])):
        moving = Moving(component("chains", chains), sampler, 1, negatives=True)
        found = probe.look(Seen(model, x, x[:9], store, moving, EAGER, stream(0, "look"), stream(0, "rows")))
        heat = "heat_words" if isinstance(space, Counts) else "heat"
        wanted = {"overfit", heat, "apart", "offset", "breadth", "distinct", "jump"}
        assert found.keys() >= (wanted | {"r_hat_data", "r_hat_halves"} if len(store) else wanted)


def test_an_offset_is_what_is_beyond_chance():
    """Sixteen rows at random lie as far from all as 1/16 + 1/128 of the variance says, which is no offset."""
    order = torch.randperm(budget.ROWS, generator=torch.Generator().manual_seed(2)).reshape(-1, probe.FEW)
    found = [look(lambda rows, part=part: rows[part].clone())["offset"] for part in order]
    assert sum(found) / len(found) < 0.03
    moved = look(lambda rows: torch.zeros_like(rows[:60]))["offset"]
    assert moved == pytest.approx(1, abs=0.3), "bits that are on half of the time have a variance of 1/4"


def test_rows_that_repeat_come_twice_among_chains_that_mix_too():
    """By counting: of two of a, a, b one is different in a third of the draws; 30 of 128 rows of 30 patterns are 20."""
    rows = torch.tensor([[0.0], [0.0], [1.0]])
    assert probe.different(rows, 2) == pytest.approx(5 / 3)
    assert [probe.different(rows, number) for number in (1, 3, 9)] == pytest.approx([1, 2, 2])
    assert probe.different(torch.arange(40.0)[:, None], 7) == pytest.approx(7)
    patterns = torch.arange(128.0)[:, None] % 30
    generator = torch.Generator().manual_seed(3)
    draws = torch.stack([patterns[torch.randperm(128, generator=generator)[:30]] for _ in range(2000)])
    seen = sum(len(torch.unique(each)) for each in draws) / len(draws)
    assert probe.different(patterns, 30) == pytest.approx(seen, abs=0.2)


def test_nothing_is_said_of_a_handful_of_chains():
    assert look(lambda rows: rows[: probe.FEW - 1].clone()).keys() == {"overfit", "overfit_nats", "heat", "idle"}


def test_chains_in_one_place_are_seen():
    found = look(lambda rows: rows[:1].repeat(60, 1, 1), lambda model: model.b.mul_(0).add_(60 * model.b.new_ones(())))
    named = {sign.name: sign.level for sign in limits.signs(found)}
    assert named["distinct"] == named["breadth"] == 2, "every chain is where all visible units are on"


def test_rows_that_are_all_the_same_are_said_to_be():
    """Beside data without any spread nothing else is judged."""
    rows = torch.eye(3)[[1]].repeat(40, 1)
    moving = Moving(component("chains", "persistent"), component("sampler", "metropolis"), 1, negatives=True)
    model = small_model("boltzmann", Binary((3,))).float()
    store = torch.eye(3)[torch.arange(40) % 3]
    found = probe.look(Seen(model, rows, rows, store, moving, EAGER, stream(0, "look"), stream(0, "rows")))
    reported = {"gap": -18.5, "gap_nats": -0.4, "felt": 0.4, "still": 1.0}
    (sign,) = limits.signs(found | reported)
    assert (sign.name, sign.level) == ("same", 1)
    assert "all rows of the data are the same" in sign.text


def test_heat_is_the_variance_of_the_energy_per_site():
    """Weights of 0 and fields of 20: the energy is -20 times the number of units that are on, up to a constant."""
    found = look(lambda rows: rows[:60].clone(), lambda model: [model.W.zero_(), model.b.fill_(20)])
    on = small_run(dataset=shipped("dataset")["bars_and_stripes"] | {"side": 3})[0].data.train.all().flatten(1).sum(1)
    on = on[torch.arange(budget.ROWS) % len(on)].double()
    assert found["heat"] == pytest.approx(400 * on.var().item() / 9, rel=1e-4)
    assert "heat" in {sign.name for sign in limits.signs(found)}


def test_documents_are_compared_whatever_their_lengths():
    """Chains of ten times the words of the data, in the same shares, of a model whose hidden units are off."""
    space = Counts((3,), 20)
    model = small_model("replicated_softmax", space).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.c.fill_(-100)
        model.b.copy_(torch.tensor([0.0, 2, 4]))
    x = torch.tensor([[4.0, 2, 2], [12, 6, 6], [1, 2, 5], [3, 6, 15]]).repeat(8, 1)
    moving = Moving(component("chains", "persistent"), component("sampler", "metropolis"), 1, negatives=True)
    found = probe.look(Seen(model, x, 5 * x, 10 * x, moving, EAGER, stream(0, "look"), stream(0, "rows")))
    assert abs(found["overfit_nats"]) < 1e-4
    assert abs(found["apart_nats"]) < 1e-4, "16 words in the mean, whoever has them"
    assert found["breadth"] == pytest.approx(1)
    assert found["offset"] == 0
    words = x.sum(1)
    per_word = -(x @ torch.tensor([0.0, 2, 4])) / words
    low = (per_word * words).sum() / words.sum()
    assert found["heat_words"] == pytest.approx((words * (per_word - low) ** 2).mean().item(), rel=1e-4)


def test_the_scale_of_the_data_is_to_blame_first():
    """Where it was measured no other way out is named; of a run that looks well nothing is said of it."""
    scale = {"scale_mean": 3.0, "scale_low": 80.0, "scale_high": 120.0}
    assert limits.signs(scale | {"heat": 1.0}) == []
    first, second = limits.signs(scale | {"heat": 1e4})
    assert (first.name, first.level, second.name) == ("scale", 2, "heat")
    assert (
        "standard deviations from 80 to 120, models of real numbers begin near 0 and 1; dataset.standardise"
        in first.text
    )
    assert second.text == "energies of rows of the data lie too far apart (heat 1e+04)"


def test_units_that_are_stuck_are_counted():
    assert (
        look(lambda rows: rows[:60].clone(), lambda model: model.c.copy_(torch.tensor([50.0, -50, 0, 0])))["idle"]
        == 0.5
    )


def test_chains_narrower_than_the_data_are_doubted_where_they_do_not_meet_them():
    """And not twice where they are far narrower."""
    for breadth, r_hat, names in ((0.3, 1.3, ["narrow"]), (0.3, 1.1, []), (0.4, 2.0, []), (0.04, 2.0, ["breadth"])):
        assert [sign.name for sign in limits.signs({"breadth": breadth, "r_hat_data": r_hat})] == names


@pytest.mark.parametrize("name", limits.LIMITS)
def test_limits_have_two_levels_in_order(name):
    limit = limits.LIMITS[name]
    sign = -1 if limit.below else 1
    assert sign * limit.failing > sign * limit.suspicious
    values = [limit.suspicious * (1 - 0.1 * sign), limit.suspicious * (1 + 0.1 * sign)]
    assert [limit.level(value) for value in values] == [0, 1]
    assert limit.level(-values[1]) == (1 if limit.sided else 2 if limit.below else 0)


def test_a_verdict_is_its_worst_sign():
    first, second = Sign("a", 1, "this"), Sign("b", 2, "that")
    assert str(verdict([first, second])) == "failing: that; this"
    assert str(verdict([])) == "healthy"


def test_the_past_is_read_from_what_was_logged():
    """What a look at the chains found holds until the next one; consecutive looks of one level are one stretch."""
    logged = [
        {"step": 10, "loss": 1.0},
        {"step": 100, "health/level": 0.0, "health/jump": 0.5, "health/acceptance": 0.5},
        {"step": 200, "health/level": 2.0, "health/jump": 1e-4, "health/acceptance": 0.5},
        {"step": 300, "health/level": 2.0, "health/acceptance": 0.01, "health/gap_now": None},
        {"step": 400, "health/level": 1.0, "health/jump": 0.5, "health/acceptance": 0.01},
        {"step": 500, "health/level": 0.0, "health/acceptance": 0.5},
        {"step": 600, "health/level": 2.0, "health/jump": 1e-4, "health/acceptance": 0.5},
        {"step": 700, "health/level": 1.0, "health/jump": 0.01, "health/acceptance": 0.5},
    ]
    looks = past.looks(logged, {})
    assert [look.verdict.level for look in looks] == [0, 2, 2, 1, 0, 2, 1]
    found = past.before(looks)
    assert [(stretch.level, stretch.steps) for stretch in found] == [(2, "200 to 300"), (1, "400"), (2, "600")]
    assert [*found[0].why] == ["jump", "acceptance"]
    sentence = past.said(looks[-1].verdict, found)
    assert sentence.startswith("suspicious at the end: chains hardly move (jump 0.01); take")
    assert "; was failing at steps 200 to 300, 600: chains hardly move (jump 0.0001); take" in sentence
    assert past.said(verdict([]), found[1:2]).startswith(
        "healthy at the end; was suspicious at steps 400: chains accept"
    )
    assert past.said(verdict([]), []) is None
    assert len(past.before(looks, ended=True)) == 4


# When


def test_looks_at_chains_are_dense_at_first_and_then_keep_their_share():
    assert [step for step in range(1, 20001) if budget.due(step, 100, 6000)] == [
        100, 200, 400, 800, 6000, 12000, 18000,
    ]  # fmt: skip
    parts, _ = small_run()
    moving = Moving(parts.components.chains, parts.components.sampler, 1, negatives=True)
    small, large = (budget.periods(100, 0.005, count, 100, moving) for count in (1000, 10**8))
    assert large.chains < small.chains
    assert large.reports == 100 < small.reports < small.chains
    assert budget.periods(100, 0.05, 1000, 100, moving).chains == pytest.approx(small.chains / 10, abs=100)
    assert small.chains % 100 == small.reports % 100 == 0


def test_a_look_is_at_rows_as_steps_see_them():
    """Of both splits; what is missing of them is drawn by the model, so that nothing depends on what stands there."""
    parts, state = small_run()
    train = parts.data.train
    missing = torch.zeros(len(train), 2, 2, dtype=torch.bool)
    missing[:, 0] = True
    train = replace(train, missing=missing, sweeps=2)
    valid = replace(train, stored=torch.ones_like(train.stored), missing=None)
    data = replace(parts.data, train=train, valid=valid)
    seen = Watcher(
        WatchHealth(every=10, share=0.1, act="warn", attempts=3, extra_steps=0.0), replace(parts, data=data)
    ).seen(state)
    other = replace(train, stored=torch.where(missing, 1 - train.stored, train.stored))
    again = Watcher(
        WatchHealth(every=10, share=0.1, act="warn", attempts=3, extra_steps=0.0),
        replace(parts, data=replace(data, train=other)),
    ).seen(state)
    assert seen.valid.unique().tolist() == [1.0]
    assert torch.equal(seen.train[:, 1], again.train[:, 1])
    assert (seen.train[:, 0] == again.train[:, 0]).float().mean() > 0.5, "as they were stored all would be different"


# A run


def test_every_look_is_logged_and_the_verdict_is_in_the_summary(watched):
    found = {line["step"]: line for line in lines(watched) if "health/level" in line}
    assert [*found] == [10, 20, 40, 60, 70], "dense at first, then as rare as their share asks for; and the last"
    assert all("loss" in line for line in found.values()), "one line has the step and the look"
    assert [step for step, line in found.items() if "health/r_hat_data" in line] == [10, 20, 40]
    said = facts(watched, "summary.json")["health"]
    assert (said["verdict"], said["why"]) == ("healthy", [])
    assert said["signals"]["gap_now"] == found[70]["health/gap_now"]


@pytest.mark.usefixtures("_elsewhere")
def test_energies_that_stay_as_they_were_are_doubted():
    """Of a model that no step changes, as of a network whose units are all off, though its loss has a gradient."""
    words = "optimizer=sgd optimizer.schedule=constant health.every=10 steps=20 checkpoint.monitor=null"
    for lr, expected in ((0, ["still"]), (1e-5, [])):
        run = trained(f"{words} optimizer.lr={lr or 1e-30}", f"run{lr}")
        assert [*lines(run)[9]].count("health/still") == 0, "there is no look before the first one"
        found = facts(run, "summary.json")["health"]
        assert [name for name in found["signals"] if name == "still"] == expected
        assert any("no step changes" in why for why in found["why"]) == bool(expected)


@pytest.mark.usefixtures("_elsewhere")
def test_without_it_the_run_is_the_same(watched):
    run = trained(LINE.partition("health.")[0] + "health=none")
    own, other = (load_file(last_step(each) / TENSORS) for each in (run, watched))
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    kept = [{name: value for name, value in line.items() if "health/" not in name} for line in lines(watched)]
    assert lines(run) == kept
    assert "health" not in facts(run, "summary.json")
    assert "health" not in json.loads((last_step(run) / NUMBERS).read_text())


@pytest.mark.usefixtures("_elsewhere")
def test_killed_and_resumed_it_sees_the_same(watched, monkeypatch):
    """Killed amid a window, and once more after its last step."""
    for step in (37, 69):
        with monkeypatch.context() as patch:
            at_step(patch, step, die)
            with pytest.raises(Killed):
                _ = train(f"{LINE} save_every=7") if step == 37 else ebm("train resume=run")
    assert ebm("train resume=run save_every=0").code == 0
    assert outcome(Path("run")) == outcome(watched)
    assert facts(Path("run"), "summary.json")["health"] == facts(watched, "summary.json")["health"]


@pytest.mark.usefixtures("_elsewhere")
def test_chains_that_do_not_move_are_said_once():
    words = "model=boltzmann dataset=bars_and_stripes dataset.side=3 sampler=dmala sampler.step_size=1e-6 steps=20"
    common = "health.every=10 evaluation=[] checkpoint.monitor=null tracker=none device=cpu hydra.run.dir=still"
    answer = ebm(f"train {words} {common}")
    assert answer.code == 0, answer.err
    assert answer.err.count("step 10: failing: chains hardly move (jump 0)") == 1
    assert answer.err.count("chains hardly move") == 2, "once, and in the end"
    assert "health: failing at the end: chains hardly move (jump 0); take" in answer.err
    assert facts(Path("still"), "summary.json")["health"]["verdict"] == "failing"


@pytest.mark.usefixtures("_elsewhere")
def test_a_run_that_diverged_has_failed():
    line = LINE.replace("dataset=bars_and_stripes dataset.side=3", "model=gaussian_rbm dataset=points_2d")
    answer = train(line.replace("optimizer.lr=0.1", "optimizer.lr=1e9"))
    assert answer.code == 1, answer.err
    found = facts(Path("run"), "summary.json")["health"]
    assert found["verdict"] == "failing"
    assert "health: failing at the end" not in answer.err, "it was said that the run failed"
    assert "not finite" in found["why"][0]


# A run that is over


@pytest.mark.usefixtures("_elsewhere")
def test_a_finished_run_is_judged_by_what_it_logged_and_by_its_chains(watched):
    """What its steps reported is the same as in the end; a chain store that collapsed since is noticed."""
    answer = ebm(f"evaluate run={watched} evaluation=[health] out=found device=cpu")
    assert answer.code == 0, answer.err
    assert re.search(r"health +healthy", answer.out)
    found = facts(Path("found"), "results.json")
    said = facts(watched, "summary.json")["health"]["signals"]
    assert found["health/level"] == 0
    assert found["health/gap"] == said["gap"]
    assert found.keys() >= {"health/r_hat_data", "health/heat", "health/distinct"}


def test_a_finished_run_that_was_worse_before_says_so():
    """By the lines up to its step alone."""
    logged = [
        {"step": step, "health/level": 0.0, "health/acceptance": acceptance, "health/distinct": 1.0}
        for step, acceptance in ((100, 0.01), (200, 0.5), (300, 1e-6))
    ]
    parts, state = small_run(chains=shipped("chains")["persistent"] | {"count": 60})
    state.step = 200
    about = subject_of(parts, state, "test", "health")
    components = parts.components
    moving = Moving(components.chains, components.sampler, 1, negatives=True)
    chains = parts.data.train.all()[:1].repeat(60, 1, 1)
    result = component("evaluation", "health").evaluate(
        replace(about, training=Training(chains, moving, 200, lambda: logged))
    )
    assert result.metrics["health/level"] > 0
    assert any("many chains are the same" in warning for warning in result.warnings)
    still = result.metrics["health/acceptance"]
    assert still == 0.5
    alone = component("evaluation", "health").evaluate(replace(about, training=Training(
        state.store, moving, 200, lambda: [{"step": 50, "health/level": 2.0, "health/acceptance": 1e-6}, *logged]
    )))  # fmt: skip
    (said,) = alone.said
    assert "was failing at steps 50: chains accept hardly any proposal" in said
