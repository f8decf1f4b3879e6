"""Conditionals of single sites of every discrete model, and sweeps of a Boltzmann machine in blocks."""

import pytest
import torch
import torch.nn.functional as F
from helpers.models import DISCRETE, double_states, small_model, target
from helpers.statistics import assert_close

from ebm_cli import rng
from ebm_cli.model import boltzmann
from ebm_cli.model.base import CategoricalEnergySites, CategoricalSites, EnergySites, TwoValuedSites
from ebm_cli.model.boltzmann import BoltzmannSites
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Categorical, TwoValued

discrete_models = pytest.mark.parametrize("name", DISCRETE)
# Sums of some ten terms of size one in float64 agree to this whatever their order.
EXACT = {"rtol": 1e-12, "atol": 1e-12}


# Conditionals of single sites


def with_value(space, x, site, value):
    """x with one site of each chain (chains,) at value number `value` (chains,)."""
    digits = space.decode(x).flatten(1).clone()
    digits[torch.arange(len(x)), site] = value.to(digits.dtype)
    return space.encode(digits.reshape(-1, *space.site_shape)).to(x.dtype)


def conditionals(model, x, site):
    """log p(x_i = k | rest) from the energies of all the values a site can have, (chains, values)."""
    values = [torch.full((len(x),), value) for value in range(model.space.values)]
    energies = [model.energy(with_value(model.space, x, site, value)).detach() for value in values]
    return torch.stack([-energy for energy in energies], 1).log_softmax(1)


def of_sites(sites, chosen):
    """The same as the sites have it."""
    if isinstance(sites, CategoricalSites):
        return sites.logits(chosen).detach().log_softmax(1)
    logit = sites.logit(chosen).detach()
    return torch.stack([F.logsigmoid(-logit), F.logsigmoid(logit)], 1)


def positions(sites, space):
    """Where the chains are, (chains, *shape)."""
    return sites.x.reshape(-1, *space.shape)


@discrete_models
@pytest.mark.parametrize("kind", ["own", "generic"])
def test_conditionals_of_sites(name, kind):
    """For every state and site, with one site for all chains and with one for each; also after assignments."""
    model = target(name)
    space, x = model.space, double_states(model)
    generic = CategoricalEnergySites if isinstance(space, Categorical) else EnergySites
    sites = model.sites(x) if kind == "own" else generic(model, x)
    current = x.clone()
    order = torch.arange(len(x))
    for turn in range(3):
        for site in range(space.sites):
            mixed = (order * 3 + site + turn) % space.sites
            for chosen in (site, mixed):
                expected = conditionals(model, current, torch.as_tensor(chosen).expand(len(x)))
                assert_close(of_sites(sites, chosen), expected, **EXACT)
            chosen = site if turn == 1 else mixed
            each = torch.as_tensor(chosen).expand(len(x))
            current = with_value(space, current, each, (order + turn + site) % space.values)
            flat = current if isinstance(space, TwoValued) else space.table(current)
            with torch.no_grad():
                sites.assign(chosen, flat.reshape(len(x), space.sites, -1)[order, each].squeeze(1))
            assert torch.equal(positions(sites, space), current)


@discrete_models
def test_sites_work_on_a_copy(name):
    model = target(name)
    x = double_states(model)
    sites = model.sites(x)
    with torch.no_grad():
        sites.assign(0, torch.full_like(sites.x[:, 0], 7.0))
    assert torch.equal(x, double_states(model))


@discrete_models
def test_the_conditional_of_the_value_that_is_there(name):
    model = target(name)
    x, order = double_states(model), torch.arange(model.space.states)
    values = model.space.decode(x).flatten(1).long()
    for site in range(model.space.sites):
        expected = conditionals(model, x, torch.full((len(x),), site))[order, values[:, site]]
        assert_close(model.sites(x).log_conditional(site).detach(), expected, **EXACT)


