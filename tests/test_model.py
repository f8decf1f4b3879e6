"""Every registered model on every space it takes: its energy, gradients, layers and, where known, log Z."""

import itertools
import math

import pytest
import torch
from helpers.components import shipped
from helpers.models import DISCRETE, PAIRS, double_states, exact_p, names_of, small_model, target
from helpers.samplers import KNOWN
from helpers.statistics import assert_close, assert_distributed
from scipy import integrate

from ebm_cli import registry
from ebm_cli.functional import softplus, softplus_sum
from ebm_cli.model.base import Bipartite, EnergyModel, Normalised
from ebm_cli.model.exponential_family import BernoulliProduct, CategoricalProduct, GaussianProduct
from ebm_cli.model.fhmm import FHMM
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Categorical, Discrete, Mixed, Real, TwoValued

models = pytest.mark.parametrize("name", PAIRS)
discrete_models = pytest.mark.parametrize("name", DISCRETE)
bipartite_models = pytest.mark.parametrize("name", names_of(Bipartite))
normalised_models = pytest.mark.parametrize("name", [name for name in names_of(Normalised) if name in KNOWN])
# Sums of some ten terms of size one in float64 agree to this whatever their order.
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def some_states(model, n=7):
    return model.space.noise(n, stream(3, "states")).double()


# The definitions, in plain loops


def rbm_joint(model, v, h):
    """E(v, h) = -b.v - c.h - v.W h."""
    energy = 0.0
    for i, vi in enumerate(v):
        energy -= vi * model.b[i].item()
    for j, hj in enumerate(h):
        energy -= hj * model.c[j].item()
    for (i, vi), (j, hj) in itertools.product(enumerate(v), enumerate(h)):
        energy -= vi * model.W[i, j].item() * hj
    return energy


def log_sum_exp(values):
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def test_rbm_energy_is_minus_log_of_the_summed_joint():
    model = small_model("rbm", Binary((2, 2)))
    for x, energy in zip(double_states(model), model.energy(double_states(model)), strict=True):
        v = x.flatten().tolist()
        joint = [-rbm_joint(model, v, h) for h in itertools.product((0, 1), repeat=model.hidden)]
        assert energy.item() == pytest.approx(-log_sum_exp(joint), rel=1e-12)


def test_boltzmann_energy():
    """-x.W x / 2 - b.x with a symmetric W of zero diagonal, which the parameter holds in its upper triangle."""
    model = small_model("boltzmann", Binary((2, 2)))
    d = model.space.sites
    W = [[model.W[min(i, j), max(i, j)].item() if i != j else 0.0 for j in range(d)] for i in range(d)]
    for x, energy in zip(double_states(model), model.energy(double_states(model)), strict=True):
        v = x.flatten().tolist()
        expected = -sum(v[i] * W[i][j] * v[j] for i in range(d) for j in range(d)) / 2
        expected -= sum(model.b[i].item() * v[i] for i in range(d))
        assert energy.item() == pytest.approx(expected, rel=1e-12)
    assert model.coupling().tolist() == W


def test_boltzmann_cannot_become_asymmetric():
    """What W holds on and below its diagonal has no gradient, so no update moves the energy through it."""
    model = small_model("boltzmann", Binary((4,)))
    model.energy(double_states(model)).sum().backward()
    assert torch.equal(model.W.grad.tril(), torch.zeros(4, 4, dtype=torch.float64))
    assert (model.W.grad.triu(1) != 0).sum() == 6


def test_bernoulli_product_energy():
    model = small_model("exponential_family", Binary((2, 2)))
    for x, energy in zip(double_states(model), model.energy(double_states(model)), strict=True):
        expected = -sum(b * v for b, v in zip(model.b.tolist(), x.flatten().tolist(), strict=True))
        assert energy.item() == pytest.approx(expected, rel=1e-12)


def test_gaussian_product_energy():
    model = small_model("exponential_family", Real((1, 2)))
    for x, energy in zip(some_states(model), model.energy(some_states(model)), strict=True):
        parts = zip(x.flatten().tolist(), model.m.tolist(), model.r.tolist(), strict=True)
        assert energy.item() == pytest.approx(sum((v - m) ** 2 * math.exp(r) / 2 for v, m, r in parts), rel=1e-12)


# What every model must do


@models
def test_energy_is_one_number_per_row_whatever_the_batch(name):
    model = target(name)
    x = some_states(model)
    energy = model.energy(x)
    assert energy.shape == (len(x),)
    assert energy.dtype == torch.float64
    assert torch.equal(model(x), energy)
    assert_close(torch.cat([model.energy(row[None]) for row in x]), energy, **EXACT)


