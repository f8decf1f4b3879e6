"""Energies at levels of noise: the processes, the family, its objectives, and the walk down the levels."""

import math

import pytest
import torch
from helpers.components import component, shipped
from helpers.models import randomised
from helpers.statistics import assert_close

from ebm_cli import registry
from ebm_cli.errors import UserError
from ebm_cli.model.from_above import FromAbove
from ebm_cli.model.level_ladder import ladder_of
from ebm_cli.model.levels import Leveled
from ebm_cli.objective.base import Batch
from ebm_cli.objective.denoising import noised
from ebm_cli.objective.diffusive_classification import DiffusiveClassification
from ebm_cli.objective.recovery import pairs
from ebm_cli.process.base import Scales
from ebm_cli.rng import normal, stream
from ebm_cli.sampler.base import run, transitions
from ebm_cli.sampler.level_exchange import Exchange
from ebm_cli.sampler.predictor_corrector import corrected, predicted
from ebm_cli.space import Real
from ebm_cli.training import checks

KEY = stream(0, "leveled")
PROCESSES = sorted(shipped("process"))


class GaussianLevels(Leveled):
    """E(x, k) = u.P_k u / 2 - b_k, u = (x - m) / r: every level's density of Gaussian data is one of these."""

    def __init__(self, space, scales, mean, scale):
        super().__init__(space, scales, mean, scale)
        self.double()
        d = space.sites
        self.precision = torch.nn.Parameter(torch.eye(d, dtype=torch.float64).repeat(self.levels, 1, 1))
        self.constant = torch.nn.Parameter(torch.zeros(self.levels, dtype=torch.float64))

    def energy_at(self, x, level):
        u = ((x - self.mean) / self.scale).flatten(1)
        return torch.einsum("ni,nij,nj->n", u, self.precision[level], u) / 2 - self.constant[level]

    def energy_and_grad_at(self, x, level):
        return Leveled.energy_and_grad.__wrapped__(self, x, level)

    def energy_vjp_at(self, x, level):
        with torch.enable_grad():
            energy = self.energy_at(x, level)
        named = dict(self.named_parameters())

        def pull(weight):
            return dict(zip(named, torch.autograd.grad(energy, [*named.values()], weight), strict=True))

        return energy.detach(), pull


def _by_autograd(self, x, level):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        energy = self.energy_at(x, level)
        (grad,) = torch.autograd.grad(energy.sum(), x)
    return energy.detach(), grad


GaussianLevels.energy_and_grad_at = _by_autograd
COVARIANCE = torch.tensor([[1.3, 0.4], [0.4, 0.7]], dtype=torch.float64)  # of data in units of r
SCALE = torch.tensor([2.0, 0.3], dtype=torch.float64)  # r, of each site its own


def truth(process="vp", levels=6):
    """The family of Gaussian data m + r N(0, C): P_k = (a_k^2 C + s_k^2)^-1, b_k so that every log Z is 0."""
    scales = component("process", process, levels=levels).scales()
    model = GaussianLevels(Real((2,)), scales, torch.tensor([0.5, -1.0], dtype=torch.float64), SCALE)
    with torch.no_grad():
        for k, (a, s) in enumerate(zip(model.a.double(), model.s.double(), strict=True)):
            covariance = a**2 * COVARIANCE + s**2 * torch.eye(2, dtype=torch.float64)
            model.precision[k] = covariance.inverse()
            model.constant[k] = -(covariance.logdet() / 2 + math.log(2 * math.pi) + SCALE.log().sum())
    return model


def data(model, n, key=KEY):
    z = normal((n, 2), key.fold("data"), dtype=torch.float64)
    return model.mean + model.scale * (z @ torch.linalg.cholesky(COVARIANCE).T)


def network(**changes):
    """The shipped model, small, every parameter random, in float64."""
    small = {"network": {"name": "mlp", "widths": [5, 4], "input_scale": 1.0, "spread": None}, "waves": 2}
    process = component("process", "vp", levels=5)
    spec = registry.build(
        "model", shipped("model")["leveled"] | small | {"process": shipped("process")["vp"]} | changes
    )
    assert spec.process.levels != process.levels
    model = randomised(spec.build(Real((3,)), torch.tensor([0.3, -0.2, 0.1]), stream(1)))
    mixed = torch.tensor([[0.9, 0.0, 0.0], [0.3, 0.4, 0.0], [0.0, -1.0, 2.3]], dtype=torch.float64)
    model.measure(lambda: normal((200, 3), KEY, dtype=torch.float64) @ mixed.T)
    return model


