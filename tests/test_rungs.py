"""Chains of training that exchange with those at earlier models of the run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm, train, trained
from helpers.components import component
from helpers.data import small_data
from helpers.models import small_model
from helpers.samplers import SAMPLERS
from safetensors.torch import load_file
from test_resume import Killed, at_step, die

from ebm_cli.device.base import CPU
from ebm_cli.errors import UserError
from ebm_cli.log_z import enumeration
from ebm_cli.rng import stream
from ebm_cli.space import Binary
from ebm_cli.training.rungs import Ladder
from ebm_cli.training.state import Components, Loop, Parts, TrainState

SPACE = Binary((2, 2))
LINE = "chains=trajectory chains.acceptance=0.9 optimizer.lr=0.5 steps=30 save_every=0 log_every=1 evaluation=[samples]"


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def state_of(model, n=20_000, **rungs):
    store = enumeration.sample(model, n, stream(1, "chains"))
    return TrainState(1, model, {}, {}, store, torch.zeros(n, dtype=torch.int64), rungs=rungs)


def parts_of(**keys):
    policy = component("chains", "trajectory", count=20_000, steps=1, **keys)
    components = Components(None, None, SAMPLERS["block_gibbs"], policy, None, None, None)
    return Parts(Loop(steps=10, batch_size=10, seed=0), CPU, small_data(SPACE), components)


def law(model):
    states = torch.tensor([[int(bit) for bit in f"{i:04b}"] for i in range(16)]).float().reshape(16, 2, 2)
    return (-model.energy(states).double()).softmax(0)


def share(x):
    place = (x.flatten(1) @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
    return torch.bincount(place, minlength=16) / len(x)


def test_the_model_becomes_a_rung_where_exchanges_are_few():
    """With its parameters and its chains, which both keep their laws while the model moves on."""
    first, second = (small_model("rbm", SPACE, seed).float() for seed in (1, 2))
    state = state_of(first)
    ladder = Ladder(parts_of(acceptance=0.999, rungs=2), state)
    ladder.follow()
    assert ladder.found["rungs/count"] == 1
    assert torch.equal(state.rungs["0.chains"], state.store)
    kept = {name: value.clone() for name, value in first.state_dict().items()}
    assert all(torch.equal(state.rungs[f"0.{name}"], value) for name, value in kept.items())
    gain, before = law(second).log() - law(first).log(), state.store.clone()
    exact = (law(first)[:, None] * law(second) * (gain[:, None] - gain).clamp_max(0).exp()).sum().item()
    first.load_state_dict(second.state_dict())
    state.store, state.step = enumeration.sample(second, 20_000, stream(2, "chains")), 2
    ladder.follow()
    assert ladder.found["rungs/acceptance"] == pytest.approx(exact, abs=0.015)
    assert all(torch.equal(state.rungs[f"0.{name}"], value) for name, value in kept.items())
    assert not torch.equal(state.rungs["0.chains"], before)
    for model, x in ((second, state.store), (ladder.models[0], state.rungs["0.chains"])):
        p = law(model)
        assert (share(x) - p).abs().max() < 5 * (p * (1 - p) / len(x)).sqrt().max()
    state.step = 3
    ladder.follow()
    assert len(ladder.models) == 2  # no more than chains.rungs


def test_there_are_no_rungs_while_exchanges_are_many():
    state = state_of(small_model("rbm", SPACE, 1).float())
    ladder = Ladder(parts_of(acceptance=0.01, rungs=2), state)
    ladder.follow()
    assert ladder.found["rungs/count"] == 0
    assert state.rungs == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"1.chains": torch.zeros(3, 2, 2)}, "do not follow each other"),
        ({"0.chains": torch.zeros(3, 2, 2)}, "are not (20000, 2, 2) in the binary space"),
        ({"0.b": torch.zeros(3)}, "b is (3,)"),
    ],
)
def test_a_checkpoint_of_other_rungs_is_refused(change, said):
    state = state_of(small_model("rbm", SPACE, 1).float())
    rung = {f"0.{name}": value for name, value in {**state.model.state_dict(), "chains": state.store}.items()}
    if "1.chains" in change:
        rung = {}
    state.rungs = rung | change
    with pytest.raises(UserError) as caught:
        Ladder(parts_of(), state)
    assert said in str(caught.value)


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_a_resumed_run_has_its_rungs(monkeypatch):
    trained(LINE, "whole")
    with monkeypatch.context() as patch:
        at_step(patch, 20, die)
        with pytest.raises(Killed):
            train(f"{LINE} save_every=8", "parts")
    assert ebm("train resume=parts").code == 0
    found = [load_file(Path(run) / "checkpoints/step-00000030/state.safetensors") for run in ("whole", "parts")]
    assert found[0].keys() == found[1].keys()
    assert "rungs.0.chains" in found[0]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("model=gaussian_rbm dataset=points_2d", "chains=trajectory: model=gaussian_rbm takes"),
        ("sampler=parallel_tempering", "has replicas of its own"),
        ("objective=pseudo_likelihood", "objective=pseudo_likelihood has no use for chains"),
    ],
)
def test_what_they_do_not_fit_is_refused(keys, said):
    assert_refused(train(f"chains=trajectory steps=2 {keys}"), said)


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_chains_have_the_share_of_both_clusters():
    """All 0 or all 1 up to 5 % of flips, 60 : 40; chains of plain PCD stay where they are, whatever the model says."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.random((2000, 1)) < 0.6, 60, 1) ^ (rng.random((2000, 60)) < 0.05)
    np.savez("two.npz", train=x[:1500].astype(np.uint8), test=x[1500:].astype(np.uint8))
    z = {}
    for chains in ("trajectory", "trajectory chains.reservoir=5 chains.least=0.1", "persistent"):
        keys = "dataset=array dataset.path=two.npz model.hidden=4 steps=500 save_every=0 chains.count=200"
        line = f"{keys} chains={chains} running=none checkpoint.monitor=null batch_size=100"
        run = trained(line, f"run-{len(z)}")
        exact, found = shares(run)
        z[chains] = abs(found - exact) / (exact * (1 - exact) / 200 + 1e-6) ** 0.5
    assert z.pop("persistent") > 10
    assert max(z.values()) < 3


def shares(run):
    """Of rows with more ones than zeros, by the model with 4 hidden units and among its chains, by their weights."""
    (step,) = sorted((Path(run) / "checkpoints").iterdir())[-1:]
    tensors = load_file(step / "state.safetensors")
    h = torch.tensor([[int(bit) for bit in f"{i:04b}"] for i in range(16)]).double()
    W, b, c = (tensors[f"model.{name}"].double() for name in "Wbc")
    logits = h @ W.T + b
    p = (h @ c + torch.nn.functional.softplus(logits).sum(1)).softmax(0)
    ones, log_w = (tensors["chains"].mean(1) > 0.5).double(), tensors.get("weighted.log_w", torch.zeros(1))
    weight = log_w.double().softmax(0).expand(len(ones)) / (1 if len(log_w) > 1 else len(ones))
    return (p @ (logits.sigmoid().mean(1) > 0.5).double()).item(), (weight @ ones).item()
