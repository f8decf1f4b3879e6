"""The same promises on a CUDA device. Skipped, and said to be skipped, where there is none."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.cli import TINY, ebm, facts, outcome
from helpers.components import FALSE_ALARM, component, shipped
from helpers.models import small_model
from helpers.statistics import chi_square
from helpers.training import small_run

from ebm_cli import philox, rng
from ebm_cli.dataset.base import Split
from ebm_cli.device.engine import Engine
from ebm_cli.device.replay import Graphs
from ebm_cli.log_z import enumeration
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Binary, Box, Spin
from ebm_cli.training.cuda_graph import execution
from ebm_cli.training.step import PLAIN, execute, train_step

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]
CUDA = "cuda"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_draws_are_functions_of_their_key():
    key = stream(0, "gpu")
    for draw in (rng.uniform, rng.normal):
        first, again, other = draw((1000,), key, CUDA), draw((1000,), key, CUDA), draw((1000,), key.fold(1), CUDA)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    assert abs(rng.uniform((1_000_000,), key, CUDA).mean().item() - 0.5) < 5 * (1 / 12 / 1e6) ** 0.5


@pytest.mark.parametrize(("sampler", "model"), [("block_gibbs", "rbm"), ("gibbs", "boltzmann"), ("metropolis", "rbm")])
def test_kernels_leave_the_target_invariant(sampler, model):
    """200 000 exact draws, three steps, chi-square."""
    target = small_model(model, Binary((2, 2))).float().to(CUDA)
    p, n = enumeration.probabilities(target).detach(), 200_000
    x = enumeration.sample(target, n, stream(0, "draws"))
    end, _ = run(component("sampler", sampler), target, x, 3, stream(0, "steps"))
    count = torch.bincount(target.space.code(end), minlength=len(p)).cpu()
    assert chi_square(count, p.double().cpu() * n) > FALSE_ALARM


def test_counters_draw_on_a_gpu_what_they_draw_on_a_cpu():
    """Words and uniform numbers to the bit, compiled or not: one text for both."""
    keys = [stream(0, "both"), stream(1, "both").at_row(5)]
    for key, here, there in zip(keys, rng.counters(keys), rng.counters(keys, CUDA), strict=True):
        expected = rng.uniform((300, 7), rng.Counter(here))
        assert torch.equal(rng.uniform((300, 7), rng.Counter(there), CUDA).cpu(), expected)
        assert torch.equal(rng.uniform((300, 7), key, CUDA).cpu(), expected)
        draw = Engine(compiled=True).region(lambda words: rng.uniform((300, 7), rng.Counter(words), CUDA))
        assert torch.equal(draw(there).cpu(), expected)


@pytest.mark.parametrize(("rows", "count", "row"), [(1, 1, 0), (9, 5, 3), (300, 7, 2), (5, 4097, 10**9), (0, 5, 0)])
def test_one_kernel_draws_what_the_tensor_operations_draw(rows, count, row):
    philox_triton = pytest.importorskip("ebm_cli.philox_triton")
    key = rng.counters([stream(3, "kernel").at_row(row)], CUDA)[0]
    assert torch.equal(philox_triton.words(rows, count, key), philox.words(rows, count, key, 0))


@pytest.mark.parametrize("random", [{"stochastic": True}, {"levels": 16}, {"noise": 0.1}], ids=str)
def test_rows_of_which_a_part_is_drawn_once_are_the_same_on_any_device(random):
    space = Binary((4,)) if "stochastic" in random else Box((4,), 0.0, 1.0)
    stored = torch.arange(40, dtype=torch.uint8).reshape(10, 4)
    here = Split(space, stored, 40.0, **{"stochastic": False, "labels": None} | random)
    there = replace(here, stored=stored.to(CUDA))
    assert here.fingerprint == there.fingerprint
    assert torch.equal(here.fixed(torch.tensor([3, 7])), there.fixed(torch.tensor([3, 7], device=CUDA)).cpu())


@pytest.mark.parametrize(
    ("sampler", "model"),
    [("block_gibbs", "rbm"), ("gwg", "rbm"), ("dmala", "ising"), ("langevin", "mlp"), ("hmc", "mlp")],
)
def test_chains_replayed_as_graphs_are_the_chains(sampler, model):
    """To the bit, also where the model's numbers have changed since the graph was made."""
    space = Box((4,), 0.0, 1.0) if model == "mlp" else Spin((2, 2)) if model == "ising" else Binary((2, 2))
    target, kernel, found = small_model(model, space).float().to(CUDA), component("sampler", sampler), []
    start, numbers = space.noise(6, stream(0, "x"), CUDA), [p.detach().clone() for p in target.parameters()]
    engines = Engine(compiled=True), Graphs(2**62)
    for engine in engines:
        found.append([])
        for times in (1.0, 0.5):
            for own, was in zip(target.parameters(), numbers, strict=True):
                own.data.copy_(was * times)
            found[-1] += [run(kernel, target, start, 60, stream(0, "steps"), engine)]
    assert next(iter(engines[1]._repeated.values())).graphs
    for (x, said), (y, again) in zip(*found, strict=True):
        assert torch.equal(x, y)
        assert all(torch.equal(said[name], again[name]) for name in said)
    assert not torch.equal(found[0][0][0], found[0][1][0])


