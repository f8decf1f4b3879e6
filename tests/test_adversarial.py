"""Objectives whose noise learns: against a flow, against a mixture, and with a distribution that follows the model."""

import copy
import itertools
import math

import pytest
import torch
from helpers.components import component
from helpers.data import small_data
from helpers.models import double_states, randomised, small_model, target
from helpers.statistics import assert_close
from helpers.training import auxiliary, gradients

from ebm_cli.errors import UserError
from ebm_cli.model.exponential_family import GaussianProduct
from ebm_cli.objective import adversary
from ebm_cli.objective.vera import Generator
from ebm_cli.rng import normal, stream
from ebm_cli.space import Binary, Categorical, Real, Spin

KEY = stream(0, "adversarial")
PLANE = Real((2,))
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def plane_rows(n=6):
    return small_data(PLANE, n).train.all().double()


def fce(**changes):
    """Objective, model and flow, all parameters asymmetric."""
    objective = component("objective", "flow_contrastive", **changes)
    model = small_model("mlp", PLANE)
    beside = auxiliary(objective, model, "flow", transforms=1, hidden=8)
    randomised(beside.noise.law)
    return objective, model, beside


# Flow contrastive estimation


@pytest.mark.long
def test_both_players_follow_one_value_in_opposite_directions():
    """V written out with its own draws, by differences along each parameter's own direction."""
    objective, model, beside = fce()
    x, h = plane_rows(), 1e-6
    found, metrics = gradients(objective, model, x, None, beside)
    z = normal((6, 2), stream(0, "objective").fold("noise"), dtype=torch.float64)

    def value():
        y = beside.noise.law.push(z)

        def log_odds(rows):
            return -model.energy(rows) - beside.c + beside.noise.law.energy(rows)

        data, noise = torch.sigmoid(log_odds(x)), torch.sigmoid(log_odds(y))
        return (data.log().mean() + (1 - noise).log().mean()).item()

    assert metrics["value"].item() == pytest.approx(value(), rel=1e-9)
    assert metrics["loss"].item() == pytest.approx(-value(), rel=1e-9)
    players = [(model, "", -1), (beside.noise, "auxiliary.noise.", 1)]
    named = [(f"{prefix}{name}", p, sign) for owner, prefix, sign in players for name, p in owner.named_parameters()]
    for name, p, sign in [*named, ("auxiliary.shift", beside.shift, -1)]:
        direction = torch.linspace(-1, 1, p.numel(), dtype=torch.float64).reshape(p.shape) + 0.3
        ends = []
        for end in (h, -h):
            p.data += end * direction
            ends.append(value())
            p.data -= end * direction
        slope = sign * (ends[0] - ends[1]) / (2 * h)
        assert (found[name] * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.long
def test_the_value_is_minus_two_log_two_where_flow_and_model_are_the_data():
    """The log-odds are then 0 everywhere; any other model does no better against this flow on many rows."""
    objective = component("objective", "flow_contrastive")
    model = GaussianProduct(PLANE, torch.tensor([0.2, -0.1])).double()
    model.r.data.fill_(-2 * math.log(2.0))
    beside = auxiliary(objective, model, "flow")
    beside.noise.law.mean.copy_(model.m)
    beside.shift.data = model.log_z().detach() - beside.start
    x = model.sample(4000, KEY).detach()
    _, metrics = gradients(objective, model, x, None, beside)
    assert metrics["value"].item() == pytest.approx(-2 * math.log(2), rel=1e-6)
    model.m.data += 0.5
    _, other = gradients(objective, model, x, None, beside)
    assert other["value"].item() < metrics["value"].item() - 0.01


@pytest.mark.long
@pytest.mark.parametrize(("changes", "still"), [({"flow_above": 0.99}, "flow"), ({"model_below": 0.01}, "model")])
def test_a_player_ahead_waits(changes, still):
    objective, model, beside = fce(**changes)
    beside.shift.data.fill_(100)  # everything is taken for noise, so one half is told apart
    found, _ = gradients(objective, model, plane_rows(), None, beside)
    moving = {name: grad.abs().sum().item() > 0 for name, grad in found.items()}
    assert {moves for name, moves in moving.items() if name.startswith("auxiliary.noise.")} == {still != "flow"}
    assert moving["auxiliary.shift"] == (still != "model")


def test_its_likelihood_draws_the_flow_to_the_data():
    objective, model, beside = fce(likelihood=0.7)
    plain, _ = gradients(component("objective", "flow_contrastive"), model, plane_rows(), None, beside)
    found, _ = gradients(objective, model, plane_rows(), None, beside)
    parameters = dict(beside.noise.law.named_parameters())
    expected = torch.autograd.grad(beside.noise.law.energy(plane_rows()).mean(), [*parameters.values()])
    for name, grad in zip(parameters, expected, strict=True):
        assert_close(
            found[f"auxiliary.noise.law.{name}"] - plain[f"auxiliary.noise.law.{name}"],
            0.7 * grad,
            rtol=1e-9,
            atol=1e-10,
        )


def test_only_a_flow_will_do():
    with pytest.raises(UserError, match="use noise=flow"):
        auxiliary(component("objective", "flow_contrastive"), small_model("mlp", PLANE), "gaussian")


# Adversarial contrastive estimation


@pytest.mark.parametrize("space", [Binary((2,)), Spin((2,)), Categorical((1, 3))], ids=lambda s: s.name)
def test_the_mixture_has_its_density(space):
    model = small_model("exponential_family", space)
    beside = auxiliary(component("objective", "adversarial_contrastive", share=0.3), model)
    randomised(beside.noise.learned)
    states = space.enumerate().double()
    p = beside.noise.log_prob(states).exp()
    parts = [beside.noise.fixed.log_prob(states).exp(), (-beside.noise.learned.energy(states)).exp()]
    assert_close(p, 0.3 * parts[0] + 0.7 * parts[1] / parts[1].sum(), **EXACT)
    counts = torch.bincount(space.code(beside.noise.sample(20_000, KEY)).long(), minlength=len(states))
    assert ((counts - 20_000 * p).square() / (20_000 * p)).sum().item() < 40  # chi-square below its 1e-6 quantile


def test_the_score_function_estimate_is_exact_on_average():
    """Over all pairs of draws, weighted: the gradient of sum q(y) r(y), the baseline among them."""
    law = small_model("exponential_family", Binary((3,)))
    states = law.space.enumerate().double()
    reward = torch.linspace(-1, 2, len(states), dtype=torch.float64).square()
    log_q = -law.energy(states) - law.log_z()
    (expected,) = torch.autograd.grad((log_q.exp() * reward).sum(), law.b, retain_graph=True)
    total = torch.zeros_like(expected)
    for i, j in itertools.product(range(len(states)), repeat=2):
        pair = [i, j]
        (grad,) = torch.autograd.grad(adversary.reinforced(reward[pair], log_q[pair]), law.b, retain_graph=True)
        total += (log_q[i] + log_q[j]).exp().detach() * grad
    assert_close(total, expected, **EXACT)


def test_the_model_is_taught_against_the_mixture():
    model = target("rbm-binary")
    objective = component("objective", "adversarial_contrastive", ratio=3)
    beside = auxiliary(objective, model)
    x = small_data(model.space, 6).train.all().double()
    found, metrics = gradients(objective, model, x, None, beside)
    y = beside.noise.beside(x, 3, stream(0, "objective").fold("noise")).double()
    odds = [-model.energy(r) - beside.c - beside.noise.log_prob(r) - math.log(3) for r in (x, y)]
    loss = (1 + (-odds[0]).exp()).log().mean() + 3 * (1 + odds[1].exp()).log().mean()
    expected = torch.autograd.grad(loss, [model.W, model.b, model.c, beside.shift])
    assert metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-9)
    for name, grad in zip(("W", "b", "c", "auxiliary.shift"), expected, strict=True):
        assert_close(found[name], grad, **EXACT)