def law(model, k):
    """The covariance of level k of the truth."""
    return (model.precision[k].inverse() * model.scale * model.scale[:, None]).detach()


# Processes


@pytest.mark.parametrize("name", PROCESSES)
def test_noise_rises_level_by_level_from_next_to_none(name):
    """log a / s falls; next to nothing of the noise is in the first level, and of the data in the last."""
    a, s = component("process", name).scales()
    ratio = a / s
    assert a.dtype == torch.float64
    assert (ratio.diff() < 0).all()
    assert ratio[0] > 49
    assert ratio[-1] < 0.021


def test_the_variance_preserving_process_is_its_equation():
    """The end points solve dx = -beta x / 2 dt + sqrt(beta) dW from 0 to t; here by integration in small steps."""
    process = component("process", "vp", levels=7, time_min=0.1)
    a, s = process.scales()
    assert_close(a.square() + s.square(), torch.ones(7, dtype=torch.float64))
    for t, i in ((0.1, 0), (1.0, -1)):
        n = 100_000
        middle = (torch.arange(n, dtype=torch.float64) + 0.5) * t / n
        rate = process.beta_min + middle * (process.beta_max - process.beta_min)
        assert_close(a[i], torch.exp(-rate.sum() * t / n / 2), rtol=1e-9)
    assert_close((a / s).log().diff().diff(), torch.zeros(5, dtype=torch.float64), atol=1e-12)


def test_the_variance_exploding_process_multiplies_its_noise():
    a, s = component("process", "ve", levels=5, sigma_min=0.1, sigma_max=10.0).scales()
    assert_close(s, torch.tensor([0.1, 0.1**0.5, 1.0, 10**0.5, 10.0], dtype=torch.float64))
    assert a.tolist() == [1.0] * 5


def test_the_process_of_recovery_is_that_of_the_paper():
    """T = 6 of 1000 rates: the indices 0, 100, ..., 500 and the end, products of 1 - beta one after the other."""
    a, s = component("process", "recovery").scales()
    share, kept = 1.0, []
    for i in range(1000):
        share *= 1 - (1e-4 + i * (0.02 - 1e-4) / 999)
        if i in (0, 100, 200, 300, 400, 500, 999):
            kept.append(share)
    assert_close(a.square(), torch.tensor(kept, dtype=torch.float64), rtol=1e-12)
    assert_close(s.square(), 1 - torch.tensor(kept, dtype=torch.float64), rtol=1e-9)


@pytest.mark.parametrize(
    ("process", "key"),
    [
        ({"beta_min": 20.0, "beta_max": 0.1}, "beta_min"),
        ({"name": "ve", "levels": 3, "sigma_min": 2.0, "sigma_max": 1.0}, "sigma_min"),
    ],
)
def test_a_process_that_goes_backwards_is_refused_with_its_key(process, key):
    settings = process if "name" in process else shipped("process")["vp"] | process
    with pytest.raises(UserError, match=rf"model\.process\.{key} = .*must be below"):
        network(process=settings)


def test_a_process_that_leaves_data_in_its_last_level_is_refused():
    for name, key in (("ve", "sigma_max"), ("vp", "beta_max")):
        with pytest.raises(UserError, match=rf"model\.process\.{key} = 0.5: at the last level the data still have"):
            network(process=shipped("process")[name] | {key: 0.5})


def test_objectives_of_the_first_level_alone_are_refused():
    spec, choice = component("model", "leveled"), {"model": "leveled", "objective": "score_matching"}
    with pytest.raises(UserError, match=r"trains the first level of model=leveled alone.* denoising, diffusive"):
        checks.check_objective(component("objective", "score_matching"), spec, choice)
    checks.check_objective(component("objective", "denoising"), spec, choice | {"objective": "denoising"})


def test_more_levels_than_there_are_is_said():
    many = component("objective", "diffusive_classification", levels=99)
    assert many.remark(network(), 10) == "objective.levels = 99: the model has 32, all of which are compared"
    assert component("objective", "diffusive_classification").remark(network(), 10) is None


# The family