@models
def test_every_parameter_moves_the_energy(name):
    model = target(name)
    model.energy(some_states(model)).square().sum().backward()
    assert all((p.grad != 0).any() for p in model.parameters())


@models
def test_energy_and_grad_agrees_with_finite_differences(name):
    """Central differences err by h^2 E''' / 6 and by rounding / h: 1e-10 and 1e-10 at h = 1e-5, so 1e-7 is safe."""
    model, h = target(name), 1e-5
    x = some_states(model)
    energy, grad = model.energy_and_grad(x)
    assert not energy.requires_grad
    assert not grad.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert_close(energy, model.energy(x).detach(), **EXACT)
    numbers = math.prod(model.space.shape)
    for site in range(numbers):
        step = torch.zeros(numbers, dtype=torch.float64).index_fill(0, torch.tensor([site]), h)
        step = step.reshape(model.space.shape)
        slope = (model.energy(x + step) - model.energy(x - step)).detach() / (2 * h)
        assert_close(grad.flatten(1)[:, site], slope, rtol=1e-7, atol=1e-7)


@models
def test_energy_and_grad_works_without_gradients(name):
    model = target(name)
    with torch.no_grad():
        assert model.energy_and_grad(some_states(model))[1].shape == some_states(model).shape


@models
@pytest.mark.parametrize("kind", ["own", "generic"])
@pytest.mark.parametrize("recording", [False, True])
def test_energy_vjp_is_the_weighted_sum_of_gradients(name, kind, recording):
    """Against autograd, with weights of both signs, zero among them; by the model's own form and by the default."""
    model = target(name)
    x = some_states(model, 9)
    weight = torch.tensor([0.7, -1.3, 0.0, 2.0, -0.4, 0.1, -2.5, 1.0, 0.3], dtype=torch.float64)
    kept = x.clone()
    form = type(model).energy_vjp if kind == "own" else EnergyModel.energy_vjp
    with torch.set_grad_enabled(recording):
        energy, pull = form(model, x)
        found = pull(weight)
    expected = torch.autograd.grad((model.energy(x) * weight).sum(), [*model.parameters()])
    assert list(found) == [key for key, _ in model.named_parameters()]
    for value, grad, p in zip(found.values(), expected, model.parameters(), strict=True):
        assert value.shape == p.shape
        assert_close(value.detach(), grad, rtol=1e-9, atol=1e-12)
    assert_close(energy.detach(), model.energy(x).detach(), **EXACT)
    assert not energy.requires_grad
    assert not any(value.requires_grad for value in found.values())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(x, kept)


def test_a_parameter_that_does_not_enter_has_gradient_zero():
    model = target("exponential_family-binary")
    model.register_parameter("unused", torch.nn.Parameter(torch.ones(3, dtype=torch.float64)))
    with torch.no_grad():
        found = EnergyModel.energy_vjp(model, some_states(model))[1](torch.ones(7, dtype=torch.float64))
    assert list(found) == ["b", "unused"]
    assert torch.equal(found["unused"], torch.zeros(3, dtype=torch.float64))


@models
def test_parameters_start_where_their_key_says(name):
    choice, space = PAIRS[name]
    config = shipped("model")[choice]
    config |= {"weight_std": 0.3} if "weight_std" in config else {}
    spec = registry.build("model", config)
    mean = uneven_mean(space)
    a, b, c = (spec.build(space, mean, stream(seed, "model")) for seed in (0, 0, 1))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    if "weight_std" in config:
        assert any(not torch.equal(p, q) for p, q in zip(a.parameters(), c.parameters(), strict=True))
    assert a.space == space
    assert all(p.dtype == torch.float32 for p in a.parameters())


@pytest.mark.parametrize("name", [name for name in DISCRETE if name not in names_of(FHMM)])
def test_without_couplings_a_model_starts_at_the_data_mean(name):
    """Initial bias logit(mean): with weight_std 0 the units are independent with just that mean.

    Not the posterior of a hidden Markov model, whose prior is given.
    """
    choice, space = PAIRS[name]
    config = shipped("model")[choice]
    config |= {"weight_std": 0.0} if "weight_std" in config else {}
    mean = uneven_mean(space)
    model = registry.build("model", config).build(space, mean, stream(0, "model"))
    p, x = exact_p(model), double_states(model)
    values = (model.space.bits(x) if isinstance(space, TwoValued) else x).flatten(1)
    assert_close((p[:, None] * values).sum(0), mean.flatten().double())