@pytest.mark.long
def test_the_adversary_of_real_data_gains_through_its_draws():
    """By differences of E_q[softplus(G)] - entropy E_q[log q], the density within G as it was."""
    model = small_model("mlp", PLANE)
    objective = component("objective", "adversarial_contrastive", ratio=2, entropy=0.5)
    beside = auxiliary(objective, model)
    learned = randomised(beside.noise.learned)
    held, x, h = copy.deepcopy(beside.noise), plane_rows(), 1e-6
    found, metrics = gradients(objective, model, x, None, beside)
    z = normal((6, 2), stream(0, "objective").fold("adversary"), dtype=torch.float64)

    def loss():
        y = learned.push(z)
        odds = -model.energy(y) - beside.c - held.log_prob(y) - math.log(2)
        return -((1 + odds.exp()).log() + 0.5 * learned.energy(y)).mean().item()

    for name, p in learned.named_parameters():
        direction = torch.linspace(-1, 1, p.numel(), dtype=torch.float64).reshape(p.shape) + 0.3
        ends = []
        for end in (h, -h):
            p.data += end * direction
            ends.append(loss())
            p.data -= end * direction
        slope = (ends[0] - ends[1]) / (2 * h)
        got = (found[f"auxiliary.noise.learned.{name}"] * direction).sum().item()
        assert got == pytest.approx(slope, rel=1e-4, abs=1e-7)  # splines bend at their knots
    assert metrics["entropy_learned"].item() == pytest.approx(learned.energy(learned.push(z)).mean().item(), rel=1e-9)