@discrete_models
def test_conditionals_survive_strong_couplings(name):
    """Parameters of size 30 (networks: 1) in float32: a logit may be large, but it is finite and right to rounding."""
    model = target(name).float()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(30 if model.compiles else 2.5)
    x = model.space.enumerate()
    sites = model.sites(x)
    precise = target(name)
    with torch.no_grad():
        for p, q in zip(precise.parameters(), model.parameters(), strict=True):
            p.copy_(q)
    for site in range(model.space.sites):
        expected = conditionals(precise, x.double(), torch.full((len(x),), site))
        assert_close(of_sites(sites, site).double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conditionals_of_an_rbm_whose_weights_ran_off(dtype):
    """exp(-|W_ij|) is 0 in these weights' arithmetic, where a term of the logit must still not be log 0."""
    model = target("rbm-binary").to(dtype)
    with torch.no_grad():
        model.W.mul_(2000)
        model.c.sub_(500)
    x, precise = model.space.enumerate(), target("rbm-binary")
    with torch.no_grad():
        for p, q in zip(precise.parameters(), model.parameters(), strict=True):
            p.copy_(q)
    sites = model.sites(x.to(dtype))
    for site in range(model.space.sites):
        expected = conditionals(precise, x.double(), torch.full((len(x),), site))
        assert_close(of_sites(sites, site).double(), expected, rtol=1e-5, atol=1e-3)


# Sweeps of a Boltzmann machine in blocks

ORDERS = {
    "systematic": list(range(11)),
    "reverse": list(range(10, -1, -1)),
    "mixed": [3, 0, 7, 10, 1, 9, 2, 8, 5, 4, 6],
}


def boltzmann_sites(strength, n=400):
    """Chains of a machine of 11 units with random couplings, and thresholds of uniform numbers."""
    model = small_model("boltzmann", Binary((11,)), seed=2)
    x = model.space.noise(n, stream(0, "x")).double()
    threshold = rng.uniform((n, 11), stream(0, "u"), dtype=torch.float64).logit()
    return BoltzmannSites(strength * model.coupling().detach(), strength * model.b.detach(), x), threshold


@pytest.mark.parametrize("block", [1, 2, 4, 5, 10, 11, 96])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("strength", [0.0, 1.0, 40.0])
def test_a_sweep_in_blocks_is_one_site_after_the_other(block, order, strength, monkeypatch):
    """Bit for bit, sweep after sweep; couplings of 40 decide each unit by those before it."""
    monkeypatch.setattr(boltzmann, "_BLOCK", block)
    (blocks, threshold), (plain, _) = boltzmann_sites(strength), boltzmann_sites(strength)
    before = blocks.x.clone()
    for _ in range(3):
        blocks.decide(order, threshold)
        TwoValuedSites.decide(plain, order, threshold)
        assert torch.equal(blocks.x, plain.x)
        threshold = threshold.roll(1, 0)
    assert not torch.equal(blocks.x, before)


def test_a_chain_of_units_that_copy_their_neighbour_settles():
    """The longest dependence there is: the first unit flips, and each after it because of the one before."""
    n = 30
    coupling = 20.0 * (torch.eye(n).roll(1, 1).triu(1) + torch.eye(n).roll(1, 1).triu(1).T).double()
    bias = torch.full((n,), -10.0, dtype=torch.float64)
    start = torch.zeros(2, n, dtype=torch.float64)
    threshold = torch.zeros(2, n, dtype=torch.float64)
    threshold[0, 0], threshold[1, 0] = -100.0, 100.0  # the first chain's first unit goes on, whatever its logit
    blocks, plain = (BoltzmannSites(coupling, bias, start) for _ in range(2))
    blocks.decide(range(n), threshold)
    TwoValuedSites.decide(plain, range(n), threshold)
    assert torch.equal(blocks.x, plain.x)
    assert blocks.x.sum(1).tolist() == [n, 0]


def test_sites_drawn_for_each_chain_are_visited_one_by_one():
    (blocks, threshold), (plain, _) = boltzmann_sites(1.0), boltzmann_sites(1.0)
    order = list(rng.integers(11, (400, 11), stream(0, "sites")).unbind(1))
    blocks.decide(order, threshold)
    TwoValuedSites.decide(plain, order, threshold)
    assert torch.equal(blocks.x, plain.x)
