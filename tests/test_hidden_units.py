"""Laws of hidden units against numerical integrals, and machines of them against sums over all states."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from helpers.cli import assert_refused, ebm, facts, outcome, trained
from helpers.components import FALSE_ALARM, component
from helpers.models import double_states, exact_p, small_model
from helpers.statistics import assert_close, chi_square
from helpers.training import gradients

from ebm_cli import rng
from ebm_cli.evaluation.annealing import HarmoniumPath
from ebm_cli.log_z import enumeration
from ebm_cli.model import half_line
from ebm_cli.model.base import CategoricalEnergySites, EnergyModel, EnergySites
from ebm_cli.model.effective import spin_couplings, spin_triples, zero_sum_couplings
from ebm_cli.model.exponential_family import product
from ebm_cli.model.hidden_units import UNITS
from ebm_cli.record import checkpoint
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Categorical, Spin

NAMES = list(UNITS)
REAL = ["gaussian", "relu", "drelu"]
SPACES = {"bits": Binary((4,)), "spins": Spin((4,)), "categories": Categorical((2, 3))}
EXACT = {"rtol": 1e-9, "atol": 1e-9}
GRID = torch.linspace(-60, 60, 240_001, dtype=torch.float64)
STEP = 120 / 240_000


def potential(name: str) -> dict[str, torch.Tensor]:
    """One unit of each law; drelu neither Gaussian nor symmetric."""
    values = {"delta": 1.3, "eta": -0.4}
    return {key: torch.tensor([values[key]], dtype=torch.float64) for key in UNITS[name].shape_names}


def weights(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """All h, and exp(-U(h)) times what it stands for in a sum or in an integral by the trapezoidal rule."""
    if name in ("binary", "spin"):
        return torch.tensor([0.0 if name == "binary" else -1.0, 1.0]).double(), torch.ones(2).double()
    if name == "relu":
        h = torch.linspace(0, 36, 360_001, dtype=torch.float64)  # fine, for it begins steeply
        return h, 1e-4 * torch.where(h == 0, 0.5, 1.0) * (-h.square() / 2).exp()
    d, y = (1.3, math.tanh(-0.4)) if name == "drelu" else (0.0, 0.0)
    g = torch.where(GRID > 0, 1 / (1 + y), 1 / (1 - y))
    return GRID, STEP * (d * GRID.abs() - g * GRID.square() / 2).exp()


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_has_the_moments_of_its_law(name):
    h, w = weights(name)
    a = torch.tensor([-20.0, -3.2, -2.9, -0.4, 0.0, 1.7, 20.0]).double()
    terms = a[:, None] * h + w.log()
    law, shape = UNITS[name], potential(name)
    p = torch.softmax(terms, 1)
    assert_close(law.log_sum(a[:, None], shape)[:, 0], terms.logsumexp(1), rtol=1e-7, atol=1e-7)
    assert_close(law.mean(a[:, None], shape)[:, 0], p @ h, rtol=1e-6, atol=1e-6)
    assert_close(law.square(a[:, None], shape)[:, 0], p @ h.square(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_slopes_are_those_of_the_sum(name):
    a = torch.tensor([[-9.0], [-1.1], [0.3], [4.0]]).double().requires_grad_()
    law = UNITS[name]
    shape = {key: value.requires_grad_() for key, value in potential(name).items()}
    found = torch.autograd.grad(law.log_sum(a, shape).sum(), [a, *shape.values()], create_graph=True)
    with torch.no_grad():
        assert_close(found[0], law.mean(a, shape), **EXACT)
        slopes = law.slopes(a, shape)
        assert list(slopes) == list(shape)
        for key, by_graph in zip(shape, found[1:], strict=True):
            assert_close(slopes[key].sum(0), by_graph, **EXACT)
        variance = law.square(a, shape) - law.mean(a, shape).square()
    assert_close(torch.autograd.grad(found[0].sum(), a)[0], variance, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_units_are_accurate_in_float32_for_any_input(name):
    a = torch.tensor([-1e3, -87.0, -8.0, -3.01, -2.99, 0.0, 5.0, 1e3])[:, None]
    law, shape = UNITS[name], potential(name)
    single = {key: value.float() for key, value in shape.items()}
    for of in (law.log_sum, law.mean, law.square):
        assert_close(of(a, single).double(), of(a.double(), shape), rtol=3e-6, atol=3e-6)
    assert all(slope.isfinite().all() for slope in law.slopes(a, single).values())
    assert law.draws(a, single, stream(0, "draws")).isfinite().all()


@pytest.mark.parametrize("x", [5.9, 6.1, 60.0, 1e3])
def test_the_tail_keeps_its_digits(x):
    """1 / x - 2 / x^3 + 10 / x^5 - 74 / x^7 ... of the mean, by the expansion of the Mills ratio."""
    value, first, second = (found.item() for found in half_line.moments(torch.tensor([-x], dtype=torch.float64)))
    bound = 706 / x**8
    assert first * x == pytest.approx(1 - 2 / x**2 + 10 / x**4 - 74 / x**6, rel=bound + 1e-12)
    assert second * x**2 == pytest.approx(2 - 10 / x**2 + 74 / x**4 - 706 / x**6, rel=8162 / x**8 + 1e-12)
    assert value == pytest.approx(-math.log(x + first), rel=1e-12)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_their_law(name, dtype):
    """Twenty cells of the same probability, of inputs within both tails and between."""
    inputs = torch.tensor([-12.0, -3.3, -0.5, 0.8, 9.0], dtype=dtype)
    shape = {key: value.to(dtype) for key, value in potential(name).items()}
    x = UNITS[name].draws(inputs.expand(4000, -1), shape, stream(0, name)).double()
    h, w = weights(name)
    for a, found in zip(inputs.tolist(), x.T, strict=True):
        mass = torch.softmax(a * h + w.log(), 0).cumsum(0)
        level = mass[torch.searchsorted(h, found.contiguous()).clamp_max(len(h) - 1)]
        count = torch.bincount((level * 20).long().clamp_max(19), minlength=20)
        assert chi_square(count, torch.full((20,), 200.0)) > FALSE_ALARM


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 3e-5), (torch.float64, 1e-7)])
def test_a_draw_is_where_the_tail_is_a_uniform_share(dtype, error):
    """Phi(z - t) = u Phi(z), far out and near: log u of each draw by the distribution function."""
    z, key = torch.tensor([-1e3, -40.0, -6.1, -3.1, -2.9, 0.0, 2.0], dtype=dtype).expand(300, -1), stream(0, "tail")
    t, u = half_line.draws(z, key).double(), 1 - rng.uniform(z.shape, key, "cpu", dtype).double()
    found = torch.special.log_ndtr(z.double() - t) - torch.special.log_ndtr(z.double())
    assert_close(found[:, 2:], u.log()[:, 2:], rtol=error, atol=error)
    x = -z[:, :2].double()  # far out by the expansion M(x) = 1 / x - 1 / x^3 + 3 / x^5
    ratio = torch.log((1 - 1 / (x + t[:, :2]) ** 2) / (1 - 1 / x**2)) - torch.log1p(t[:, :2] / x)
    assert_close(ratio - x * t[:, :2] - t[:, :2] ** 2 / 2, u.log()[:, :2], rtol=error + 1e-5, atol=error + 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_draws_are_functions_of_the_key_and_the_row(name):
    a, shape, key = torch.linspace(-6, 6, 21)[:, None].expand(-1, 3), potential(name), stream(0, "rows")
    shape = {key: value.float() for key, value in shape.items()}
    whole = UNITS[name].draws(a, shape, key)
    assert torch.equal(UNITS[name].draws(a[8:], shape, key.at_row(8)), whole[8:])
    assert not torch.equal(UNITS[name].draws(a, shape, key.fold("other")), whole)


def test_gaussian_units_are_couplings():
    """E(v) = -v.W W^T v / 2 - (b + W c).v + a constant: v_i^2 = v_i, so that the diagonal is a field."""
    model = small_model("rbm", Binary((6,)), hidden=3, hidden_units="gaussian")
    boltzmann = small_model("boltzmann", Binary((6,)))
    with torch.no_grad():
        J = model.W @ model.W.T
        boltzmann.W.copy_(J)
        boltzmann.b.copy_(model.b + model.W @ model.c + J.diagonal() / 2)
        x = double_states(model)
        expected = enumeration.log_likelihood(boltzmann, x)
        assert_close(enumeration.log_likelihood(model, x), expected, rtol=0, atol=1e-10)
        assert_close(spin_couplings(model), spin_couplings(boltzmann), rtol=0, atol=1e-6)
        assert spin_triples(model, torch.tensor([[0, 1, 2]])).abs().max() < 1e-6


def test_hidden_spins_are_hidden_bits():
    """W h with h = 2 g - 1: W' = 2 W, c' = 2 c, b' = b - W 1; log Z is the sum over either side."""
    model = small_model("rbm", Binary((6,)), hidden=3, hidden_units="spin")
    bits = small_model("rbm", Binary((6,)), hidden=3)
    with torch.no_grad():
        for name, value in {"W": 2 * model.W, "c": 2 * model.c, "b": model.b - model.W.sum(1)}.items():
            bits.get_parameter(name).copy_(value)
        x = double_states(model)
        expected = enumeration.log_likelihood(bits, x)
        assert_close(enumeration.log_likelihood(model, x), expected, **EXACT)
        assert_close(enumeration.log_z(model), (-model.energy(x)).logsumexp(0), **EXACT)
        assert_close(spin_couplings(model), spin_couplings(bits), rtol=0, atol=1e-6)


