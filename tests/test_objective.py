"""Objectives: their gradient is that of the enumerated log-likelihood, and a broken one stops a run."""

import dataclasses
import itertools
import math

import pytest
import torch
from helpers.components import component, shipped
from helpers.keys import keys_used
from helpers.matrices import at
from helpers.models import DISCRETE, double_states, exact_p, small_model, target
from helpers.objectives import OBJECTIVES, WITH_CHAINS, data_rows, likelihood_gradient, plainly
from helpers.statistics import assert_close
from helpers.training import auxiliary, batch, gradients, small_run

from ebm_cli import registry
from ebm_cli.errors import RunError
from ebm_cli.log_z import enumeration
from ebm_cli.objective.base import Batch
from ebm_cli.objective.likelihood import Likelihood
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Real
from ebm_cli.training.step import check, check_weights, train_step

discrete_models = pytest.mark.parametrize("model_name", DISCRETE)
# Float64 sums over 16 states lose a few units in the last place.
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def negatives_weighted_by_p(objective, model, x):
    """E_p[gradient with one negative]: what infinitely many exact negatives give, as the gradient is linear in them."""
    total = None
    for weight, state in zip(exact_p(model), double_states(model), strict=True):
        found, _ = gradients(objective, model, x, state[None])
        total = {name: weight * g + (total[name] if total else 0) for name, g in found.items()}
    return total


def test_every_objective_has_a_file():
    assert {config["name"] for config in shipped("objective").values()} == set(registry.components("objective"))


@discrete_models
@pytest.mark.parametrize("name", WITH_CHAINS)
def test_with_exact_negatives_the_gradient_is_that_of_the_likelihood(name, model_name):
    model = target(model_name)
    x = data_rows(model)
    found = negatives_weighted_by_p(component("objective", name, centered=False), model, x)
    expected, _ = likelihood_gradient(model, x)
    for parameter in expected:
        assert_close(found[parameter], expected[parameter], **EXACT)


@discrete_models
def test_by_enumeration_loss_and_gradient_are_those_of_the_likelihood(model_name):
    model = target(model_name)
    x = data_rows(model)
    found, metrics = gradients(component("objective", "exact"), model, x, None)
    expected, loss = likelihood_gradient(model, x)
    for parameter in expected:
        assert_close(found[parameter], expected[parameter], **EXACT)
    assert metrics["loss"].item() == pytest.approx(loss, rel=1e-12)
    assert metrics["loss"].item() == pytest.approx(-enumeration.log_likelihood(model, x).mean().item(), rel=1e-12)
    assert metrics["log_z"].item() == pytest.approx(enumeration.log_z(model).item(), rel=1e-12)


def test_by_closed_form_the_gaussian_learns_its_mean_and_variance():
    """The likelihood of N(m, exp(-r)) has gradients (m - x) exp(r) and ((x - m)^2 exp(r) - 1) / 2."""
    model = small_model("exponential_family", Real((1, 2)))
    x = data_rows(model, 50)
    found, _ = gradients(component("objective", "exact"), model, x, None)
    flat, scale = x.flatten(1), model.r.detach().exp()
    assert_close(found["m"], ((model.m.detach() - flat) * scale).mean(0), **EXACT)
    assert_close(found["r"], ((flat - model.m.detach()).square() * scale - 1).mean(0) / 2, **EXACT)


@pytest.mark.parametrize(("name", "changes"), [*((name, {}) for name in OBJECTIVES), ("pcd", {"energy_l2": 0.2})])
def test_the_gradient_is_that_of_the_reported_loss(name, changes):
    """Central differences in every parameter: truncation and rounding are both near 1e-9 at h = 1e-5."""
    objective = component("objective", name, **plainly(name), **changes)
    model, h = target("rbm-binary"), 1e-5
    x = data_rows(model)
    x_neg = model.space.noise(5, stream(1, "chains")).double() if objective.negatives else None
    beside = auxiliary(objective, model)
    found, _ = gradients(objective, model, x, x_neg, beside)

    def loss():
        return gradients(objective, model, x, x_neg, beside)[1]["loss"].item()

    for parameter, p in model.named_parameters():
        for index in itertools.product(*map(range, p.shape)):
            value = p[index].item()
            ends = []
            for end in (value + h, value - h):
                p.data[index] = end
                ends.append(loss())
            p.data[index] = value
            slope = (ends[0] - ends[1]) / (2 * h)
            assert found[parameter][index].item() == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_the_penalty_is_on_the_squared_energies_of_both():
    model = target("rbm-binary")
    x, x_neg = data_rows(model), model.space.noise(5, stream(1, "chains")).double()
    plain = gradients(component("objective", "pcd"), model, x, x_neg)[1]
    metrics = gradients(component("objective", "pcd", energy_l2=0.3), model, x, x_neg)[1]
    squares = model.energy(x).square().mean() + model.energy(x_neg).square().mean()
    assert (metrics["loss"] - plain["loss"]).item() == pytest.approx(0.3 * squares.item(), rel=1e-12)