def test_the_last_level_is_a_normalised_gaussian():
    model = network()
    x = 3 * normal((7, 3), KEY, dtype=torch.float64)
    width = model.scale * (model.a[-1] ** 2 + model.s[-1] ** 2).sqrt()
    expected = -torch.distributions.Normal(model.mean, width).log_prob(x).sum(1)
    assert_close(model.at(model.levels - 1).energy(x), expected, rtol=1e-9)
    draws = model.last().sample(50_000, KEY)
    assert_close(draws.std(0), width, rtol=0.02)


def images(**changes):
    """A convolutional network of two channels and 5 x 6 pixels."""
    small = {"network": {"name": "convnet", "widths": [3, 4], "hidden": 5}, "waves": 1}
    spec = registry.build("model", shipped("model")["leveled_convnet"] | small | changes)
    model = randomised(spec.build(Real((2, 5, 6)), normal((2, 5, 6), KEY), stream(1)))
    model.measure(lambda: normal((50, 60), KEY, dtype=torch.float64))
    return model


KINDS = {
    "perceptron": network(),
    "convolutions": images(),
    "marginals": network(marginals=3, correlated=False, gain=2.0),
    "convolutions of marginals": images(marginals=2, bound=1.0),
    "bounds": network(bound=0.8),
}


@pytest.mark.parametrize("model", [*KINDS.values()], ids=[*KINDS])
def test_gradients_are_those_of_automatic_differentiation(model):
    """In x, in every parameter with weights of both signs, and of slopes; each row at a level of its own."""
    x = normal((9, *model.space.shape), KEY, dtype=torch.float64)
    level = torch.tensor([0, 1, 2, 5, 9, 17, 30, 31, 31])
    weight = normal((9,), KEY.fold("weight"), dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    energy = model.energy_at(leaf, level)
    named = dict(model.named_parameters())
    of_x, *of_named = torch.autograd.grad((weight * energy).sum(), [leaf, *named.values()])
    found, grad = model.energy_and_grad_at(x, level)
    assert_close(found, energy.detach(), rtol=1e-12)
    assert_close(weight.reshape(-1, *[1] * (x.dim() - 1)) * grad, of_x, rtol=1e-9, atol=1e-12)
    found, pull = model.energy_vjp_at(x, level)
    assert_close(found, energy.detach(), rtol=1e-12)
    for name, expected in zip(named, of_named, strict=True):
        assert_close(pull(weight)[name], expected, rtol=1e-9, atol=1e-12)
    sides = [of(model, x, level) for of in (type(model).slope_at, Leveled.slope_at)]
    ends = [torch.autograd.grad((side * x).sum(), [*named.values()][1:]) for side in sides]
    for one, other in zip((sides[0], *ends[0]), (sides[1], *ends[1]), strict=True):
        assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_row_alone_is_at_the_first_level_and_a_view_at_its_own():
    model, x = network(), normal((4, 3), KEY, dtype=torch.float64)
    level = torch.tensor([3, 1, 4, 1])
    assert_close(model.energy(x), model.energy_at(x, torch.zeros(4, dtype=torch.int64)))
    assert_close(model.at(level).of_rows(slice(1, 3)).energy(x[1:3]), model.energy_at(x, level)[1:3])
    inside = model.in_noise(2)
    energy, grad = inside.energy_and_grad(inside.inside(x))
    assert_close(energy, model.at(2).energy(x))
    assert_close(grad, model.scale * model.s[2] * model.at(2).energy_and_grad(x)[1])


@pytest.mark.parametrize("process", PROCESSES)
def test_data_with_noise_have_the_moments_of_their_level(process):
    model = truth(process)
    x = data(model, 200_000)
    for k in range(model.levels):
        level = torch.full((len(x),), k)
        y = model.noised(x, level, normal(x.shape, KEY.fold("z", k), dtype=torch.float64))
        expected = law(model, k)
        assert_close(torch.cov(y.T), expected, rtol=0.02, atol=0.02 * expected.diagonal().prod().sqrt())
        assert ((y.mean(0) - model.mean).abs() < 5 * (expected.diagonal() / len(x)).sqrt()).all()


# Objectives


def losses(name, model, x, key):
    """The gradient of the objective and of the loss that its docstring states, by automatic differentiation."""
    objective = component("objective", name)
    found = objective.gradient(model, Batch(x), key)
    levels = model.levels - (name == "denoising")
    noisy = noised(model, Batch(x), levels, key)
    level, n = noisy.level, len(x)
    at = noisy.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model.energy_at(at, level).sum(), at, create_graph=True)
    loss = (model.scale * model.s[level][:, None] * slope - noisy.z).square().mean()
    if name == "diffusive_classification":
        others = objective._compared(model, level, key.after(0).fold("others"))
        energies = torch.stack([model.energy_at(noisy.x, others[:, j]) for j in range(objective.levels)], 1)
        loss = loss - (-energies).log_softmax(1)[:, 0].sum() / n
    return found, loss