def test_two_noises_that_learn_are_refused():
    with pytest.raises(UserError, match="its fixed noise must not learn"):
        auxiliary(component("objective", "adversarial_contrastive"), small_model("mlp", PLANE), "flow")


# The variational bound


def test_a_gaussian_follows_by_the_closed_form():
    """dE/dm = (y - m_p) exp(r_p), dE/dr = -(y - m_p) exp(r_p) s z / 2, and d mean log q / dr = 1 / 2 at every site."""
    model = small_model("exponential_family", PLANE)
    objective = component("objective", "variational", q="gaussian", entropy=0.8)
    beside = auxiliary(objective, model)
    q = randomised(beside.q, 3)
    x = plane_rows()
    found, metrics = gradients(objective, model, x, None, beside)
    z = normal((6, 2), stream(0, "objective").fold("q"), dtype=torch.float64)
    y = q.m + (-q.r / 2).exp() * z
    pull = (y - model.m) * model.r.exp()
    assert_close(found["auxiliary.q.m"], pull.mean(0), **EXACT)
    assert_close(found["auxiliary.q.r"], (-pull * (y - q.m) / 2).mean(0) + 0.8 / 2, **EXACT)
    assert_close(found["m"], (y.mean(0) - x.mean(0)) * model.r.exp(), **EXACT)
    assert metrics["log_z_bound"].item() < model.log_z().item() + 3  # of six draws
    for name in ("m", "r"):
        getattr(q, name).data.copy_(getattr(model, name))
    _, metrics = gradients(objective, model, x, None, beside)
    assert metrics["log_z_bound"].item() == pytest.approx(model.log_z().item(), rel=1e-9)
    assert metrics["entropy_q"].item() == pytest.approx((model.energy(q.push(z)) + model.log_z()).mean().item())


def test_the_penalty_is_on_the_slope_at_the_data():
    model, x = small_model("mlp", PLANE), plane_rows()
    plain, penal = (component("objective", "variational", gradient_penalty=w) for w in (0.0, 0.4))
    beside = auxiliary(plain, model)
    found = gradients(penal, model, x, None, beside)[1]["loss"] - gradients(plain, model, x, None, beside)[1]["loss"]
    assert found.item() == pytest.approx(0.4 * model.energy_and_grad(x)[1].square().sum(1).mean().item(), rel=1e-9)


def generator(proposals):
    """x = L z + sigma e, whose law is N(0, L L^T + sigma^2)."""
    made = Generator(PLANE, 2, 3, proposals, plane_rows(50), KEY).double()
    made.linear.data = torch.tensor([[1.0, 0.4], [-0.3, 0.7]], dtype=torch.float64)
    made.log_sigma.data.fill_(math.log(0.5))
    made.log_eta.data.zero_()  # proposals wider than what they stand for: their weights have a variance
    return made, made.linear @ made.linear.T + 0.25 * torch.eye(2, dtype=torch.float64)


def test_the_score_of_the_generator_is_that_of_its_law():
    """Self-normalised weights: their error falls as one over the number of proposals, at 20 000 below a hundredth."""
    made, covariance = generator(20_000)
    draws = made.made(20, KEY)
    expected = -torch.linalg.solve(covariance, draws.x.detach().T).T
    assert_close(made.score(draws, KEY), expected, rtol=0, atol=0.15)


def test_shared_proposals_make_up_for_near_ones_that_are_too_narrow():
    """Two near ones of a hundredth of the width know nothing but z; with 20 000 of the prior the score is that of q."""
    made, covariance = generator(2)
    made.log_eta.data.fill_(math.log(0.01))
    draws = made.made(50, KEY)
    expected = -torch.linalg.solve(covariance, draws.x.detach().T).T
    assert (made.score(draws, KEY) - expected).abs().max() > 1
    made.shared = 20_000
    assert_close(made.score(draws, KEY), expected, rtol=0, atol=0.3)
    made.log_eta.data.fill_(0.0)
    assert_close(made.score(draws, KEY), expected, rtol=0, atol=0.3)


