"""Steps of many transitions, each a library: what they come to is what the same code does operation by operation."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers.cli import TINY, ebm, outcome, train
from helpers.libraries import uncompiled
from helpers.statistics import assert_close
from test_compiled import COMPILER
from test_whole_step import run_of

from ebm_cli.device.engine import EAGER
from ebm_cli.training import long_step, whole_step
from ebm_cli.training.plan import plan
from ebm_cli.training.step import execute

MANY = {"steps": 6}
STEPS = {
    "blocks": {},
    "gwg": {"sampler": "gwg", "model": "ising"},
    "letters": {"sampler": "gwg", "model": "potts"},
    "paths": {"sampler": {"name": "hamming_ball", "block": 3}},
    "jumps": {"sampler": "dmala"},
    "gradients": {"model": "gaussian_rbm", "sampler": "hmc", "dataset": "points_2d"},
    "averaged weights": {"optimizer": {"name": "adam", "clip": 0.1, "ema": 0.9}},
    "replay": {"chains": {"name": "replay", "steps": 6, "size": 30}},
    "both kinds of units": {"model": "gaussian_rbm", "sampler": "gibbs_langevin", "dataset": "points_2d"},
}


@pytest.fixture
def made(monkeypatch):
    return uncompiled(monkeypatch)


@pytest.mark.parametrize(
    "changes",
    [pytest.param(found, id=name, marks=[] if name == "blocks" else pytest.mark.long) for name, found in STEPS.items()],
)
def test_a_step_by_libraries_is_the_step(changes, made):
    """Of two one after the other, the model another at the second: chains and weights to the bit."""
    changes = {"chains": MANY, **changes}
    (parts, state), (_, other) = run_of(**changes), run_of(**changes)
    assert whole_step.refusal(parts, state, 10**6) == "more than 4 transitions a step are regions of their own"
    assert long_step.refusal(parts, state) is None
    how = long_step.execution(parts, state)
    for step in range(2):
        state.step = other.step = step
        inputs = plan(parts, state)
        values, expected = how.execute(parts, state, how.plan(parts, state)), execute(parts, other, inputs)
        assert values.names == expected.names
        assert_close(values.metrics, expected.metrics, rtol=1e-5, atol=1e-5)
        assert torch.equal(state.store, other.store)
        for name, tensor in state.tensors().items():
            assert_close(tensor.detach(), other.tensors()[name].detach(), rtol=1e-5, atol=1e-6)
    assert len(made.identities) == 2, "one library for all transitions of all steps, one for all updates"
    assert len(made.calls) == 2 * (MANY["steps"] + 1)


def test_where_transitions_cannot_be_libraries_is_known():
    for changes, why in [
        ({}, "up to 4 transitions are part of the step"),
        ({"chains": {"steps": 1, "final_steps": 9}}, "up to 4 transitions"),
        ({"sampler": "gibbs", "chains": MANY}, "this sampler is not compiled"),
        ({"objective": "nce"}, "moves no chains"),
        ({"objective": "exact", "chains": MANY}, "moves no chains"),
    ]:
        assert why in long_step.refusal(*run_of(EAGER, **changes))
    parts, state = run_of(EAGER, chains=MANY)
    two = replace(parts, device=replace(parts.device, ranks=SimpleNamespace(count=2)))
    assert "ranks" in long_step.refusal(two, state)
    there = replace(parts, device=replace(parts.device, torch=torch.device("cuda")))
    assert "GPU" in long_step.refusal(there, state)


@pytest.mark.long
def test_a_run_says_that_its_transitions_are_compiled_and_what_it_is(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = train("chains.steps=6 sampler=gwg device.compile=ahead steps=5", "run")
    assert answer.code == 0, answer.err
    assert "training steps, or their transitions, and annealing compiled" in answer.err
    for what in ("a transition of the chains", "the update of the weights"):
        assert answer.err.count(f"compiling {what}") == 1
    assert len(made.calls) == 5 * (6 + 1)
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["device"]["compile"] == "ahead"


@pytest.mark.long
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler here: nothing can be compiled")
def test_compiled_a_run_is_resumed_to_the_bit_and_is_that_of_a_stack(tmp_path, monkeypatch):
    """Alone and beside others, for each calls its own library."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # A look at how training goes is due at the last step of a run, also where it is then made longer.
    line = (
        "chains.steps=6 sampler=gwg optimizer.schedule=constant steps=20 save_every=10 device.compile=ahead health=none"
    )
    assert train(line, "whole").code == 0
    assert train(f"{line} steps=10", "half").code == 0
    assert ebm("train resume=half steps=20").code == 0
    assert outcome(tmp_path / "half") == outcome(tmp_path / "whole")
    words = line.replace("device.compile=ahead", "").split()
    sweep = ["hydra/launcher=stacked", "hydra.launcher.processes=1", "hydra.sweep.dir=sweep", "seed=0,1"]
    assert ebm("train -m", *TINY, *words, *sweep, "device.compile=auto").code == 0
    assert outcome(tmp_path / "sweep/0") == outcome(tmp_path / "whole")
