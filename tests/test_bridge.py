"""Bennett's acceptance ratio: against closed forms, enumeration, and known constants."""

import math

import pytest
import torch
from helpers.components import SIGMAS, component
from helpers.models import exact_p, target
from helpers.statistics import assert_close
from test_ising import CONSTANTS, ising

from ebm_cli import rng
from ebm_cli.dataset.base import Data, Split
from ebm_cli.device.engine import EAGER
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.bridge import Climb, bennett, climbed, lag, least_overlap, widened
from ebm_cli.log_z import enumeration
from ebm_cli.log_z.paths import GeometricPath, GeometricState, Path, tempered
from ebm_cli.model.exponential_family import product
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


@pytest.mark.quick("ising-spin")
@pytest.mark.parametrize("name", ["rbm-binary", "ising-spin", "potts-categorical"])
def test_log_z_of_enumerable_models(name):
    """Chains that walk up the ladder, each rung long enough: within five standard errors over 40 groups of them."""
    model = target(name)
    base = product(model.space, torch.full_like(model.space.noise(1, stream(0))[0], 1 / model.space.values)).double()
    path = GeometricPath(base, model, component("sampler", "gibbs"))
    with torch.no_grad():
        up, _, down, _ = climbed(path, (4000, 6, 15), stream(0, "bridge"), EAGER)
    groups = torch.stack([bennett(a, b).sum() for a, b in zip(up.chunk(40, 1), down.chunk(40, 1), strict=True)])
    error = (groups.mean() + path.log_z_base - enumeration.log_z(model)).abs()
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
@pytest.mark.parametrize(
    ("name", "side", "sigma", "bias", "log_z"),
    [
        *(("bridge", *each) for each in CONSTANTS if each[1:3] != (0.1, 0.0) and each[:2] != (10, 0.1)),  # weaker
        *(("ais", *each) for each in CONSTANTS[-2:]),
    ],
)
def test_known_constants_of_ising_models(name, side, sigma, bias, log_z):
    """Within four of the standard errors that the intervals of 95 % claim. At the strongest coupling chains lag by 0.1
    nats in the 20 steps of a rung, which is part of those of bridge; it takes 40."""
    space = Spin((side, side))
    bits = rng.bernoulli(torch.zeros(50, side, side), stream(0, "rows")).byte()
    split = Split(space, bits, 1.0, stochastic=False, labels=None)
    model = ising((side, side), 2 * sigma, bias).float()
    subject = Subject(model, Data(space, split, None, split), "test", component("sampler", "block_gibbs"),
                      torch.empty(0), stream(0, "subject"))  # fmt: skip
    changes = {"chains": 200, "temperatures": 1000, "raise_points": 0} if name == "ais" else {"steps": 40}
    metrics = component("evaluation", name, **changes).evaluate(subject).metrics
    low, high = metrics[f"{name}/log_z_low"], metrics[f"{name}/log_z_high"]
    error = (high - low) / (2 * 1.96)
    assert abs(metrics[f"{name}/log_z"] - log_z) < 4 * error
    assert error < 0.12


def test_chains_that_remember_are_corrected_exactly_where_all_is_gaussian():
    """f_b = exp(-(x - 3 b)^2 / 2), all alike in log Z, and moves that keep 0.8 of a deviation: u is linear in x."""
    rungs, chains, keep = 20, 8000, 0.8
    x, up, down = rng.normal((chains,), stream(0, "start"), dtype=torch.float64), [], []
    for rung in range(1, rungs + 1):
        low, high = 3 * (rung - 1) / rungs, 3 * rung / rungs

        def u(z, low=low, high=high):
            return (z - low).square() / 2 - (z - high).square() / 2

        up.append(u(x))
        noise = rng.normal((chains,), stream(0, "move", rung), dtype=torch.float64)
        x = high + keep * (x - high) + (1 - keep**2) ** 0.5 * noise
        down.append(u(x))
    seen = Climb(torch.stack(up), torch.stack(down), torch.stack(down), torch.ones(rungs))
    groups = [Climb(a, b, b, seen.alive) for a, b in zip(seen.up.chunk(40, 1), seen.down.chunk(40, 1), strict=True)]
    ratios = torch.stack([bennett(some.up, some.down).sum() for some in groups])
    remembered = torch.tensor([lag(some) for some in groups])
    error = (ratios + remembered).std() / 40**0.5
    assert ratios.mean() < -20 * error
    assert (ratios + remembered).mean().abs() < SIGMAS * error
    assert lag(seen) == pytest.approx(-bennett(seen.up, seen.down).sum().item(), abs=SIGMAS * error.item())


