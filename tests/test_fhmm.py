"""Factorial hidden Markov models: definition, log p(y), forward filtering, backward sampling; their prior as data."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm, facts
from helpers.components import FALSE_ALARM, component
from helpers.matrices import block_gibbs_matrix
from helpers.models import double_states, exact_p, small_model
from helpers.statistics import assert_close, assert_distributed, assert_mean, chi_square

from ebm_cli import rng
from ebm_cli.log_z import enumeration
from ebm_cli.log_z.paths import Tempered
from ebm_cli.model.exponential_family import BernoulliProduct
from ebm_cli.model.fhmm import composed, filtered_logits
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Binary, Spin

TINY = {"rtol": 1e-12, "atol": 1e-12}
START, STAY, NOISE = 0.3, 0.8, 1.5


def fhmm(length, chains, **changes):
    """In float64, numbers that a test can keep apart."""
    settings = {"start": START, "stay": STAY, "noise": NOISE} | changes
    return small_model("fhmm", Binary((length, chains)), **settings)


def log_normal(value, mean, deviation):
    return -(((value - mean) / deviation) ** 2) / 2 - math.log(deviation * math.sqrt(2 * math.pi))


def emission(model, t, state):
    """log p(y_t | x_t)."""
    mean = sum(w * x for w, x in zip(model.W.tolist(), state, strict=True)) + model.b.item()
    return log_normal(model.y[t].item(), mean, NOISE)


def transition(now, following):
    """p(x_(t+1) | x_t) of all chains."""
    return math.prod(STAY if a == b else 1 - STAY for a, b in zip(now, following, strict=True))


def initial(state):
    return math.prod(START if x else 1 - START for x in state)


# The model


@pytest.mark.parametrize("shape", [(4, 2), (1, 3), (3, 1)], ids=str)
def test_energy_is_minus_the_log_of_the_joint_density(shape):
    model = fhmm(*shape)
    for x, energy in zip(double_states(model), model.energy(double_states(model)), strict=True):
        rows = x.tolist()
        log_p = math.log(initial(rows[0])) + sum(emission(model, t, row) for t, row in enumerate(rows))
        log_p += sum(math.log(transition(a, b)) for a, b in itertools.pairwise(rows))
        assert energy.item() == pytest.approx(-log_p, rel=1e-7)  # start, stay and noise are kept in float32


@pytest.mark.parametrize("shape", [(5, 2), (4, 3)], ids=str)
def test_log_z_is_the_log_likelihood_of_the_series(shape):
    """The forward algorithm over all 2^K states of a step (Rabiner 1989)."""
    model = fhmm(*shape)
    states = list(itertools.product((0, 1), repeat=shape[1]))
    alpha = {x: initial(x) * math.exp(emission(model, 0, x)) for x in states}
    for t in range(1, shape[0]):
        alpha = {
            x: math.exp(emission(model, t, x)) * sum(alpha[before] * transition(before, x) for before in states)
            for x in states
        }
    assert enumeration.log_z(model).item() == pytest.approx(math.log(sum(alpha.values())), rel=1e-7)


@pytest.mark.long
def test_the_series_is_drawn_as_said():
    """y - b - x* W for a state x* of the chains that is not kept: its share of ones and its noise show in the moments.

    K chains of one step each: mean of y is b + start sum W, its variance noise^2 + start (1 - start) sum W^2.
    """
    spec = component("model", "fhmm", start=0.3, noise=0.5)
    drawn = [spec.build(Binary((1, 3)), torch.full((1, 3), 0.5), stream(i, "model")) for i in range(2000)]
    W, b, y = (torch.stack([getattr(m, name).detach() for m in drawn]).double() for name in ("W", "b", "y"))
    off = (y - b).squeeze(1) - 0.3 * W.sum(1)
    assert_mean(off, 0)
    assert_mean(off.square() - 0.3 * 0.7 * W.square().sum(1), 0.25)
    assert_mean(W.square().flatten(), 1)
    assert_mean(b.square().flatten(), 1)


def test_annealed_is_the_mixture_up_to_a_constant():
    model = fhmm(3, 2)
    base = BernoulliProduct(model.space, torch.linspace(0.2, 0.7, 6)).double()
    x = double_states(model)
    mixed = Tempered(base, model, 0.3)
    difference = model.mixed(base, 0.7, 0.3).energy(x) - mixed.energy(x)
    assert_close(difference, difference[:1].expand(64), **TINY)
    assert_close(model.mixed(base, 0.7, 0.3).energy_and_grad(x)[1], mixed.energy_and_grad(x)[1], **TINY)
    assert model.energy(x)[0] != mixed.energy(x)[0]


# Forward filtering, backward sampling


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 50])
@pytest.mark.parametrize("coupling", [2.5, -1.0])
def test_filtering_in_rounds_is_filtering_step_by_step(length, coupling):
    logits = 3 * rng.normal((4, length), stream(0, "logits"), dtype=torch.float64)
    found = filtered_logits(logits, torch.tensor(coupling, dtype=torch.float64))
    off = logits.new_tensor(-coupling)
    now = logits[:, 0]
    for t in range(length):
        if t:
            now = torch.logaddexp(now, off) - torch.logaddexp(now + off, torch.zeros_like(off)) + logits[:, t]
        assert_close(found[:, t], now, **TINY)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 50])
def test_composing_in_rounds_is_step_by_step(length):
    maps = rng.uniform((2, 6, length), stream(0, "maps")) < 0.5
    maps[1, :, -1] = maps[0, :, -1]
    found, now = composed(maps), maps[0, :, -1]
    for t in range(length - 1, -1, -1):
        now = maps[now.long(), torch.arange(6), t]
        assert torch.equal(found[:, t], now)


def test_a_single_chain_is_drawn_at_once():
    """With nothing to condition on but y one sweep gives independent draws, wherever it starts."""
    model = fhmm(5, 1, noise=0.7)
    x = model.space.noise(1, stream(0, "start")).double().expand(100_000, 5, 1)
    assert_distributed(model, run(component("sampler", "block_gibbs"), model, x, 1, stream(0, "sweep"))[0])


@pytest.mark.parametrize("backwards", [False, True])
def test_a_sweep_draws_chain_after_chain(backwards):
    """2 steps, 3 chains: the ends of 4000 chains from every state against the product of the blocks' matrices."""
    model, n = fhmm(2, 3), 4000
    sampler = component("sampler", "block_gibbs", backwards=backwards)
    matrix, p = block_gibbs_matrix(sampler, model), exact_p(model)
    assert (p @ matrix - p).abs().max() < 1e-12
    x = double_states(model).repeat_interleave(n, 0)
    y, _ = run(sampler, model, x, 1, stream(3, "sweep"))
    count = torch.bincount(model.space.code(x) * 64 + model.space.code(y), minlength=64**2).reshape(64, 64)
    assert chi_square(count, matrix * n, cells_lost=64) > FALSE_ALARM
    other = block_gibbs_matrix(sampler.reversal(), model)
    assert (p[:, None] * matrix - (p[:, None] * other).T).abs().max() < 1e-14
    assert (matrix - other).abs().max() > 1e-3