@pytest.mark.parametrize("name", ["denoising", "diffusive_classification"])
def test_gradients_of_objectives_are_those_of_their_losses(name):
    model = network()
    found, loss = losses(name, model, normal((12, 3), KEY, dtype=torch.float64), KEY)
    named = dict(model.named_parameters())
    expected = torch.autograd.grad(loss, [*named.values()], materialize_grads=True)
    assert_close(found.metrics["loss"], loss.detach(), rtol=1e-9)
    for parameter, value in zip(named, expected, strict=True):
        assert_close(found.parameters[parameter], value, rtol=1e-9, atol=1e-12)


def test_rows_are_told_from_other_levels_than_their_own():
    model = network()
    own = torch.tensor([0, 7, 30] * 40)
    level = component("objective", "diffusive_classification")._compared(model, own, KEY)
    assert level.shape == (120, 4)
    assert (level[:, 0] == own).all()
    assert all(len(set(row)) == 4 for row in level.tolist())
    assert len({tuple(row) for row in level.tolist()}) > 6


@pytest.mark.parametrize("name", ["denoising", "diffusive_classification"])
def test_the_truth_of_gaussian_data_is_where_gradients_vanish(name):
    """Within 5 standard errors of 0 there in every parameter that the objective sees, and far from it elsewhere."""

    def scores(model):
        x, parts = data(model, 40_000), 40
        objective = component("objective", name)
        found = [objective.gradient(model, Batch(rows), KEY.fold(i)) for i, rows in enumerate(x.chunk(parts))]
        named = [torch.cat([g.parameters[p].flatten() for p in ("precision", "constant")]) for g in found]
        stacked = torch.stack(named)
        return stacked.mean(0) / (stacked.std(0) / parts**0.5).clamp_min(1e-12)

    model = truth()
    assert scores(model).abs().max() < 5
    with torch.no_grad():
        model.precision[2] *= 1.2
        model.constant[3] += 0.3
    z = scores(model)
    assert z[8:12].abs().max() > 8
    seen = z[24:].abs()[3]
    assert seen > 8 if name == "diffusive_classification" else seen == 0


def test_the_gradient_of_recovery_is_that_of_both_ends_of_its_chains():
    """s_k / a_k times dE of the data less that of where chains on p(x_k | x_(k+1)) end; by autograd."""
    model, objective = network(), component("objective", "recovery", steps=3)
    rows = normal((10, 3), KEY, dtype=torch.float64)
    found = objective.gradient(model, Batch(rows), KEY)
    x, level, given = pairs(model, rows, KEY.after(0))
    keys = [KEY.after(0).fold("move", i) for i in range(3)]
    y = given.outside(transitions(objective.kernel, given, given.begun(KEY.after(0).fold("begin")), keys)[0])
    weight = (model.s / model.a)[level]
    loss = (weight * (model.energy_at(x, level) - model.energy_at(y, level))).mean()
    named = dict(model.named_parameters())
    for name, value in zip(named, torch.autograd.grad(loss, [*named.values()]), strict=True):
        assert_close(found.parameters[name], value, rtol=1e-9, atol=1e-12)
    assert_close(found.metrics["loss"], loss.detach(), rtol=1e-9)


def test_the_gradient_of_chains_at_all_levels_is_that_of_both_ends():
    """Beside that of classification, s_k / a_k times dE of data less dE of where the round ends; by autograd."""
    model, objective = network(), component("objective", "level_pcd", chains=3)
    rows, walkers = normal((10, 3), KEY, dtype=torch.float64), objective.auxiliary(model, None, KEY.fold("begin"))
    before, own = walkers.w.clone(), KEY.after(0)
    told = DiffusiveClassification.gradient(objective, model, Batch(rows), KEY)
    found = objective.gradient(model, Batch(rows, auxiliary=walkers, step=4), KEY)
    w, _ = Exchange(ladder_of(model), objective.kernel, 1).round(before, 4, own.fold("chains"))
    assert torch.equal(walkers.w, w)
    x, level, _ = noised(model, Batch(rows), model.levels - 1, own.fold("data"))
    loss = ((model.s / model.a)[level] * model.energy_at(x, level)).mean()
    for k in range(model.levels - 1):
        factor = (model.variance[k] / model.variance[0]).sqrt()
        y = model.mean + factor * (w[:, model.levels - 1 - k] - model.mean)
        of_chains = model.energy_at(y, torch.full((3,), k)).mean()
        loss = loss - model.s[k] / model.a[k] * of_chains / (model.levels - 1)
    named = dict(model.named_parameters())
    for name, value in zip(named, torch.autograd.grad(loss, [*named.values()]), strict=True):
        assert_close(found.parameters[name] - told.parameters[name], value, rtol=1e-8, atol=1e-11)
    assert_close(found.metrics["loss"] - told.metrics["loss"], loss.detach(), rtol=1e-8)


