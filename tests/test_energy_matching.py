"""Energy matching: its loss, its pairs, its chains, and what it has to learn of Gaussians."""

import itertools

import pytest
import torch
from helpers.cli import ebm
from helpers.components import component, shipped
from helpers.models import small_model
from helpers.statistics import assert_close
from helpers.training import auxiliary

from ebm_cli.errors import UserError
from ebm_cli.model.exponential_family import GaussianProduct
from ebm_cli.noise.units import gaussian
from ebm_cli.objective.base import Batch
from ebm_cli.objective.energy_matching import Source, nearest_pairs
from ebm_cli.rng import normal, stream, uniform
from ebm_cli.sampler.base import run, transitions
from ebm_cli.sampler.heating import descended, temperature
from ebm_cli.space import Box, Real

KEY, PLANE = stream(0, "energy matching"), Real((2,))
KERNEL = shipped("sampler")["mala"] | {"step_size": 0.2}


def matching(**changes):
    small = {"warmup": 3, "steps": 4, "transitions": 2, "step_size": 0.1, "kernel": KERNEL}
    return component("objective", "energy_matching", **small | changes)


def product(mean, std):
    """N(mean, std^2) on the plane, with its parameters m and r = -2 log std, in float64."""
    model = GaussianProduct(PLANE, torch.full((2,), mean)).double()
    model.r.data.fill_(-2 * torch.tensor(std, dtype=torch.float64).log())
    return model


def source(mean=0.0, std=1.0):
    return Source(gaussian(PLANE, torch.full((2,), mean), torch.full((2,), std))).double()


@pytest.mark.parametrize("step", [2, 3])
def test_the_gradient_is_that_of_the_loss(step):
    """Written out: the shortest of all ways to pair five rows, V = temperature E, its slope by autograd, and chains."""
    objective = matching(temperature=0.3, weight=1.7, cutoff=0.6, from_noise=0.4)
    model = small_model("mlp", PLANE)
    beside, x, key = auxiliary(objective, model), normal((5, 2), KEY, dtype=torch.float64), KEY.after(0)
    found = objective.gradient(model, Batch(x, auxiliary=beside, step=step), KEY)
    x_0 = beside.noise.sample(5, key.fold("noise"))
    order = min(itertools.permutations(range(5)), key=lambda p: (x - x_0[list(p)]).square().sum().item())
    x_0, t = x_0[list(order)], 0.6 * uniform((5, 1), key.fold("time"), dtype=torch.float64)
    x_t = ((1 - t) * x_0 + t * x).requires_grad_()
    (slope,) = torch.autograd.grad(0.3 * model.energy(x_t).sum(), x_t, create_graph=True)
    flow = (slope + x - x_0).square().sum(1).mean()
    chains = key.fold("chains")
    far = descended(model, beside.noise.sample(2, chains.fold("noise")), 4, 0.3 * 0.1, 0.6, chains.fold("down"))
    keys = [chains.fold("move", i) for i in range(2)]
    y, _ = transitions(component("sampler", "mala", step_size=0.2), model, torch.cat([x[:3], far]), keys)
    gap = model.energy(x).mean() - model.energy(y).mean()
    loss = flow + 1.7 * 0.3 * gap if step == 3 else flow
    named = dict(model.named_parameters())
    for name, value in zip(named, torch.autograd.grad(loss, [*named.values()]), strict=True):
        assert_close(found.parameters[name], value, rtol=1e-9, atol=1e-12)
    assert_close(found.metrics["loss"], loss.detach(), rtol=1e-9)
    assert_close(found.metrics["flow"], flow.detach(), rtol=1e-9)
    assert (found.metrics["contrast"] == 0) == (step == 2)


def test_pairs_of_a_map_that_is_the_gradient_of_a_convex_function_are_found():
    """x_1 = A x_0 with A positive definite, in another order: nothing is shorter than to undo it."""
    x_0 = normal((40, 2), KEY, dtype=torch.float64)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    x_1 = (x_0 @ torch.tensor([[2.0, 0.5], [0.5, 0.7]], dtype=torch.float64))[order]
    assert nearest_pairs(x_0, x_1).tolist() == order.tolist()


def scores(gradient, parts):
    found = torch.stack([gradient(i) for i in range(parts)])
    return found.mean(0) / (found.std(0) / parts**0.5)


