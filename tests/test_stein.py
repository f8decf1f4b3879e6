"""Stein discrepancies: zero under the truth by enumeration, the definition by loops, p-values and power."""

import itertools
import math

import pytest
import torch
from helpers.components import component
from helpers.data import small_data
from helpers.matrices import at, digit
from helpers.models import double_states, exact_p, small_model, target
from helpers.statistics import assert_close

from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.stein import Stein, difference_scores, one_hot
from ebm_cli.rng import normal, stream
from ebm_cli.space import Box, Spin
from ebm_cli.yardstick.stein import discrete_terms, mean_of_pairs, real_terms, wild_bootstrap

MODELS = ["rbm-binary", "ising-spin", "potts-categorical", "exponential_family-categorical"]


def terms_of(model, scale=1.0, common=1.0):
    """Of all states."""
    x = double_states(model)
    return discrete_terms(one_hot(model.space, x), difference_scores(model, x), scale, common)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_the_identity_of_stein_holds_under_the_truth_alone(name, scale):
    """sum_x p(x) u(x, x') = 0 for every x', to 1e-10; under the law of another temperature the discrepancy is more."""
    model = target(name)
    terms, p = terms_of(model, scale), exact_p(model)
    assert (p @ terms).abs().max() < 1e-10
    assert torch.linalg.eigvalsh(terms).min() > -1e-10
    warm = p**0.5 / (p**0.5).sum()
    assert warm @ terms @ warm > 1e-4


@pytest.mark.parametrize("common", [0.0, 0.7])
@pytest.mark.parametrize("name", MODELS[1:3])
def test_terms_are_their_definition(name, common):
    """By loops over sites and pairs of them, from the probabilities of all states."""
    model = target(name)
    space, p, terms = model.space, exact_p(model), terms_of(model, 2.0, common)

    def shifted(x, site, by):
        return at(space, x, {site: (digit(space, x, site) + by) % space.values})

    def kernel(x, y):
        return math.exp(-2.0 * sum(digit(space, x, i) != digit(space, y, i) for i in range(space.sites)) / space.sites)

    for x, y in itertools.product(range(0, space.states, 5), range(0, space.states, 3)):
        found = 0.0
        for i, j in itertools.product(range(space.sites), repeat=2):
            s, t = (1 - (p[shifted(z, site, 1)] / p[z]).item() for z, site in ((x, i), (y, j)))
            k, left, right = kernel(x, y), kernel(shifted(x, i, -1), y), kernel(x, shifted(y, j, -1))
            both = k - left - right + kernel(shifted(x, i, -1), shifted(y, j, -1))
            term = s * t * k - s * (k - right) - t * (k - left) + both
            found += term * ((i == j) + common / space.sites)
        assert terms[x, y].item() == pytest.approx(found, rel=1e-9, abs=1e-10)


def test_real_terms_are_their_definition():
    """Derivatives of the kernel by automatic differentiation."""
    x, score = normal((5, 3), stream(0)).double(), normal((5, 3), stream(1)).double()
    terms = real_terms(x, score, 0.7)

    def kernel(a, b):
        return (1 + (a - b).square().sum() / 0.49) ** -0.5

    for i, j in itertools.product(range(5), range(5)):
        first, second = torch.autograd.functional.jacobian(kernel, (x[i], x[j]))
        across = torch.autograd.functional.hessian(kernel, (x[i], x[j]))[0][1]
        found = score[i] @ score[j] * kernel(x[i], x[j]) + score[i] @ second + score[j] @ first + across.trace()
        assert_close(terms[i, j], found, rtol=1e-9, atol=1e-10)


def test_the_identity_on_real_numbers():
    """By quadrature on N(0, 1): zero with its own score, and not with that of N(0.1, 1)."""
    x = torch.linspace(-12, 12, 501, dtype=torch.float64)[:, None]
    p = (-x.flatten().square() / 2).exp()
    p = p / p.sum()
    assert (p @ real_terms(x, -x, 1.3)).abs().max() < 1e-10
    wrong = p @ real_terms(x, 0.1 - x, 1.3) @ p
    assert wrong > 1e-3


def test_the_mean_leaves_out_a_row_with_itself():
    terms = torch.tensor([[9.0, 1.0, 2.0], [1.0, 9.0, 3.0], [2.0, 3.0, 9.0]]).double()
    assert mean_of_pairs(terms) == pytest.approx(2)
    assert wild_bootstrap(terms, 19, stream(0)) >= 0.05


