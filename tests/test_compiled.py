"""Compiled regions give what the same code gives operation by operation. Each shape takes seconds to compile."""

import os
import shutil

import pytest
import torch
from helpers.components import FALSE_ALARM, SIGMAS, shipped
from helpers.keys import COUNTING, form
from helpers.models import double_states, exact_p, target
from helpers.samplers import SAMPLERS
from helpers.statistics import assert_close, assert_distributed, assert_mean, chi_square
from helpers.training import batch, small_run
from test_ais import annealed_p, bipartite, log_z_of

from ebm_cli import optimizer, philox, rng
from ebm_cli.acceleration import arithmetic
from ebm_cli.device.base import Device
from ebm_cli.device.engine import Engine
from ebm_cli.evaluation import ais
from ebm_cli.log_z import enumeration
from ebm_cli.objective.base import Batch
from ebm_cli.optimizer import At
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run, transitions
from ebm_cli.space import Binary
from ebm_cli.training.step import check, train_step

COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
pytestmark = pytest.mark.skipif(not COMPILER, reason="no C++ compiler here: nothing can be compiled")


@pytest.fixture
def engine():
    """One that has forgotten all it compiled, and that is forgotten afterwards."""
    yield Engine(compiled=True)
    torch._dynamo.reset()


ROWS = 21


def logits(columns):
    return torch.linspace(-5, 5, ROWS * columns).reshape(ROWS, columns)


# What draws, and the largest error, relative and absolute. Near 0 a normal number has the absolute error of the
# cosine's argument, 2 pi to 24 bits; words and what only shifts and scales them are the same bits.
DRAWS = {
    "words": (lambda key: philox.words(ROWS, 6, key.words, key.lane), 0, 0),
    "uniform": (lambda key: rng.uniform((ROWS, 6), key), 0, 0),
    "uniform64": (lambda key: rng.uniform((ROWS, 3), key, dtype=torch.float64), 0, 0),
    "integers": (lambda key: rng.integers(1000, (ROWS, 3), key), 0, 0),
    "normal": (lambda key: rng.normal((ROWS, 5), key), 1e-6, 3e-6),
    "normal64": (lambda key: rng.normal((ROWS, 5), key, dtype=torch.float64), 1e-12, 1e-14),
    "bernoulli": (lambda key: rng.bernoulli(logits(6), key), 0, 0),
    "bernoulli64": (lambda key: rng.bernoulli(logits(6).double(), key), 0, 0),
    "categorical": (lambda key: rng.categorical(logits(4), key), 0, 0),
}
TOGETHER = [("words", "uniform", "uniform64")]
LONG = [("bernoulli", "normal"), ("categorical", "integers"), ("normal64", "bernoulli64")]
GROUPS = [*TOGETHER, *(pytest.param(names, marks=pytest.mark.long) for names in LONG)]


@pytest.mark.long
@pytest.mark.parametrize("names", GROUPS, ids=lambda names: "-".join(names[:2]))
def test_draws_are_the_same_numbers(names, engine):
    """In one region or apart, from any row; a bernoulli number only where its uniform one is not at the threshold."""

    def draws(key):
        return [DRAWS[name][0](key) for name in names]

    for key in (stream(0, "draws"), stream(1, "draws").at_row(7), stream(2, "draws").at_row(2**31)):
        counter = form(engine, key).fold("lane")
        distance = (rng.uniform((ROWS, 6), counter) - logits(6).sigmoid()).abs()
        assert (distance > 1e-6).float().mean() > 0.99
        for name, found, expected in zip(names, engine.region(draws)(counter), draws(counter), strict=True):
            assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
            if name.startswith("bernoulli"):
                found, expected = found[distance > 1e-6], expected[distance > 1e-6]
            assert_close(found, expected, *DRAWS[name][1:])


def plain_update(parts, plain, x, x_neg, step):
    """One update of the state `plain` from given rows, operation by operation; what a step reports of it."""
    components, named = parts.components, dict(plain.model.named_parameters())
    how, steps = components.optimizer, parts.loop.steps
    found = components.objective.gradient(plain.model, Batch(x, x_neg), stream(0, "objective", step))
    direction = components.objective.finish(plain.model, found)
    norm = torch.linalg.vector_norm(optimizer.norms(direction))
    at = At(step, how.rate(step, steps), how.averaging(step, steps))
    optimizer.apply(how, named, optimizer.clipped(direction, how.clip, norm), plain.optimizer, at)
    optimizer.average(plain.average, named, at.keep)
    return {**found.metrics, "gradient_norm": norm}


@pytest.mark.long
def test_training_steps_are_those_of_the_plain_code(engine):
    """Chains, metrics and the whole update at each of 6 steps, of which all but the first need no further code."""
    adam = shipped("optimizer")["adam"] | {"clip": 0.5, "ema": 0.9, "ema_start": 0.05, "warmup": 2}
    changes = {"optimizer": adam | {"schedule": "cosine"}, "chains": shipped("chains")["persistent"] | {"steps": 2}}
    changes["objective"] = shipped("objective")["pcd"] | {"centered": True, "energy_l2": 0.05}
    (parts, state), (_, plain) = small_run(engine, **changes), small_run(**changes)
    reports = []
    for step in range(6):
        plain.load(step, {name: value.clone() for name, value in state.tensors().items()})
        start = state.store.clone()
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            reports.append(train_step(parts, state))
        keys = COUNTING.keys([stream(0, "sampler", step).fold(i) for i in range(2)], "cpu")
        end, _ = transitions(parts.components.sampler, plain.model, start, keys)
        assert torch.equal(state.store, end), "other chains"
        expected = plain_update(parts, plain, batch(parts.data, step, parts.loop.batch_size, 0), end, step)
        numbers = reports[-1].numbers()
        assert {name: numbers[name] for name in expected} == pytest.approx(
            {name: value.item() for name, value in expected.items()}, rel=1e-4, abs=1e-5
        )
        plain.store, plain.ages = end, plain.ages + 2
        for name, value in plain.tensors().items():
            assert_close(state.tensors()[name].detach(), value.detach(), rtol=1e-4, atol=1e-5)
    check(state, reports, parts.components.objective)


