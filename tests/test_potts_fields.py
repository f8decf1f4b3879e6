"""Sums over rows of one-hot states, and Potts models made of them: dense ones, by edges, site by site."""

import pytest
import torch
from helpers.components import component
from helpers.models import small_model
from helpers.statistics import assert_close

from ebm_cli import rng
from ebm_cli.model import one_hot, potts
from ebm_cli.model.base import CategoricalSites
from ebm_cli.rng import stream, uniform
from ebm_cli.space import Categorical

EXACT = {"rtol": 1e-12, "atol": 1e-12}
SITES, VALUES, ROWS = 6, 4, 30


def rows():
    """One-hot rows (ROWS, SITES, VALUES) and the places of their ones; the last value of site 2 never comes."""
    number = torch.arange(ROWS * SITES).mul(7).remainder(11).remainder(VALUES).reshape(ROWS, SITES)
    number[:, 2] %= VALUES - 1
    v = torch.nn.functional.one_hot(number, VALUES).double()
    return v, one_hot.places(v)


def numbers(*shape):
    return uniform(shape, stream(0, "numbers"), dtype=torch.float64) - 0.5


# Sums of rows


def test_places_are_those_of_the_ones():
    v, places = rows()
    assert torch.equal(torch.zeros(ROWS, SITES * VALUES).double().scatter(1, places, 1.0), v.flatten(1))
    assert torch.equal(one_hot.one_hot(places, VALUES, v.dtype), v)


def test_products_and_their_gradients_are_those_of_matrices():
    v, places = rows()
    matrices, upstream = numbers(3, SITES * VALUES, VALUES).requires_grad_(), numbers(ROWS, 3, VALUES)
    found, expected = one_hot.products(places, matrices), torch.einsum("nm,smc->nsc", v.flatten(1), matrices)
    assert_close(found, expected, **EXACT)
    assert_close(*(torch.autograd.grad((upstream * out).sum(), matrices)[0] for out in (found, expected)), **EXACT)


def test_moments_of_pairs_are_those_of_products():
    v, places = rows()
    u = numbers(ROWS, SITES, VALUES)
    whole = torch.einsum("nia,njb->ijab", v, u)
    expected = torch.stack([whole[i, j] for j in range(SITES) for i in range(j)])
    assert_close(one_hot.pair_moments(places, u), expected, **EXACT)


def test_draws_by_weights_are_inversions():
    """Also at the ends: a weight of 0 is never drawn, and the largest u below 1 draws the last that is not 0."""
    weight = torch.tensor([0.0, 1.0, 3.0, 0.0])[:, None].expand(4, 5)
    u = torch.tensor([0.0, 0.2499, 0.25, 0.9, 1 - 2.0**-24])
    assert rng.reached(weight, u).tolist() == [1, 1, 2, 2, 2]


def test_a_search_among_many_values_is_the_count():
    logits, u = uniform((7, 300), stream(0, "l"), dtype=torch.float64) * 9, uniform((7,), stream(0, "u")).double()
    total = (logits - logits.amax(1, keepdim=True)).exp().cumsum(1)
    assert torch.equal(rng.inverted(logits, u), (total <= u[:, None] * total[:, -1:]).sum(1))


# Models

GRAPHS = {"complete": True, "erdos_renyi": True, "lattice": False}  # whether couplings are formed as a matrix


def model(graph):
    """Of 12 sites: all pairs, about half of them, or a lattice of 3 x 4 that does not wrap; couplings of size 1."""
    return small_model("potts", Categorical((3, 4, VALUES)), graph=graph, periodic=False, degree=5.0)


def of_formula(found, x):
    """-x.J x / 2 - h.x with J as a matrix."""
    v = x.flatten(1)
    return -((v @ found.coupling()) * v).sum(1) / 2 - v @ found.h.flatten()


@pytest.fixture(params=GRAPHS)
def found(request):
    """Each model, and 8 states."""
    made = model(request.param)
    assert made.dense == GRAPHS[request.param]
    return made, made.space.noise(8, stream(0, "x")).double()


def test_energies_are_the_formula(found):
    made, x = found
    expected = of_formula(made, x).detach()
    assert_close(made.energy(x).detach(), expected, **EXACT)
    with torch.no_grad():
        assert_close(made.energy(x), expected, **EXACT)
    assert_close(made.energy_and_grad(x)[0], expected, **EXACT)
    assert_close(made.energy_vjp(x)[0], expected, **EXACT)


def test_slopes_are_those_of_the_formula(found):
    made, x = found
    x.requires_grad_()
    (expected,) = torch.autograd.grad(of_formula(made, x).sum(), x)
    assert_close(made.energy_and_grad(x.detach())[1], expected, **EXACT)
    (own,) = torch.autograd.grad(made.energy(x).sum(), x)
    assert_close(own, expected, **EXACT)