def test_p_values_count_signs_that_make_it_as_large():
    """Three rows have four products of signs: 6 by equal ones, one time in four; -4, -2 or 0 by others."""
    terms = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [2.0, 3.0, 0.0]]).double() / 2
    assert wild_bootstrap(terms, 20_000, stream(0)) == pytest.approx(0.25, abs=0.015)


def subject(model, store=0, rows=64):
    chains = model.space.noise(store, stream(1)) if store else torch.empty(0, *model.space.shape)
    return Subject(
        model.float(), small_data(model.space), "test", component("sampler", "metropolis"), chains, stream(0)
    )


def test_rows_and_chains_are_tested():
    """Chains that are noise are told from a model that is not; too few say nothing."""
    model = target("rbm-binary")
    found = component("evaluation", "stein", rows="chains", bootstraps=99).evaluate(subject(model, 500)).metrics
    assert found["stein/rows"] == 500
    assert found["stein/p_value"] == pytest.approx(0.01)
    held_out = component("evaluation", "stein", bootstraps=99).evaluate(subject(model))
    assert held_out.metrics["stein/rows"] == len(subject(model).held_out)
    few = component("evaluation", "stein", rows="chains").evaluate(subject(model, 3))
    assert not few.metrics
    assert "3 rows are too few" in few.warnings[0]
    (none,) = component("evaluation", "stein", rows="chains").evaluate(subject(model)).warnings
    assert none == "stein.rows = chains: this run keeps none; take evaluation.stein.rows=held_out"
    assert not held_out.warnings
    sharp = component("evaluation", "stein", bootstraps=99).evaluate(subject(target("ising-spin")))
    assert "p of the Stein discrepancy may be far too small" in sharp.warnings[0]
    real = target("exponential_family-real")
    assert 0 < component("evaluation", "stein", bootstraps=99).evaluate(subject(real)).metrics["stein/p_value"] <= 1
    assert "no Stein operator for boxed" in component("evaluation", "stein").refusal(
        small_model("mlp", Box((2,))), component("sampler", "mala")
    )


def test_the_line_says_what_the_p_value_says():
    class Values(dict):
        def has(self, *names):
            return all(name in self for name in names)

    found = {"stein/discrepancy": 0.5, "stein/p_value": 0.01, "stein/rows": 100.0, "stein/least_neighbour": 0.1}
    assert Stein.lines(Values(found), "test") == {
        "Stein discrepancy (test)": "0.5, p = 0.01: 100 rows are not draws of the model"
    }
    for changed, said in (
        ({"stein/p_value": 0.2}, "cannot be told from draws of the model by this kernel; one of another"),
        ({"stein/least_neighbour": 0.009}, "0.5; its p = 0.01 cannot be trusted"),
    ):
        assert said in Stein.lines(Values(found | changed), "test")["Stein discrepancy (test)"]


def drawn_p_values(model, terms, p, sets, rows, bootstraps):
    """Of so many sets of draws from p."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for i in range(sets):
        code = torch.multinomial(p, rows, replacement=True, generator=generator)
        found.append(wild_bootstrap(terms[code][:, code], bootstraps, stream(i, "signs")))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.long
@pytest.mark.parametrize("name", ["rbm-binary", "exponential_family-categorical"])
def test_p_values_are_uniform_under_the_truth(name):
    """Kolmogorov and Smirnov's test over 500 sets of 100 rows."""
    from scipy.stats import kstest

    model = target(name)
    found = drawn_p_values(model, terms_of(model), exact_p(model), 500, 100, 99)
    assert kstest(found.numpy(), "uniform").pvalue >= 0.01


@pytest.mark.long
@pytest.mark.parametrize("coupling", [0.25, 0.4, 0.6])
def test_a_coupling_that_is_a_tenth_off_is_noticed(coupling):
    """3 x 3 torus, held against draws at 1.1 J: at a level of 0.05 in at least nine sets of 1000 rows of ten."""
    models = [small_model("ising", Spin((3, 3))) for _ in range(2)]
    for model, factor in zip(models, (1, 1.1), strict=True):
        with torch.no_grad():
            model.b.zero_()
            model.J.fill_(factor * coupling)
    found = drawn_p_values(models[0], terms_of(models[0]), exact_p(models[1]), 100, 1000, 99)
    assert (found < 0.05).double().mean() >= 0.9