@pytest.mark.parametrize("name", WITH_CHAINS)
def test_metrics(name):
    model = target("rbm-binary")
    x, x_neg = data_rows(model), model.space.noise(5, stream(1, "chains")).double()
    _, metrics = gradients(component("objective", name), model, x, x_neg)
    data, chains = model.energy(x).mean().item(), model.energy(x_neg).mean().item()
    assert metrics["energy_data"].item() == pytest.approx(data)
    assert metrics["energy_chains"].item() == pytest.approx(chains)
    assert metrics["energy_gap"].item() == pytest.approx(data - chains)
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_nothing_but_gradients_changes(name):
    objective, model = component("objective", name, **plainly(name)), target("rbm-binary")
    x, x_neg = data_rows(model), model.space.noise(5, stream(1)).double()
    kept = [t.clone() for t in (*model.state_dict().values(), x, x_neg)]
    before = torch.get_rng_state()
    gradients(objective, model, x, x_neg if objective.negatives else None)
    assert all(map(torch.equal, kept, (*model.state_dict().values(), x, x_neg)))
    assert torch.equal(before, torch.get_rng_state())


# In the training step


class Broken(Likelihood):
    """The gradient of one parameter is not finite at the third step."""

    parameter = "W"

    def gradient(self, model, batch, key):
        found = super().gradient(model, batch, key)
        if key == stream(0, "objective", 2):
            found.parameters[self.parameter].view(-1)[-1] = math.inf
        return found


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("parameter", ["W", "b", "c"])
def test_a_gradient_that_is_not_finite_is_found_whenever_one_looks(clip, parameter, monkeypatch):
    """Steps later too: it says which step and which parameter were the first, and the run counts those before it."""
    monkeypatch.setattr(Broken, "parameter", parameter)
    adam = shipped("optimizer")["adam"] | {"clip": clip, "ema": 0.9, "ema_start": 0.0}
    parts, state = small_run(optimizer=adam)
    broken = Broken(**dataclasses.asdict(component("objective", "pcd", centered=False)))
    parts = dataclasses.replace(parts, components=dataclasses.replace(parts.components, objective=broken))
    reports = [train_step(parts, state) for _ in range(2)]
    check(state, reports, parts.components.objective)
    reports += [train_step(parts, state) for _ in range(4)]
    with pytest.raises(
        RunError, match=rf"^step 3: the gradient of {parameter} is not finite .*nothing of it was saved"
    ):
        check(state, reports, parts.components.objective)
    assert state.step == 2


def test_energies_that_overflow_leave_the_gradient_finite():
    """Without a penalty on them the weights of the rows are 1/n and -1/m, whatever the energies."""
    model = target("rbm-binary").float()
    with torch.no_grad():
        model.W.fill_(2e38)
    x = torch.ones(3, 2, 2)
    found, metrics = gradients(component("objective", "pcd"), model, x, torch.ones(2, 2, 2))
    assert metrics["energy_data"].isinf()
    assert all(grad.isfinite().all() for grad in found.values()), found


class Overflowed(Likelihood):
    """A loss that is not finite with a gradient that is: saturated units have none."""

    def gradient(self, model, batch, key):
        found = super().gradient(model, batch, key)
        return found._replace(metrics={**found.metrics, "loss": torch.tensor(math.inf)})


def test_a_loss_that_is_not_finite_stops_the_run_too():
    parts, state = small_run()
    overflowed = Overflowed(**dataclasses.asdict(component("objective", "pcd")))
    parts = dataclasses.replace(parts, components=dataclasses.replace(parts.components, objective=overflowed))
    with pytest.raises(RunError, match=r"^step 1: the loss is not finite .*loss inf"):
        check(state, [train_step(parts, state)], parts.components.objective)
    assert state.step == 0


def test_weights_that_are_not_finite_are_named():
    parts, state = small_run()
    objective = parts.components.objective
    check_weights(state, objective)
    with torch.no_grad():
        state.model.c[1] = math.nan
    with pytest.raises(RunError, match=r"^step 0: c are not finite .*more chains.steps$"):
        check_weights(state, objective)
    with pytest.raises(RunError, match=r"lower optimizer.lr, or optimizer.clip=10$"):
        check_weights(state, component("objective", "score_matching"))


