"""Step sizes found in a warm-up."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers.components import component
from helpers.data import small_data
from helpers.models import target

from ebm_cli.cli.main import dispatch
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.samples import draw
from ebm_cli.rng import stream
from ebm_cli.sampler.adaptation import Adapting, adapted, adapts
from ebm_cli.sampler.base import run
from ebm_cli.space import Binary, Real

CASES = [("metropolis", "exponential_family-real"), ("dmala", "rbm-binary"), ("dmala", "potts-categorical")]


def acceptance(sampler, model, x):
    return run(sampler, model, x, 200, stream(0, "check"))[1]["acceptance"].mean().item()


GOALS = [(0.01, 0.574), (30.0, 0.574), (0.5, 0.8)]
QUICK = {(CASES[0], GOALS[0]), (CASES[1], GOALS[1]), (CASES[2], GOALS[2])}


@pytest.mark.quick("metropolis*")
@pytest.mark.parametrize(
    ("name", "model_name", "begin", "goal"),
    [
        pytest.param(*case, *goal, marks=[] if (case, goal) in QUICK else pytest.mark.long)
        for case in CASES
        for goal in GOALS
    ],
)
def test_finds_the_step_size_of_the_acceptance(name, model_name, begin, goal):
    """From far too small, far too large: what is measured afterwards, at the step size that stays, is the goal."""
    model = target(model_name)
    sampler = component("sampler", name, step_size=begin, adapt=goal)
    x = model.space.noise(500, stream(0, "noise")).double()
    found, end = adapted(sampler, model, x, 500, stream(0, "adapt"))
    assert dataclasses.replace(found, step_size=begin) == sampler
    assert not torch.equal(x, end)
    if name == "dmala" and goal < acceptance(dataclasses.replace(found, step_size=1e6), model, end):
        return  # however large the step, more than that are accepted
    assert acceptance(found, model, end) == pytest.approx(goal, abs=0.02)


def test_only_what_says_so_adapts():
    assert [adapts(component("sampler", "dmala", adapt=adapt)) for adapt in (None, 0.5)] == [False, True]
    assert not adapts(component("sampler", "gwg"))
    assert not isinstance(component("sampler", "gwg"), Adapting)


@pytest.mark.parametrize(
    ("sampler", "space", "word"),
    [
        (("metropolis", {}), Binary((4,)), "no step_size"),
        (("dula", {}), Binary((4,)), "unadjusted"),
    ],
)
def test_what_has_no_scale_or_no_acceptance_is_refused(sampler, space, word):
    name, keys = sampler
    found = component("sampler", name, adapt=0.5, **keys).refusal(space)
    assert word in str(found)
    assert "sampler.adapt" in str(found)
    assert component("sampler", "metropolis", adapt=0.5).refusal(Real((2,))) is None


def test_the_second_half_of_the_steps_is_a_kernel():
    """`draw` warms up and then runs the frozen sampler: the same positions as by hand."""
    model, sampler = target("rbm-binary").float(), component("sampler", "dmala", adapt=0.6)
    key = stream(0, "subject")
    about = Subject(model, small_data(model.space), "test", sampler, torch.empty(0, 2, 2), key)
    x, recorded = draw(about, 50, 101, "noise")
    frozen, warm = adapted(sampler, model, model.space.noise(50, key.fold("noise")), 50, key.fold("adapt"))
    assert recorded["step_size"] == frozen.step_size
    assert set(recorded) == {"step_size", "acceptance"}
    assert torch.equal(x, run(frozen, model, warm, 51, key.fold("steps"))[0])


@pytest.mark.long
def test_samples_record_it(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    small = ["steps=2", "model.hidden=4", "tracker=none", "evaluation=[]"]
    assert dispatch(["train", "hydra.run.dir=run", *small]) == 0
    assert dispatch(["sample", "run=run", "n=10", "steps=40", "sampler=dmala", "sampler.adapt=0.6"]) == 0
    written = np.load(next(tmp_path.glob("run/samples/*/samples.npz")))
    assert written["step_size"] != 0.2
    assert f"sampler.step_size = {written['step_size']:.4g}" in capfd.readouterr().err
