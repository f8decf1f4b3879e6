"""Annealing and exchange along levels of noise, masses of modes, and mixtures of Gaussians from the command line."""

import dataclasses
import itertools
import json
import math
import shutil

import pytest
import torch
from helpers.cli import ebm
from helpers.components import component, shipped
from helpers.data import small_data
from helpers.models import randomised
from helpers.statistics import assert_close
from test_leveled import KEY, data, network, truth

from ebm_cli import registry
from ebm_cli.dataset.base import Truth
from ebm_cli.dataset.density import Gaussians
from ebm_cli.errors import UserError
from ebm_cli.evaluation.ais import forward, reverse_log_p
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.probability_flow import Way
from ebm_cli.log_z.level_path import LevelPath
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.given import Given
from ebm_cli.rng import normal, stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Real

KERNEL = component("sampler", "mala", step_size=0.3)
SMALL = {"network": {"name": "mlp", "widths": [6], "input_scale": 1.0, "spread": None}, "waves": 1}


def plane():
    """A random network of one number at eight levels, and log Z of each by quadrature."""
    spec = registry.build(
        "model",
        shipped("model")["leveled"] | SMALL | {"process": shipped("process")["vp"] | {"levels": 8, "time_min": 0.05}},
    )
    model = randomised(spec.build(Real((1,)), torch.tensor([0.3]), stream(1))).requires_grad_(requires_grad=False)
    for parameter in model.parameters():
        parameter.mul_(0.3)  # neighbours would else have little in common
    x = torch.linspace(-14, 14, 20_001, dtype=torch.float64)[:, None]
    log_z = [(-model.at(k).energy(x)).logsumexp(0) + (x[1, 0] - x[0, 0]).log() for k in range(8)]
    return model, torch.stack(log_z).detach()


@pytest.mark.long
def test_annealing_along_levels_finds_log_z():
    """E[w] = Z: within 5 standard errors of the integral, from a base whose log Z is 0."""
    model, log_z = plane()
    assert abs(log_z[-1]) < 1e-9
    assert abs(log_z[0]) > 0.1
    log_w, _ = forward(LevelPath(model, KERNEL), 4000, 140, KEY)
    w = (log_w - log_z[0]).exp()
    assert abs(w.mean() - 1) < 5 * w.std() / 4000**0.5
    assert w.std() < 1


def test_the_way_back_is_bounded_by_the_density():
    """exp of RAISE is unbiased of p_annealed(x), near p(x) where annealing is slow."""
    model, log_z = plane()
    x = torch.tensor([[-0.8], [0.4], [1.1]], dtype=torch.float64)
    found = reverse_log_p(LevelPath(model, KERNEL), x, 500, 140, KEY)
    expected = (-model.energy(x) - log_z[0]).detach()
    assert ((found - expected).abs() < 0.15).all()


def test_log_ratios_along_the_path_are_those_of_its_energies():
    """Within a level, across one, and over the whole way, of w in x_k = m + (w - m) sqrt(v_k / v_0)."""
    model = network()
    w, path = normal((5, 3), KEY, dtype=torch.float64), LevelPath(network(), KERNEL)
    top, state = model.levels - 1, path.observe(w)

    def energy(k):
        return (
            model.at(k).energy(model.mean + (model.variance[k] / model.variance[0]).sqrt() * (w - model.mean)).detach()
        )

    whole = path.log_ratio(state, 1.0, 0.0)
    assert_close(whole, energy(top) - energy(0), rtol=1e-9)
    parts = [0.0, 0.3 / top, 1.6 / top, 0.5, 1.0]
    steps = [path.log_ratio(state, to, origin) for origin, to in itertools.pairwise(parts)]
    assert_close(sum(steps), whole, rtol=1e-9)
    assert_close(path.log_ratio(state, 0.5 / top, 0.0), (energy(top) - energy(top - 1)) / 2, rtol=1e-9)
    assert_close(path.log_base(state), -energy(top), rtol=1e-9)


@pytest.mark.parametrize("process", ["vp", "ve"])
def test_annealing_of_gaussian_levels_weighs_nothing(process):
    """Of data N(m, r^2) all levels are one density of w, and each weight is 1, the constants of levels aside."""
    model = truth(process, levels=6).requires_grad_(requires_grad=False)
    model.precision.copy_(torch.eye(2, dtype=torch.float64) / model.variance[:, None, None])
    model.constant.copy_(-(2 * math.pi * model.variance).log() - model.scale.log().sum())
    path = LevelPath(model, KERNEL)
    log_w, _ = forward(path, 50, 30, KEY)
    assert_close(log_w + path.log_z_base, torch.zeros(50, dtype=torch.float64), atol=1e-9)