def machine(units: str, space: str, hidden: int = 3) -> EnergyModel:
    """Parameters of which none is 0, and no unit that would hold nearly all the variance."""
    model = small_model("rbm", SPACES[space], hidden=hidden, hidden_units=units)
    with torch.no_grad():
        model.W.mul_(0.6)
    return model


@pytest.mark.parametrize(("units", "space"), [("drelu", "bits"), ("relu", "spins"), ("drelu", "categories")])
def test_a_machine_is_the_integral_over_its_hidden_units(units, space):
    """Energies, gradients in x and in all parameters, and conditionals of sites."""
    model = machine(units, space, 1)
    model.delta, model.eta = (torch.nn.Parameter(value) for value in potential("drelu").values())
    if units == "relu":
        del model.delta, model.eta
    x, (h, w) = double_states(model), weights(units)
    v = x.flatten(1)
    joint = (model.c + v @ model.W) * h + w.log() + (v @ model.b)[:, None]
    assert_close(model.energy(x), -joint.logsumexp(1), rtol=0, atol=1e-6)
    of_rows, pull = model.energy_vjp(x)
    by_graph = torch.autograd.grad(model.energy(x) @ torch.arange(len(x)).double(), [*model.parameters()])
    found = pull(torch.arange(len(x)).double())
    for (name, _), grad in zip(model.named_parameters(), by_graph, strict=True):
        assert_close(found[name], grad, **EXACT)
    assert_close(of_rows, model.energy(x).detach(), **EXACT)
    assert_close(model.energy_and_grad(x)[1], EnergyModel.energy_and_grad(model, x)[1], **EXACT)
    generic = CategoricalEnergySites if space == "categories" else EnergySites
    sites, slow = model.sites(x), generic(model, x)
    for site in range(model.space.sites):
        assert_close(sites.log_conditional(site), slow.log_conditional(site), **EXACT)
    u = torch.rand(len(x), 3, generator=torch.Generator().manual_seed(0)).double()
    for chains in (sites, slow):
        chains.sweep([1, 0, 1], u)
    assert torch.equal(sites.x.flatten(1), slow.x.flatten(1))
    order = torch.arange(model.space.sites)
    assert_close(model.log_conditionals(x, order), EnergyModel.log_conditionals(model, x, order), **EXACT)


