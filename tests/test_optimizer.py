"""Optimizers against torch's own classes, and what surrounds them: rates, clipping, averages."""

import dataclasses
import itertools
import math

import pytest
import torch
from helpers.components import component, shipped
from helpers.statistics import assert_close
from helpers.training import batch, gradients, small_run

from ebm_cli import optimizer, registry
from ebm_cli.optimizer import At
from ebm_cli.rng import normal, stream
from ebm_cli.sampler.base import run
from ebm_cli.training.step import train_step

OPTIMIZERS = list(shipped("optimizer"))
TORCH = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
SETTINGS = [
    ("sgd", {}),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9, "nesterov": True}),
    ("sgd", {"weight_decay": 0.1}),
    ("sgd", {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1}),
    ("adam", {}),
    ("adam", {"betas": [0.5, 0.9], "eps": 1e-3, "weight_decay": 0.1}),
    ("adam", {"betas": [0.0, 0.99]}),
    ("adamw", {}),
    ("adamw", {"betas": [0.5, 0.9], "weight_decay": 0.3}),
]


def test_every_optimizer_is_compared():
    assert set(registry.components("optimizer")) == set(TORCH) == {name for name, _ in SETTINGS}


def grads_of(parameters):
    """Gradients by name, of those that have one."""
    return {name: p.grad for name, p in parameters.items() if p.grad is not None}


def new_parameters():
    shapes = {"W": (3, 4), "b": (4,), "c": ()}
    draws = {name: normal(shape, stream(0, name), dtype=torch.float64) for name, shape in shapes.items()}
    return {name: value.requires_grad_() for name, value in draws.items()}


def loss(parameters, step):
    """Curved, different at each step, and with gradients of very different sizes."""
    goal = normal((4,), stream(1, "goal", step), dtype=torch.float64)
    output = parameters["W"].sum(0) * parameters["c"] - goal
    return output.square().sum() + 1e-3 * (parameters["b"] - goal).pow(4).sum()