def test_chains_of_all_levels_wait_and_begin_as_gaussians():
    model, objective = network(), component("objective", "level_pcd", chains=2000, begin=3)
    walkers = objective.auxiliary(model, None, KEY)
    found = (walkers.w - model.mean).square().mean(0).sqrt()
    assert_close(found, (model.scale * model.variance[0].sqrt()).expand(model.levels, 3), rtol=0.05)
    before, rows = walkers.w.clone(), normal((4, 3), KEY, dtype=torch.float64)
    objective.gradient(model, Batch(rows, auxiliary=walkers, step=2), KEY)
    assert torch.equal(before, walkers.w)
    assert "objective.begin = 3" in objective.remark(model, 3)
    assert objective.remark(model, 4) is None


def test_a_level_given_the_next_is_the_product_of_both_densities():
    """-log p(x_k | x_(k+1)) by its definition, its gradient, and where chains begin: of data N(m, r^2) draws of it."""
    model = network()
    level = torch.tensor([0, 3, 12, 30])
    above, y = normal((2, 4, 3), KEY, dtype=torch.float64)
    given = FromAbove(model, above, level)
    x = given.outside(y)
    t = model.a[level + 1] / model.a[level]
    q = (model.s[level + 1] ** 2 - t**2 * model.s[level] ** 2).sqrt()
    off = above - model.mean - t[:, None] * (x - model.mean)
    expected = model.energy_at(x, level) + (off / (model.scale * q[:, None])).square().sum(1) / 2
    assert_close(given.energy(y), expected.detach(), rtol=1e-9)
    leaf = y.clone().requires_grad_()
    (grad,) = torch.autograd.grad(given.energy(leaf).sum(), leaf)
    assert_close(given.energy_and_grad(y)[1], grad, rtol=1e-9)
    assert_close(given.of_rows(slice(1, 3)).energy(y[1:3]), expected.detach()[1:3], rtol=1e-9)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.quick("ve")
def test_the_start_of_recovery_is_exact_for_data_of_one_variance(process):
    """x_k and x_(k+1) of N(m, r^2): drawing the one from the other gives back its moments and their covariance."""
    model = truth(process)
    with torch.no_grad():
        model.precision.copy_(torch.eye(2, dtype=torch.float64) / model.variance[:, None, None])
    for k in (0, 2, model.levels - 2):
        width = model.width(torch.tensor([k + 1]))
        above = model.mean + width * normal((100_000, 2), KEY.fold(k), dtype=torch.float64)
        given = FromAbove(model, above, torch.full((100_000,), k))
        y = given.outside(given.begun(KEY.fold("begin")))
        assert_close(y.std(0), model.width(torch.tensor([k]))[0], rtol=0.02)
        again, _ = transitions(
            component("sampler", "mala", step_size=0.5),
            given,
            (y - model.mean) / given.width,
            [KEY.fold(i) for i in range(5)],
        )
        assert_close(given.outside(again).std(0), model.width(torch.tensor([k]))[0], rtol=0.02)


@pytest.mark.long
def test_the_truth_of_gaussian_data_is_where_the_gradient_of_recovery_vanishes():
    """Chains that begin at exact draws stay exact draws, so that both ends have one law."""
    model, objective, parts = truth(levels=8), component("objective", "recovery", steps=40), 20
    found = [
        objective.gradient(model, Batch(data(model, 2000, KEY.fold("rows", i))), KEY.fold(i)) for i in range(parts)
    ]
    stacked = torch.stack([g.parameters["precision"][:-1].flatten() for g in found])
    assert (stacked.mean(0) / (stacked.std(0) / parts**0.5)).abs().max() < 5
    with torch.no_grad():
        model.precision[2] *= 1.5
    found = [
        objective.gradient(model, Batch(data(model, 2000, KEY.fold("rows", i))), KEY.fold(i)) for i in range(parts)
    ]
    stacked = torch.stack([g.parameters["precision"][2].diagonal() for g in found])
    assert (stacked.mean(0) / (stacked.std(0) / parts**0.5)).abs().max() > 8


