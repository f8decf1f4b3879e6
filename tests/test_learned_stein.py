"""Learned Stein discrepancies: the identity of Stein under the truth, the best critic, gradients, whose turn it is."""

import itertools
import json
import math

import pytest
import torch
from helpers.cli import ebm
from helpers.components import component, shipped
from helpers.data import small_data
from helpers.matrices import at
from helpers.models import double_states, exact_p, randomised, small_model, target
from helpers.statistics import assert_close
from helpers.training import small_run

from ebm_cli import load
from ebm_cli.evaluation.stein import difference_scores
from ebm_cli.objective.base import Batch
from ebm_cli.objective.stein import Critic, discrete_operator
from ebm_cli.rng import stream
from ebm_cli.space import Real
from ebm_cli.training.step import train_step

KEY = stream(0, "objective")
DISCRETE = ["rbm-binary", "ising-spin", "potts-categorical"]
discrete = pytest.mark.parametrize("name", DISCRETE)


def critic_of(space, seed=3):
    """With every parameter random."""
    return randomised(Critic(space, [5], 1.0, stream(seed, "critic")), seed)


def sites_of(model):
    return torch.arange(model.space.sites)


def law(model, name):
    """Of other data: that of the same kind of model with other parameters."""
    choice = name.split("-")[0]
    return exact_p(small_model(choice, model.space, seed=8))


@discrete
def test_the_identity_of_stein_holds_under_the_truth_alone(name):
    """sum_x p(x) A f(x) = 0 for any f, to 1e-10, also of one site; under another law it is not."""
    model = target(name)
    x, p, critic = double_states(model), exact_p(model), critic_of(model.space)
    for sites in (sites_of(model), torch.tensor([2])):
        found = discrete_operator(model, critic, x, sites).value
        assert (p @ found).abs() < 1e-10
        assert (law(model, name) @ found).abs() > 1e-3


@discrete
def test_the_operator_is_its_definition(name):
    """By loops over sites, from the probabilities of all states."""
    model = target(name)
    space, x, p, critic = model.space, double_states(model), exact_p(model), critic_of(model.space)
    f, values = critic(x), space.decode(x).flatten(1).long().tolist()
    for sites in (sites_of(model), torch.tensor([1, 2])):
        value, square = torch.zeros(2, len(x), dtype=torch.float64)
        for n, i in itertools.product(range(len(x)), sites.tolist()):
            up, down = (at(space, n, {i: (values[n][i] + by) % space.values}) for by in (1, -1))
            value[n] += (p[down] / (p[n] + p[down]) * f[down, i] - p[up] / (p[n] + p[up]) * f[n, i]).item()
            square[n] += (f[down, i] ** 2 + f[n, i] ** 2).item()
        found = discrete_operator(model, critic, x, sites)
        for part, expected in zip(found, (value, square), strict=True):
            assert_close(part, expected * space.sites / len(sites), rtol=1e-9, atol=1e-10)


@discrete
def test_it_is_the_difference_operator_of_a_weighted_critic(name):
    """f_i = c_i (p(x) + p(x+)) / p(x) has the weight taken away: A f = c . s with the scores of evaluation=stein."""
    model = target(name)
    x, c = double_states(model), torch.arange(1.0, model.space.sites + 1).double()
    found = discrete_operator(model, lambda rows: c * (2 - difference_scores(model, rows)), x, sites_of(model)).value
    assert_close(found, difference_scores(model, x) @ c, rtol=1e-9, atol=1e-10)


def best_critic(model, q, penalty):
    """(a_data - a) / (2 penalty) of all states, (states, sites), a(x, x+) = p(x+) / (p(x) + p(x+))."""
    table = torch.zeros(len(q), model.space.sites, dtype=torch.float64)
    for n, row in enumerate(model.space.decode(double_states(model)).flatten(1).long().tolist()):
        for i, value in enumerate(row):
            up = at(model.space, n, {i: (value + 1) % model.space.values})
            table[n, i] = q[up] / (q[n] + q[up])
    ratio = 1 - difference_scores(model, double_states(model))
    return (table - ratio / (1 + ratio)) / (2 * penalty)


def value_of(model, q, penalty, f):
    """V of the critic f (states, sites) under q."""
    sites = sites_of(model)
    found = discrete_operator(model, lambda rows: f[model.space.code(rows)], double_states(model), sites)
    return q @ (found.value - penalty * found.square), q @ found.square


