"""Each site of a leveled model in units of its own: where these come from, and densities of sites of unequal widths."""

import dataclasses
import math

import pytest
import torch
from helpers.components import component, shipped
from helpers.data import small_data
from helpers.models import randomised
from helpers.statistics import assert_close
from test_leveled import KEY, images

from ebm_cli import registry
from ebm_cli.errors import UserError
from ebm_cli.evaluation.ais import forward
from ebm_cli.evaluation.base import Subject
from ebm_cli.log_z.level_path import LevelPath
from ebm_cli.model.given import Given
from ebm_cli.model.level_gaussian import shrunk
from ebm_cli.model.level_ladder import ladder_of
from ebm_cli.model.level_marginals import mixtures
from ebm_cli.rng import normal, stream
from ebm_cli.space import Real

KERNEL = component("sampler", "mala", step_size=0.3)
STD = torch.tensor([0.02, 3.0, 0.5], dtype=torch.float64)


def corners(std):
    """Rows of mean 0 with these deviations and no correlations, (2 D, D)."""
    return torch.cat([std.diag(), -std.diag()]) * len(std) ** 0.5


def small(std, **changes):
    """A leveled network of as many numbers as there are deviations, which it has measured."""
    network = {"network": {"name": "mlp", "widths": [6], "input_scale": 1.0, "spread": None}, "waves": 1}
    process = {"process": shipped("process")["vp"] | {"levels": 8, "time_min": 0.05}}
    spec = registry.build("model", shipped("model")["leveled"] | network | process | changes)
    mean = torch.arange(len(std), dtype=torch.float64)
    model = randomised(spec.build(Real((len(std),)), mean, stream(1))).requires_grad_(requires_grad=False)
    model.measure(lambda: model.mean + corners(std))
    return model


def test_scales_are_measured_site_by_site_in_common_or_given():
    common = STD.square().mean().sqrt()
    assert_close(small(STD).scale, STD)
    assert_close(small(STD, scale="sites").scale, STD)
    assert_close(small(STD, scale="common").scale, common.expand(3))
    assert_close(small(STD, scale=0.7).scale, torch.full((3,), 0.7, dtype=torch.float64), rtol=1e-6)


def test_a_site_that_does_not_vary_has_a_thousandth_of_the_others():
    std = torch.tensor([0.0, 3.0, 1e-5], dtype=torch.float64)
    narrow = 1e-3 * std.square().mean().sqrt()
    assert_close(small(std).scale, torch.stack([narrow, std[1], narrow]))


def test_convolutions_see_all_sites_in_one_unit():
    model = images()
    model.measure(lambda: corners(torch.linspace(0.1, 2, 60, dtype=torch.float64)))
    assert model.scale.unique().numel() == 1


def test_without_a_network_every_level_is_the_density_of_independent_gaussians():
    """E(x, k) = -log N(m, r_i^2 v_k), and the flow says the same, whatever the widths."""
    model = small(STD)
    for parameter in model.parameters():
        parameter.zero_()
    x = model.mean + STD * normal((5, 3), KEY, dtype=torch.float64)
    for k in range(model.levels):
        law = torch.distributions.Normal(model.mean, STD * (model.a[k] ** 2 + model.s[k] ** 2).sqrt())
        assert_close(model.at(k).energy(x), -law.log_prob(x).sum(1), rtol=1e-9)
        assert_close(model.at(k).energy_and_grad(x)[1], (x - model.mean) / law.variance, rtol=1e-9)
    found = component("evaluation", "probability_flow").log_p(model, x, 1, KEY)
    assert_close(found, -model.energy(x), rtol=1e-9)


MIXED = torch.tensor([[0.02, 0.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.3, 0.4]], dtype=torch.float64)


def test_without_a_network_levels_have_the_covariance_of_the_data():
    """E(x, k) = -log N(x; m, a_k^2 S + s_k^2 r r^T) for second moments S, but at the last level; its slope."""
    model, rows = small(STD), normal((400, 3), KEY, dtype=torch.float64) @ MIXED.T
    rows = rows - rows.mean(0)
    model.measure(lambda: model.mean + rows)
    for parameter in model.parameters():
        parameter.zero_()
    r, x = model.scale, model.mean + STD * normal((5, 3), KEY.fold("x"), dtype=torch.float64)
    assert_close(r, rows.std(0, correction=0), rtol=1e-6)
    correlations = shrunk(rows / r)
    for k in range(model.levels):
        c = correlations if k < model.levels - 1 else torch.eye(3, dtype=torch.float64)
        covariance = (model.a[k] ** 2 * c + model.s[k] ** 2 * torch.eye(3, dtype=torch.float64)) * r * r[:, None]
        law = torch.distributions.MultivariateNormal(model.mean, covariance)
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(-law.log_prob(leaf).sum(), leaf)
        energy, grad = model.at(k).energy_and_grad(x)
        assert_close(energy, -law.log_prob(x), rtol=1e-9)
        assert_close(grad, slope, rtol=1e-8)


