"""Normalising flows: the density is that of what they draw, and learning by likelihood reaches a known one."""

import math
from pathlib import Path

import pytest
import torch
from helpers.cli import ebm, facts, outcome
from helpers.components import component
from helpers.models import mean_of, small_model
from helpers.statistics import assert_close
from helpers.training import gradients
from test_resume import Killed, at_step, die

from ebm_cli import rng
from ebm_cli.rng import stream
from ebm_cli.space import Real

KINDS = ("maf", "nsf", "realnvp")
kinds = pytest.mark.parametrize("kind", KINDS)


def flow(kind, shape=(3,), **changes):
    """Every parameter non-zero and no two alike."""
    return small_model("flow", Real(shape), kind=kind, **changes)


def normal(*shape, seed=0):
    return rng.normal(shape, stream(seed, "z"), dtype=torch.float64)


@kinds
@pytest.mark.parametrize("shape", [(1,), (2,), (1, 2, 3)])
def test_it_starts_as_a_gaussian_around_the_mean(kind, shape):
    model = component("model", "flow", kind=kind, spread=1.5)
    model = model.build(Real(shape), mean_of(Real(shape)), stream(0, "model")).double()
    x = 3 * normal(20, *shape)
    expected = -torch.distributions.Normal(0.4, 1.5).log_prob(x).flatten(1).sum(1)
    assert_close(model.energy(x).detach(), expected, rtol=1e-7, atol=1e-7)  # 0.4 is a float32


@kinds
@pytest.mark.parametrize("shape", [(1,), (1, 3)])
def test_the_density_is_that_of_the_draws(kind, shape):
    """-log p(x) = |z|^2 / 2 + (D / 2) log 2 pi + log |det dx/dz|, the Jacobian by automatic differentiation of T^-1."""
    model = flow(kind, shape, spread=0.7)
    z = normal(6, math.prod(shape))
    x = model.push(z)
    assert x.shape == (6, *shape)

    def push(row):
        return model.push(row[None]).flatten()

    jacobian = torch.stack([torch.autograd.functional.jacobian(push, row) for row in z])
    expected = z.square().sum(1) / 2 + z.shape[1] / 2 * math.log(2 * math.pi) + jacobian.det().abs().log()
    assert_close(model.energy(x).detach(), expected, rtol=1e-9, atol=1e-9)
    assert model.log_z().item() == 0


@kinds
def test_draws_can_be_differentiated_in_the_parameters(kind):
    model = flow(kind, (2,), transforms=2)
    z = normal(3, 2)
    model.push(z).square().sum().backward()
    parameter = model.layers.transforms[1].hyper[-1].bias  # of the map next to z, which all of x depends on
    step = torch.zeros_like(parameter).index_fill(0, torch.tensor([1]), 1e-6)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.add_(sign * step)
            values.append(model.push(z).square().sum().item())
            parameter.sub_(sign * step)
    assert parameter.grad[1].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6, abs=1e-8)
    assert parameter.grad[1] != 0


def test_draws_come_from_the_key_alone():
    model = flow("nsf")
    before = torch.get_rng_state()
    x = model.sample(10, stream(0, "x"))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(x, model.push(rng.normal((10, 3), stream(0, "x"), dtype=torch.float64)))
    assert not torch.equal(x, model.sample(10, stream(1, "x")))


def test_the_exact_gradient_is_that_of_the_mean_log_density():
    model = flow("nsf")
    x = normal(8, 3)
    found, metrics = gradients(component("objective", "exact"), model, x, None)
    loss = model.energy(x).mean()
    expected = torch.autograd.grad(loss, [*model.parameters()])
    assert metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-12)
    for name, grad in zip(found, expected, strict=True):
        assert_close(found[name], grad, rtol=1e-9, atol=1e-12)


RUN = (
    "train model=flow dataset=points_2d dataset.kind=moons dataset.train=1000 dataset.held_out=10 optimizer=adam "
    "optimizer.lr=0.02 model.hidden=16 model.transforms=2 batch_size=100 steps=30 save_every=10 eval_every=0 "
    "evaluation=[density_2d] evaluation.density_2d.side=60 tracker=none checkpoint.monitor=null device=cpu"
)


@pytest.mark.long
def test_it_learns_by_likelihood_and_resumes_bit_for_bit(tmp_path, monkeypatch):
    """It starts 1.75 nats from the moons."""
    monkeypatch.chdir(tmp_path)
    answer = ebm(f"{RUN} hydra.run.dir=whole")
    assert answer.code == 0, answer.err
    found = facts(Path("whole"), "summary.json")
    assert found["density_2d/kl"] < 0.8
    assert abs(found["density_2d/log_z"]) < 0.02
    with monkeypatch.context() as patch:
        at_step(patch, 17, die)
        with pytest.raises(Killed):
            ebm(f"{RUN} hydra.run.dir=parts")
    assert ebm("train resume=parts").code == 0
    assert outcome(Path("parts")) == outcome(Path("whole"))