def test_exchange_keeps_the_density_of_level_0_and_begins_anywhere():
    """Two far modes of one number, shares 1 : 3: chains that begin in one spot come to them."""
    scales = component("process", "vp", levels=12, time_min=0.02).scales()
    model = TwoModes(Real((1,)), scales, torch.zeros(1), 1.0)
    sampler = component("sampler", "level_exchange", transitions=2)
    x, info = run(sampler, model, torch.full((2000, 1), -0.9), 40, KEY)
    share = (x > 0).double().mean()
    assert abs(share - 0.75) < 5 * (0.75 * 0.25 / 2000) ** 0.5
    right = x[x > 0]
    width = (model.a[0] ** 2 * model.std**2 + model.s[0] ** 2).sqrt()
    assert_close(right.std(), width, rtol=0.1)
    assert_close(right.mean(), model.a[0], atol=0.02)
    assert min(taken.mean() for taken in info.values()) > 0.2


@pytest.mark.long
def test_exchange_draws_some_sites_given_the_others():
    """Of a Gaussian the mean and variance of one number given the other, for each of two rows."""
    model, sampler = truth(levels=8).float(), component("sampler", "level_exchange", transitions=2)
    known = torch.tensor([[0.0, -0.6], [-2.0, 0.3]])
    given = Given(model, known, torch.tensor([[0], [1]]))
    x, _ = run(sampler, given, given.noise(4000, KEY), 40, KEY.fold("steps"))
    precision = model.precision[0].detach() / (model.scale * model.scale[:, None])
    for row, (free, other) in enumerate(((0, 1), (1, 0))):
        draws = x[4000 * row : 4000 * (row + 1), 0]
        off = precision[free, other] / precision[free, free] * (known[row, other] - model.mean[other])
        std = precision[free, free] ** -0.5
        assert_close(draws.mean(), model.mean[free] - off, atol=5 * std / 4000**0.5, rtol=0)
        assert_close(draws.std(), std, rtol=0.06)


def test_exchange_goes_on_from_its_replicas():
    model, sampler = truth(levels=5).float(), component("sampler", "level_exchange")
    state = sampler.init(model, torch.zeros(3, 2))
    state, _ = sampler.step(model, state, KEY)
    replicas = sampler.positions(state)
    assert replicas.shape == (3, 5, 2)
    again = sampler.init(model, replicas)
    assert torch.equal(again.x, state.x)
    assert torch.equal(sampler.step(model, again, KEY.fold(1))[0].x, sampler.step(model, state, KEY.fold(1))[0].x)


class TwoModes(type(truth())):
    """N(-1, std^2) / 4 + 3 N(1, std^2) / 4 with the noise of each level, times a constant of each level."""

    std = 0.05

    def energy_at(self, x, level):
        a, s = self.a[level], self.s[level]
        variance = (a * self.std) ** 2 + s**2
        logs = [
            torch.log(torch.tensor(w)) - (x[:, 0] - side * a) ** 2 / (2 * variance) - variance.log() / 2
            for w, side in ((0.25, -1), (0.75, 1))
        ]
        return -torch.stack(logs).logsumexp(0) + 3.0 * level


# The flow


@pytest.mark.parametrize(("process", "levels", "error"), [("vp", 32, 3e-4), ("ve", 33, 2e-3)])
def test_the_flow_of_gaussian_data_has_their_density(process, levels, error):
    """log p of level 0, by exact traces; by random signs in the mean.

    Of ve a share of 4e-4 of the data's variance is left in the last level, which is taken for nothing.
    """
    model, evaluation = truth(process, levels), component("evaluation", "probability_flow")
    x = data(model, 40)
    expected = -model.energy(x).detach()
    assert_close(evaluation.log_p(model, x, 1, KEY), expected, atol=error, rtol=0)
    by_signs = dataclasses.replace(evaluation, trace="hutchinson", projections=30)
    assert_close(by_signs.log_p(model, x, 1, KEY).mean(), expected.mean(), atol=0.1, rtol=0)


def test_rates_are_those_of_the_density_of_u():
    """v and its divergence by the matrix of second derivatives of E as a function of u."""
    model = network()
    u, k = normal((4, 3), KEY, dtype=torch.float64), 7
    width = model.scale * model.variance[k].sqrt()

    def energy(one):
        return model.at(k).energy((model.mean + width * one)[None])[0]

    found = Way(model, [*torch.eye(3, dtype=torch.float64).split(1)]).rate(u, k)
    share = (model.s[k] ** 2 / model.variance[k]).item()
    for i in range(4):
        slope = torch.autograd.functional.jacobian(energy, u[i])
        bend = torch.autograd.functional.hessian(energy, u[i])
        assert_close(found.velocity[i], share * (slope - u[i]), rtol=1e-9)
        assert_close(found.divergence[i], share * (bend.trace() - 3), rtol=1e-9)


# Masses of modes