@discrete
def test_the_best_critic_is_the_difference_of_the_conditionals(name):
    """V = penalty E|f|^2 there, and penalty E|d|^2 less at a critic that is d away."""
    model, penalty = target(name), 0.3
    q, away = law(model, name), critic_of(model.space)(double_states(model)).detach()
    best = best_critic(model, q, penalty)
    value, square = (part.item() for part in value_of(model, q, penalty, best))
    assert value == pytest.approx(penalty * square, rel=1e-9)
    further = value_of(model, q, penalty, away)[1].item()
    assert value_of(model, q, penalty, best + away)[0].item() == pytest.approx(value - penalty * further, rel=1e-9)


@pytest.mark.parametrize("name", DISCRETE[:2])
def test_with_the_best_critic_the_model_follows_ratio_matching(name):
    """Of two values 2 penalty V is its loss up to a constant."""
    model, penalty = target(name), 0.3
    q = law(model, name)
    parameters = [*model.parameters()]
    grads = torch.autograd.grad(value_of(model, q, penalty, best_critic(model, q, penalty))[0], parameters)
    loss = q @ model.log_conditionals(double_states(model), sites_of(model)).expm1().square().sum(1)
    for grad, expected in zip(grads, torch.autograd.grad(loss, parameters), strict=True):
        assert_close(2 * penalty * grad, expected, rtol=1e-9, atol=1e-12)


def gaussian_rows(deviation):
    """Four rows with mean 0 and no other second moments than those of N(0, deviation^2)."""
    one = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=2))).double()
    return one * torch.tensor(deviation, dtype=torch.float64)


def test_of_normal_data_the_discrepancy_and_its_gradient_are_those_in_closed_form():
    """f* = (s - s_data) / (2 penalty): V = E|s - s_data|^2 / (4 penalty), and dV is explicit score matching's dloss.

    s = -(x - m) k and s_data = -x / v are affine, so that rows with the right moments give the mean of A f* exactly.
    """
    model, penalty, v = (
        small_model("exponential_family", Real((1, 2))),
        0.3,
        torch.tensor([0.49, 1.69], dtype=torch.float64),
    )
    x = gaussian_rows([0.7, 1.3]).reshape(-1, 1, 2)
    k, m = model.r.detach().exp(), model.m.detach()

    def best(rows):
        flat = rows.flatten(1)
        return (flat / v - (flat - m) * k) / (2 * penalty)

    objective = component("objective", "stein", penalty=penalty)
    found = objective.operated(model, best, x, KEY)
    value = found.value.mean() - penalty * found.square.mean()
    expected = ((1 / v - k).square() * v + (m * k).square()).sum() / (4 * penalty)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    mine = torch.autograd.grad(value, [model.m, model.r])
    other = component("objective", "score_matching", variant="explicit").gradient(model, Batch(x), KEY).parameters
    for grad, name in zip(mine, ("m", "r"), strict=True):
        assert_close(grad * 2 * penalty, other[name], rtol=1e-9, atol=1e-12)


def test_the_identity_on_real_numbers():
    """By quadrature on the plane: zero under the law of a network, whatever the critic, and not under another."""
    model, critic = target("mlp-real"), critic_of(Real((1, 2)))
    axis = torch.linspace(-12, 12, 321, dtype=torch.float64) * model.spread + model.mean.mean()
    x = torch.cartesian_prod(axis, axis).reshape(-1, 1, 2)
    p = (-model.energy(x)).detach().softmax(0)
    found = component("objective", "stein", trace="exact").operated(model, critic, x, KEY).value.detach()
    assert (p @ found).abs() < 1e-10
    warm = p.sqrt() / p.sqrt().sum()
    assert (warm @ found).abs() > 1e-3


def test_over_all_signs_the_estimate_of_the_trace_is_exact():
    """Two coordinates have two pairs of signs, up to their own; of several projections the mean."""
    model, critic = target("mlp-real"), critic_of(Real((1, 2)))
    x = small_data(model.space, 1).train.all().double()

    def value(trace, seed=0, projections=1):
        objective = component("objective", "stein", trace=trace, projections=projections)
        return objective.operated(model, critic, x, stream(seed)).value.item()

    seen = {round(value("hutchinson", seed), 9) for seed in range(8)}
    assert len(seen) == 2
    assert sum(seen) / 2 == pytest.approx(value("exact"), abs=1e-8)
    assert value("auto") == value("exact")
    many = value("hutchinson", 0, 400)
    assert abs(many - value("exact")) < 5 * (max(seen) - min(seen)) / 2 / math.sqrt(400)


