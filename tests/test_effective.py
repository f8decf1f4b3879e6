"""Couplings that RBMs have in effect, against the expansion of their free energy over all states."""

import pytest
import torch
from helpers.models import small_model
from helpers.statistics import assert_close

from ebm_cli.evaluation.contacts import scores
from ebm_cli.model import effective
from ebm_cli.model.effective import spin_couplings, spin_triples, zero_sum_couplings
from ebm_cli.space import Binary, Categorical


@pytest.mark.parametrize(("sites", "hidden", "error"), [(7, 5, 2e-4), (12, 8, 2e-4)])
def test_pairs_and_triples_of_spins_are_those_of_all_states(sites, hidden, error):
    model = small_model("rbm", Binary((sites,)), hidden=hidden)
    with torch.no_grad():
        model.W *= 0.5
        x = model.space.enumerate().double()
        s, log_p = 2 * x - 1, -model.energy(x)
    exact = ((s * log_p[:, None]).T @ s / len(s)).fill_diagonal_(0)
    assert exact.abs().mean() > 50 * error
    assert_close(spin_couplings(model), exact, rtol=0, atol=error)
    triples = torch.combinations(torch.arange(sites), 3)
    expected = torch.stack([(log_p * s[:, i] * s[:, j] * s[:, k]).mean() for i, j, k in triples.tolist()])
    assert_close(spin_triples(model, triples), expected, rtol=0, atol=error)


def test_couplings_of_bits_are_four_times_those_of_spins():
    model = small_model("boltzmann", Binary((5,)))
    x = model.space.enumerate().double()
    s, log_p = 2 * x - 1, -model.energy(x).detach()
    assert_close(spin_couplings(model), ((s * log_p[:, None]).T @ s / 32).fill_diagonal_(0), rtol=0, atol=1e-12)


def test_pairs_of_categories_are_those_of_all_states():
    """In the zero-sum gauge: the mean of log p over all other sites, centred."""
    model = small_model("rbm", Categorical((4, 3)), hidden=5)
    log_p = -model.energy(model.space.enumerate().double()).detach().reshape(3, 3, 3, 3)  # the last axis is site 0
    pairs, J = zero_sum_couplings(model)
    for (i, j), found in zip(pairs.tolist(), J, strict=True):
        table = log_p.mean([3 - site for site in range(4) if site not in (i, j)]).T
        expected = table - table.mean(0) - table.mean(1)[:, None] + table.mean()
        assert_close(found, expected, rtol=0, atol=1e-3)
        assert expected.abs().mean() > 0.03
    assert scores(model, None).isfinite().all()


@pytest.mark.parametrize(("scale", "nodes"), [(0, 1), (0.5, 15), (1.5, 38)])
def test_tables_of_many_letters_are_those_of_each_pair_of_letters(scale, nodes, monkeypatch):
    """Interpolated to 1e-7 of a hidden unit; with weights of any size, and each hidden unit with its own."""
    model = small_model("rbm", Categorical((6, 12)), hidden=5)
    with torch.no_grad():
        model.W *= scale * torch.linspace(0.1, 1, 5).double() / model.W.std()
    (pairs, J), between = zero_sum_couplings(model), effective.interpolation(*centred(model))
    assert between is not None
    assert len(between.inputs) == nodes
    monkeypatch.setattr(effective, "interpolation", lambda *_: None)
    plain = zero_sum_couplings(model)
    assert torch.equal(pairs, plain.pairs)
    assert_close(J, plain.J, rtol=0, atol=5e-7)
    assert plain.J.abs().mean() >= 0.01 * scale


def centred(model):
    levels = model.W.detach().reshape(6, 12, -1)
    return levels - levels.mean(1, keepdim=True), model.c.detach() + levels.mean(1).sum(0)


def test_weights_that_would_take_too_many_nodes_are_not_interpolated():
    levels = torch.linspace(-20, 20, 21).double().reshape(1, 21, 1)
    assert effective.interpolation(levels, torch.zeros(1).double()) is None
    assert effective.interpolation(levels[:, :2] / 20, torch.zeros(1).double()) is None