def uneven_mean(space):
    """Of every site another; that of categorical sites sums to one."""
    shape = (space.width,) if isinstance(space, Mixed) else space.shape
    mean = torch.linspace(0.05, 0.9, math.prod(shape)).reshape(shape)
    return mean / mean.sum(-1, keepdim=True) if isinstance(space, Categorical) else mean


def test_weights_have_the_configured_spread():
    model = registry.build(
        "model", {"name": "rbm", "hidden": 200, "hidden_units": "binary", "visible": "auto", "weight_std": 0.3}
    )
    W = model.build(Binary((100,)), torch.full((100,), 0.5), stream(0, "model")).W
    assert W.std().item() == pytest.approx(0.3, rel=5 / (2 * W.numel()) ** 0.5)  # 5 standard errors
    model = registry.build("model", {"name": "boltzmann", "weight_std": 0.3, "bias": "data"})
    W = model.build(Binary((100,)), torch.full((100,), 0.5), stream(0, "model")).coupling()
    upper = W[torch.triu_indices(100, 100, 1).unbind()]
    assert upper.std().item() == pytest.approx(0.3, rel=5 / (2 * upper.numel()) ** 0.5)


# Bipartite models


@bipartite_models
def test_layers_are_the_conditionals_of_the_joint(name):
    """p(h | v) and p(v | h) from the enumerated joint, E(v, h) = E(v, 0) - h.a(v), whose sum over h is exp(-E(v))."""
    model = target(name)
    v, h = double_states(model), Binary((model.hidden,)).enumerate().double()
    with torch.no_grad():
        a = model.hidden_logits(v)
        log_joint = (-model.energy(v) - softplus(a).sum(1))[:, None] + a @ h.T
        assert_close(log_joint.logsumexp(1), -model.energy(v), **EXACT)
        joint = log_joint.flatten().softmax(0).reshape(log_joint.shape)
        p_hidden = (joint @ h) / joint.sum(1, keepdim=True)
        p_visible = (joint.T @ v.flatten(1)) / joint.sum(0)[:, None]
        assert_close(model.hidden_logits(v).sigmoid(), p_hidden, **EXACT)
        assert_close(visible_mean(model, model.visible_logits(h)), p_visible, **EXACT)
        assert_close(model.free_energy(v, a), model.energy(v), **EXACT)


def test_rbm_joint_is_that_of_the_definition():
    """The layers' logits against differences of E(v, h) in plain loops."""
    model = small_model("rbm", Binary((2, 2)))
    for v in itertools.product((0, 1), repeat=4):
        x = torch.tensor(v, dtype=torch.float64).reshape(1, 2, 2)
        for j in range(model.hidden):
            off, on = [0] * model.hidden, [int(k == j) for k in range(model.hidden)]
            expected = rbm_joint(model, v, off) - rbm_joint(model, v, on)
            assert model.hidden_logits(x)[0, j].item() == pytest.approx(expected, rel=1e-12)
    for h in itertools.product((0, 1), repeat=3):
        for i in range(4):
            expected = rbm_joint(model, [0] * 4, h) - rbm_joint(model, [int(k == i) for k in range(4)], h)
            logits = model.visible_logits(torch.tensor([h], dtype=torch.float64))
            assert logits[0, i].item() == pytest.approx(expected, rel=1e-12)


@bipartite_models
def test_layers_are_sampled_from_their_conditionals(name):
    model, n = target(name).float(), 50_000
    v = model.space.enumerate()[5:6].expand(n, *model.space.shape)
    h = model.sample_hidden(v, stream(0, "hidden"))
    assert h.shape == (n, model.hidden)
    assert_distributed(independent(model.hidden_logits(v[:1])[0]), h)
    x = model.sample_visible(h[:1].expand(n, -1), stream(0, "visible"))
    assert x.shape == (n, *model.space.shape)
    units = independent(model.visible_logits(h[:1])[0], model.space)
    assert_distributed(units, x.reshape(n, *units.space.shape))


def visible_mean(model, logits):
    """The mean of visible units with these logits."""
    if isinstance(model.space, Categorical):
        return model.space.table(logits).softmax(2).flatten(1)
    return logits.sigmoid()


def independent(logits, space=None):
    """Independent units with these logits."""
    if isinstance(space, Categorical):
        return CategoricalProduct(space, logits.reshape(space.shape).softmax(-1))
    model = BernoulliProduct(Binary((len(logits),)), torch.full((len(logits),), 0.5))
    with torch.no_grad():
        model.b.copy_(logits)
    return model


