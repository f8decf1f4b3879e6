"""The KL term of a training step by chains, their ages, and runs whose energies part."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers.components import component, shipped
from helpers.models import small_model
from helpers.training import small_run
from torch.testing import assert_close

from ebm_cli import rng
from ebm_cli.errors import RunError, UserError
from ebm_cli.objective.base import Tail
from ebm_cli.objective.kl import kl_gradient, log_nearest
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Box
from ebm_cli.training.step import check, train_step

# The KL term


def written_out(sampler, model, x, keys, parameters):
    """The ends of Langevin steps from the formula alone, E of these parameters throughout."""
    for key in keys:
        x = x.detach() if x.grad_fn is None else x
        x = x.requires_grad_()
        energy = torch.func.functional_call(model, parameters, (x,)).sum()
        (grad,) = torch.autograd.grad(energy, x, create_graph=True)
        z = rng.normal(x.shape, key, dtype=x.dtype)
        x = (x - sampler.step_size * grad + sampler.noise * z).clamp(-1, 1)
    return x


@pytest.mark.parametrize("kind", ["langevin", "augmented"])
def test_the_gradient_through_the_sampler(kind):
    """d/dtheta of L_opt + 0.7 L_ent by central differences in every parameter, two steps, some coordinates clamped."""
    model = small_model("convnet", Box((4, 4), -1.0, 1.0))
    kernel = shipped("sampler")["langevin"] | {"step_size": 0.4, "noise": 0.3}
    inner = component("sampler", "langevin", step_size=0.4, noise=0.3)
    sampler = inner if kind == "langevin" else component("sampler", "augmented", kernel=kernel, every=2)
    x, others = (model.space.noise(n, stream(0, str(n))).double() for n in (3, 5))
    tail = Tail(x, sampler, [stream(2, i) for i in range(2)], 1, others)
    found, metrics = kl_gradient(model, tail, 0.7)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters()}

    def value():
        ends = tail.ends(model).detach()
        energy = torch.func.functional_call(model, frozen, (ends,)).mean()
        return (energy - 0.7 * log_nearest(ends, others).mean()).item()

    ends = tail.ends(model)
    assert ((ends == 1) | (ends == -1)).any()
    assert metrics["kl_energy"].item() == pytest.approx(model.energy(ends).mean().item())
    for name, p in model.named_parameters():
        flat = p.detach().view(-1)
        for i in range(0, len(flat), max(1, len(flat) // 3)):
            kept, ways = flat[i].item(), []
            for h in (1e-6, -1e-6):
                flat[i] = kept + h
                ways.append(value())
            flat[i] = kept
            assert found[name].view(-1)[i].item() == pytest.approx((ways[0] - ways[1]) / 2e-6, rel=1e-5, abs=1e-8), name


def test_the_chains_go_through_the_same_steps_with_and_without_their_graph():
    model = small_model("convnet", Box((4, 4), -1.0, 1.0))
    sampler = component("sampler", "langevin", step_size=0.3, noise=0.1, anneal=2, final_step_size=0.1)
    x, keys = model.space.noise(4, stream(0)).double(), [stream(1).fold(i) for i in range(3)]
    end, _ = run(sampler, model, x, 3, stream(1))
    assert_close(sampler.through(model, x, keys, 0).detach(), end)
    plain = component("sampler", "langevin", step_size=0.3, noise=0.1)
    expected = written_out(plain, model, x, keys, dict(model.named_parameters()))
    assert_close(plain.through(model, x, keys, 0), expected)


def test_entropy_by_nearest_neighbours():
    """H = D mean log NN + log(n - 1) + log V_D + gamma (Kozachenko & Leonenko 1987), of a normal in the plane."""
    n, scale = 4000, torch.tensor([0.5, 2.0], dtype=torch.float64)
    x = scale * rng.normal((n, 2), stream(0), dtype=torch.float64)
    distances = log_nearest(x, x[:0])
    entropy = 2 * distances.mean() + math.log(n - 1) + math.log(math.pi) + np.euler_gamma
    exact = math.log(2 * math.pi * math.e) + scale.log().sum()
    error = 2 * distances.std() / n**0.5
    assert abs(entropy - exact) < 5 * error + 0.01
    apart = log_nearest(x[:3], x[3:6])
    assert_close(apart, torch.cdist(x[:3], x[3:6]).amin(1).log())


def image_run(**changes):
    """A small convolutional network on digits."""
    config = {
        "dataset": shipped("dataset")["digits"],
        "model": shipped("model")["convnet"] | {"widths": [4, 4], "hidden": 4},
        "sampler": shipped("sampler")["langevin"] | {"step_size": 1.0, "noise": 0.01},
        "chains": shipped("chains")["replay"] | {"size": 30, "steps": 4, "restart": 0.3},
        "objective": shipped("objective")["ml_replay"],
    }
    return small_run(**config | changes)


@pytest.mark.parametrize(("kl", "sign"), [("du2021", 1), ("cd", -1)])
def test_the_kl_term_in_a_training_step(kl, sign):
    """Gradient = that of the likelihood + sign * weight * the KL term's, others being slots outside the batch."""
    objective = shipped("objective")["ml_replay"] | {"kl": kl, "kl_weight": 0.3, "kl_steps": 2}
    (parts, state), seen = image_run(objective=objective), []

    class Watching(type(parts.components.objective)):
        def gradient(self, model, batch, key):
            found = super().gradient(model, batch, key)
            seen.append((batch, found))
            return found

    watching = Watching(**dataclasses.asdict(parts.components.objective))
    parts = dataclasses.replace(parts, components=dataclasses.replace(parts.components, objective=watching))
    model, store = state.model, state.store.clone()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_step(parts, state)
    ((batch, found),) = seen
    model.load_state_dict(before)
    plain = component("objective", "ml_replay").gradient(model, batch._replace(tail=None), stream(0))
    term, _ = kl_gradient(model, batch.tail, 1.0)
    for name, grad in found.parameters.items():
        assert_close(grad, plain.parameters[name] + sign * 0.3 * term[name])
    assert_close(batch.x_neg, batch.tail.ends(model).detach())
    slots = parts.components.chains.choose(parts.loop.batch_size, stream(0, "chains", 0))
    assert torch.equal(state.store[slots], batch.x_neg)
    rows = {tuple(row.flatten().tolist()) for row in store}
    assert {tuple(row.flatten().tolist()) for row in batch.tail.others} == rows - {
        tuple(row.flatten().tolist()) for row in store[slots]
    }