def test_the_lag_is_a_sum_over_pairs_of_rungs():
    up, means = (rng.normal((4, 7), stream(2, name), dtype=torch.float64) for name in "ab")
    u = torch.cat([up[:1], means])
    pairs = torch.cov(u).tril(-1).sum(1)
    assert lag(Climb(up, means, up, up)) == pytest.approx((pairs[1:4].sum() + pairs[4] / 2).item(), rel=1e-12)


def test_half_of_the_lag_widens_the_interval():
    found = widened({"low": 2.0, "high": 13.0}, 5.0, 8.0)
    assert found == pytest.approx({"low": 0.0, "high": 5 + 80**0.5})
    assert widened({"low": 2.0, "high": 13.0}, 5.0, 0.0) == {"low": 2.0, "high": 13.0}


class Counting(Path):
    """Positions count the moves; u is the position."""

    def start(self, n, key):
        return torch.zeros(n, 1)

    def observe(self, x):
        return GeometricState(x, x[:, 0])

    def log_base(self, state):
        return 0 * state.slope

    def log_ratio(self, state, to, origin):
        return state.slope

    def move(self, state, beta, key):
        return self.observe(state.x + 1)

    move_back = move


def test_means_are_of_the_second_half_of_a_rung():
    seen = climbed(Counting(), (3, 2, 5), stream(0, "count"), EAGER)
    for found, expected in ((seen.up, (0, 5)), (seen.means, (4, 9)), (seen.down, (5, 10))):
        assert found.tolist() == [[value] * 3 for value in expected]


def climbed_with(kernel, steps):
    """A lattice of 36 spins, 10 rungs; what bridge says, and log Z."""
    space = Spin((6, 6))
    bits = rng.bernoulli(torch.zeros(50, 6, 6), stream(0, "rows")).byte()
    split = Split(space, bits, 1.0, stochastic=False, labels=None)
    model = ising((6, 6), 0.3, 0.0)
    log_z = enumeration.log_z(model).item()
    data = Data(space, split, None, split)
    about = Subject(model.float(), data, "test", kernel, torch.empty(0), stream(0, "subject"))
    keys = {"chains": 400, "rungs": 10, "steps": steps, "bootstrap": 100}
    return component("evaluation", "bridge", **keys).evaluate(about), log_z


ONE_SITE = {"scan": "random", "updates": 1}


def test_a_ladder_climbed_too_fast_is_said():
    """One update of one site a step: the chains lag behind, and there is no estimate."""
    result, _ = climbed_with(component("sampler", "gibbs", **ONE_SITE), 4)
    assert set(result.metrics) == {"bridge/overlap", "bridge/lag"}
    assert "chains lag behind the rungs" in result.warnings[0]


@pytest.mark.long
def test_a_ladder_climbed_a_little_too_fast_is_put_right():
    """Bennett's ratios alone are a third of a nat too low."""
    result, log_z = climbed_with(component("sampler", "gibbs", **ONE_SITE), 30)
    found = result.metrics
    assert not result.warnings
    assert found["bridge/log_z"] - found["bridge/lag"] < log_z - 0.25
    assert abs(found["bridge/log_z"] - log_z) < 0.2
    assert found["bridge/log_z_low"] < log_z < found["bridge/log_z_high"]


def test_chains_that_forget_do_not_lag():
    result, log_z = climbed_with(component("sampler", "block_gibbs"), 10)
    assert not result.warnings
    assert abs(result.metrics["bridge/lag"]) < 0.02
    assert result.metrics["bridge/log_z_low"] < log_z < result.metrics["bridge/log_z_high"]
