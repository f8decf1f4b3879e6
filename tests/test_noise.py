"""Noise distributions, and the objectives that tell data from them: densities, draws, gradients, consistency."""

import dataclasses
import math

import pytest
import torch
from scipy import integrate, stats
from targets import (
    SMALL_SPACES,
    assert_close,
    auxiliary,
    component,
    double_states,
    exact_p,
    gradients,
    shipped,
    small_data,
    small_model,
    small_run,
    target,
)

from ebm_cli import checks, exact
from ebm_cli.errors import UserError
from ebm_cli.noise.units import gaussian
from ebm_cli.objective.base import Batch
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Box, Discrete, Real, Words
from ebm_cli.step import train_step

KEY = stream(0, "noise")
EXACT = {"rtol": 1e-9, "atol": 1e-12}
SPACES = [SMALL_SPACES[kind] for kind in SMALL_SPACES if kind is not Words]  # of words: test_words.py
WITH_DENSITY = [name for name in shipped("noise") if component("noise", name).has_density]


def pairs():
    return [(n, space) for n in WITH_DENSITY for space in SPACES if type(space) in component("noise", n).spaces]


def built(name, space, **changes):
    return component("noise", name, **changes).build(small_data(space), KEY).double()


# Distributions


@pytest.mark.parametrize(("name", "space"), pairs(), ids=str)
def test_draws_lie_in_the_space_and_have_the_density(name, space):
    """Discrete: frequencies of all states; real: the mean of log q is minus its entropy, sums of independent sites."""
    noise = built(name, space)
    x = noise.sample(20_000, KEY).double()
    assert space.contains(x)
    assert torch.equal(noise.sample(3, KEY.at_row(5)).double(), x[5:8])
    log_q = noise.log_prob(x)
    assert log_q.isfinite().all()
    if isinstance(space, Discrete):
        states = space.enumerate().double()
        p = noise.log_prob(states).exp()
        assert p.sum().item() == pytest.approx(1, rel=1e-12)
        counts = torch.bincount(space.code(x).long(), minlength=len(states)).double()
        assert stats.chisquare(counts.numpy(), (p / p.sum() * len(x)).numpy()).pvalue > 1e-6


@pytest.mark.parametrize("space", [Box((2,), -0.5, 1.0), Real((2,))], ids=str)
def test_normal_noise_is_that_of_scipy_within_the_walls(space):
    mean, std = torch.tensor([0.3, -0.4]), torch.tensor([0.5, 2.0])
    noise = gaussian(space, mean, std).double()
    inside = isinstance(space, Box)
    laws = [
        stats.truncnorm((space.low - m) / s, (space.high - m) / s, m, s) if inside else stats.norm(m, s)
        for m, s in zip(mean.double().tolist(), std.double().tolist(), strict=True)
    ]
    x = torch.tensor([[0.1, 0.9], [-0.5, 0.25]], dtype=torch.float64)
    expected = [sum(law.logpdf(v) for law, v in zip(laws, row, strict=True)) for row in x.tolist()]
    assert noise.log_prob(x).tolist() == pytest.approx(expected, rel=1e-6)  # the standard deviations are float32
    draws = noise.sample(20_000, KEY)
    for i, law in enumerate(laws):
        assert stats.kstest(draws[:, i].numpy(), law.cdf).pvalue > 1e-6
    if inside:
        assert noise.log_prob(x + 2).tolist() == [-math.inf] * 2
        mass = integrate.dblquad(
            lambda b, a: noise.log_prob(torch.tensor([[a, b]], dtype=torch.float64)).exp().item(), -0.5, 1, -0.5, 1
        )
        assert mass[0] == pytest.approx(1, rel=1e-6)


def test_fitted_noise_has_the_moments_of_the_data():
    data = small_data(Real((3,)), 500)
    rows = data.train.all().double()
    noise = component("noise", "fitted", widen=2.0).build(data, KEY).double()
    z = (rows - rows.mean(0)) / (2 * rows.std(0, correction=0))
    expected = -(z.square() / 2 + (2 * rows.std(0, correction=0)).log() + math.log(2 * math.pi) / 2).sum(1)
    assert_close(noise.log_prob(rows), expected, rtol=1e-5, atol=1e-5)
    flat = dataclasses.replace(data, train=dataclasses.replace(data.train, grey=torch.zeros(9, 3)))
    floored = component("noise", "fitted", least=0.1).build(flat, KEY)
    assert floored.log_prob(torch.zeros(1, 3)).item() == pytest.approx(-3 * math.log(0.1 * math.sqrt(2 * math.pi)))


def test_rows_of_a_data_set_are_those_rows():
    source = shipped("dataset")["bars_and_stripes"] | {"side": 2}
    space = Binary((2, 2))
    noise = component("noise", "dataset", source=source).build(small_data(space), KEY)
    x = noise.sample(4000, KEY)
    own = {tuple(row.flatten().tolist()) for row in noise.split.all()}
    found = [tuple(row.flatten().tolist()) for row in x]
    assert set(found) == own
    assert not list(noise.state_dict())  # rows are not part of a checkpoint
    with pytest.raises(NotImplementedError):
        noise.log_prob(x)


def test_rows_of_another_shape_are_refused():
    source = shipped("dataset")["bars_and_stripes"] | {"side": 3}
    with pytest.raises(UserError, match=r"noise\.source: holds binary rows of shape 3x3.*dataset@noise\.source=NAME"):
        component("noise", "dataset", source=source).build(small_data(Binary((2, 2))), KEY)


def test_a_key_of_the_source_is_named_where_it_stands():
    with pytest.raises(UserError, match=r"noise\.source\.side"):
        component("noise", "dataset", source=shipped("dataset")["bars_and_stripes"] | {"side": -1})


