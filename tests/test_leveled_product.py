"""Products of leveled models: every level in closed form, chains that come to them, and runs that are multiplied."""

import math

import pytest
import torch
from helpers.cli import assert_refused, ebm
from helpers.components import component, shipped
from helpers.statistics import assert_close
from test_leveled import KEY

from ebm_cli import registry
from ebm_cli.errors import UserError
from ebm_cli.evaluation.ais import forward
from ebm_cli.log_z.level_path import LevelPath
from ebm_cli.model.composition import frozen
from ebm_cli.model.leveled_product import LeveledProduct
from ebm_cli.rng import normal, stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Real

KERNEL = component("sampler", "mala", step_size=0.5)
SPACE, LEVELS = Real((2,)), 12
PROCESS = shipped("process")["vp"] | {"levels": LEVELS, "time_min": 0.02}
NETWORK = {"network": {"name": "mlp", "widths": [4], "input_scale": 1.0, "spread": None}, "waves": 1}
MEANS = torch.tensor([[0.5, -1.0], [-0.5, 1.0]], dtype=torch.float64)
ROOTS = torch.tensor([[[1.0, 0.0], [0.5, 0.8]], [[0.6, -0.3], [0.0, 1.4]]], dtype=torch.float64)  # of covariances


def gaussian(i):
    """A leveled model without a network that has measured rows of a Gaussian of its own."""
    spec = registry.build("model", shipped("model")["leveled"] | NETWORK | {"process": PROCESS})
    model = spec.build(SPACE, MEANS[i], stream(1)).double().requires_grad_(requires_grad=False)
    rows = normal((5000, 2), KEY.fold(i), dtype=torch.float64) @ ROOTS[i].T
    model.measure(lambda: model.mean + rows - rows.mean(0))
    for parameter in model.parameters():
        parameter.zero_()
    return frozen(model)


def product(*weights):
    scales = registry.build("process", PROCESS).scales()
    return LeveledProduct(SPACE, scales, [gaussian(0), gaussian(1)], weights).double()


def law(model, k):
    """Mean, covariance and log Z of level k of a product of Gaussians, of all of which the energies are known."""
    shift = (model.a[0] - model.a[k]).double()
    total, pulled, rest = torch.zeros(2, 2), torch.zeros(2), torch.zeros(())
    for w, part in zip(model.weights.detach(), model.parts, strict=True):
        precision = part.at(k).energy_and_grad(part.mean + torch.eye(2))[1]  # of a quadratic form about its mean
        mean = part.mean - shift * (part.mean - model.mean)
        total, pulled = total + w * precision, pulled + w * precision @ mean
        rest = rest + w * (part.at(k).energy(part.mean[None])[0] + mean @ precision @ mean / 2)
    mean = total.inverse() @ pulled
    log_z = math.log(2 * math.pi) - total.logdet() / 2 + mean @ pulled / 2 - rest
    return mean, total.inverse(), log_z


def minus_log_p(x, covariance):
    return ((x @ covariance.inverse()) * x).sum(1) / 2 + covariance.logdet() / 2 + math.log(2 * math.pi)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0), (1.5, -0.2)])