@pytest.mark.quick(
    "constant-sgd-changes0",
    "constant-adam-changes5",
    "constant-adamw-changes8",
    "cosine-adam-changes7",
    "cosine-sgd-changes4",
)
@pytest.mark.parametrize(("name", "changes"), SETTINGS)
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_updates_are_those_of_torch(name, changes, schedule):
    """100 updates in float64: only rounding may differ."""
    ours = component("optimizer", name, **changes, lr=0.01, schedule=schedule)
    parameters, others = new_parameters(), new_parameters()
    state = ours.init(parameters)
    fields = {key: value for key, value in changes.items() if key != "betas"}
    fields |= {"betas": tuple(changes["betas"])} if "betas" in changes else {}
    fields.setdefault("weight_decay", ours.weight_decay)
    theirs = TORCH[name](others.values(), lr=0.01, **fields)
    for step in range(100):
        rate = ours.rate(step, 100)
        for group in theirs.param_groups:
            group["lr"] = rate
        for p in parameters.values():
            p.grad = None
        loss(parameters, step).backward()
        optimizer.apply(ours, parameters, grads_of(parameters), state, At(step, rate, 0.0))
        theirs.zero_grad()
        loss(others, step).backward()
        theirs.step()
    for key, p in parameters.items():
        assert not torch.equal(p, new_parameters()[key])
        assert_close(p, others[key], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_leaves_alone_what_it_is_told_to(name):
    """One of the parameters as without any decay, the others as with it."""
    found = {}
    for decay, spared in ((0.5, ("c",)), (0.5, ()), (0.0, ())):
        ours, parameters = component("optimizer", name, weight_decay=decay), new_parameters()
        state = ours.init(parameters)
        loss(parameters, 0).backward()
        optimizer.apply(ours, parameters, grads_of(parameters), state, At(0, 0.1, 0.0), spared)
        found[decay, spared] = parameters
    spared, decayed, plain = found.values()
    assert torch.equal(spared["W"], decayed["W"])
    assert not torch.equal(spared["W"], plain["W"])
    assert torch.equal(spared["c"], plain["c"])


@pytest.mark.parametrize(("name", "changes"), SETTINGS)
def test_state_is_plain_named_tensors_there_from_the_start(name, changes):
    """So a checkpoint of step 0 has the same names as one of step 1000."""
    ours = component("optimizer", name, **changes)
    parameters = new_parameters()
    state = ours.init(parameters)
    assert set(state) == {f"{moment}.{key}" for moment in ours.moments() for key in parameters}
    assert all(not value.any() and value.shape == parameters[key.split(".")[1]].shape for key, value in state.items())
    loss(parameters, 0).backward()
    optimizer.apply(ours, parameters, grads_of(parameters), state, At(0, 0.1, 0.0))
    assert all(value.any() and not value.requires_grad for value in state.values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_without_gradient_stays(name):
    ours, parameters = component("optimizer", name), new_parameters()
    state = ours.init(parameters)
    loss(parameters, 0).backward()
    parameters["b"].grad = None
    optimizer.apply(ours, parameters, grads_of(parameters), state, At(0, 0.1, 0.0))
    kept = new_parameters()
    assert torch.equal(parameters["b"], kept["b"])
    assert not torch.equal(parameters["W"], kept["W"])


# Sparse updates

SPARSE_SETTINGS = [
    ("sgd", {}),
    ("sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("adam", {"weight_decay": 0.1}),
    ("adamw", {"weight_decay": 0.1}),
]


def sparse_gradient(step, size=(6, 2)):
    """Of rows 1 and 4, the second of them there twice, in some order."""
    values = normal((3, *size[1:]), stream(3, step), dtype=torch.float64)
    return torch.sparse_coo_tensor(torch.tensor([[4, 1, 4]]), values, size, check_invariants=True)


@pytest.mark.parametrize(("name", "changes"), SPARSE_SETTINGS)
@pytest.mark.parametrize("size", [(6, 2), (6,)])
def test_rows_with_a_gradient_are_updated_and_no_others(name, changes, size):
    """As the dense update has them, while the parameter alone has those rows; bit for bit the same elsewhere."""
    ours = component("optimizer", name, lr=0.1, **changes)
    start = {"W": normal(size, stream(0, "W"), dtype=torch.float64)}
    whole, part = {"W": start["W"].clone()}, {"W": start["W"][[1, 4]].clone()}
    state, state_of_part = ours.init(whole), ours.init(part)
    for step in range(4):
        grad = sparse_gradient(step, size)
        optimizer.apply(ours, whole, {"W": grad}, state, At(step, 0.1, 0.0))
        optimizer.apply(ours, part, {"W": grad.to_dense()[[1, 4]]}, state_of_part, At(step, 0.1, 0.0))
    pairs = [(whole["W"], part["W"]), *((state[key], state_of_part[key]) for key in state)]
    for found, expected in pairs:
        assert_close(found[[1, 4]], expected, rtol=1e-9, atol=1e-12)
    others = [0, 2, 3, 5]
    assert torch.equal(whole["W"][others], start["W"][others])
    assert not any(value[others].any() for value in state.values())


def test_adam_on_rows_is_sparse_adam():
    """That one's eps is not divided by sqrt(1 - beta2^t), which one of 1e-12 does not show."""
    ours = component("optimizer", "adam", lr=0.1, eps=1e-12)
    theirs_p = normal((6, 2), stream(0, "W"), dtype=torch.float64).requires_grad_()
    theirs = torch.optim.SparseAdam([theirs_p], lr=0.1, betas=tuple(ours.betas), eps=1e-12)
    p = {"W": theirs_p.detach().clone()}
    state = ours.init(p)
    for step in range(20):
        grad = sparse_gradient(step)
        optimizer.apply(ours, p, {"W": grad}, state, At(step, 0.1, 0.0))
        theirs_p.grad = grad.clone()
        theirs.step()
    assert_close(p["W"], theirs_p.detach(), rtol=1e-9, atol=1e-12)


def test_norms_and_clipping_of_sparse_gradients():
    """Rows that are there twice count as their sum."""
    grads = {"W": sparse_gradient(0), "b": torch.tensor([3.0, -4.0], dtype=torch.float64)}
    found, dense = optimizer.norms(grads), grads["W"].to_dense()
    assert_close(found, torch.stack([dense.norm(), torch.tensor(5.0, dtype=torch.float64)]), rtol=1e-9, atol=1e-12)
    norm = found.norm()
    half = optimizer.clipped(grads, norm.item() / 2, norm)
    assert half["W"].is_sparse
    assert_close(half["W"].to_dense(), dense / 2, rtol=1e-5)


# Rates


def rates(steps=100, **changes):
    ours = component("optimizer", "sgd", lr=2.0, final_lr=0.5, **changes)
    return [ours.rate(step, steps) for step in range(steps + 1)]


def test_a_constant_rate_is_constant():
    assert set(rates(schedule="constant")) == {2.0}


def test_a_linear_rate_ends_at_its_final_value():
    found = rates(schedule="linear")
    assert (found[0], found[100]) == (2.0, 0.5)
    assert found[50] == pytest.approx(1.25)
    assert found[10] - found[11] == pytest.approx(1.5 / 100)


def test_a_cosine_rate():
    found = rates(schedule="cosine")
    assert (found[0], found[100]) == (2.0, pytest.approx(0.5))
    assert found[50] == pytest.approx(1.25)
    assert found[25] == pytest.approx(0.5 + 1.5 * (1 + math.cos(math.pi / 4)) / 2)
    assert all(a > b for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warmup_rises_linearly_to_the_peak_and_is_never_zero(schedule):
    found = rates(schedule=schedule, warmup=9)
    assert found[:9] == pytest.approx([2.0 * k / 10 for k in range(1, 10)])
    assert found[9] == 2.0
    assert max(found) == 2.0
    assert found[100] == pytest.approx(2.0 if schedule == "constant" else 0.5)


def test_rates_beyond_the_end_and_warmups_beyond_it():
    """A resumed run may go further; a warm-up may be longer than the run."""
    ours = component("optimizer", "sgd", lr=2.0, final_lr=0.5, schedule="linear", warmup=20)
    assert ours.rate(500, 100) == 0.5
    assert ours.rate(5, 10) == pytest.approx(2.0 * 6 / 21)
    assert ours.rate(20, 20) == 2.0


# In the training step


@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_clipping_bounds_the_norm_of_the_whole_gradient(clip):
    """All parameters are scaled by one factor, and not at all where the norm is below the bound."""
    rate = 0.5
    sgd = shipped("optimizer")["sgd"] | {"lr": rate, "schedule": "constant", "clip": clip}
    parts, state = small_run(optimizer=sgd)
    reference = small_run()[1]
    numbers = train_step(parts, state).numbers()
    end, _ = run(parts.components.sampler, reference.model, reference.store, 1, stream(0, "sampler", 0))
    gradient, _ = gradients(parts.components.objective, reference.model, batch(parts.data, 0, 6, 0), end)
    norm = numbers["gradient_norm"]
    scale = min(1.0, clip / norm)
    moved = []
    for name, p in reference.model.named_parameters():
        change = dict(state.model.named_parameters())[name] - p
        # One rounding of weights of size 1 is 6e-8.
        assert_close(change, -rate * scale * gradient[name], rtol=1e-3, atol=1.5e-7)
        moved.append(change.flatten())
    assert torch.cat(moved).norm().item() == pytest.approx(rate * min(clip, norm), rel=1e-3)


@pytest.mark.parametrize(("start", "steps"), [(0.0, 12), (0.4, 50)])
def test_the_average_is_exponential_from_its_start_on(start, steps):
    """Until step ema_start * steps it follows the weights, then theta_ema <- ema theta_ema + (1 - ema) theta."""
    sgd = shipped("optimizer")["sgd"] | {"lr": 0.5, "ema": 0.7, "ema_start": start}
    parts, state = small_run(optimizer=sgd)
    average = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    for step in range(steps):
        train_step(parts, state)
        for name, p in state.model.named_parameters():
            keep = 0.7 if step >= start * 50 else 0.0
            average[name] = keep * average[name] + (1 - keep) * p.detach()
    averaged = dict(state.averaged_model().named_parameters())
    for name, value in average.items():
        assert_close(state.average[name], value, rtol=1e-6, atol=1e-7)
        assert torch.equal(averaged[name], state.average[name])
        assert not torch.equal(averaged[name], dict(state.model.named_parameters())[name])


def test_without_averaging_the_model_itself_is_evaluated():
    _, state = small_run()
    assert state.average == {}
    assert state.averaged_model() is state.model


def test_averaging_does_not_change_training():
    plain = shipped("optimizer")["adam"]
    runs = []
    for config in (plain, plain | {"ema": 0.9, "ema_start": 0.0}):
        parts, state = small_run(optimizer=config)
        for _ in range(5):
            train_step(parts, state)
        runs.append([p.detach() for p in state.model.parameters()])
    assert all(map(torch.equal, *runs))


def test_the_rate_of_the_step_is_the_one_applied():
    """The logged rate is that of the update, and the update shrinks with it."""
    sgd = shipped("optimizer")["sgd"] | {"lr": 0.5, "schedule": "linear", "warmup": 3}
    parts, state = small_run(optimizer=sgd)
    found = [train_step(parts, state).numbers()["learning_rate"] for _ in range(6)]
    assert found == pytest.approx([parts.components.optimizer.rate(step, 50) for step in range(6)])
    still = dataclasses.replace(parts.components.optimizer, lr=1e-30, warmup=0)
    parts = dataclasses.replace(parts, components=dataclasses.replace(parts.components, optimizer=still))
    kept = [p.detach().clone() for p in state.model.parameters()]
    train_step(parts, state)
    assert all(map(torch.equal, kept, state.model.parameters()))


def test_a_pattern_changes_the_rate_of_what_it_matches():
    """Of several patterns the first that fits counts; one that fits nothing is a mistake."""
    names, ones = ["W", "auxiliary.shift", "auxiliary.noise.b"], torch.ones(2)
    rates = [["auxiliary.noise.*", 10.0], ["auxiliary.*", 0.5]]
    how = component("optimizer", "sgd", momentum=0.0, rates=rates)
    parameters = {name: torch.zeros(2) for name in names}
    optimizer.apply(how, parameters, dict.fromkeys(names, ones), how.init(parameters), At(0, 0.1, 0.0))
    assert [p[0].item() for p in parameters.values()] == pytest.approx([-0.1, -0.05, -1.0])
    assert how.refusal(names) is None
    other = component("optimizer", "sgd", rates=[["wrong.*", 2.0]])
    assert "optimizer.rates = wrong.*: no parameter is called so; there are W, auxiliary.shift" in other.refusal(names)