def test_without_a_network_levels_are_mixtures_of_each_site():
    """E(x, k) = -sum_i log sum_j p_ij N(x_i; m_i + r_i a_k c_ij, r_i^2 (a_k^2 w_ij^2 + s_k^2)), but at the last level;
    what is cleaned is the mean of x_0 given x of these laws, and the flow says the same density as the energy."""
    model = small(STD, marginals=3, correlated=False)
    rows = normal((400, 3), KEY, dtype=torch.float64) + torch.tensor([3.0, 0.0, 8.0]) * (torch.arange(400)[:, None] % 2)
    model.measure(lambda: model.mean + rows - rows.mean(0))
    for parameter in model.parameters():
        parameter.zero_()
    laws = mixtures((rows - rows.mean(0)) / model.scale, 3)
    x = model.mean + 3 * normal((5, 3), KEY.fold("x"), dtype=torch.float64)
    for k in range(model.levels - 1):
        a, s, level = model.a[k].double(), model.s[k].double(), torch.full((5,), k)
        y = ((x - model.mean) / model.scale)[:, :, None]
        variance = a**2 * laws.width**2 + s**2
        log_each = laws.share.log() + torch.distributions.Normal(a * laws.centre, variance.sqrt()).log_prob(y)
        expected = (log_each.logsumexp(2) - model.scale.log()).sum(1)
        assert_close(model.at(k).energy(x), -expected, rtol=1e-6)
        means = laws.centre + a * laws.width**2 / variance * (y - a * laws.centre)
        told = model.base.told((x - model.mean) / model.width(level), level)
        assert_close(told.cleaned, (log_each.softmax(2) * means).sum(2), rtol=1e-5)
        assert_close(model.denoised(x, k), told.cleaned, rtol=1e-9)
    last = torch.distributions.Normal(model.mean, model.scale * model.variance[-1].sqrt())
    assert_close(model.at(model.levels - 1).energy(x), -last.log_prob(x).sum(1), rtol=1e-9)


def test_laws_of_sites_are_mixtures_that_fit_them():
    """Two far clusters of unequal shares and widths, a site each way round; a wide law beside them for one row more."""
    u = normal((4000, 2), KEY, dtype=torch.float64)
    up = torch.arange(4000)[:, None] % 4 == 0
    laws = mixtures(torch.where(up, 3 + 0.3 * u, 0.5 * u - 1) * torch.tensor([1.0, -1.0]), 2)
    assert_close(laws.share[:, 2], torch.full((2,), 1 / 2001, dtype=torch.float64))
    assert_close(laws.share[:, :2], torch.tensor([[0.75, 0.25], [0.25, 0.75]], dtype=torch.float64), atol=0.01)
    assert_close(laws.centre[:, :2], torch.tensor([[-1.0, 3.0], [-3.0, 1.0]], dtype=torch.float64), atol=0.05)
    assert_close(laws.width[:, :2], torch.tensor([[0.5, 0.3], [0.3, 0.5]], dtype=torch.float64), atol=0.03)


def test_the_network_counts_by_the_noise_of_its_level_and_at_most_by_a_limit():
    plain, limited = small(STD), small(STD, gain=4.0)
    ratio = plain.a / plain.s
    assert_close(plain.gain[:-1], ratio[:-1])
    assert_close(limited.gain[:-1], (ratio[:-1] ** -2 + 4.0**-2).rsqrt())
    assert plain.gain[-1] == limited.gain[-1] == 0
    assert limited.gain.max() < 4 < ratio[0]