@pytest.mark.parametrize(
    ("units", "space"),
    [("drelu", "bits"), ("relu", "categories"), ("spin", "spins")]
    + [
        pytest.param(*pair, marks=pytest.mark.long)
        for pair in itertools.product(NAMES, SPACES)
        if pair not in (("drelu", "bits"), ("relu", "categories"), ("spin", "spins"))
        and pair not in (("binary", "bits"), ("binary", "categories"))  # an RBM, which has a path of its own
    ],
)
def test_block_gibbs_and_the_path_leave_the_law_as_it_is(units, space):
    """Exact draws, moved once; at beta = 0.4 by the energies of the path, which are those of the joint law there."""
    model, n = machine(units, space), 20_000
    x = enumeration.sample(model, n, stream(0, "exact"))
    states = double_states(model)
    moved = model.sweep(x, stream(0, "sweep"), backwards=False)
    assert chi_square(counts(model, moved), exact_p(model) * n) > FALSE_ALARM
    base = product(model.space, torch.full(model.space.shape, 1 / model.space.values)).double()
    with torch.no_grad():
        base.b.add_(torch.linspace(-0.5, 0.8, base.b.numel()).double().reshape(base.b.shape))
        path = HarmoniumPath(base, model)
        state = path.observe(states)
        log_f = path.log_base(state) + path.log_ratio(state, 1.0, 0.0)
        assert_close(log_f, -model.energy(states), **EXACT)
        assert path.log_z_base == pytest.approx(path.log_base(state).logsumexp(0).item(), rel=1e-12)
        half = path.log_base(state) + path.log_ratio(state, 0.4, 0.0)
        again = half + path.log_ratio(state, 1.0, 0.4)
        assert_close(again, log_f, **EXACT)
        p = torch.softmax(half, 0)
        u = torch.rand(n, generator=torch.Generator().manual_seed(1)).double()
        start = states[torch.searchsorted(p.cumsum(0), u).clamp_max(len(p) - 1)]
        ends = path.move(path.observe(start), 0.4, stream(0, "move")).x
    assert chi_square(counts(model, ends), p * n) > FALSE_ALARM