def test_levels_are_products_of_gaussians_about_one_centre(weights):
    """Energies are those of the Gaussian of the product; the last is it, with log Z 0; slopes, gradients of weights."""
    model = product(*weights)
    x = normal((7, 2), KEY.fold("x"), dtype=torch.float64)
    for k in range(LEVELS - 1):
        mean, covariance, log_z = law(model, k)
        assert_close(model.at(k).energy(x).detach(), minus_log_p(x - mean, covariance) - log_z, rtol=1e-6, atol=1e-6)
        assert_close(model.at(k).energy_and_grad(x)[1], (x - mean) @ covariance.inverse(), rtol=1e-6, atol=1e-6)
    assert_close(model.energy(x), sum(w * part.energy(x) for w, part in zip(weights, model.parts, strict=True)))
    width = model.scale * model.variance[-1].sqrt()
    precision = sum(w / part.scale**2 for w, part in zip(weights, model.parts, strict=True))
    assert_close(model.scale, precision.rsqrt(), rtol=1e-6)
    last = torch.full((7,), LEVELS - 1)
    energy, grad = model.energy_and_grad_at(x, last)
    assert_close(energy, minus_log_p(x - model.mean, width.square().diag()), rtol=1e-6)
    assert_close(grad, (x - model.mean) / width**2, rtol=1e-6)
    assert_close(model.energy_at(x, last).detach(), energy, rtol=1e-9)
    mean, covariance, _ = law(model, LEVELS - 2)
    assert_close(mean, model.mean, atol=0.02)  # nearly, where hardly anything is left of the data
    _, pull = model.energy_vjp_at(x, last - 3)
    each = torch.stack([part.energy_at(model._seen(part, x, last - 3), last - 3) for part in model.parts])
    assert_close(pull(torch.ones(7, dtype=torch.float64))["weights"], each.sum(1), rtol=1e-9)


@pytest.mark.long
def test_chains_on_levels_come_to_the_product_and_annealing_to_its_log_z():
    """Annealed MALA alone, and exchanges: 600 chains have its moments, within four standard errors."""
    model, n = product(1.0, 1.0), 600
    mean, covariance, log_z = law(model, 0)
    deviation = covariance.diagonal().sqrt()
    kernel = shipped("sampler")["mala"] | {"step_size": 0.5}
    walk = component("sampler", "predictor_corrector", predictor="none", transitions=20, kernel=kernel)
    exchange = component("sampler", "level_exchange", transitions=2, kernel=kernel)
    for sampler, steps in ((walk, LEVELS + 20), (exchange, 30)):
        x, _ = run(sampler, model, torch.zeros(n, 2, dtype=torch.float64), steps, KEY)
        assert ((x.mean(0) - mean).abs() < 4 * deviation / n**0.5).all()
        assert ((x.T.cov() - covariance).abs() < 4 * (2 / n) ** 0.5 * deviation * deviation[:, None]).all()
    path = LevelPath(model, KERNEL)
    log_w, _ = forward(path, 200, 100, KEY)
    assert abs(log_w.logsumexp(0).item() - math.log(200) + path.log_z_base - log_z.item()) < 0.1


def test_products_without_width_are_refused():
    with pytest.raises(UserError, match=r"model\.weights = \[1\.0, -5\.0\]: the product of the last levels"):
        product(1.0, -5.0)


LINE = "dataset=points_2d dataset.train=200 dataset.held_out=50 steps=3 batch_size=20 device=cpu evaluation=[]"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.long
@pytest.mark.usefixtures("elsewhere")
def test_runs_of_one_process_are_multiplied_and_others_refused():
    small = f"train checkpoint.monitor=null model=leveled model.network.widths=[8] model.process.levels=6 {LINE}"
    for name, keys in (("a", ""), ("b", "model.process.levels=7")):
        assert ebm(f"{small} {keys} hydra.run.dir={name}").code == 0
    whole = f"train checkpoint.monitor=null model=leveled_product {LINE} steps=0 hydra.run.dir=whole"
    assert_refused(ebm(f"{whole} model.parts=[a,b]"), "model.parts[1]: has the process", "levels=7")
    assert_refused(ebm(whole, "model.parts=[a,{name: mlp}]"), "model.parts[1]: has no levels; model=product")
    answer = ebm(f"{whole} model.parts=[a,a]")
    assert answer.code == 0, answer.err
    walk = "sample run=whole n=4 steps=7 device=cpu sampler=predictor_corrector out=walk"
    answer = ebm(f"{walk} sampler.predictor=flow")
    assert answer.code == 0, answer.err
    assert "predictor = flow: takes the levels for those of noisy draws" in answer.err