# Models with known log Z


@pytest.mark.quick("exponential_family-binary", "exponential_family-categorical", "exponential_family-spin")
@normalised_models
def test_log_z_is_the_sum_or_the_integral(name):
    model = target(name)
    if isinstance(model.space, Discrete):
        expected = (-model.energy(double_states(model))).logsumexp(0).item()
        assert model.log_z().item() == pytest.approx(expected, rel=1e-12)
    else:
        assert isinstance(model.space, Real)
        value, error = integrate.nquad(
            lambda *x: math.exp(
                -model.energy(torch.tensor(x, dtype=torch.float64).reshape(1, *model.space.shape)).item()
            ),
            [(-25, 25)] * model.space.sites,
            opts={"epsabs": 1e-7, "epsrel": 1e-7},
        )
        assert model.log_z().item() == pytest.approx(math.log(value), abs=10 * error / value + 1e-9)


@normalised_models
def test_exact_samples(name):
    model = target(name)
    x = model.sample(100_000, stream(0, "sample"))
    assert x.shape == (100_000, *model.space.shape)
    assert_distributed(model, x)


@normalised_models
def test_samples_have_the_precision_of_the_model(name):
    assert target(name).float().sample(3, stream(0, "sample")).dtype == torch.float32
    assert target(name).sample(3, stream(0, "sample")).dtype == torch.float64


def test_gaussian_product_starts_at_the_mean_with_unit_variance():
    model = registry.build("model", {"name": "exponential_family", "family": "auto"}).build(
        Real((2,)), torch.tensor([1.0, -3.0]), stream(0, "model")
    )
    assert isinstance(model, GaussianProduct)
    assert model.m.tolist() == [1.0, -3.0]
    assert model.log_z().item() == pytest.approx(math.log(2 * math.pi))


# The softplus of the free energy


def test_softplus_and_its_derivatives():
    x = torch.cat([torch.linspace(-30, 30, 121), torch.tensor([-800.0, 800.0, 0.0])]).double().requires_grad_()
    assert_close(softplus(x), torch.logaddexp(x, torch.zeros_like(x)), rtol=1e-12, atol=3e-16)
    assert torch.autograd.gradcheck(softplus, x)
    assert torch.autograd.gradgradcheck(softplus, x)
    rows = x[:120].reshape(3, 40).detach().requires_grad_()
    assert torch.autograd.gradcheck(softplus_sum, rows)
    assert torch.autograd.gradgradcheck(softplus_sum, rows)


def test_softplus_in_float32():
    """Half a unit in the last place of 1 where it is near 0, relative rounding elsewhere."""
    x = torch.linspace(-100, 100, 4001)
    assert_close(softplus(x), softplus(x.double()).float(), rtol=3e-7, atol=6e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [0, 1, 64, 127, 1100])
def test_the_sum_of_softplus_over_any_number_of_units(n, dtype):
    """Of units at 0 the factors are 2 each, whose product may not overflow."""
    x = torch.cat([torch.zeros(1, n), torch.full((1, n), 90.0), torch.linspace(-40, 40, 3 * n).reshape(3, n)]).to(dtype)
    expected = torch.logaddexp(x.double(), 0 * x.double()).sum(1).to(dtype)
    close = {"rtol": 10 * torch.finfo(dtype).eps, "atol": n * torch.finfo(dtype).eps}
    found = softplus_sum(x)
    assert_close(found, expected, **close)
    assert torch.equal(softplus_sum(x.requires_grad_()), found), "with and without derivatives"


def test_a_large_boltzmann_machine_is_summed_in_blocks():
    """Energies and moments of 600 sites, the last block narrower than the others, by the whole matrix in float64."""
    model = registry.build("model", {"name": "boltzmann", "weight_std": 0.1, "bias": "zero"})
    model = model.build(Binary((600,)), torch.full((600,), 0.5), stream(0, "model")).double()
    x, weight = Binary((600,)).noise(5, stream(1, "x")).double(), torch.linspace(-1, 2, 5, dtype=torch.float64)
    energy, pull = model.energy_vjp(x)
    assert_close(energy, -0.5 * ((x @ model.coupling()) * x).sum(1) - x @ model.b, rtol=1e-12)
    assert_close(pull(weight)["W"], -torch.einsum("ni,n,nj->ij", x, weight, x).triu(1), rtol=1e-12)