KERNELS = [
    ("block_gibbs", "rbm-binary", ()),
    ("gwg-2", "rbm-binary", pytest.mark.long),
    ("gibbs_langevin", "gaussian_rbm-real", pytest.mark.long),
]


@pytest.mark.long
@pytest.mark.parametrize(("name", "model_name"), [pytest.param(s, t, marks=marks) for s, t, marks in KERNELS])
def test_kernels_leave_the_target_invariant(name, model_name, engine):
    """Exact draws are still exact draws after three steps, which are those of the plain code but for rounding."""
    model, n = target(model_name), 100_000
    x = enumeration.sample(model, n, stream(0, "start")).float()
    y, _ = run(SAMPLERS[name], model.float(), x, 3, stream(0, "kernel"), engine)
    z, _ = run(SAMPLERS[name], model, x, 3, stream(0, "kernel"), COUNTING)
    same = ((y - z).abs() < 1e-5).flatten(1).all(1)
    assert same.float().mean() > 1 - 1e-4, "a draw close to its threshold may fall to the other side, not more"
    assert_distributed(model, y)


@pytest.mark.long
def test_ais_weights_have_mean_z(engine):
    """And the temperature is a number in the region, not part of its code."""
    path = bipartite("rbm-binary", 2.5)
    log_w, end = ais.forward(path, 20_000, 6, stream(0, "forward"), engine)
    plain, plain_end = ais.forward(path, 20_000, 6, stream(0, "forward"), COUNTING)
    assert_mean((log_w - (log_z_of(path) - path.log_z_base)).exp(), 1.0)
    same = (end == plain_end).flatten(1).all(1)
    assert same.float().mean() > 1 - 1e-4
    assert ((log_w - plain)[same].abs() < 1e-4).float().mean() > 1 - 1e-4
    with torch._dynamo.config.patch(error_on_recompile=True):
        ais.forward(path, 20_000, 3, stream(1, "forward"), engine)


@pytest.mark.long
def test_raise_weights_have_the_annealed_probability_as_mean(engine):
    path, n = bipartite("rbm-binary", 2.5), 8000
    x = double_states(path.model)
    log_w = ais.reverse_log_p(path, x.repeat_interleave(n, 0), 1, 3, stream(0, "reverse"), engine)
    w = log_w.exp().reshape(len(x), n)
    assert ((w.mean(1) - annealed_p(path, 3)).abs() < SIGMAS * w.std(1) / n**0.5 + 1e-12).all()


PRECISIONS = ("bf16", "fixed24")


@pytest.mark.long
@pytest.mark.parametrize(
    "precision", [pytest.param(name, marks=[pytest.mark.long] * (name != "fixed24")) for name in PRECISIONS]
)
def test_chains_of_low_precision_leave_their_own_target_invariant(precision, engine):
    """The target is the stationary law of the rounded conditionals, enumerated: p(h | v) p(v' | h) as matrices."""
    device = Device(torch.device("cpu"), "CPU", precision, engine)
    model = target("rbm-binary").float()
    with torch.no_grad():
        model.W.mul_(3).add_(0.0123)
        model.c.add_(1.017)
    chain, n = arithmetic(model, device), 200_000
    v, h = (Binary((size,)).enumerate() for size in (model.space.sites, model.hidden))
    with torch.no_grad(), device.chain_precision():
        given_v, given_h = chain.hidden_logits(v.reshape(-1, *model.space.shape)), chain.visible_logits(h)
    step = probability(given_v.double(), h.double()) @ probability(given_h.double(), v.double())
    law = torch.linalg.matrix_power(step, 2**14)[0]
    assert_close(law @ step, law, rtol=1e-9, atol=1e-12)
    index = rng.categorical(law.log().expand(n, -1), stream(0, "start"))
    with device.chain_precision():
        y, _ = run(SAMPLERS["block_gibbs"], chain, v[index].reshape(n, *model.space.shape), 2, stream(3), engine)
    count = torch.bincount(model.space.code(y), minlength=len(law))
    assert chi_square(count, law * n) > FALSE_ALARM
    off = (law - exact_p(model)).abs().max()
    assert (off > 1e-4) == (precision == "bf16"), "7-bit products move the law, 16 and 24 bits do not"


def probability(logits, x):
    """prod_i p(x_i) of independent units with these logits, (rows, configurations)."""
    return (torch.nn.functional.logsigmoid(logits) @ x.T + torch.nn.functional.logsigmoid(-logits) @ (1 - x).T).exp()


@pytest.mark.long
def test_an_exact_gradient_is_not_compiled():
    """It is made by automatic differentiation, which no region can hold; the run works all the same."""
    objective = shipped("objective")["exact"]
    values = []
    for compiled in (False, True):
        parts, state = small_run(Engine(compiled=compiled), objective=objective)
        reports = [train_step(parts, state) for _ in range(3)]
        check(state, reports, parts.components.objective)
        values.append(reports[-1].values.metrics)
    assert_close(values[1], values[0], rtol=1e-4, atol=1e-4)