def test_what_the_network_sees_goes_no_further_than_rows_do():
    """u within (a l - 3 s) / sqrt(v) and (a h + 3 s) / sqrt(v) for rows from l to h, what is cleaned within l and h,
    2 at most: inside as without bounds, and beyond the energy is the marginals' alone but for a constant."""
    rows = torch.tensor([[-0.5, -9.0, 1.0], [0.5, 1.0, 0.0], [0.0, 0.0, -1.0]], dtype=torch.float64)
    bound, free = (small(STD, marginals=2, correlated=False, scale=1.0, bound=limit) for limit in (2.0, None))
    for model in (bound, free):
        model.measure(lambda: torch.arange(3) + rows)
    for k in range(bound.levels):
        a, s, size = bound.a[k], bound.s[k], bound.variance[k].sqrt()
        low, high = ((a * rows.amin(0) - 3 * s) / size).clamp(-2), ((a * rows.amax(0) + 3 * s) / size).clamp(max=2)
        level = torch.full((3,), k)
        far = torch.tensor([[-30.0], [30.0], [90.0]], dtype=torch.float64).expand(3, 3)
        assert_close(bound.features_of.bounds.noisy(far, level)[0], torch.stack([low, high, high]), rtol=1e-6)
        assert_close(bound.features_of.bounds.clean(far)[0][:2], torch.stack([rows.amin(0).clamp(-2), rows.amax(0)]))
        beyond = bound.energy_at(bound.mean + far * size, level) - free.base.seen(far, level)[0]
        assert_close(beyond[1], beyond[2])
    inside = torch.tensor([[0.0, -0.5, 0.3]], dtype=torch.float64)
    assert_close(*(model.features_of(inside, torch.tensor([0]), inside) for model in (bound, free)), atol=0.002)


def test_laws_of_sites_have_no_correlations():
    with pytest.raises(UserError, match=r"model\.marginals = 3: .*; set model\.correlated=false"):
        small(STD, marginals=3)


def test_correlations_of_few_rows_are_drawn_towards_none():
    """Of many the second moments; of fewer than there are sites no direction is empty; by the mean over all rows."""
    rows = normal((100_000, 3), KEY, dtype=torch.float64) @ MIXED.T / (MIXED @ MIXED.T).diagonal().sqrt()
    assert_close(shrunk(rows), rows.T @ rows / len(rows), atol=1e-3)
    few = normal((6, 20), KEY, dtype=torch.float64)
    found = few.T @ few / 6
    error = torch.stack([(z[:, None] * z - found).square().sum() for z in few]).sum() / 36
    share = error / (found - torch.eye(20)).square().sum()
    assert 0.5 < share < 1
    assert_close(shrunk(few), (1 - share) * found + share * torch.eye(20, dtype=torch.float64), rtol=1e-9)
    assert torch.linalg.eigvalsh(shrunk(few)).min() > 0.4


def test_likelihoods_of_levels_of_grey_are_bits_of_these_levels():
    """-log2 of P(levels) >= p(x) / 17^D, for each of the D sites; nothing where the values are no levels."""
    model, plain = small(STD), small_data(Real((3,)))
    spread = dataclasses.replace(plain, test=dataclasses.replace(plain.test, levels=17))
    for data, bits in ((spread, 1), (plain, 0)):
        about = Subject(model.float(), data, "test", KERNEL, torch.empty(0, 3), KEY)
        for name, keys in (("probability_flow", {}), ("ais", {"temperatures": 9, "chains": 5, "raise_points": 0})):
            found = component("evaluation", name, **keys).evaluate(about).metrics
            assert (f"{name}/bits_per_dimension" in found) == bool(bits)
            if bits:
                expected = math.log2(17) - found[f"{name}/log_likelihood"] / math.log(2) / 3
                assert found[f"{name}/bits_per_dimension"] == pytest.approx(expected)


def test_some_sites_given_the_others_move_in_units_of_their_own():
    """r s_k of each free site, another one in each row, in w as it is at all levels of vp."""
    model = small(STD)
    given = Given(model, model.mean.expand(2, 3).clone(), torch.tensor([[0, 1], [2, 0]]))
    found = ladder_of(given).unit(torch.tensor([3, 5]))
    expected = torch.stack([STD[[0, 1]] * model.s[3], STD[[2, 0]] * model.s[5]])
    assert_close(found, expected, rtol=1e-6)


@pytest.mark.long
def test_annealing_over_unequal_widths_is_that_of_quadrature():
    """log Z within 5 standard errors of the integral over a plane, one side a hundred times the other."""
    model = small(torch.tensor([0.03, 3.0], dtype=torch.float64))
    for parameter in model.parameters():
        parameter.mul_(0.3)
    u = torch.linspace(-9, 9, 500, dtype=torch.float64)
    grid = model.mean + model.scale * torch.cartesian_prod(u, u)
    log_z = (-model.energy(grid)).logsumexp(0) + 2 * (u[1] - u[0]).log() + model.scale.log().sum()
    assert abs(log_z) > 0.1
    path = LevelPath(model, KERNEL)
    log_w, _ = forward(path, 4000, 140, KEY)
    w = (log_w - log_z).exp()
    assert abs(w.mean() - 1) < 5 * w.std() / 4000**0.5
    assert w.std() < 1
