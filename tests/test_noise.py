"""Noise distributions, and the objectives that tell data from them: densities, draws, gradients, consistency."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers.components import SMALL_SPACES, component, shipped
from helpers.data import small_data
from helpers.models import double_states, exact_p, small_model, target
from helpers.statistics import assert_close
from helpers.training import auxiliary, gradients, small_run
from scipy import integrate, optimize, stats

from ebm_cli import rng
from ebm_cli.errors import UserError
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.bracket import contradictions
from ebm_cli.log_z import enumeration
from ebm_cli.noise.units import gaussian
from ebm_cli.objective.base import Batch
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Box, Counts, Discrete, Real, Words
from ebm_cli.training import checks
from ebm_cli.training.loop import subject_of
from ebm_cli.training.step import train_step

KEY = stream(0, "noise")
EXACT = {"rtol": 1e-9, "atol": 1e-12}
SPACES = [SMALL_SPACES[kind] for kind in SMALL_SPACES if kind not in (Words, Counts)]  # of words: test_log_bilinear.py
WITH_DENSITY = [name for name in shipped("noise") if component("noise", name).has_density]


def pairs():
    return [(n, space) for n in WITH_DENSITY for space in SPACES if type(space) in component("noise", n).spaces]


def built(name, space, **changes):
    return component("noise", name, **changes).build(small_data(space), KEY).double()


# Distributions


@pytest.mark.quick("gaussian*", "fitted*", "bernoulli*")
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
        p = noise.log_prob(states).double().exp()
        assert p.sum().item() == pytest.approx(1, rel=1e-12 if log_q.dtype == torch.float64 else 1e-6)
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


def test_normal_noise_without_mass_in_the_box_is_refused():
    """Fifteen standard deviations away it still has a density there, a hundred away none that a float64 holds."""
    data = small_data(Box((2,)))
    assert component("noise", "gaussian", mean=16.0).build(data, KEY).log_prob(torch.zeros(1, 2)).isfinite().all()
    with pytest.raises(UserError, match=r"noise.mean = 100.0, noise.std = 1.0: next to nothing .* \[0, 1\]; take"):
        component("noise", "gaussian", mean=100.0).build(data, KEY)


def test_fitted_noise_has_the_moments_of_the_data():
    data = small_data(Real((3,)), 500)
    rows = data.train.all().double()
    noise = component("noise", "fitted", widen=2.0).build(data, KEY).double()
    z = (rows - rows.mean(0)) / (2 * rows.std(0, correction=0))
    expected = -(z.square() / 2 + (2 * rows.std(0, correction=0)).log() + math.log(2 * math.pi) / 2).sum(1)
    assert_close(noise.log_prob(rows), expected, rtol=1e-5, atol=1e-5)
    flat = dataclasses.replace(data, train=dataclasses.replace(data.train, stored=torch.zeros(9, 3)))
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
    names, parameters = zip(*model.named_parameters(), ("auxiliary.shift", beside.shift), strict=True)
    expected = torch.autograd.grad(loss, parameters)
    assert metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-9)
    assert metrics["classification_loss"].item() == pytest.approx(loss.item() / 4, rel=1e-9)
    assert set(found) == set(names)
    for parameter, value in zip(names, expected, strict=True):
        assert_close(found[parameter], value, **EXACT)


def test_at_the_truth_with_exact_weights_the_gradient_is_zero():
    """Summed over all states with the weights p and q, the loss has its minimum at the model itself and c = log Z."""
    model = target("boltzmann-binary")
    objective = component("objective", "nce", ratio=2, c=enumeration.log_z(model).item())
    beside = auxiliary(objective, model)
    beside.shift.data = enumeration.log_z(model).detach() - beside.start
    states = double_states(model)
    p, q = exact_p(model).detach(), beside.noise.log_prob(states).exp()
    energy = model.energy(states)
    odds = beside.logits(energy, states)
    loss = -(p * torch.nn.functional.logsigmoid(odds)).sum() - 2 * (q * torch.nn.functional.logsigmoid(-odds)).sum()
    for grad in torch.autograd.grad(loss, [*model.parameters(), beside.shift]):
        assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-12)
    moved = auxiliary(component("objective", "nce", ratio=2, c=enumeration.log_z(model).item() + 0.5), model)
    assert not math.isclose(moved.c.item(), beside.c.item())


def test_c_begins_as_an_estimate_of_log_z():
    """For a model that is the noise itself, exp(-E) / q is Z at every draw."""
    space = Binary((3,))
    noise = component("noise", "fitted").build(small_data(space), KEY)
    model = small_model("exponential_family", space).float()
    model.b.data.copy_(noise.law.b)
    found = component("objective", "nce").auxiliary(model, noise, KEY)
    assert found.c.item() == pytest.approx(model.log_z().item(), rel=1e-5)
    assert torch.equal(found.log_z(), found.c)
    fixed = component("objective", "nce", c=0.0, learn_c=False).auxiliary(model, noise, KEY)
    assert fixed.log_z() is None
    assert not [p for p in fixed.parameters() if p.requires_grad]


@pytest.mark.long
def test_a_run_learns_c_with_the_model():
    """Two numbers that must agree in the end: c, and log Z by enumeration."""
    adam = shipped("optimizer")["adam"] | {"lr": 0.03}
    parts, state = small_run(objective=shipped("objective")["nce"], optimizer=adam)
    state.auxiliary.shift.data += 1.5
    for _ in range(300):
        report = train_step(parts, state)
    assert report.numbers()["c"] == pytest.approx(enumeration.log_z(state.model).item(), abs=0.3)
    assert {"auxiliary.shift", "auxiliary.noise.law.b"} <= set(state.tensors())
    assert "optimizer.first_moment.auxiliary.shift" in state.tensors()
    assert "optimizer.first_moment.auxiliary.noise.law.b" not in state.tensors()


def test_weight_decay_does_not_draw_c_to_where_it_began():
    """c is the logarithm of a sum over all states: no size of weights is in it."""
    found = []
    for decay in (0.0, 0.5):
        how = shipped("optimizer")["sgd"] | {"lr": 0.1, "weight_decay": decay}
        parts, state = small_run(objective=shipped("objective")["nce"], optimizer=how)
        state.auxiliary.shift.data += 3
        train_step(parts, state)
        found.append((state.auxiliary.shift.item(), state.model.W.norm().item()))
    (plain, weights), (decayed, drawn) = found
    assert plain == decayed
    assert drawn < weights


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
        checks.check_noise(nce, rows, component("model", "rbm"), choice)
    checks.check_noise(component("objective", "negative_sampling"), rows, component("model", "rbm"), choice)
    coins = component("noise", "bernoulli")
    with pytest.raises(UserError, match="noise that fits: fitted, flow, gaussian"):
        checks.check_noise_data(nce, coins, Real((2,)), choice | {"noise": "bernoulli"})


# Consistency


class Drawn(torch.nn.Module):
    """Draws of a noise, made once, with their densities."""

    compiles = True

    def __init__(self, noise, x, ratio):
        super().__init__()
        self.y = noise.beside(x, ratio, KEY).double()
        self.log_q = noise.log_prob(torch.cat([x, self.y]))

    def sample(self, n, key):
        return self.y[:n]

    def beside(self, x, count, key):
        return self.y

    def log_prob(self, x):
        return self.log_q


def nce_fit(model, noise, x, ratio=5):
    """Parameters and c at the minimum of the loss on these rows with one fixed set of noise, by L-BFGS."""
    noise = Drawn(noise, x, ratio)
    objective = component("objective", "nce", ratio=ratio, c=0.0)
    beside = objective.auxiliary(model, noise, KEY).double()
    named = {**dict(model.named_parameters()), "auxiliary.shift": beside.shift}
    used = {n: torch.ones_like(p, dtype=torch.bool) for n, p in named.items()}
    if "W" in used:
        used["W"] = used["W"].triu(1)  # the rest of it is never read

    def loss(values):
        at = 0
        for name, p in named.items():
            count = int(used[name].sum())
            p.data[used[name]] = torch.from_numpy(values[at : at + count])
            at += count
        found = objective.gradient(model, Batch(x, auxiliary=beside), KEY)
        slopes = torch.cat([found.parameters[name][used[name]].flatten() for name in named])
        return found.metrics["loss"].item(), slopes.numpy()

    start = torch.cat([p.detach()[used[name]].flatten() for name, p in named.items()]).numpy()
    options = {"gtol": 1e-7, "ftol": 1e-13, "maxiter": 500}
    return torch.from_numpy(optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x)


def slope_of_errors(model, noise, truth, sizes, repeats):
    """Of log mean squared error against log N, with rows drawn from the model itself, and the error of c at the end."""
    law, errors = copy.deepcopy(model), []
    states = law.space.enumerate().double() if isinstance(law.space, Discrete) else None
    for size in sizes:
        total = []
        for repeat in range(repeats):
            key = stream(repeat, "rows", size)
            if states is None:
                x = law.sample(size, key).detach()
            else:
                logits = -law.energy(states).detach()
                x = states[rng.categorical(logits.expand(size, -1), key)]
            total.append(nce_fit(copy.deepcopy(law), noise, x) - truth)
        errors.append(torch.stack(total).square().sum(1).mean().item())
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0], torch.stack(total)[:, -1].mean().item()


@pytest.mark.long
def test_on_a_boltzmann_machine_the_squared_error_falls_as_one_over_n():
    """Fifteen parameters and c of five bits; of 12 repeats the slope over two decades has an error near 0.03."""
    space = Binary((5,))
    model = small_model("boltzmann", space)
    model.W.data.mul_(0.5)
    noise = component("noise", "bernoulli").build(small_data(space), KEY).double()
    upper = torch.ones(5, 5).triu(1) > 0
    truth = torch.cat([model.W.detach()[upper], model.b.detach(), enumeration.log_z(model).detach()[None]])
    slope, off = slope_of_errors(model, noise, truth, [200, 2000, 20_000], 12)
    assert slope == pytest.approx(-1, abs=0.15)
    assert off == pytest.approx(0, abs=0.02)


@pytest.mark.long
def test_on_a_gaussian_the_squared_error_falls_as_one_over_n():
    """Mean, log precision and c of one real number."""
    space = Real((1,))
    model = small_model("exponential_family", space)
    noise = gaussian(space, torch.tensor([0.0]), torch.tensor([2.0])).double()
    truth = torch.cat([model.m.detach(), model.r.detach(), model.log_z().detach()[None]])
    slope, off = slope_of_errors(model, noise, truth, [200, 2000, 20_000], 36)
    assert slope == pytest.approx(-1, abs=0.15)
    assert off == pytest.approx(0, abs=0.02)


# Evaluation


def test_what_was_learned_stands_beside_what_is_exact():
    parts, state = small_run(objective=shipped("objective")["nce"])
    found = component("evaluation", "exact").evaluate(subject_of(parts, state, "test", "exact")).metrics
    assert found["exact/learned_log_z"] == pytest.approx(state.auxiliary.c.item())
    assert found["exact/learned_log_z_error"] == pytest.approx(state.auxiliary.c.item() - found["exact/log_z"])
    parts, state = small_run(objective=shipped("objective")["negative_sampling"])
    found = component("evaluation", "exact").evaluate(subject_of(parts, state, "test", "exact")).metrics
    assert "exact/learned_log_z" not in found


@pytest.mark.parametrize("name", ["exact", "density_2d", "ais"])
@pytest.mark.parametrize(("error", "said"), [(-42.0, True), (0.9, True), (-0.6, True), (0.4, False), (-0.4, False)])
def test_what_was_learned_far_from_log_z_is_said(name, error, said):
    found = {f"{name}/log_z": 0.5, f"{name}/learned_log_z": 0.5 + error, f"{name}/learned_log_z_error": error}
    sentences = contradictions(found)
    assert len(sentences) == said
    for sentence in sentences:
        assert f"is {abs(error):.4g} nats off the one by {name}, 0.5: " in sentence


def test_what_was_learned_within_the_interval_of_an_estimate_is_not_said():
    found = {"ais/log_z": 0.0, "ais/learned_log_z": 2.0, "ais/learned_log_z_error": 2.0}
    assert contradictions({**found, "ais/log_z_low": -1.0, "ais/log_z_high": 1.6}) == []
    assert len(contradictions({**found, "ais/log_z_low": -3.0, "ais/log_z_high": 1.4})) == 1
    assert contradictions({**found, "exact/log_z": 2.1, "exact/learned_log_z_error": -0.1}) == []


def test_the_divergence_from_a_known_law_is_that_of_all_states():
    dataset = component("dataset", "ising_samples", side=3, sigma=0.2, bias=0.1, train=4, held_out=4)
    data = dataset.load((Binary,))
    model = small_model("boltzmann", data.space).float()
    sampler = component("sampler", "gibbs")
    about = Subject(model, data, "test", sampler, torch.empty(0), KEY)
    found = component("evaluation", "exact").evaluate(about).metrics["exact/kl"]
    states = data.space.enumerate().double()
    s = 2 * states.flatten(1) - 1
    log_p = (((s @ dataset.couplings().double()) * s).sum(1) / 2 + 0.1 * s.sum(1)).log_softmax(0)
    log_q = (-model.double().energy(states)).log_softmax(0)
    assert found == pytest.approx((log_p.exp() * (log_p - log_q)).sum().item(), rel=1e-6)


def test_the_posterior_of_data_and_noise_is_measured():
    """The numbers by hand from the log-odds of the rows it draws."""
    parts, state = small_run(objective=shipped("objective")["nce"] | {"ratio": 3})
    about = subject_of(parts, state, "test", "posterior")
    found = component("evaluation", "posterior_noise_classifier").evaluate(about)
    contrast, x = state.auxiliary, about.some_rows(2000)
    y = contrast.noise.beside(x, 3, about.key.fold("noise"))
    odds = [contrast.logits(state.model.energy(r), r).double() for r in (x, y)]
    right = [*(odds[0] > 0).tolist(), *(odds[1] <= 0).tolist()]
    assert found.metrics["posterior_noise_classifier/accuracy"] == pytest.approx(sum(right) / len(right))
    loss = torch.cat([(1 + (-odds[0]).exp()).log(), (1 + odds[1].exp()).log()]).mean().item()
    assert found.metrics["posterior_noise_classifier/cross_entropy"] == pytest.approx(loss, rel=1e-5)
    pairs = [float(a > b) + 0.5 * float(a == b) for a in odds[0] for b in odds[1]]
    assert found.metrics["posterior_noise_classifier/auroc"] == pytest.approx(sum(pairs) / len(pairs))
    plain, state = small_run()
    without = component("evaluation", "posterior_noise_classifier").evaluate(subject_of(plain, state, "test", "p"))
    assert not without.metrics
    assert "not trained against noise" in without.warnings[0]