@pytest.mark.long
def test_the_entropy_of_the_generator_has_the_gradient_of_its_law():
    """H = log det(L L^T + sigma^2) / 2 + const; a mean over 4000 draws, whose standard errors are below 0.03."""
    made, covariance = generator(200)
    _, entropy = made.drawn(4000, KEY)
    found = torch.autograd.grad(entropy, [made.linear, made.log_sigma])
    expected = torch.autograd.grad(0.5 * torch.logdet(covariance), [made.linear], retain_graph=True)
    assert_close(found[0], expected[0], rtol=0, atol=0.15)
    assert found[1].item() == pytest.approx(0.25 * torch.linalg.inv(covariance).trace().item(), abs=0.15)


def test_few_proposals_draw_the_score_little_towards_that_of_the_draw_given_its_latent_values():
    """For a normal law with eta as the bound makes it; with proposals no wider than that it is a quarter of the way."""
    made, _ = generator(20)
    made.linear.data, sigma = torch.eye(2, dtype=torch.float64), 0.5
    made.log_eta.data.fill_(math.log(sigma / math.sqrt(1 + sigma**2)))
    draws = made.made(5000, KEY)
    x, given = draws.x.detach(), (draws.z - draws.x.detach()) / sigma**2
    off = made.score(draws, KEY) + x / (1 + sigma**2)
    assert abs((off * given).sum() / given.square().sum()) < 0.1


def test_the_proposal_alone_learns_by_its_bound():
    made, _ = generator(5)
    gain = made.proposal_gain(6, KEY)
    names, parameters = zip(*made.named_parameters(), strict=True)
    found = dict(zip(names, torch.autograd.grad(gain, parameters, materialize_grads=True), strict=True))
    draws = made.made(6, KEY)
    step = made.log_eta.exp() * normal((6, 2), KEY.fold("eta"), dtype=torch.float64)
    near, L = draws.z + step, made.linear
    pull = -near * step + ((draws.x - near @ L.T) @ L) * step / 0.25
    assert_close(found.pop("log_eta"), pull.mean(0) + 1, **EXACT)
    assert not any(grad.any() for grad in found.values())


def test_vera_draws_what_the_model_is_taught_by():
    model, x = small_model("mlp", PLANE), plane_rows()
    objective = component("objective", "variational", q="vera", proposals=5)
    beside = auxiliary(objective, model)
    found, metrics = gradients(objective, model, x, None, beside)
    y = beside.q.drawn(6, stream(0, "objective").fold("q"))[0]
    loss = model.energy(x).mean() - model.energy(y.detach()).mean()
    for (name, p), grad in zip(model.named_parameters(), torch.autograd.grad(loss, [*model.parameters()]), strict=True):
        assert_close(found[name], grad, rtol=1e-9, atol=1e-10)
        assert p.shape == grad.shape
    assert metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-9)
    assert {f"auxiliary.q.{name}" for name, _ in beside.q.named_parameters()} <= set(found)


def test_no_state_is_left_out_of_the_mean_of_a_discrete_adversary():
    model = target("rbm-binary")
    learned = auxiliary(component("objective", "adversarial_contrastive"), model).noise.learned
    assert (-learned.energy(double_states(model)) - learned.log_z()).exp().sum().item() == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("space", [Binary((2, 2)), Spin((2, 2)), Categorical((4, 3))], ids=lambda space: space.name)
def test_a_discrete_adversary_of_sites_that_never_vary_is_away_from_the_bounds(space):
    """The first site has one of two values as often as the other, the three others have one each."""
    values = torch.zeros(50, space.sites)
    values[:25, 0] = 1
    rows = space.encode(values.reshape(-1, *space.site_shape))
    learned, others = adversary.independent(space, rows).double(), 0.01 * (space.values - 1)
    expected = (0.99 / (0.99 + others)) ** 3 * 0.5 / (1 + others - 0.01)
    for row in (rows[:1], rows[-1:]):
        assert (-learned.energy(row.double()) - learned.log_z()).exp().item() == pytest.approx(expected, rel=1e-5)


def test_the_model_waits_for_the_distribution_that_follows_it():
    """q moves at every update, the model at each third."""
    objective = component("objective", "variational", q_steps=3)
    moved = [(objective.updates("last.weight", i), objective.updates("auxiliary.q.linear", i)) for i in range(6)]
    assert moved == [(False, True), (False, True), (True, True)] * 2
