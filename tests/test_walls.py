"""Densities that end at walls: every estimate of log Z is over the box, and stands beside a truth or is not given.

Truths are closed forms or sums over fine grids in float64; the models are those that a run would evaluate, in float32.
"""

import copy
import math
import os
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers.cli import ebm, facts
from helpers.components import component
from helpers.models import randomised
from helpers.statistics import assert_close
from scipy import integrate, special, stats

from ebm_cli.dataset.base import Data, Split
from ebm_cli.evaluation.annealing import annealing_path, independent_units
from ebm_cli.evaluation.base import Subject
from ebm_cli.log_z.paths import MixtureRBMPath
from ebm_cli.model import truncated
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.exponential_family import GaussianProduct, TruncatedProduct, product
from ebm_cli.rng import stream
from ebm_cli.space import Box, Real

KEY = stream(0, "walls")


class Units(EnergyModel):
    """E(x) = sum_i e(x_i)."""

    def __init__(self, space, each):
        super().__init__()
        self.space, self.each = space, each
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def energy(self, x):
        return self.each(x.flatten(1)).sum(1)


class Target(NamedTuple):
    """A model, rows like those that it could have been trained on, and log Z over the box."""

    model: EnergyModel
    rows: torch.Tensor
    log_z: float


def rows_of(space, a, b, n=200):
    """Rows of beta laws over the width of the box."""
    values = np.random.default_rng(0).beta(a, b, (n, *space.shape))
    return torch.from_numpy(space.low + (space.high - space.low) * values).float()


def uniform(sites):
    """A perceptron without a Gaussian as it begins: E = 0, so that Z is the volume, 1."""
    space = Box((sites,))
    return Target(perceptron(space, None), rows_of(space, 1, 1), 0.0)


def cut(sites):
    """One as it begins with a Gaussian whose mean is near the upper wall."""
    space, m, s = Box((sites,)), 0.9, 0.2
    inside = stats.norm.cdf((1 - m) / s) - stats.norm.cdf(-m / s)
    return Target(
        perceptron(space, s, m), rows_of(space, 5, 1.5), sites * math.log(inside * s * math.sqrt(2 * math.pi))
    )


def beta(sites, a, b):
    """The law of beta rows itself; log Z is that of the beta function."""
    space = Box((sites,))
    model = Units(space, lambda v: -(a - 1) * v.clamp_min(1e-30).log() - (b - 1) * (1 - v).clamp_min(1e-30).log())
    return Target(model, rows_of(space, a, b), sites * special.betaln(a, b))


def units(sites, each):
    """Any law of one unit; log Z by quadrature."""
    space = Box((sites,))
    one, _ = integrate.quad(lambda v: math.exp(-each(torch.tensor(v, dtype=torch.float64)).item()), 0, 1, limit=200)
    return Target(Units(space, each), rows_of(space, 0.9, 0.9), sites * math.log(one))


def perceptron(space, spread, mean=0.4, widths=(16,)):
    model = component("model", "mlp", widths=list(widths), spread=spread)
    return model.build(space, torch.full(space.shape, mean), KEY)


def learned(space, seed):
    """One with weights of every kind and no Gaussian; log Z by a fine grid."""
    model = randomised(perceptron(space, None, widths=(16, 16)), seed)
    return Target(model.float(), rows_of(space, 2, 2), log_z_by_a_grid(model))


def network():
    """A convolutional one on images of two pixels."""
    space = Box((1, 2, 1))
    model = randomised(component("model", "convnet", widths=[4], hidden=4).build(space, torch.zeros(1), KEY))
    return Target(model.float(), rows_of(space, 2, 2), log_z_by_a_grid(model))


def log_z_by_a_grid(model):
    """The midpoint rule with 1000 cells a side."""
    space, model = model.space, copy.deepcopy(model).double()
    line = space.low + (space.high - space.low) * (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    x = torch.cartesian_prod(*[line] * space.sites).reshape(-1, *space.shape)
    with torch.no_grad():
        f = torch.cat([-model.energy(part) for part in x.split(100_000)])
    return f.logsumexp(0).item() + space.sites * math.log((space.high - space.low) / 1000)


def wells(v):
    """Two, near the walls, 6 nats deep."""
    return 240 * ((v - 0.5).square() - 0.16).square()


TARGETS = {
    "uniform-2": lambda: uniform(2),
    "cut-1": lambda: cut(1),
    "cut-2": lambda: cut(2),
    "beta-2": lambda: beta(2, 2.0, 5.0),
    "steep-beta-2": lambda: beta(2, 1.5, 1.2),
    "wells-2": lambda: units(2, wells),
    "learned-2": lambda: learned(Box((2,), -1.0, 1.0), 4),
    "wide-2": lambda: learned(Box((2,), -3.0, 3.0), 5),
    "convnet-2": network,
}
PLANE = [name for name in TARGETS if name.endswith("-2") and name != "convnet-2"]
QUICK = ("uniform-2", "cut-1", "beta-2")
HARD = {"ais": {"temperatures": 1000, "raise_points": 20}, "bridge": {}}
"""200 temperatures leave wells apart that are 6 nats deep, and energies of 20 nats."""
SEEDS = int(os.environ.get("EBM_SEEDS", "20"))  # of intervals that are counted
SMALL = {
    "ais": {"chains": 200, "temperatures": 200, "raise_points": 20},
    "bridge": {"chains": 200, "rungs": 10, "steps": 10},
}
SMALLER = {
    "ais": {"chains": 200, "temperatures": 100, "raise_points": 0},
    "bridge": {"chains": 200, "rungs": 5, "steps": 10},
}  # wider intervals are no easier to get right
targets = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in TARGETS]
)
estimators = pytest.mark.parametrize("estimator", SMALL)