def counts(model: EnergyModel, x: torch.Tensor) -> torch.Tensor:
    return torch.bincount(model.space.code(x), minlength=model.space.states)


@pytest.mark.parametrize(("units", "error"), [("drelu", 1e-3), ("relu", 1e-3)])
def test_pairs_in_effect_are_those_of_all_states(units, error):
    """Of ten spins, and of categories in the zero-sum gauge."""
    model = small_model("rbm", Spin((10,)), hidden=5, hidden_units=units)
    with torch.no_grad():
        model.W.mul_(0.6)
        s = double_states(model)
        log_p = -model.energy(s)
    exact = ((s * log_p[:, None]).T @ s / len(s)).fill_diagonal_(0)
    assert exact.abs().mean() > 20 * error
    assert_close(spin_couplings(model), exact, rtol=0, atol=error)
    model = small_model("rbm", Categorical((5, 3)), hidden=4, hidden_units=units)
    with torch.no_grad():
        model.W.mul_(0.3)
        log_p = -model.energy(double_states(model)).reshape(*[3] * 5)  # the last axis is site 0
    (pairs, J) = zero_sum_couplings(model)
    for (i, j), found in zip(pairs.tolist(), J, strict=True):
        table = log_p.mean([4 - site for site in range(5) if site not in (i, j)]).T
        assert_close(found, table - table.mean(0) - table.mean(1)[:, None] + table.mean(), rtol=0, atol=5 * error)


@pytest.mark.long
def test_a_run_with_drelu(tmp_path, monkeypatch):
    """Stopped and resumed to the bit; AIS as the sum over all states; features; what has no such units refuses it."""
    monkeypatch.chdir(tmp_path)
    line = (
        "model.hidden_units=drelu dataset=bars_and_stripes evaluation=[ais,exact,samples] evaluation.ais.chains=200 "
        "evaluation.ais.temperatures=100 evaluation.ais.raise_points=5 optimizer.schedule=constant"
    )
    run = trained(f"{line} steps=24", "whole")
    found = facts(run, "summary.json")
    assert found["ais/log_likelihood"] == pytest.approx(found["exact/log_likelihood"], abs=0.1)
    trained(line, "parts")
    assert ebm("train resume=parts steps=24").code == 0
    assert outcome(Path("parts"))[checkpoint.TENSORS] == outcome(run)[checkpoint.TENSORS]
    assert_refused(ebm("export run=whole format=rbms"), "model.hidden_units = drelu", "format=npz or hub")
    assert ebm("export run=whole format=npz out=model.npz").code == 0
    assert ebm("import model.npz dataset=bars_and_stripes out=again tracker=none").code == 0


def test_all_parameters_learn_by_the_centred_gradient():
    """delta and eta as by the plain one; the others in centred coordinates."""
    model = machine("drelu", "categories")
    x, x_neg = double_states(model)[:4], double_states(model)[3:9]
    centred = gradients(component("objective", "pcd"), model, x, x_neg)[0]
    plain = gradients(component("objective", "pcd", centered=False), model, x, x_neg)[0]
    for name in ("delta", "eta"):
        assert_close(centred[name], plain[name], **EXACT)
        assert plain[name].abs().min() > 0
    assert not torch.equal(centred["W"], plain["W"])
