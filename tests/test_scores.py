"""Objectives without chains: gradients against closed forms and enumeration, and laws that they leave alone."""

import itertools
import math

import pytest
import torch
from helpers.components import component
from helpers.data import small_data
from helpers.matrices import at
from helpers.models import DISCRETE, PAIRS, double_states, exact_p, small_model, target
from helpers.statistics import assert_close

from ebm_cli import rng
from ebm_cli.device.engine import Engine
from ebm_cli.errors import UserError
from ebm_cli.objective.base import Batch
from ebm_cli.rng import stream
from ebm_cli.space import Box, Categorical, Real, TwoValued
from ebm_cli.training import checks
from ebm_cli.training.step import GradRows, _shards

KEY = stream(0, "objective")
EXACT = {"rtol": 1e-9, "atol": 1e-12}
BITS = [name for name in DISCRETE if isinstance(PAIRS[name][1], TwoValued)]


def rows(model, n=5):
    return small_data(model.space, n).train.all().double()


def found(objective, model, x, key=KEY):
    """Gradients by name and the loss."""
    gradient = objective.gradient(model, Batch(x), key)
    return gradient.parameters, gradient.metrics["loss"].item()


def derived(model, loss):
    """The gradients of a loss that was written down, by autograd, and the loss."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return dict(zip(names, grads, strict=True)), loss.item()


def assert_same(one, other):
    assert one[1] == pytest.approx(other[1], rel=1e-9, abs=1e-12)
    assert one[0].keys() == other[0].keys()
    for name in one[0]:
        assert_close(one[0][name], other[0][name], **EXACT)


def mean(results):
    results = list(results)
    total = {name: sum(grads[name] for grads, _ in results) / len(results) for name in results[0][0]}
    return total, sum(loss for _, loss in results) / len(results)


def under_own_law(objective, model):
    """The gradient where the data are distributed as the model is: sum_x p(x) times that of the row x."""
    each = [found(objective, model, state[None])[0] for state in double_states(model)]
    return {name: sum(p * grads[name] for p, grads in zip(exact_p(model), each, strict=True)) for name in each[0]}


def gaussian():
    return small_model("exponential_family", Real((1, 2)))


# Score matching


def explicit_of_a_gaussian(model, x):
    """s = -(x - m) k, k = exp(r): mean sum (x - m)^2 k^2 / 2 - k."""
    k = model.r.exp()
    return ((x.flatten(1) - model.m).square() * k * k / 2 - k).sum(1).mean()


def explicit_of_a_gaussian_rbm(model, x):
    """E = |(v - b) / d|^2 / 2 - sum_j softplus(a_j), a = c + (v / d^2) W, derived twice by hand."""
    v, variance = x.flatten(1), model.r.exp() + model.min_spread**2
    h = (model.c + (v / variance) @ model.W).sigmoid()
    slope = (v - model.b - h @ model.W.T) / variance
    bend = 1 / variance - (h * (1 - h)) @ (model.W / variance[:, None]).square().T
    return (slope.square() / 2 - bend).sum(1).mean()


def explicit_of_an_mlp(model, x):
    """E = |x - m|^2 / (2 w^2) - sum_j c_j silu(u_j), u = a A x + b: the derivatives of u sigmoid(u) by hand."""
    v, (layer,) = x.flatten(1), model.layers
    A, c = model.input_scale * layer.weight, model.last.weight[0]
    u = v @ A.T + layer.bias
    s = u.sigmoid()
    slope = (v - model.mean) / model.spread**2 - (c * (s + u * s * (1 - s))) @ A
    bend = v.shape[1] / model.spread**2 - (c * s * (1 - s) * (2 + u * (1 - 2 * s))) @ A.square().sum(1)
    return (slope.square().sum(1) / 2 - bend).mean()


EXPLICIT = {
    "exponential_family-real": explicit_of_a_gaussian,
    "gaussian_rbm-real": explicit_of_a_gaussian_rbm,
    "mlp-real": explicit_of_an_mlp,
}


def matching(variant, **changes):
    return component("objective", "score_matching", variant=variant, **changes)


@pytest.mark.parametrize("name", EXPLICIT)
def test_explicit_score_matching_is_its_closed_form(name):
    model = target(name)
    x = rows(model)
    assert_same(found(matching("explicit"), model, x), derived(model, EXPLICIT[name](model, x)))


@pytest.mark.parametrize("name", ["gaussian_rbm-real", "mlp-real"])
@pytest.mark.parametrize("variant", ["sliced", "sliced_vr"])
def test_over_all_signs_sliced_score_matching_is_the_explicit_one(name, variant):
    """Two coordinates have four vectors of signs, and v tells the loss nothing that -v does not: two losses."""
    model = target(name)
    x = rows(model, 1)
    keys = (stream(number, "objective") for number in range(8))
    outcomes = {round(loss, 9): (grads, loss) for grads, loss in (found(matching(variant), model, x, k) for k in keys)}
    assert len(outcomes) == 2
    assert_same(mean(outcomes.values()), derived(model, EXPLICIT[name](model, x)))


@pytest.mark.parametrize("variant", ["sliced", "sliced_vr"])
def test_normal_projections_need_no_more_than_their_second_moments(variant, monkeypatch):
    """+-sqrt(2) along each of two axes have the identity as their mean square, as standard normal numbers have."""
    model = target("mlp-real")
    x = rows(model)
    axes = math.sqrt(2) * torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    monkeypatch.setattr(rng, "normal", lambda shape, *_: axes.expand(shape))
    objective = matching(variant, projection="normal", projections=4)
    assert_same(found(objective, model, x), derived(model, explicit_of_an_mlp(model, x)))


def test_explicit_score_matching_rests_at_mean_and_variance():
    model = gaussian()
    x = rows(model, 30)
    with torch.no_grad():
        model.m.copy_(x.flatten(1).mean(0))
        model.r.copy_(-x.flatten(1).var(0, correction=0).log())
    grads, _ = found(matching("explicit"), model, x)
    assert all(grad.abs().max() < 1e-12 for grad in grads.values())
    with torch.no_grad():
        model.r.add_(0.1)
    assert found(matching("explicit"), model, x)[0]["r"].min() > 0.01


def over_the_noise(monkeypatch, objective, model, x):
    """The mean over +-sqrt(2) along both axes and all levels: of a loss quadratic in z that is its expectation."""
    results = []
    points = itertools.product(range(2), (-1, 1), range(len(objective.noise)))
    for axis, sign, level in points:
        z = torch.zeros(len(x), 2, dtype=torch.float64)
        z[:, axis] = sign * math.sqrt(2)
        monkeypatch.setattr(rng, "normal", lambda shape, *_, z=z: z)
        monkeypatch.setattr(rng, "integers", lambda high, shape, *_, level=level: torch.full(shape, level))
        results.append(found(objective, model, x))
    return mean(results)


def denoised_gaussian(model, x, level):
    """s(x + a z) + z / a = -(x - m) k - (a k - 1 / a) z, whose square has the mean (x - m)^2 k^2 + (a k - 1 / a)^2."""
    k = model.r.exp()
    return ((x.flatten(1) - model.m).square() * k * k + (level * k - 1 / level) ** 2).sum(1).mean() / 2


def test_denoising_is_its_expectation_over_the_noise(monkeypatch):
    model = gaussian()
    x = rows(model)
    one = over_the_noise(monkeypatch, matching("denoising", noise=[0.3]), model, x)
    assert_same(one, derived(model, denoised_gaussian(model, x, 0.3)))
    levels = [0.3, 0.7, 2.0]
    weighted = sum(level**2 * denoised_gaussian(model, x, level) for level in levels) / 3
    several = over_the_noise(monkeypatch, matching("denoising", noise=levels), model, x)
    assert_same(several, derived(model, weighted))


@pytest.mark.parametrize("levels", [[0.5], [0.5, 1.5]])
def test_denoising_rests_at_the_mixture_of_noisy_data(levels, monkeypatch):
    """Its variance is that of the data and a mean of a^2, with weights proportional to a^2."""
    model = gaussian()
    x = rows(model, 30)
    added = sum(level**4 for level in levels) / sum(level**2 for level in levels)
    with torch.no_grad():
        model.m.copy_(x.flatten(1).mean(0))
        model.r.copy_(-(x.flatten(1).var(0, correction=0) + added).log())
    grads, _ = over_the_noise(monkeypatch, matching("denoising", noise=levels), model, x)
    assert all(grad.abs().max() < 1e-12 for grad in grads.values())


def test_each_row_draws_its_own_level_and_noise():
    """With E = 0 the loss of a row is |z|^2 / (2 a^2), or without the weight of levels of one size |z|^2 / 2."""
    model = target("mlp-real")
    with torch.no_grad():
        model.last.weight.zero_()
    model.spread = None
    x = torch.zeros(4000, 1, 2, dtype=torch.float64)
    for levels, expected in (([0.5], 1 / 0.25), ([0.5, 2.0], 1.0)):
        loss = found(matching("denoising", noise=levels), model, x)[1]
        assert loss == pytest.approx(expected, rel=5 / math.sqrt(4000))
    seen = seen_by(model, lambda: found(matching("denoising", noise=[0.5, 2.0]), model, x))
    spread = seen.flatten(1).var(1).sqrt()
    assert seen.var().item() == pytest.approx((0.25 + 4) / 2, rel=0.1)
    assert len(spread.unique()) == 4000
    assert torch.equal(seen[:4000], -seen[4000:])


def test_score_norm_and_curvature_are_logged():
    model = gaussian()
    x = rows(model)
    k = model.r.detach().exp()
    norm = ((x.flatten(1) - model.m.detach()) * k).norm(dim=1).mean().item()
    for variant in ("explicit", "sliced_vr"):
        metrics = matching(variant).gradient(model, Batch(x), KEY).metrics
        assert metrics["score_norm"].item() == pytest.approx(norm)
        assert metrics["curvature"].item() == pytest.approx(k.sum().item())
    assert set(matching("denoising").gradient(model, Batch(x), KEY).metrics) == {"loss", "score_norm"}


def test_integration_by_parts_refuses_walls():
    box, spec, choice = Box((2,), 0.0, 1.0), component("model", "mlp"), {"objective": "score_matching", "model": "mlp"}
    for variant in ("explicit", "sliced", "sliced_vr"):
        with pytest.raises(UserError, match=rf"variant = {variant}: .*box; set objective.variant=denoising"):
            checks.check_data(matching(variant), box, spec, choice)
        checks.check_data(matching(variant), Real((2,)), spec, choice)
    checks.check_data(matching("denoising"), box, spec, choice)


# Ratio matching


def ratio_matching(model, x):
    """mean sum_i g(p(x) / p(x with i flipped))^2, g(u) = 1 / (1 + u), from the probabilities of all states."""
    p = torch.softmax(-model.energy(double_states(model)), 0)
    terms = [
        (1 / (1 + p[n] / p[at(model.space, n, {site: 1 - n // 2**site % 2})])).square()
        for n in model.space.code(x).tolist()
        for site in range(model.space.sites)
    ]
    return torch.stack(terms).sum() / len(x)


@pytest.mark.parametrize("name", BITS)
def test_ratio_matching_is_its_definition_and_rests_at_the_law_of_the_data(name):
    model, objective = target(name), component("objective", "ratio_matching")
    x = rows(model)
    assert_same(found(objective, model, x), derived(model, ratio_matching(model, x)))
    assert all(grad.abs().max() < 1e-12 for grad in under_own_law(objective, model).values())


def test_some_sites_of_ratio_matching_give_all_on_average():
    """Two of four sites: six pairs, equally likely."""
    model, objective = target("boltzmann-binary"), component("objective", "ratio_matching", sites=2)
    x = rows(model)
    results = (found(objective, model, x, stream(number, "objective")) for number in range(60))
    pairs = {round(loss, 9): (grads, loss) for grads, loss in results}
    assert len(pairs) == 6
    assert_same(mean(pairs.values()), derived(model, ratio_matching(model, x)))


# Energies of data and of their copies


def seen_by(model, act):
    """The rows whose energy is taken while `act()` runs."""
    taken, plain = [], type(model).energy
    model.energy = lambda x: taken.append(x.detach()) or plain(model, x)
    plain_vjp = type(model).energy_vjp
    model.energy_vjp = lambda x: taken.append(x.detach()) or plain_vjp(model, x)
    act()
    del model.energy, model.energy_vjp
    return taken[0]


def in_loops(objective, model, x, term):
    """The mean over rows of term(E(x_i), [E(x_ij)]) by plain loops, given the same copies."""
    energies = model.energy(seen_by(model, lambda: found(objective, model, x)))
    of_data, of_copies = energies[: len(x)], energies[len(x) :].reshape(len(x), objective.copies)
    return derived(model, sum(term(e, c) for e, c in zip(of_data, of_copies, strict=True)) / len(x))


SPACES = ["rbm-binary", "ising-spin", "potts-categorical", "mlp-real", "mlp-boxed"]
spaces = pytest.mark.parametrize("name", SPACES)


@spaces
@pytest.mark.parametrize("w", [0.0, 1.0])
def test_energy_discrepancy_by_plain_loops(name, w):
    model, objective = target(name), component("objective", "energy_discrepancy", copies=3, stabilise=w)
    x = rows(model)

    def term(e, copies):
        return torch.log(w / 3 + sum(torch.exp(e - copy) for copy in copies) / 3)

    assert_same(found(objective, model, x), in_loops(objective, model, x, term))


@spaces
def test_conditional_nce_by_plain_loops(name):
    model, objective = target(name), component("objective", "conditional_nce", copies=3)
    x = rows(model)

    def term(e, copies):
        return 2 * sum(torch.log(1 + torch.exp(-(copy - e))) for copy in copies) / 3

    assert_same(found(objective, model, x), in_loops(objective, model, x, term))


def all_draws(monkeypatch, levels):
    """Uniform numbers in whose rows every combination of `levels` equally spaced ones appears equally often."""

    def uniform(shape, *_):
        sites = math.prod(shape[1:])
        every = torch.tensor(list(itertools.product(range(levels), repeat=sites)))
        return ((every + 0.5) / levels).repeat(shape[0] // len(every), 1).reshape(shape)

    monkeypatch.setattr(rng, "uniform", uniform)


def discrepancy(model, kernel):
    """Of each state x: E(x) + sum_y q(y | x) log sum_x' q(y | x') exp(-E(x')), by enumeration."""
    energy = model.energy(double_states(model))
    return energy + kernel @ (kernel.log() - energy).logsumexp(1)


def kernel_of(space, epsilon):
    """q(y | x), each site keeping its value with probability 1 - epsilon, else one of the others."""
    n, k = space.states, space.values
    matrix = torch.ones(n, n, dtype=torch.float64)
    for x, y, site in itertools.product(range(n), range(n), range(space.sites)):
        same = x // k**site % k == y // k**site % k
        matrix[x, y] *= 1 - epsilon if same else epsilon / (k - 1)
    return matrix


@pytest.mark.parametrize(("name", "epsilon", "levels"), [("boltzmann-binary", 1 / 3, 3), ("potts-categorical", 0.5, 4)])
def test_with_every_disturbance_it_is_the_functional_and_rests_at_the_law_of_the_data(
    name, epsilon, levels, monkeypatch
):
    model = target(name)
    space, count = model.space, levels**model.space.sites
    objective = component("objective", "energy_discrepancy", copies=count, stabilise=0.0, epsilon=epsilon)
    expected = discrepancy(model, kernel_of(space, epsilon))
    all_draws(monkeypatch, levels)
    each = [found(objective, model, state.expand(count, *space.shape)) for state in double_states(model)]
    for term, result in zip(expected, each, strict=True):
        assert result[1] == pytest.approx(term.item(), rel=1e-9)
    assert_same(each[3], derived(model, expected[3]))
    p = exact_p(model)
    for parameter in each[0][0]:
        at_rest = sum(weight * grads[parameter] for weight, (grads, _) in zip(p, each, strict=True))
        assert at_rest.abs().max() < 1e-12


def test_disturbances_of_categories(monkeypatch):
    """Five values, epsilon = 0.8, ten numbers: two of ten stay; uniform: two for each other; grid: four and four."""
    space, x = Categorical((1, 5)), Categorical((1, 5)).encode(torch.full((10, 1), 1.0))
    all_draws(monkeypatch, 10)
    for kind, counts in {"uniform": [2, 2, 2, 2, 2], "grid": [4, 2, 4, 0, 0]}.items():
        objective = component("objective", "energy_discrepancy", kind=kind, epsilon=0.8)
        assert objective.disturbed(space, x, KEY).sum((0, 1)).tolist() == counts


def test_gaussian_disturbances_have_variance_t_and_share_the_way_there():
    model, t, n = gaussian(), 0.25, 4000
    objective = component("objective", "energy_discrepancy", t=t, copies=2)
    x = torch.ones(n, 1, 2, dtype=torch.float64)
    copies = seen_by(model, lambda: found(objective, model, x))[n:].reshape(n, 2, 2) - 1
    assert copies.mean().abs() < 5 * math.sqrt(2 * t / n)
    assert copies.var().item() == pytest.approx(2 * t, rel=0.1)
    assert (copies[:, 0] * copies[:, 1]).mean().item() == pytest.approx(t, rel=0.15)


@pytest.mark.parametrize("choice", ["energy_discrepancy", "conditional_nce"])
def test_noise_is_reflected_at_walls(choice):
    model = target("mlp-boxed")
    objective = component("objective", choice, **{"energy_discrepancy": {"t": 30.0}}.get(choice, {"noise_scale": 9.0}))
    seen = seen_by(model, lambda: found(objective, model, rows(model, 20)))
    assert model.space.contains(seen)
    assert not ((seen == model.space.low) | (seen == model.space.high)).any()


def test_kinds_of_disturbance_are_for_their_spaces():
    spec, choice = component("model", "rbm"), {"objective": "energy_discrepancy", "model": "rbm"}
    wrong = component("objective", "energy_discrepancy", kind="gaussian")
    with pytest.raises(UserError, match=r"kind = gaussian: .*binary data; set objective.kind=bernoulli or auto"):
        checks.check_data(wrong, target("rbm-binary").space, spec, choice)
    with pytest.raises(UserError, match=r"kind = gaussian: .*set objective.kind=uniform or grid or auto"):
        checks.check_data(wrong, target("potts-categorical").space, spec, choice)
    checks.check_data(wrong, Real((2,)), spec, choice)


@pytest.mark.parametrize("name", ["rbm-binary", "ising-spin"])
def test_over_all_flips_conditional_nce_is_its_definition_and_rests_at_the_law_of_the_data(name, monkeypatch):
    model, objective = target(name), component("objective", "conditional_nce", copies=4)
    monkeypatch.setattr(rng, "integers", lambda high, shape, *_: torch.arange(shape[0])[:, None] % high)
    x = rows(model)
    log_p = -model.energy(double_states(model))
    terms = [
        2 * torch.log(1 + torch.exp(log_p[n ^ 1 << site] - log_p[n])) / 4
        for n in model.space.code(x).tolist()
        for site in range(4)
    ]
    assert_same(found(objective, model, x), derived(model, torch.stack(terms).sum() / len(x)))
    assert all(grad.abs().max() < 1e-12 for grad in under_own_law(objective, model).values())


def test_no_more_flips_than_sites():
    objective = component("objective", "conditional_nce", flips=5)
    model, choice = target("rbm-binary"), {"objective": "conditional_nce", "model": "rbm"}
    with pytest.raises(UserError, match=r"objective.flips = 5: the data have 4 sites; give at most that"):
        checks.check_data(objective, model.space, component("model", "rbm"), choice)


# Shards


def test_copies_are_in_flight_with_their_rows():
    """Six rows at five places each are thirty: where twelve may be in flight, three shards of two rows."""
    model, objective = target("rbm-binary"), component("objective", "conditional_nce", copies=4)
    shards = _shards(GradRows(Batch(rows(model, 6)), {}), Engine(compiled=False, rows=12), objective.places)
    assert [(len(shard.batch.x), shard.batch.first) for shard in shards] == [(2, 0), (2, 2), (2, 4)]
    assert [matching(*how).places for how in (("denoising",), ("explicit",))] == [2, 1]
    assert component("objective", "energy_discrepancy", copies=7).places == 8


@pytest.mark.parametrize(
    ("choice", "changes", "name"),
    [
        ("score_matching", {"variant": "sliced", "projections": 2}, "mlp-real"),
        ("score_matching", {"variant": "denoising", "noise": [0.1, 0.5]}, "mlp-real"),
        ("energy_discrepancy", {"copies": 3}, "mlp-real"),
        ("energy_discrepancy", {"copies": 3}, "rbm-binary"),
        ("conditional_nce", {"copies": 3}, "mlp-real"),
        ("conditional_nce", {"copies": 3, "flips": 2}, "rbm-binary"),
    ],
)
def test_shards_draw_what_the_whole_batch_draws(choice, changes, name):
    model, objective = target(name), component("objective", choice, **changes)
    x = rows(model, 6)
    shards = [objective.gradient(model, Batch(x[i : i + 2], first=i), KEY) for i in (0, 2, 4)]
    parts = mean((shard.parameters, shard.metrics["loss"].item()) for shard in shards)
    assert_same(parts, found(objective, model, x))