def about(target, seed=0):
    """What an evaluation is of: brightness is what a split in a box holds. Steps are as long as the box allows."""
    split = Split(target.model.space, target.model.space.brightness(target.rows), 1.0, stochastic=False, labels=None)
    kernel = component("sampler", "mala", step_size=0.02 * (target.model.space.high - target.model.space.low))
    data = Data(target.model.space, split, None, split)
    return Subject(target.model, data, "test", kernel, torch.empty(0), stream(seed, "subject"))


def evaluated(estimator, target, seed=0, **changes):
    return component("evaluation", estimator, **changes).evaluate(about(target, seed))


# log Z over the box


@pytest.mark.quick("ais-cut-1", "bridge-cut-1")
@targets
@estimators
def test_log_z_is_that_of_the_box(name, estimator):
    target = TARGETS[name]()
    found = evaluated(estimator, target, **(HARD if name in ("wells-2", "wide-2") else SMALL)[estimator]).metrics
    low, high = found[f"{estimator}/log_z_low"], found[f"{estimator}/log_z_high"]
    assert abs(found[f"{estimator}/log_z"] - target.log_z) < 0.05 or low < target.log_z < high
    assert high - low < 0.25
    log_f = -target.model.energy(target.rows).double().mean().item()
    assert found[f"{estimator}/log_likelihood"] == pytest.approx(log_f - found[f"{estimator}/log_z"], abs=1e-4)
    if estimator == "ais":
        assert abs(found["ais/gap"]) < 0.1
        assert found["ais/weight_ess"] > 80


@pytest.mark.quick("uniform-2", "wells-2", "cut-2")
@pytest.mark.parametrize("name", PLANE)
def test_a_map_covers_the_box_from_wall_to_wall(name):
    target = TARGETS[name]()
    result = evaluated("density_2d", target, side=200)
    assert result.metrics["density_2d/log_z"] == pytest.approx(target.log_z, abs=2e-3)
    assert not result.warnings


@pytest.mark.long
@pytest.mark.parametrize(("name", "estimator"), [("learned-2", "ais"), ("learned-2", "bridge")])
def test_intervals_of_95_percent_cover(name, estimator):
    """The truth, in all seeds but 5 percent and 2.5 standard errors of that: 90 of 100, 17 of 20."""
    target, covered = TARGETS[name](), 0
    for seed in range(SEEDS):
        found = evaluated(estimator, target, seed, **SMALLER[estimator]).metrics
        covered += found[f"{estimator}/log_z_low"] <= target.log_z <= found[f"{estimator}/log_z_high"]
    print(f"{name}, {estimator}: the truth is covered in {covered} of {SEEDS}")  # noqa: T201
    assert covered >= 0.95 * SEEDS - 2.5 * (0.95 * 0.05 * SEEDS) ** 0.5


# The units it begins with


@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.5), (0.9, 0.02), (-0.4, 2.0), (-3.0, 0.3), (5.0, 0.4), (0.2, 300.0)])
def test_a_normal_law_between_walls_is_that_of_scipy(mean, std):
    """Also where the mean is ten standard deviations beyond a wall, and where the box is next to nothing of the law."""
    space, m, s = (
        Box((1,), -0.5, 1.0),
        torch.tensor([mean], dtype=torch.float64),
        torch.tensor([std], dtype=torch.float64),
    )
    law = stats.truncnorm((space.low - mean) / std, (space.high - mean) / std, mean, std)
    x = torch.tensor([[-0.25], [0.7]], dtype=torch.float64)
    log_p = -(x - m).square().sum(1) / (2 * s**2) - truncated.log_z(space, m, s)
    assert_close(log_p, torch.from_numpy(law.logpdf(x[:, 0].numpy())), rtol=1e-9, atol=1e-9)
    drawn = truncated.draws(space, m, s, 20_000, KEY)
    assert space.contains(drawn)
    assert stats.kstest(drawn[:, 0].numpy(), law.cdf).pvalue > 1e-6