@pytest.mark.long
def test_the_flow_between_gaussians_of_one_centre_is_a_known_parabola():
    """Of x_1 = k x_0: V = a x^2 / 2, a = (1 - k) (1 - b / 2) / (1 - b + b^2 / 3) b = (1 - k) cutoff: least squares."""
    k, eps, objective = 0.3, 0.4, matching(temperature=0.4, cutoff=0.7)
    b = (1 - k) * 0.7
    a = (1 - k) * (1 - b / 2) / (1 - b + b**2 / 3)

    def slope(curvature):
        model = product(0.0, (eps / curvature) ** 0.5)

        def of(i):
            x_0 = normal((200, 2), KEY.fold("x", i), dtype=torch.float64)
            loss = objective.flow_loss(model, x_0, k * x_0.flip(0), KEY.fold("t", i))
            return torch.cat(torch.autograd.grad(loss, [model.m, model.r]))

        return scores(of, 60)

    assert slope(a).abs().max() < 5
    assert slope(1.1 * a)[2:].min() > 8  # too steep: r, the log of the curvature, is to fall


@pytest.mark.long
def test_the_contrastive_term_rests_at_the_density_of_the_data():
    """Chains that begin at exact draws stay exact; those from the noise come there, if they have the time."""
    objective = matching(from_noise=0.5, steps=30, transitions=40, step_size=0.3, warmup=0)
    data, beside = product(0.5, 0.6), source()

    def slope(model):
        def of(i):
            x = data.sample(400, KEY.fold("rows", i)).detach()
            y = objective.negatives_of(model, beside.noise, x, KEY.fold("chains", i))
            gap = model.energy(x).mean() - model.energy(y).mean()
            return torch.cat(torch.autograd.grad(gap, [model.m, model.r]))

        return scores(of, 30)

    assert slope(data).abs().max() < 5
    assert slope(product(0.5, 0.7))[2:].max() < -8
    assert slope(product(0.4, 0.6))[:2].max() < -8


@pytest.mark.long
def test_chains_are_cold_and_then_warm():
    """Down a parabola x' = (1 - s p) x without noise, later var' = (1 - s p)^2 var + 2 s T, then as the kernel does."""
    assert [temperature(t, 0.8) for t in (0, 0.8, 1, 2)] == [0, 0, 1, 1]
    assert temperature(0.9, 0.8) == pytest.approx(0.5)
    model, n, s = product(0.0, 0.5), 100_000, 0.05  # p = 4
    sampler = component("sampler", "heating", steps=20, cold=0.5, step_size=s, std=3.0, mean=1.0, kernel=KERNEL)
    begun = torch.full((n, 2), 50.0, dtype=torch.float64)
    cold, info = run(sampler, model, begun, 10, KEY)
    assert_close(cold.mean(), torch.tensor(0.8**10, dtype=torch.float64), rtol=0.02)
    assert_close(cold.std(0), torch.full((2,), 3 * 0.8**10, dtype=torch.float64), rtol=0.02)
    assert not info["temperature"].any()
    variance = (3 * 0.8**10) ** 2
    for i in range(11, 21):
        variance = 0.64 * variance + 2 * s * (i - 10) / 10
    warm, _ = run(sampler, model, begun, 20, KEY)
    assert_close(warm.var(0), torch.full((2,), variance, dtype=torch.float64), rtol=0.02)
    after, _ = run(sampler, model, begun[:20_000], 120, KEY)
    assert_close(after.std(0), torch.full((2,), 0.5, dtype=torch.float64), rtol=0.03)
    still, _ = run(component("sampler", "heating", steps=2, kernel=KERNEL), model, begun, 1, KEY)
    assert_close(still, (1 - 4 * 0.002) * begun)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"objective\.kernel = parallel_tempering: is made of another"):
        matching(kernel=shipped("sampler")["parallel_tempering"])
    gibbs = matching(kernel=shipped("sampler")["gibbs_langevin"])
    assert "objective.kernel" in gibbs.refusal_of_model(type(product(0.0, 1.0)))
    assert "real" in matching(kernel=shipped("sampler")["gwg"]).refusal_of_space(PLANE)
    assert Box not in type(matching()).spaces


@pytest.mark.long
def test_a_run_passes_its_warm_up_and_is_sampled_from_noise(tmp_path):
    run = f"hydra.run.dir={tmp_path}/run evaluation=[] tracker=none sampler=heating"
    small = "dataset=gaussians dataset.train=60 dataset.held_out=10 model=mlp batch_size=20 steps=4 objective.warmup=2"
    found = ebm(f"train objective=energy_matching {small} {run}")
    assert found.code == 0, found.err
    found = ebm(f"sample run={tmp_path}/run n=5 steps=120 sampler.std=25")
    assert found.code == 0, found.err