def test_weighted_gaussians_are_a_density():
    """log p by its definition, and draws in proportion to the weights."""
    density = component("dataset", "gaussians", dims=3, modes=2, reach=5.0, std=0.7, weights=[1.0, 3.0]).density()
    assert isinstance(density, Gaussians)
    x = 3 * normal((6, 3), KEY, dtype=torch.float64)
    parts = [
        torch.distributions.MultivariateNormal(c.double(), 0.49 * torch.eye(3, dtype=torch.float64)).log_prob(x)
        for c in density.centres
    ]
    expected = torch.stack([parts[0] + torch.tensor(0.25).log(), parts[1] + torch.tensor(0.75).log()]).logsumexp(0)
    assert_close(density.log_prob(x), expected, rtol=1e-6)
    draws = density.sample(20_000, KEY)
    assert abs((draws[:, 0] > 0).double().mean() - 0.75) < 5 * (0.1875 / 20_000) ** 0.5
    assert_close(draws[:, 1].std(), torch.tensor(0.7), rtol=0.03)


def test_a_weight_for_each_mode():
    with pytest.raises(UserError, match=r"dataset.weights = \[1.0\]: there are 2 modes; give one for each"):
        component("dataset", "gaussians", modes=2, weights=[1.0]).read()


class OfDensity(EnergyModel):
    """E = -log p + 0.7."""

    def __init__(self, density):
        super().__init__()
        self.space, self.density = Real((2,)), density

    def energy(self, x):
        return 0.7 - self.density.log_prob(x)


def test_a_model_of_other_weights_has_its_own_masses():
    """1 : 1 in place of 1 : 3: KL = sum w* log w* / w, weights w / w* of 2 and 2/3, log Z = -0.7."""
    shares, equal = (
        component("dataset", "gaussians", modes=2, reach=9.0, std=1.0, weights=w).density() for w in ([1, 3], None)
    )
    data = dataclasses.replace(small_data(Real((2,))), truth=Truth(density=shares))
    about = Subject(OfDensity(equal), data, "test", KERNEL, torch.empty(0, 2), KEY)
    found = component("evaluation", "mode_weights", samples=0, draws=40_000).evaluate(about).metrics
    expected = {"kl": 0.1308, "log_z": -0.7, "ess": 0.75, "error": 0.25, "largest_error": 1.0}
    for name, value in expected.items():
        assert found[f"mode_weights/{name}"] == pytest.approx(value, abs=0.03)


def test_chains_of_all_levels_are_of_one_process():
    answer = ebm("train", "model=leveled", "objective=level_pcd", "dataset=points_2d", "device.ranks=2", "steps=2")
    assert answer.code == 2
    assert "device.ranks = 2: objective=level_pcd has chains of its own" in answer.err


@pytest.mark.long
def test_chains_of_all_levels_go_on_bit_for_bit(tmp_path):
    """Six steps, and three that are resumed to six."""
    words = ["train", "model=leveled", "objective=level_pcd", "objective.begin=2", "objective.chains=3", "tracker=none"]
    words += ["dataset=points_2d", "dataset.train=200", "dataset.held_out=50", "evaluation=[]", "batch_size=20"]
    words += ["model.process.levels=5", "checkpoint.monitor=null"]
    assert ebm(*words, "steps=6", f"hydra.run.dir={tmp_path}/whole").code == 0
    assert ebm(*words, "steps=6", "save_every=3", "checkpoint.keep_last=5", f"hydra.run.dir={tmp_path}/parts").code == 0
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "step-00000006")
    assert ebm("train", f"resume={tmp_path}/parts").code == 0
    files = [tmp_path / name / "checkpoints" / "step-00000006" / "state.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.long
def test_far_modes_get_their_weights_from_the_command_line(tmp_path):
    """Three ways: energies of classification have the shares, those of denoising alone have not; samples of both do."""
    found = {}
    for objective in ("diffusive_classification", "denoising"):
        run_dir = tmp_path / objective
        done = ebm(
            "train", "model=leveled", f"objective={objective}", "dataset=gaussians", "dataset.modes=2",
            "dataset.weights=[1,3]", "dataset.reach=10", "dataset.std=1", "dataset.train=5000", "dataset.held_out=500",
            "steps=250", "batch_size=256", "optimizer.lr=0.003", "evaluation=[mode_weights]", "tracker=none",
            "evaluation.mode_weights.samples=1500",
            "checkpoint.monitor=null", "eval_every=0", f"hydra.run.dir={run_dir}",
        )  # fmt: skip
        assert done.code == 0, done.err
        assert "columns have means" not in done.out + done.err
        assert "suspicious" not in done.out + done.err
        found[objective] = json.loads((run_dir / "summary.json").read_text())
    right, wrong = found["diffusive_classification"], found["denoising"]
    assert right["mode_weights/error"] < 0.06
    assert wrong["mode_weights/error"] > 0.1
    assert right["mode_weights/samples_error"] < 0.06
    assert right["mode_weights/found"] == 2
