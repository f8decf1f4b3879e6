"""`plan` on the host, then `execute` without a question to the device; and the step is that of the formulas."""

import dataclasses

import pytest
import torch
from helpers.components import component, shipped
from helpers.keys import COUNTING, form
from helpers.statistics import assert_close
from helpers.training import batch, gradients, small_run
from torch.utils._python_dispatch import TorchDispatchMode

from ebm_cli import rng
from ebm_cli.objective.likelihood import Likelihood
from ebm_cli.rng import Counter, stream
from ebm_cli.sampler.base import transitions
from ebm_cli.training.plan import plan
from ebm_cli.training.step import execute, train_step

POLICIES = list(shipped("chains"))
ASKS = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2", "unique_dim")


class NoQuestions(TorchDispatchMode):
    """Fails at every operation whose result, or its shape, the host would have to wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ASKS, f"{func} makes the host wait for the device"
        return func(*args, **(kwargs or {}))


def on_meta(value):
    """The same without any data: what asks for a number fails, by whatever way it asks."""
    if isinstance(value, torch.Tensor):
        return value.to("meta")
    if isinstance(value, Counter):
        return Counter(value.words.to("meta"), value.lane)
    if isinstance(value, dict):
        return {key: on_meta(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        entries = [on_meta(entry) for entry in value]
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    return value


def a_run(policy="persistent", sampler="block_gibbs", engine=COUNTING, **changes):
    """The full update: averages, clipping, momentum, the centred gradient, binarisation at each visit."""
    adam = shipped("optimizer")["adam"] | {"clip": 1.0, "ema": 0.9, "ema_start": 0.0}
    parts, state = small_run(
        engine,
        chains=shipped("chains")[policy] | {"steps": 3},
        sampler=shipped("sampler")[sampler],
        optimizer=adam,
        **({"objective": shipped("objective")["pcd"] | {"centered": True, "energy_l2": 0.1}} | changes),
    )
    train = parts.data.train
    stochastic = dataclasses.replace(train, stored=(train.stored * 200).byte(), scale=255.0, stochastic=True)
    return dataclasses.replace(parts, data=dataclasses.replace(parts.data, train=stochastic)), state


def without_data(parts, state):
    """Parts, state and the inputs of one step, all on the meta device."""
    inputs = plan(parts, state)
    parts = dataclasses.replace(parts, data=parts.data.to(torch.device("meta")))
    model, slots = state.model.to("meta"), on_meta(state.optimizer)
    state = dataclasses.replace(
        state, model=model, optimizer=slots, average=on_meta(state.average), store=state.store.to("meta"),
        ages=state.ages.to("meta"),
    )  # fmt: skip
    return parts, state, on_meta(inputs)


CASES = [*((policy, "block_gibbs") for policy in POLICIES), ("persistent", "metropolis")]


@pytest.mark.quick("data-block_gibbs", "persistent-metropolis")
@pytest.mark.parametrize(("policy", "sampler"), CASES)
def test_nothing_in_an_update_waits_for_the_device(policy, sampler):
    """Were there one question in it, every step would wait for all that was queued before it."""
    values = execute(*without_data(*a_run(policy, sampler)))
    assert values.metrics.is_meta
    assert values.norms.shape == (3,)
    assert {"loss", "gradient_norm"} <= set(values.names)
    parts, state = a_run(policy, sampler)
    inputs = plan(parts, state)
    with NoQuestions():
        execute(parts, state, inputs)


class Asking(Likelihood):
    """Looks at its loss."""

    def gradient(self, model, batch, key):
        found = super().gradient(model, batch, key)
        assert found.metrics["loss"].item() < 1e9
        return found


def test_a_question_would_be_found():
    """Otherwise the test above would show nothing."""
    parts, state = a_run()
    asking = Asking(**dataclasses.asdict(parts.components.objective))
    parts = dataclasses.replace(parts, components=dataclasses.replace(parts.components, objective=asking))
    inputs = plan(parts, state)
    with pytest.raises(AssertionError, match="makes the host wait"), NoQuestions():
        execute(parts, state, inputs)
    with pytest.raises(RuntimeError, match="meta"):
        execute(*without_data(parts, state))


def test_with_counters_the_step_is_the_same_one_by_hand():
    """Draw, move with the counters of the step, put back, gradient, update."""
    parts, state = small_run(COUNTING, chains=shipped("chains")["persistent"] | {"steps": 3})
    other = small_run()[1]
    for step in range(3):
        before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
        other.model.load_state_dict(state.model.state_dict())
        start = state.store.clone()
        numbers = train_step(parts, state).numbers()
        keys = [form(COUNTING, stream(0, "sampler", step).fold(i)) for i in range(3)]
        end, _ = transitions(parts.components.sampler, other.model, start, keys)
        found, expected = gradients(parts.components.objective, other.model, batch(parts.data, step, 6, 0), end)
        assert torch.equal(state.store, end)
        assert numbers["loss"] == pytest.approx(expected["loss"].item(), rel=1e-5, abs=1e-6)
        rate = parts.components.optimizer.rate(step, 50)
        for name, p in state.model.named_parameters():
            assert_close(p.detach(), before[name] - rate * found[name])


@pytest.mark.parametrize("optimizer", list(shipped("optimizer")))
def test_a_rate_given_as_a_tensor_is_the_same_rate(optimizer):
    """As compiled regions take it, so that another step needs no other code; the numbers agree to float32."""
    changes = {"clip": 0.5, "ema": 0.9, "ema_start": 0.2, "warmup": 3, "schedule": "cosine"}
    runs = []
    for engine in (small_run()[0].device.engine, COUNTING):
        parts, state = small_run(engine, optimizer=shipped("optimizer")[optimizer] | changes)
        parts = dataclasses.replace(parts, components=dataclasses.replace(parts.components, objective=_Scripted.make()))
        for _ in range(14):
            train_step(parts, state)
        runs.append({**dict(state.model.named_parameters()), **state.average, **state.optimizer})
    for name, value in runs[0].items():
        assert_close(runs[1][name].detach(), value.detach(), rtol=1e-5, atol=1e-6)


class _Scripted(Likelihood):
    """A gradient that follows from the weights alone, so that engines with other random numbers can be compared."""

    def gradient(self, model, batch, key):
        found = super().gradient(model, batch, key)
        script = {name: (3 * p + i).sin().detach() for i, (name, p) in enumerate(model.named_parameters())}
        return found._replace(parameters=script)

    @classmethod
    def make(cls):
        return cls(**dataclasses.asdict(component("objective", "pcd")))


def test_a_step_is_planned_from_seed_and_number_alone():
    """Slots, rows and keys of a step do not depend on what was planned or drawn before."""
    parts, state = a_run("replay")
    first = plan(parts, state)
    state.step = 7
    other = plan(parts, state)
    state.step = 0
    again = plan(parts, state)
    assert torch.equal(first.rows, again.rows)
    assert torch.equal(first.slots, again.slots)
    assert [key.words.tolist() for key in first.sampler] == [key.words.tolist() for key in again.sampler]
    assert not torch.equal(first.slots, other.slots)
    words = [key.words for inputs in (first, other) for key in (inputs.binarize, inputs.chains, *inputs.sampler)]
    assert len({tuple(rng.uniform((4,), Counter(w)).tolist()) for w in words}) == len(words)