@pytest.mark.parametrize("name", ["mlp-real", "rbm-binary", "potts-categorical"])
def test_model_and_critic_go_opposite_ways(name):
    """dV of the model, -dV of the critic, V from values of the operator; shards draw what the whole batch draws."""
    model = target(name)
    objective = component("objective", "stein", penalty=0.2, trace="hutchinson", sites=2, critic_steps=1)
    critic, x = critic_of(model.space), small_data(model.space, 6).train.all().double()
    found = objective.gradient(model, Batch(x, auxiliary=critic), KEY)
    operated = objective.operated(model, critic, x, KEY)
    value = (operated.value - 0.2 * operated.square).mean()
    assert found.metrics["loss"].item() == pytest.approx(value.item(), rel=1e-12)
    parameters = {**dict(model.named_parameters()), **{f"auxiliary.{n}": p for n, p in critic.named_parameters()}}
    grads = torch.autograd.grad(value, [*parameters.values()], materialize_grads=True)
    assert found.parameters.keys() == parameters.keys()
    for grad, given in zip(grads, parameters, strict=True):
        sign = -1 if given.startswith("auxiliary.") else 1
        assert_close(found.parameters[given], sign * grad, rtol=1e-9, atol=1e-12)
    shards = [objective.gradient(model, Batch(x[i : i + 2], first=i, auxiliary=critic), KEY) for i in (0, 2, 4)]
    for given in parameters:
        parts = sum(shard.parameters[given] for shard in shards) / 3
        assert_close(parts, found.parameters[given], rtol=1e-9, atol=1e-12)


def test_the_model_learns_at_its_turn():
    """With three updates of the critic to one, the third and the sixth; nor does the optimizer remember others."""
    objective = shipped("objective")["stein"] | {"critic_steps": 3, "widths": [4]}
    parts, state = small_run(objective=objective, optimizer=shipped("optimizer")["adam"])

    def kept():
        named = {**state.tensors()}
        return [{n: t.clone() for n, t in named.items() if ("auxiliary" in n) == critic} for critic in (False, True)]

    moved = []
    for _ in range(6):
        before = kept()
        train_step(parts, state)
        pairs = zip(before, kept(), strict=True)
        moved.append([any(not torch.equal(t, new[n]) for n, t in old.items()) for old, new in pairs])
    assert moved == [[False, True], [False, True], [True, True]] * 2


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on the plane that stopped between two turns of the model and went on, beside one that did not."""
    folder = tmp_path_factory.mktemp("stein")
    line = (
        "train objective=stein objective.widths=[8] model=mlp model.widths=[8] dataset=points_2d optimizer=adam "
        "batch_size=8 dataset.train=100 dataset.held_out=50 save_every=3 tracker=none evaluation=[stein] device=cpu "
        "checkpoint.monitor=null evaluation.stein.bootstraps=19 steps=6 log_every=1"
    )
    for name in ("whole", "again"):
        answer = ebm(f"{line} hydra.run.dir={folder}/{name}")
        assert answer.code == 0, answer.err
    for path in (folder / "again" / "checkpoints").glob("*6*"):
        for file in sorted(path.rglob("*"), reverse=True):
            file.unlink()
        path.rmdir()
    assert ebm(f"train resume={folder}/again").code == 0
    return folder


@pytest.mark.long
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(run):
    first, second = (
        next((run / name / "checkpoints").glob("*6*/*.safetensors")).read_bytes() for name in ("whole", "again")
    )
    assert first == second


@pytest.mark.long
def test_its_model_is_sampled_like_any_other(run):
    answer = ebm(f"sample run={run}/whole n=3 steps=2 device=cpu out={run}/drawn")
    assert answer.code == 0, answer.err
    assert load(run / "whole").sample(3, 2).shape == (3, 2)


@pytest.mark.long
def test_a_run_says_what_the_critic_finds(run):
    lines = [*map(json.loads, (run / "whole" / "metrics.jsonl").read_text().splitlines())]
    assert [line["critic_norm"] > 0 for line in lines if "critic_norm" in line] == [False, *[True] * 5]


@pytest.mark.long
def test_walls_are_refused():
    answer = ebm("train objective=stein model=gaussian_rbm dataset=digits tracker=none device=cpu")
    assert answer.code == 2
    assert "objective=stein: is for data without walls" in answer.err