def test_negatives_are_the_ends_of_the_chains():
    """One step by hand: draw, move with the key of the step, put back, gradient, update."""
    parts, state = small_run()
    reference = dataclasses.replace(state, model=small_run()[1].model, store=state.store.clone())
    numbers = train_step(parts, state).numbers()
    x = batch(parts.data, 0, 6, 0)
    end, _ = run(parts.components.sampler, reference.model, reference.store, 1, stream(0, "sampler", 0))
    found, expected = gradients(parts.components.objective, reference.model, x, end)
    assert torch.equal(state.store, end)
    assert numbers["loss"] == expected["loss"].item()
    norm = sum(g.square().sum() for g in found.values()).sqrt().item()
    assert numbers["gradient_norm"] == pytest.approx(norm, rel=1e-6)
    rate = parts.components.optimizer.rate(0, 50)
    for name, p in reference.model.named_parameters():
        assert_close(dict(state.model.named_parameters())[name], p - rate * found[name])


@pytest.mark.parametrize("policy", list(shipped("chains")))
def test_no_key_of_training_serves_two_draws(policy, monkeypatch):
    """Across purposes and steps: batches, starts, restarts, kernels."""
    chains = shipped("chains")[policy] | {"steps": 2}
    used = keys_used(monkeypatch)
    parts, state = small_run(chains=chains, sampler=shipped("sampler")["gibbs"])
    for _ in range(6):
        train_step(parts, state)
    assert len(used) >= 12
    assert len(set(used)) == len(used)


@pytest.mark.quick("pcd", "nce", "pseudo_likelihood", "exact")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_raises_the_exact_likelihood(name):
    """300 steps on bars and stripes from a start at the data mean; each objective gains far more than it needs to."""
    chains = {"cd": "data", "pcd": "persistent", "ml_replay": "replay", "cd_replay": "replay_data",
              "short_run": "noise", "exact": "persistent"}  # fmt: skip
    policy = shipped("chains")[chains.get(name, "persistent")] | {"steps": 5}
    policy |= {"size": 50} if "size" in policy else {}
    sgd = shipped("optimizer")["sgd"] | {"lr": 0.3, "schedule": "constant"}
    sgd |= {"clip": 1.0} if component("objective", name).steep else {}
    model = shipped("model")["rbm"] | {"hidden": 3, "weight_std": 0.5}
    parts, state = small_run(chains=policy, objective=shipped("objective")[name], optimizer=sgd, model=model)
    before = enumeration.log_likelihood(state.model, parts.data.train.all()).mean().item()
    for _ in range(300):
        train_step(parts, state)
    after = enumeration.log_likelihood(state.model, parts.data.train.all()).mean().item()
    assert after > before + 0.2


# Pseudo-likelihood


def pseudo_likelihood_gradient(model, x, space):
    """Of -mean sum_i log p(x_i | rest), from the energies of all states, by autograd."""
    log_p = -model.energy(double_states(model))
    terms = [
        log_p[n] - torch.stack([log_p[at(space, n, {site: v})] for v in range(space.values)]).logsumexp(0)
        for n in space.code(x).tolist()
        for site in range(space.sites)
    ]
    loss = -torch.stack(terms).sum() / len(x)
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return dict(zip(names, found, strict=True)), loss.item()


@discrete_models
def test_loss_and_gradient_are_those_of_the_enumerated_conditionals(model_name):
    model = target(model_name)
    x = data_rows(model)
    expected, loss = pseudo_likelihood_gradient(model, x, model.space)
    found, metrics = gradients(component("objective", "pseudo_likelihood"), model, x, None)
    assert metrics["loss"].item() == pytest.approx(loss, rel=1e-12)
    for name, grad in expected.items():
        assert_close(found[name], grad, **EXACT)


def test_sites_drawn_at_random_give_the_whole_sum_on_average():
    """Two of four sites: the mean over all six pairs, which are equally likely, is the gradient of all."""
    model = target("boltzmann-binary")
    x, objective = data_rows(model), component("objective", "pseudo_likelihood", sites=2)
    whole, _ = pseudo_likelihood_gradient(model, x, model.space)
    pairs = {}
    for number in range(200):
        found = objective.gradient(model, Batch(x), stream(number, "objective"))
        pairs[round(found.metrics["loss"].item(), 9)] = found.parameters
    assert len(pairs) == 6
    for name, grad in whole.items():
        assert_close(sum(found[name] for found in pairs.values()) / 6, grad, **EXACT)


@pytest.mark.parametrize("name", ["pcd", "pseudo_likelihood"])
def test_penalties_on_couplings_are_added_to_their_gradient_alone(name):
    model = target("potts-categorical")
    x = data_rows(model)
    plain, _ = gradients(component("objective", name), model, x, x[:3])
    found, _ = gradients(component("objective", name, coupling_l1=0.3, coupling_l2=0.2), model, x, x[:3])
    assert_close(found["J"] - plain["J"], 0.3 * model.J.sign() + 0.4 * model.J, **EXACT)
    assert torch.equal(found["h"], plain["h"])