# Noise-contrastive estimation


def plain_nce(model, c, noise, rows, drawn, ratio, *, known):
    """The loss in plain loops over rows, as the paper writes it."""

    def log_odds(x):
        log_q = noise.log_prob(x[None])[0] if known else 0.0
        return -model.energy(x[None])[0] - c - log_q - math.log(ratio)

    zero = torch.zeros((), dtype=torch.float64)
    data = sum(torch.logaddexp(zero, -log_odds(x)) for x in rows) / len(rows)  # -log of 1 / (1 + exp(-G))
    noisy = sum(torch.logaddexp(zero, log_odds(y)) for y in drawn) / len(drawn)
    return data + ratio * noisy


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("name", ["nce", "negative_sampling"])
def test_the_loss_and_its_gradient_are_those_of_the_definition(name, space):
    model = small_model("exponential_family", space) if type(space) is not Box else small_model("mlp", space)
    objective = component("objective", name, ratio=3, c=0.7)
    beside = auxiliary(objective, model)
    x = small_data(space, 6).train.all().double()
    found, metrics = gradients(objective, model, x, None, beside)
    drawn = beside.noise.beside(x, 3, stream(0, "objective").fold("noise")).double()
    loss = plain_nce(model, beside.c, beside.noise, x, drawn, 3, known=name == "nce")
    names, parameters = zip(*model.named_parameters(), ("auxiliary.c", beside.c), strict=True)
    expected = torch.autograd.grad(loss, parameters)
    assert metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-9)
    assert metrics["classification_loss"].item() == pytest.approx(loss.item() / 4, rel=1e-9)
    assert set(found) == set(names)
    for parameter, value in zip(names, expected, strict=True):
        assert_close(found[parameter], value, **EXACT)


def test_at_the_truth_with_exact_weights_the_gradient_is_zero():
    """Summed over all states with the weights p and q, the loss has its minimum at the model itself and c = log Z."""
    model = target("boltzmann-binary")
    objective = component("objective", "nce", ratio=2, c=exact.log_z(model).item())
    beside = auxiliary(objective, model)
    beside.c.data = exact.log_z(model).detach()
    states = double_states(model)
    p, q = exact_p(model).detach(), beside.noise.log_prob(states).exp()
    energy = model.energy(states)
    odds = beside.logits(energy, states)
    loss = -(p * torch.nn.functional.logsigmoid(odds)).sum() - 2 * (q * torch.nn.functional.logsigmoid(-odds)).sum()
    for grad in torch.autograd.grad(loss, [*model.parameters(), beside.c]):
        assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-12)
    moved = auxiliary(component("objective", "nce", ratio=2, c=exact.log_z(model).item() + 0.5), model)
    assert not math.isclose(moved.c.item(), beside.c.item())


def test_c_begins_as_an_estimate_of_log_z():
    """For a model that is the noise itself, exp(-E) / q is Z at every draw."""
    space = Binary((3,))
    noise = component("noise", "fitted").build(small_data(space), KEY)
    model = small_model("exponential_family", space).float()
    model.b.data.copy_(noise.law.b)
    found = component("objective", "nce").auxiliary(model, noise, KEY)
    assert found.c.item() == pytest.approx(model.log_z().item(), rel=1e-5)
    assert found.log_z() is found.c
    fixed = component("objective", "nce", c=0.0, learn_c=False).auxiliary(model, noise, KEY)
    assert fixed.log_z() is None
    assert not [p for p in fixed.parameters() if p.requires_grad]


def test_a_run_learns_c_with_the_model():
    """Two numbers that must agree in the end: c, and log Z by enumeration."""
    adam = shipped("optimizer")["adam"] | {"lr": 0.03}
    parts, state = small_run(objective=shipped("objective")["nce"], optimizer=adam)
    state.auxiliary.c.data += 1.5
    for _ in range(300):
        report = train_step(parts, state)
    assert report.numbers()["c"] == pytest.approx(exact.log_z(state.model).item(), abs=0.3)
    assert {"auxiliary.c", "auxiliary.noise.law.b"} <= set(state.tensors())
    assert "optimizer.first_moment.auxiliary.c" in state.tensors()
    assert "optimizer.first_moment.auxiliary.noise.law.b" not in state.tensors()


def test_rows_of_another_shard_get_other_noise():
    model = target("rbm-binary")
    objective = component("objective", "nce", ratio=2)
    beside, x = auxiliary(objective, model), small_data(model.space, 6).train.all().double()
    whole = objective.gradient(model, Batch(x, auxiliary=beside), KEY).parameters
    halves = [
        objective.gradient(model, Batch(x[first : first + 3], first=first, auxiliary=beside), KEY).parameters
        for first in (0, 3)
    ]
    for name, grad in whole.items():
        assert_close((halves[0][name] + halves[1][name]) / 2, grad, **EXACT)


def test_what_does_not_fit_is_refused_with_what_would():
    nce, choice = component("objective", "nce"), {"noise": "dataset", "objective": "nce", "dataset": "digits"}
    rows = component("noise", "dataset", source=shipped("dataset")["digits"])
    with pytest.raises(UserError, match="noise=dataset has no density, which objective=nce needs; use noise=bernoulli"):
        checks.check_noise(nce, rows, choice)
    checks.check_noise(component("objective", "negative_sampling"), rows, choice)
    coins = component("noise", "bernoulli")
    with pytest.raises(UserError, match="noise that fits: dataset, fitted"):
        checks.check_noise_data(nce, coins, Real((2,)), choice | {"noise": "bernoulli"})
