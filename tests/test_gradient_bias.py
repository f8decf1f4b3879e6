"""Coupled chains are unbiased by enumeration, and evaluation=gradient_bias finds the bias that enumeration finds."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm, facts, trained
from helpers.components import SIGMAS, component
from helpers.data import small_data
from helpers.matrices import matrix_of
from helpers.models import double_states, small_model, target
from helpers.samplers import SAMPLERS

from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.gradient_bias import means
from ebm_cli.evaluation.gradients import Products, compared
from ebm_cli.log_z import enumeration
from ebm_cli.rng import normal, stream
from ebm_cli.sampler.coupled import Window, coupled
from ebm_cli.space import Binary, Categorical, Spin

SIX = Binary((2, 3))


def histograms(model, sampler, window, pairs):
    """H of the indicator of each state, (pairs, states), from pairs that begin far off the model, and meeting times."""
    found = torch.zeros(pairs, len(double_states(model)), dtype=torch.float64)

    def take(x, weight, which):
        found.index_put_((which, model.space.code(x)), weight.double(), accumulate=True)

    start = model.space.noise(1, stream(0, "start")).expand(pairs, *model.space.shape)
    other = model.space.noise(pairs, stream(0, "other"))
    starts = torch.where(torch.arange(pairs).reshape(-1, *[1] * len(model.space.shape)) % 2 == 0, start, other)
    times = coupled(sampler, model, (starts, starts.flip(0).roll(1, 0)), window, stream(0, "pairs"), take)
    return found, times


def z_of(model, found):
    """Of the share of each state that comes often enough for a normal law."""
    p = enumeration.probabilities(model).detach().double()
    often = p * len(found) > 50
    return ((found.mean(0) - p) / (found.std(0) / len(found) ** 0.5))[often]


CASES = {
    "rbm": ("block_gibbs", "rbm", SIX),
    "boltzmann": ("gibbs", "boltzmann", SIX),
    "potts": ("gibbs", "potts", Categorical((1, 3, 3))),
    "gwg": ("gwg", "rbm", SIX),
    "metropolis": ("metropolis", "ising", Spin((2, 3))),
    "replicas": ("parallel_tempering", "rbm", SIX),
}
SLOW = ("gwg", "metropolis", "replicas")


@pytest.mark.parametrize("window", [Window(0, 0, 4000), Window(1, 30, 4000, 4)], ids=["k=m=0", "k=1 m=30"])
@pytest.mark.parametrize("case", [pytest.param(name, marks=[pytest.mark.long] * (name in SLOW)) for name in CASES])
def test_means_are_unbiased(case, window):
    """E H = p at every state, from starts that are far off and with as few steps as there can be."""
    sampler, name, space = CASES[case]
    found, times = histograms(small_model(name, space).float(), component("sampler", sampler), window, 20_000)
    assert (times > 0).all()
    assert z_of(small_model(name, space).float(), found).abs().max() < SIGMAS
    assert found.sum(1).allclose(torch.ones((), dtype=torch.float64))


@pytest.mark.long
def test_means_are_unbiased_to_a_part_in_a_thousand():
    """Six sites, 100 000 pairs: the standard errors of the shares are below 0.006."""
    model = small_model("rbm", SIX).float()
    found, _ = histograms(model, component("sampler", "block_gibbs"), Window(0, 0, 4000), 100_000)
    assert z_of(model, found).abs().max() < SIGMAS
    assert (found.std(0) / len(found) ** 0.5).max() < 0.006


def test_a_sampler_that_forgets_all_meets_at_once():
    """X_2 and Y_1 take the same numbers: without couplings they are the same, and X_1 is Y_0 only by chance."""
    model = small_model("rbm", Binary((4, 4))).float()
    torch.nn.init.zeros_(model.W)
    starts = (model.space.noise(50, stream(0, "x")), model.space.noise(50, stream(0, "y")))
    times = coupled(
        component("sampler", "block_gibbs"), model, starts, Window(0, 0, 9), stream(0, "pairs"), lambda *_: None
    )
    assert set(times.tolist()) == {2}


def test_pairs_that_did_not_meet_are_said():
    model = small_model("rbm", SIX).float()
    _, times = histograms(model, component("sampler", "block_gibbs"), Window(0, 0, 1), 200)
    assert 0 < (times == 0).sum() < 200


# Directions


def drawn(angle, length, noise, seed, groups=10, size=400):
    """Products of groups of two noisy gradients, of length `length` and 1, so many degrees apart."""
    g, true = torch.zeros(2, size, dtype=torch.float64)
    true[0], turn = 1.0, torch.deg2rad(torch.tensor(float(angle), dtype=torch.float64))
    g[0], g[1] = length * turn.cos(), length * turn.sin()
    own, best = (
        mean + noise * normal((groups, size), stream(seed, name), dtype=torch.float64)
        for mean, name in ((g, "g"), (true, "true"))
    )
    return compared(Products(*((a @ b.T).numpy() for a, b in ((own, own), (best, best), (own, best)))))


@pytest.mark.parametrize(("angle", "length"), [(30.0, 1.0), (90.0, 2.0), (150.0, 0.5)])
def test_angle_and_share_are_those_of_the_means_and_intervals_hold_them(angle, length):
    """The noise of a group is three times the gradient: products of groups with themselves would hide all of it."""
    share = (1 + length**2 - 2 * length * np.cos(np.radians(angle))) ** 0.5
    inside = []
    for seed in range(40):
        bias = drawn(angle, length, 0.05, seed)
        exact = {"angle": angle, "share": share, "difference": share, "size": 1.0}
        inside += [getattr(bias, name).low <= value <= getattr(bias, name).high for name, value in exact.items()]
    assert np.mean(inside) > 0.9
    assert drawn(angle, length, 0.0, 0).angle.value == pytest.approx(angle, abs=1e-4)


def test_equal_gradients_differ_by_nothing_that_is_told():
    found = [drawn(0.0, 1.0, 0.1, seed) for seed in range(20)]
    assert np.mean([bias.difference.low == 0 for bias in found]) >= 0.9
    assert np.mean([bias.angle.low == 0 for bias in found]) >= 0.9


def test_what_is_not_told_from_0_has_no_direction():
    assert drawn(0.0, 1.0, 3.0, 1).share is None
    small = drawn(0.0, 1e-4, 0.03, 1)
    assert small.angle is None
    assert small.share.low < 1 < small.share.high


# The evaluation


def exact_gradient(model, p):
    """E_p[dE] with the weights p of all states."""
    energy, pull = model.energy_vjp(double_states(model))
    return {name: value.flatten().double() for name, value in pull(p.to(energy)).items()}


def subject(model):
    """Held-out rows are all ones: the gradient is that of training."""
    data = small_data(model.space)
    data = replace(data, test=replace(data.test, stored=torch.ones_like(data.test.stored)))
    return Subject(model, data, "test", SAMPLERS["block_gibbs"], torch.empty(0, 2, 2), stream(0, "subject"))


def test_contrastive_divergence_is_as_far_off_as_its_transition_matrix_says():
    """Of CD-1 exactly: rows of the data times the matrix of one step; of the likelihood p."""
    about, model = subject(target("rbm-binary").float()), target("rbm-binary")
    x = about.data.train.all().double()
    data = torch.bincount(model.space.code(x), minlength=16).double() / len(x)
    laws = {"data": data, "cd_1": data @ matrix_of(about.sampler, model), "true": enumeration.probabilities(model)}
    mean = {name: exact_gradient(model, law.detach()) for name, law in laws.items()}
    own, best = ({name: mean["data"][name] - mean[of][name] for name in mean["data"]} for of in ("cd_1", "true"))
    size = sum(value.square().sum() for value in best.values()).sqrt().item()
    apart = sum((own[name] - best[name]).square().sum() for name in own).sqrt().item()
    evaluation = component("evaluation", "gradient_bias", pairs=4000, chains=20_000, steps=[1])
    found = evaluation.evaluate(about)
    for name, value in (("likelihood/size", size), ("cd_1/difference", apart), ("cd_1/share", apart / size)):
        low, high = (found.metrics[f"gradient_bias/{name}_{end}"] for end in ("low", "high"))
        assert 0 < low <= value <= high, name
    rows = [*csv.DictReader(found.files["gradient_bias.csv"].splitlines())]
    assert [(row["source"], row["parameter"]) for row in rows] == [
        (source, name) for source in ("cd_1", "short_run_1") for name in ("W", "b", "c", "all")
    ]
    for row in rows[:3]:
        exact = (own[row["parameter"]] - best[row["parameter"]]).norm().item()
        assert float(row["difference_low"]) <= exact <= float(row["difference_high"])


def test_a_mean_over_chains_is_that_of_each_group():
    model = target("rbm-binary")
    x = double_states(model)[torch.arange(40) % 16]
    found = means(model, x)["W"]
    _, pull = model.energy_vjp(x[3::10])
    assert torch.allclose(found[3], pull(torch.full((4,), 0.25, dtype=torch.float64))["W"].flatten(), atol=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with chains of its own."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(tmp_path_factory.mktemp("gradient_bias"))
        return trained("chains.count=40").absolute()


FEW = (
    "evaluation=[gradient_bias] evaluation.gradient_bias.pairs=40 evaluation.gradient_bias.chains=40 "
    "evaluation.gradient_bias.steps=[2] device=cpu"
)


def test_what_the_command_says(run):
    answer = ebm(f"evaluate run={run} {FEW} evaluation.gradient_bias.max_steps=1")
    assert answer.code == 0, answer.err
    for words in ("coupled chains", "likelihood's gradient", "cd_2", "short_run_2", "angle, degrees"):
        assert words in answer.out
    assert "of the pairs of chains did not meet in 1 steps" in answer.err
    found = facts(sorted((run / "evaluations").iterdir())[-1], "results.json")
    assert "gradient_bias/unmet" in str(found)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("evaluation.gradient_bias.k=9 evaluation.gradient_bias.m=3", "k = 9, m = 3: must rise to max_steps = 50000"),
        ("evaluation.gradient_bias.pairs=3", "evaluation.gradient_bias.pairs = 3"),
    ],
)
def test_refusals(run, words, said):
    assert_refused(ebm(f"evaluate run={run} {FEW} {words}"), said)


def test_real_numbers_never_meet():
    model = target("mlp-real")
    evaluation = component("evaluation", "gradient_bias")
    assert "never meet in a real space" in evaluation.refusal(model, component("sampler", "mala"))
    assert "does not leave the model invariant" in evaluation.refusal(
        target("rbm-binary"), component("sampler", "dmala", adjusted=False)
    )