@pytest.mark.parametrize("chains", [1, 3])
def test_strong_evidence_and_long_series_are_no_trouble(chains):
    """In float32, where probabilities of 1e-80 are 0: no nan, and nearly every state is that of float64."""
    spec, sampler = component("model", "fhmm", noise=0.01), component("sampler", "block_gibbs")
    model = spec.build(Binary((1000, chains)), torch.full((1000, chains), 0.5), stream(1, "model"))
    start = model.space.noise(20, stream(0))
    single, _ = run(sampler, model, start, 1, stream(2))
    double, _ = run(sampler, model.double(), start.double(), 1, stream(2))
    assert (single != double).float().mean() < 1e-3
    if chains == 1:  # so that the states that made the series are found at once; 1000 residuals: standard error 2 %
        assert model.residuals(double).std().item() == pytest.approx(0.01, rel=0.1)


# The prior as data


def test_chains_have_the_given_probabilities():
    x = rng.markov_chains(3000, (4, 5), START, STAY, stream(0, "chains")).double()
    assert sorted(x.unique().tolist()) == [0, 1]
    assert_mean(x[:, 0].flatten(), START)
    for t in range(3):
        for state in (0, 1):
            here = x[:, t] == state
            assert_mean((x[:, t + 1] == x[:, t])[here], STAY)
    stays = (x[:, 1:] == x[:, :-1]).double().flatten(1)
    assert torch.corrcoef(stays.T).fill_diagonal_(0).abs().max() < 6 / 3000**0.5


def test_the_dataset_is_the_prior():
    spec = component("dataset", "markov_chains", length=3, chains=2, train=50, held_out=20)
    data = spec.load((Binary,))
    assert data.space == Binary((3, 2))
    assert [len(part) for part in (data.train, data.valid, data.test)] == [50, 20, 20]
    assert torch.equal(data.train.all(), spec.load((Binary,)).train.all())
    other = component("dataset", "markov_chains", length=3, chains=2, train=50, held_out=20, seed=1)
    assert not torch.equal(data.train.all(), other.load((Binary,)).train.all())
    assert spec.load((Spin,)).train.all().unique().tolist() == [-1, 1]


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_a_run_keeps_the_series():
    """From the command line; its checkpoint holds y, and sampling from it needs no data."""
    line = ("train dataset=markov_chains dataset.length=6 dataset.chains=2 dataset.train=50 dataset.held_out=20 "
            "model=fhmm evaluation=[exact,ais] evaluation.ais.temperatures=300 tracker=none steps=1 batch_size=10 "
            "hydra.run.dir=run checkpoint.monitor=null eval_every=0")  # fmt: skip
    answer = ebm(line)
    assert answer.code == 0, answer.err
    found = facts(Path("run"), "summary.json")
    assert found["ais/log_z"] == pytest.approx(found["exact/log_z"], abs=0.1)
    assert ebm("sample run=run n=4 steps=3").code == 0
    samples = np.load(next(Path("run/samples").glob("*/samples.npz")))["samples"]
    assert samples.shape == (4, 6, 2)


@pytest.mark.usefixtures("_elsewhere")
def test_what_does_not_fit_is_refused():
    assert_refused(ebm("train model=fhmm dataset=ising_samples dataset.side=3 model.stay=1"), "model.stay = 1")
    answer = ebm("train model=fhmm dataset=array dataset.path=flat.npz")
    assert_refused(answer, "model=fhmm takes data of shape (length, chains), these have (8,); use dataset=")


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    np.savez("flat.npz", train=np.eye(8, dtype=np.uint8))
