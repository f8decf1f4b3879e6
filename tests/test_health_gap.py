"""Health: data that lie above the chains in energy, and chains that are too hot to feel the model."""

import itertools

import numpy as np
import pytest
import torch
from helpers.models import small_model

from ebm_cli.health import limits, signals
from ebm_cli.health.signals import About, Window
from ebm_cli.space import Binary

NOISE = np.random.default_rng(0).normal(size=400)


def measured(gap, late=False, history=None, words=0.0, **columns):
    energy = {"energy_data": NOISE, "energy_gap": gap, "gradient_norm": np.ones(400), "loss": gap, **columns}
    window = Window([*energy], np.stack([*energy.values()], 1))
    return signals.measured(window, history or {}, About(100, words, late=late))


def found(signal, **measurements):
    return [(sign.name, sign.level) for sign in limits.signs(measurements) if sign.name == signal]


def test_data_that_surely_lie_above_the_chains_are_doubted():
    """By four standard errors; of documents so many nats for each 100 words. Data below are what learning gives."""
    gap = 20 + 50 * NOISE
    above = measured(gap)["above"]
    assert above == pytest.approx(gap.mean() - 4 * gap.std() / 20)
    assert found("above", above=above) == [], "wavering so much, 20 nats may be chance"
    for mean, words, level in ((20, 0, 1), (-20, 0, 0), (200, 0, 2), (20, 50, 1), (20, 300, 0), (50, 300, 1)):
        signs = found("above", above=measured(mean + NOISE, words=words)["above"])
        assert signs == ([("above", level)] if level else [])


def test_the_likelihood_is_below_the_gap():
    """mean log p(data) <= -gap - H(q), with equality where the chains are the model's, by enumeration."""
    model = small_model("rbm", Binary((4,)))
    states = torch.tensor([*itertools.product((0.0, 1.0), repeat=4)], dtype=torch.float64)
    energy = model.double().energy(states).detach()
    log_p = -energy - (-energy).logsumexp(0)
    data = torch.softmax(torch.arange(16.0, dtype=torch.float64), 0)
    for log_q in (log_p, (2 * log_p).log_softmax(0), torch.zeros(16).double().log_softmax(0)):
        q = log_q.exp()
        gap, entropy = (data - q) @ energy, -q @ log_q
        bound = -gap - entropy
        assert data @ log_p <= bound + 1e-12
        assert (data @ log_p).item() == pytest.approx(bound.item()) or log_q is not log_p


def test_the_mean_gap_is_the_growth_of_the_weights_and_what_steps_overshoot():
    """With energies -theta.T(x) and plain steps, as the docstring of the signal has it."""
    rng, theta, rate, gaps, squares = np.random.default_rng(1), np.ones(3), 0.7, [], []
    first = theta @ theta
    for _ in range(50):
        g = rng.normal(size=3)
        gaps.append(theta @ g)
        squares.append(g @ g)
        theta = theta - rate * g
    assert np.mean(gaps) == pytest.approx((first - theta @ theta) / (2 * rate * 50) + rate / 2 * np.mean(squares))


def test_chains_that_are_hotter_than_what_tells_them_from_data_are_doubted():
    """Where the gap tells them apart, once it stayed; chains without noise of their own are at temperature 1."""
    gap, told = -0.03 + 0.001 * NOISE, {"gap": -3.0, "gap_nats": -0.03}
    energy = {"energy_data": 0.001 * NOISE}
    assert "felt" not in measured(gap, **energy), "not in the first window, where a network knows nothing yet"
    for heat, level in ((1.25e-6, 0), (0.05, 1), (30.0, 2)):
        now = measured(gap, history=told, chains_temperature=np.full(400, heat), **energy)
        assert now["felt"] == pytest.approx(0.03 / heat, rel=0.01)
        assert found("felt", felt=now["felt"]) == ([("felt", level)] if level else [])
    assert measured(gap, late=True, **energy)["felt"] == pytest.approx(0.03, rel=0.01)
    assert "felt" not in measured(gap, history=told, **{"energy_data": NOISE}), "rows differ by more: not told apart"
    assert "felt" not in measured(gap, history=told, chains_temperature=np.zeros(400), **energy), "no noise at all"


def test_chains_that_an_objective_has_of_its_own_are_judged_by_their_acceptance():
    """As those of the run: where none moves the gap of `objective=recovery` falls without end, and none tells."""
    ones = np.ones(20)
    for name in ("chains_acceptance", "acceptance"):
        given = Window(("loss", "energy_gap", "gradient_norm", name), np.stack([ones, ones, ones, 0.001 * ones], 1))
        seen = signals.measured(given, {}, About(10))
        assert seen["acceptance"] == pytest.approx(0.001)
        assert [(sign.name, sign.level) for sign in limits.signs(seen)] == [("acceptance", 1)]
