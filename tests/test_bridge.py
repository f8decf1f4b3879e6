"""Bennett's acceptance ratio: against closed forms, enumeration, and known constants."""

import math

import pytest
import torch
from targets import SIGMAS, assert_close, component, exact_p, target
from test_ising import CONSTANTS, ising

from ebm_cli import exact, rng
from ebm_cli.dataset.base import Data, Split
from ebm_cli.engine import EAGER
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.bridge import bennett, climbed, least_overlap
from ebm_cli.model.exponential_family import product
from ebm_cli.path import GeometricPath, tempered
from ebm_cli.rng import stream
from ebm_cli.space import Spin


def test_two_gaussians_differ_by_their_constants():
    """f_0 = exp(-x^2 / 2), f_1 = 7 exp(-(x - m)^2 / 2): D = log 7, for 20 distances m at once."""
    means = torch.linspace(0.1, 2, 20, dtype=torch.float64)[:, None]
    x, y = (rng.normal((20, 20_000), stream(0, name), dtype=torch.float64) for name in "xy")
    y = y + means

    def u(z):
        return math.log(7) - (z - means) ** 2 / 2 + z**2 / 2

    found = bennett(u(x), u(y))
    assert (found - math.log(7)).abs().max() < 0.05
    assert found.std() > 0  # an estimate


def test_the_ratio_solves_its_equation():
    up, down = (rng.normal((6, 50), stream(1, name), dtype=torch.float64) * 3 for name in "ab")
    ratios = bennett(up, down)[:, None]
    assert_close((up - ratios).sigmoid().sum(1), (ratios - down).sigmoid().sum(1), rtol=1e-9, atol=1e-9)


def test_overlap_is_one_where_nothing_changes_and_falls_with_distance():
    still = torch.full((3, 10), 0.7, dtype=torch.float64)
    assert least_overlap(still, still, bennett(still, still)) == pytest.approx(1, abs=1e-9)
    far = torch.full((1, 10), 8.0, dtype=torch.float64)
    assert least_overlap(-far, far, torch.zeros(1)) < 0.01


@pytest.mark.parametrize("name", ["rbm-binary", "ising-spin", "potts-categorical"])
def test_log_z_of_enumerable_models(name):
    """Chains that walk up the ladder, each rung long enough: within five standard errors over 40 groups of them."""
    model = target(name)
    base = product(model.space, torch.full_like(model.space.noise(1, stream(0))[0], 1 / model.space.values)).double()
    path = GeometricPath(base, model, component("sampler", "gibbs"))
    with torch.no_grad():
        up, _, down, _ = climbed(path, (4000, 6, 15), stream(0, "bridge"), EAGER)
    groups = torch.stack([bennett(a, b).sum() for a, b in zip(up.chunk(40, 1), down.chunk(40, 1), strict=True)])
    error = (groups.mean() + path.log_z_base - exact.log_z(model)).abs()
    assert error < SIGMAS * groups.std() / 40**0.5 + 1e-3  # a group of 100 has a bias of that order


def test_the_rungs_are_those_of_the_path():
    """One rung after the other: mean u at the lower and at the upper end of each step, by enumeration."""
    model = target("rbm-binary")
    base = product(model.space, torch.full(model.space.shape, 0.4)).double()
    path = GeometricPath(base, model, component("sampler", "gibbs"))
    x = model.space.enumerate().double()
    with torch.no_grad():
        up, _, down, _ = climbed(path, (20_000, 3, 10), stream(0, "bridge"), EAGER)
        for rung in range(1, 4):
            u = path.log_ratio(path.observe(x), rung / 3, (rung - 1) / 3)
            for found, beta in ((up, (rung - 1) / 3), (down, rung / 3)):
                p = exact_p(tempered(base, model, beta))
                error = found[rung - 1].std() / len(found[0]) ** 0.5
                assert (found[rung - 1].mean() - (p * u).sum()).abs() < SIGMAS * error


@pytest.mark.long
@pytest.mark.parametrize(("side", "sigma", "bias", "log_z"), CONSTANTS)
@pytest.mark.parametrize("name", ["ais", "bridge"])
def test_known_constants_of_ising_models(name, side, sigma, bias, log_z):
    """Within four of the standard errors that the intervals of 95 % claim."""
    space = Spin((side, side))
    bits = rng.bernoulli(torch.zeros(50, side, side), stream(0, "rows")).byte()
    split = Split(space, bits, 1.0, stochastic=False, labels=None)
    model = ising((side, side), 2 * sigma, bias).float()
    subject = Subject(model, Data(space, split, None, split), "test", component("sampler", "block_gibbs"),
                      torch.empty(0), stream(0, "subject"))  # fmt: skip
    changes = {"chains": 200, "temperatures": 2000, "raise_points": 0} if name == "ais" else {}
    metrics = component("evaluation", name, **changes).evaluate(subject).metrics
    low, high = metrics[f"{name}/log_z_low"], metrics[f"{name}/log_z_high"]
    error = (high - low) / (2 * 1.96)
    assert abs(metrics[f"{name}/log_z"] - log_z) < 4 * error
    assert error < 0.12


def test_a_ladder_climbed_too_fast_is_flagged():
    """One update of one site a rung: the chains lag behind, and the estimate with them; with many it is silent."""
    space = Spin((6, 6))
    bits = rng.bernoulli(torch.zeros(50, 6, 6), stream(0, "rows")).byte()
    split = Split(space, bits, 1.0, stochastic=False, labels=None)
    model = ising((6, 6), 0.3, 0.0).float()
    kernel = component("sampler", "gibbs", scan="random", updates=1)
    found = {}
    for steps in (4, 300):
        about = Subject(model, Data(space, split, None, split), "test", kernel, torch.empty(0), stream(0, "subject"))
        found[steps] = component("evaluation", "bridge", chains=400, rungs=10, steps=steps).evaluate(about)
    assert "still drift" in " ".join(found[4].warnings)
    assert found[4].metrics["bridge/drift"] > 0.1
    assert not found[300].warnings
    assert abs(found[300].metrics["bridge/drift"]) < 0.1