def test_what_the_kl_term_needs_is_said():
    with pytest.raises(UserError, match=r"^objective.kl_steps = 4: must be below chains.steps = 4"):
        image_run(objective=shipped("objective")["ml_replay"] | {"kl": "cd", "kl_steps": 4})
    with pytest.raises(UserError, match=r"^objective.kl: .*use sampler=augmented or langevin"):
        image_run(
            objective=shipped("objective")["ml_replay"] | {"kl": "cd"},
            sampler=shipped("sampler")["mala"],
        )
    with pytest.raises(UserError, match=r"^objective.kl = cd: needs chains"):
        image_run(objective=shipped("objective")["exact"] | {"kl": "cd"})


# Ages and divergence


def test_ages_count_transitions_since_a_chain_began():
    parts, state = image_run()
    ages = torch.zeros(30, dtype=torch.long)
    for step in range(12):
        before = state.store.clone()
        train_step(parts, state)
        key = stream(0, "chains", step)
        slots = parts.components.chains.choose(6, key)
        fresh = parts.components.chains.fresh(6, step, key, before.device)
        ages[slots] = torch.where(fresh, 0, ages[slots]) + 4
        assert torch.equal(state.ages, ages)
    assert 0 < (ages == 4).sum() < 30


def test_energies_that_run_apart_stop_the_run_by_name():
    parts, state = image_run(objective=shipped("objective")["ml_replay"] | {"max_gap": 1e-6})
    report = train_step(parts, state)
    with pytest.raises(RunError, match=r"^step 1: energy_gap is .* beyond objective.max_gap = 1e-06"):
        check(state, [report], parts.components.objective)
    assert state.step == 0