def test_gradients_are_those_of_the_formula(found, monkeypatch):
    monkeypatch.setattr(potts, "_AT_ONCE", 200)  # so that rows come in several parts
    made, x = found
    weight = numbers(len(x))
    expected = torch.autograd.grad((weight * of_formula(made, x)).sum(), [made.J, made.h])
    pulled = made.energy_vjp(x)[1](weight)
    assert_close(pulled["J"], expected[0], **EXACT)
    assert_close(pulled["h"], expected[1], **EXACT)


def test_conditionals_and_their_gradients_are_those_of_the_formula(found):
    made, x = found
    sites, weight = torch.tensor([0, 3, 7, 11]), numbers(len(x), 4)
    logits = made.space.table(x.flatten(1) @ made.coupling()) + made.h
    expected = (logits.log_softmax(2) * made.space.table(x)).sum(2)[:, sites]
    own = made.log_conditionals(x, sites)
    assert_close(own, expected, **EXACT)
    for parameter in (made.J, made.h):
        one, other = (
            torch.autograd.grad((weight * value).sum(), parameter, retain_graph=True)[0] for value in (own, expected)
        )
        assert_close(one, other, **EXACT)


def test_logits_of_a_site_of_each_chain_are_those_of_the_site(found):
    made, x = found
    site = torch.arange(8).mul(5).remainder(12)
    with torch.no_grad():
        sites = made.sites(x)
        expected = torch.stack([sites.logits(i)[n] for n, i in enumerate(site.tolist())])
        assert_close(sites.logits(site), expected, **EXACT)


ORDERS = {
    "systematic": list(range(12)),
    "reverse": list(range(11, -1, -1)),
    "of each chain": list(torch.arange(8).mul(5).add(torch.arange(12)[:, None]).remainder(12).unbind()),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_sweep_is_one_site_after_the_other(found, order):
    made, x = found
    u = uniform((8, 12), stream(0, "u"))
    with torch.no_grad():
        own, plain = made.sites(x), made.sites(x)
        own.sweep(order, u)
        CategoricalSites.sweep(plain, order, u)
    assert torch.equal(own.x, plain.x)
    assert not torch.equal(own.x, made.space.table(x))
    assert torch.equal(own.places, one_hot.places(own.x))


def test_a_sweep_of_strong_couplings_is_finite():
    """Fields of hundreds in float32, where exp of a field itself would overflow: values are those of the largest."""
    made = model("complete").float()
    with torch.no_grad():
        made.J.mul_(300)
        sites = made.sites(made.space.noise(20, stream(0, "x")))
        sites.sweep(range(12), uniform((20, 12), stream(0, "u")))
        assert torch.equal(sites.logits(11).argmax(1), sites.x[:, 11].argmax(1))
    assert made.space.contains(sites.x.reshape(-1, *made.space.shape))


@pytest.mark.parametrize("backwards", [False, True])
def test_a_block_sweep_by_edges_is_that_of_the_matrix(backwards, monkeypatch):
    """With the same key; the sites of a colour, of one draw each, in the order of the colour."""
    sparse = model("lattice")
    monkeypatch.setattr(potts, "_DENSE", 0.0)
    dense = model("lattice")
    assert dense.dense
    x = dense.space.noise(50, stream(0, "x")).double()
    with torch.no_grad():
        first, second = (m.sweep(x, stream(0, "sweep"), backwards=backwards) for m in (sparse, dense))
    assert torch.equal(first, second)
    assert not torch.equal(first, x)


def test_a_lattice_is_never_a_matrix(monkeypatch):
    made = model("lattice")
    x = made.space.noise(8, stream(0, "x")).double()
    for name in ("coupling", "by_site"):
        monkeypatch.delattr(potts.Potts, name)
    with torch.no_grad():
        made.sweep(x, stream(0), backwards=False)
        made.energy(x)
        made.sites(x).sweep(range(12), uniform((8, 12), stream(0)))
    made.energy(x)
    made.energy_and_grad(x)
    made.energy_vjp(x)[1](numbers(8))
    made.log_conditionals(x, torch.arange(12)).sum().backward()


def test_a_lattice_takes_memory_in_proportion_to_its_sites():
    spec = component("model", "potts", graph="lattice")
    small, large = (spec.beside(Categorical((n, n, 4))) for n in (32, 64))
    assert large == 4 * small
    assert large < 2e7
    assert spec.parameters(Categorical((64, 64, 4))) == 2 * 64**2 * 16 + 64**2 * 4


def test_all_pairs_take_memory_for_matrices():
    spec = component("model", "potts", graph="complete")
    assert spec.beside(Categorical((53, 21))) > 3 * 4 * (53 * 21) ** 2