def test_what_a_graph_returned_lasts():
    """Later replays do not change it, and what only passes through is what was given."""

    def step(fixed, state, key):
        return (state[0] + fixed * rng.uniform((3, 2), key, CUDA), state[1]), {"sum": state[0].sum(1)}

    fixed, engine = torch.ones(2, device=CUDA), Graphs(2**62)
    state = torch.zeros(3, 2, device=CUDA), torch.ones(4, device=CUDA)
    coupling, kept, expected = state[1], [], []
    for key in engine.keys([stream(0, "last").fold(i) for i in range(50)], CUDA):
        expected.append(state[0].sum(1).clone())
        state, said = engine.repeated(step)(fixed, state, key)
        kept.append(said["sum"])
    assert all(map(torch.equal, kept, expected))
    assert state[1] is coupling


@pytest.mark.parametrize("chains", ["persistent", "replay", "data"])
def test_steps_replayed_as_a_graph_are_the_steps(chains):
    policy = shipped("chains")[chains] | {"steps": 2} | ({"size": 12} if chains == "replay" else {})
    runs = []
    for graphed in (False, True):
        parts, state = small_run(Engine(compiled=True), CUDA, chains=policy, optimizer=shipped("optimizer")["adam"])
        how, said = execution(parts, state) if graphed else (PLAIN, None)
        assert said is None
        assert (how.execute is not execute) == graphed
        numbers = [train_step(parts, state, how).numbers() for _ in range(10)]
        runs.append((numbers, {name: value.clone() for name, value in state.tensors().items()}))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(runs[0][1][name], runs[1][1][name]) for name in runs[0][1])


def test_a_run_resumes_bit_for_bit():
    words = ["train", *TINY, "device=cuda", "save_every=4"]
    assert ebm(*words, "hydra.run.dir=whole").code == 0
    assert ebm(*words, "hydra.run.dir=run", "steps=8", "optimizer.schedule=constant").code == 0
    assert ebm(*words, "hydra.run.dir=straight", "optimizer.schedule=constant").code == 0
    assert ebm("train", "resume=run", "steps=12").code == 0
    assert outcome(Path("run")) == outcome(Path("straight"))


def test_ais_on_the_device_agrees_with_enumeration():
    words = ["model.hidden=8", "steps=500", "evaluation=[exact,ais,chains,samples,pseudo_likelihood]"]
    assert ebm("train", "tracker=none", "device=cuda", "hydra.run.dir=run", *words).code == 0
    found = facts(Path("run"), "summary.json")
    assert found["ais/log_likelihood"] == pytest.approx(found["exact/log_likelihood"], abs=0.1)