@pytest.mark.quick("Box*")
@pytest.mark.parametrize("space", [Box((2,), -0.5, 1.0), Real((2,))], ids=str)
def test_log_z_of_units_is_the_integral_over_the_space(space):
    model = product(space, torch.tensor([0.3, -0.4]), torch.tensor([0.5, 2.0])).double()
    ends = (space.low, space.high) if isinstance(space, Box) else (-30, 30)
    total, _ = integrate.dblquad(
        lambda b, a: math.exp(-model.energy(torch.tensor([[a, b]], dtype=torch.float64)).item()), *ends, *ends
    )
    assert model.log_z().item() == pytest.approx(math.log(total), rel=1e-6)
    assert isinstance(model, TruncatedProduct) == isinstance(space, Box)


@pytest.mark.parametrize("mix", [0.0, 0.4, 1.0])
def test_the_units_have_the_moments_of_data_mixed_with_uniform_rows(mix):
    """By the rows themselves, put beside as many evenly spaced ones as their share asks for."""
    space = Box((1,), -1.0, 3.0)
    rows, even = rows_of(space, 2, 9, 600).double(), torch.linspace(-1, 3, 100_001).double()[:, None]
    base = independent_units(about(Target(Units(space, wells), rows.float(), 0.0)).data, Units(space, wells), mix)
    mean = (1 - mix) * rows.mean() + mix * even.mean()
    square = (1 - mix) * rows.square().mean() + mix * even.square().mean()
    assert base.m.item() == pytest.approx(mean.item(), abs=1e-4)
    assert (-base.r / 2).exp().item() == pytest.approx((square - mean**2).sqrt().item(), rel=1e-3)


def test_units_of_the_line_have_the_moments_of_the_data():
    """A coordinate that never varies gets a tenth of the usual width, not none."""
    space = Real((3,))
    rows = torch.stack([torch.linspace(99, 101, 50), torch.linspace(-0.01, 0.03, 50), torch.full((50,), 7.0)], 1)
    split = Split(space, rows, 1.0, stochastic=False, labels=None)
    base = independent_units(Data(space, split, None, split), Units(space, wells), 0.4)
    assert isinstance(base, GaussianProduct)
    std = rows.double().std(0, correction=0)
    assert_close((-base.r.detach() / 2).exp()[:2], std[:2].float(), rtol=1e-4)
    assert (-base.r[2] / 2).exp().item() == pytest.approx(0.1 * std[:2].min().item(), rel=1e-4)
    assert_close(base.m.detach(), rows.mean(0), rtol=1e-5)


@pytest.mark.parametrize("sampler", ["block_gibbs", "gibbs_langevin"])
def test_a_gaussian_machine_is_annealed_from_the_data(sampler):
    """Rows of a scale of their own: the path begins at it, though at no unit narrower than the machine's own."""
    space = Real((4,))
    model = component("model", "gaussian_rbm", hidden=3, spread=0.1).build(space, torch.full((4,), 5.0), KEY)
    rows = 5 + torch.tensor([0.02, 0.2, 0.3, 0.4]) * torch.from_numpy(np.random.default_rng(1).normal(size=(500, 4)))
    split = Split(space, rows.float(), 1.0, stochastic=False, labels=None)
    data = Data(space, split, None, split)
    path = annealing_path(Subject(model, data, "test", component("sampler", sampler), torch.empty(0), KEY), 0.4)
    assert isinstance(path, MixtureRBMPath)
    expected = rows.std(0, correction=0).float().clamp_min(0.1)
    assert_close((-path.base.r.detach() / 2).exp(), expected, rtol=1e-3)
    start = path.start(4000, KEY)
    assert_close(start.std(0).detach(), expected, rtol=0.1)


# From the command line


@pytest.mark.long
def test_all_figures_of_a_run_between_walls_are_of_one_support(tmp_path, monkeypatch):
    """Uniform rows: the log-likelihood of the truth is 0, and what NCE learned is what the others find."""
    monkeypatch.chdir(tmp_path)
    np.savez("rows.npz", train=np.random.default_rng(0).random((4000, 2), np.float32))
    answer = ebm(
        "train dataset=array dataset.path=rows.npz model=mlp model.widths=[16] objective=nce noise=fitted "
        "optimizer=adam optimizer.lr=0.003 steps=1000 tracker=none evaluation=[ais,bridge,density_2d] "
        "sampler.step_size=0.02 evaluation.ais.chains=200 evaluation.ais.temperatures=200 evaluation.bridge.chains=200 "
        "dataset.binarize=none hydra.run.dir=run"
    )
    assert answer.code == 0, answer.err
    found = facts(tmp_path / "run", "summary.json")
    for name in ("ais", "bridge", "density_2d"):
        assert found[f"{name}/log_likelihood"] == pytest.approx(0, abs=0.05)
        assert abs(found[f"{name}/log_z"] - found["density_2d/log_z"]) < 0.05
    assert abs(found["density_2d/learned_log_z_error"]) < 0.05