# The walk


@pytest.mark.parametrize("process", PROCESSES)
def test_the_flow_of_data_of_one_variance_stands_still(process):
    """Of data N(m, r^2) u stays as it is; with the variance t^2 at every level u goes by Heun's rule."""
    model, t = truth(process), 0.6
    y = normal((5, 2), KEY, dtype=torch.float64)
    with torch.no_grad():
        model.precision.copy_(torch.eye(2, dtype=torch.float64) / model.variance[:, None, None])
    for above in range(5, 0, -1):
        x = predicted("flow", model, model.mean + model.width(torch.tensor([above])) * y, above, KEY)
        assert_close(x, model.mean + model.width(torch.tensor([above - 1])) * y, rtol=1e-9)
    variance = (t * model.a) ** 2 + model.s**2
    with torch.no_grad():
        model.precision.copy_(torch.eye(2, dtype=torch.float64) / variance[:, None, None])
    slope = model.s**2 / model.variance * (model.variance / variance - 1)  # of u
    for above in range(5, 0, -1):
        x = predicted("flow", model, model.mean + model.width(torch.tensor([above])) * y, above, KEY)
        way = -(model.log_ratio[above - 1] - model.log_ratio[above])
        factor = 1 + way / 2 * (slope[above] + (1 + way * slope[above]) * slope[above - 1])
        assert_close(x, model.mean + model.width(torch.tensor([above - 1])) * factor * y, rtol=1e-9)


def test_the_flow_of_many_levels_is_exact():
    """It takes draws of the Gaussian to the deviations of the first level; twice the levels err by a quarter of it."""

    def error(levels):
        model = truth(levels=levels)
        x = model.mean + model.width(torch.tensor([levels - 1])) * torch.eye(2, dtype=torch.float64)
        for above in range(levels - 1, 0, -1):
            x = predicted("flow", model, x, above, KEY)
        found = (x - model.mean).T  # the linear map, on the axes
        expected = law(model, 0)
        return ((found @ found.T - expected).abs() / (SCALE * SCALE[:, None])).max()

    assert error(301) < 1e-4
    assert error(11) / error(21) > 4


def test_ancestral_moves_draw_the_level_below_given_clean_data():
    """At the truth of data N(m, r^2) of one point's law the move is exact: moments of level k from those of k + 1."""
    scales = Scales(torch.tensor([0.9, 0.5], dtype=torch.float64), torch.tensor([0.3, 0.8], dtype=torch.float64))
    model = GaussianLevels(Real((2,)), scales, torch.zeros(2, dtype=torch.float64), SCALE)
    with torch.no_grad():  # data at 0 alone
        model.precision.copy_(torch.eye(2, dtype=torch.float64) / model.s.square()[:, None, None])
    x = SCALE * model.s[1] * normal((200_000, 2), KEY, dtype=torch.float64)
    y = predicted("ancestral", model, x, 1, KEY.fold("move"))
    assert_close(y.std(0), SCALE * model.s[0], rtol=0.01)
    joint = (x * y).mean(0)
    assert_close(joint / SCALE**2, (0.5 / 0.9 * model.s[0] ** 2).expand(2), atol=5e-3)


@pytest.mark.long
@pytest.mark.parametrize("predictor", ["flow", "recovery"])
def test_the_walk_ends_at_the_data_and_corrections_leave_a_level_as_it_is(predictor):
    """From anywhere to the covariance of the first level; exact draws of a level keep theirs."""
    model = truth(levels=20).float()
    sampler = component("sampler", "predictor_corrector", predictor=predictor, transitions=30)
    x, info = run(sampler, model, torch.full((20_000, 2), 100.0), 19, KEY)
    assert_close(info["level"].mean(), torch.tensor(9.0))
    y, _ = corrected(sampler.kernel, model, data(truth(levels=20), 20_000).float(), 0, 20, KEY)
    for found in (x, y):
        assert_close(torch.cov(found.T), law(model, 0), rtol=0.05, atol=0.03)
