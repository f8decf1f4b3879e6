"""Chains that stand still or have run away: no figure but a sentence, while training and in evaluations."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import ebm, train, trained
from helpers.components import component
from helpers.data import small_data

from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.chains import diagnose, doubt
from ebm_cli.evaluation.mixing import agreement, effective
from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import stream
from ebm_cli.sampler.block_gibbs import BlockGibbs
from ebm_cli.sampler.standstill import lost, ran_away, stuck
from ebm_cli.space import Real
from ebm_cli.training.step import Report, Standstill, Values


class Bowl(EnergyModel):
    """E(x) = a |x|^p / p on the plane; p = 2 has a known log Z, p = 4 throws long steps out of all bounds."""

    def __init__(self, a, p=2):
        super().__init__()
        self.space, self.a, self.p = Real((1, 2)), torch.nn.Parameter(torch.tensor(a)), p

    def energy(self, x):
        return self.a * x.flatten(1).pow(self.p).sum(1) / self.p


def subject(model, sampler, **keys):
    kernel = component("sampler", sampler, **keys)
    return Subject(model, small_data(model.space), "test", kernel, torch.empty(0, 1, 2), stream(0, "subject"))


def found(name, about, **keys):
    smaller = {
        "ais": {"chains": 50, "temperatures": 50, "raise_points": 5, "raise_chains": 2},
        "bridge": {"chains": 50, "rungs": 8, "steps": 10},
        "chains": {"chains": 8, "warmup": 5, "steps": 30},
        "samples": {"count": 8, "steps": 10},
        "resample": {"chains": 20, "steps": 20},
        "long_run": {"steps": 20, "frames": 4, "chains": 8},
    }
    return component("evaluation", name, **smaller[name] | keys).evaluate(about)


AWAY = "The chains have run away, for no step of theirs is rejected: start a run with a lower "


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("model=gaussian_rbm sampler=langevin sampler.step_size=50", "sampler.step_size (it is 50) or a lower "),
        ("model=gaussian_rbm sampler=gibbs_langevin sampler.adjust=false sampler.step_size=60", "(it is 60)"),
    ],
)
def test_training_against_chains_that_run_away_names_their_steps(line, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = ebm(f"train dataset=digits {line} evaluation=[] steps=20 tracker=none device=cpu hydra.run.dir=run")
    assert answer.code == 1
    assert AWAY in answer.err
    assert said in answer.err
    assert "optimizer.clip" not in answer.err


def test_chains_far_above_the_data_have_run_away_and_others_have_not():
    unadjusted, rejecting = component("sampler", "langevin", step_size=7.0), component("sampler", "hmc")
    for chains in (1e5, math.inf, math.nan):
        assert ran_away(unadjusted, 3.0, chains).startswith(f"{AWAY}sampler.step_size (it is 7)")
    for data, chains in ((3.0, 9e3), (3.0, -math.inf), (math.nan, math.nan), (math.inf, 1.0)):
        assert ran_away(unadjusted, data, chains) is None
    assert ran_away(rejecting, 3.0, math.nan) is None
    assert ran_away(component("sampler", "block_gibbs"), 3.0, math.nan) is None


@pytest.mark.parametrize("name", ["ais", "bridge"])
def test_no_log_z_from_chains_that_stand_still(name):
    """A target a thousandth as wide as a step; with steps that fit there is a figure, and it is right."""
    frozen = found(name, subject(Bowl(1e6), "mala", step_size=1.0))
    assert frozen.metrics == {}
    assert "so there is no estimate" in frozen.warnings[0]
    moving = found(name, subject(Bowl(1.3), "mala", step_size=0.2))
    assert not any("stood still" in warning or "accepted" in warning for warning in moving.warnings)
    assert moving.metrics[f"{name}/log_z"] == pytest.approx(math.log(2 * math.pi / 1.3), abs=0.2)


@pytest.mark.long
def test_a_few_moves_are_a_figure_with_a_sentence():
    slow = found("ais", subject(Bowl(700.0), "metropolis", step_size=2.0), temperatures=400)
    assert "ais/log_likelihood" in slow.metrics
    assert "hardly annealed" in slow.warnings[0]


@pytest.mark.parametrize("still", [1, 8, 19])
def test_some_chains_that_stand_still_spoil_the_diagnosis(still):
    """Of twenty, one that never moves passes for mixed: R-hat 1.09, and all draws effective."""
    trace = np.random.default_rng(0).standard_normal((2, 20, 500))
    assert doubt(trace) is None
    trace[1, :still] = 0.1 + np.arange(still)[:, None] / 100
    if still == 1:
        believed = diagnose(trace[1:])
        assert believed["chains/ess_bulk"] > 9000
    assert f"{still} of 20 chains stand still" in doubt(trace)
    assert agreement(trace) == math.inf
    assert effective(trace, 1, None) == {"standing_chains": still}


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_draws_that_are_no_numbers_spoil_the_diagnosis(value):
    """An infinite one leaves R-hat at 1."""
    trace = np.random.default_rng(0).standard_normal((2, 4, 500))
    trace[0, 2, 7] = value
    with np.errstate(invalid="ignore"):
        assert math.isnan(value) or diagnose(trace)["chains/r_hat"] < 1.01
    assert "1 of 4 chains have an energy or a place that is no number" in doubt(trace)


def test_the_same_everywhere_is_nothing_to_diagnose():
    trace = np.ones((2, 4, 50))
    assert doubt(trace) == "no chain ever moves, so there is nothing to diagnose"
    trace[0] = np.random.default_rng(0).standard_normal((4, 50))
    assert doubt(trace) is None


def test_chains_without_an_accepted_proposal_are_not_diagnosed():
    result = found("chains", subject(Bowl(1e6), "hmc", step_size=1.0))
    assert set(result.metrics) == {"chains/acceptance", "chains/jump_distance"}
    assert "no proposal of the chains accepted" in result.warnings[0]


@pytest.mark.parametrize("name", ["chains", "samples", "resample", "long_run"])
def test_nothing_is_measured_of_chains_that_ran_away(name):
    about = subject(Bowl(1.0, 4), "langevin", step_size=5.0)
    result = found(name, about, **({"noises": None} if name == "long_run" else {}))
    assert not [key for key in result.metrics if "jump" not in key and "gradient" not in key and "temper" not in key]
    assert "no number (nan or infinity)" in " ".join(result.warnings)


@pytest.mark.parametrize("name", ["resample", "long_run"])
def test_nothing_is_measured_of_chains_that_stand_still(name):
    result = found(name, subject(Bowl(1e6), "mala", step_size=1.0), **({"noises": None} if name == "long_run" else {}))
    assert result.metrics == {}
    assert "no chain" in " ".join(result.warnings)


def test_samples_of_chains_that_stand_still_are_said():
    result = found("samples", subject(Bowl(1e6), "mala", step_size=1.0))
    assert result.metrics["samples/acceptance"] == 0
    assert any("no proposal of the chains accepted" in warning for warning in result.warnings)


def test_what_is_said_of_means():
    mala, walk = component("sampler", "mala"), component("sampler", "metropolis", step_size=1.0)
    assert stuck({"acceptance": 0.001, "swap_1": 0.5, "gradient": 0.0}, mala) == []
    (said,) = stuck({"acceptance": 0.0005}, walk)
    assert said.startswith("0.05 % of the proposals of the chains accepted")
    assert said.endswith("; lower sampler.step_size, or take another sampler")
    (said,) = stuck({"acceptance": 0.0}, component("sampler", "gwg"))
    assert said.endswith("they stand still; take another sampler")
    (said,) = stuck({"acceptance": 0.3, "swap_1": 0.2, "swap_2": 0.0, "swap_3": 0.0}, mala)
    assert said.startswith("replicas never swapped at rung 2, 3 of the ladder")
    assert lost(torch.zeros(3, 2)) is None
    assert lost(torch.tensor([[0.0, 1.0], [torch.inf, 0.0], [0.0, torch.nan]])).startswith(
        "2 of 3 chains have run away"
    )
    assert lost(torch.tensor([[0.0, math.nan], [1.0, 2.0]])).startswith("1 of 2 chains")


# While training


def report(step, **info):
    names = ("loss", *(f"chains_{name}" for name in info))
    return Report(step, 0.1, Values(names, torch.tensor([1.0, *info.values()]), (), torch.zeros(0)))


def test_a_hundred_steps_are_judged_together():
    mala = component("sampler", "mala")
    watch = Standstill(mala)
    parts = [[report(i + 1, acceptance=float(i == 3), swap_1=0.0) for i in range(first, first + 25)]
             for first in range(0, 100, 25)]  # fmt: skip
    said = [watch.look(part) for part in parts]
    assert said[:3] == [[], [], []]
    (only,) = said[3]
    assert "rung 1" in only
    assert "in steps 1 to 100" in only
    assert watch.look([report(101, acceptance=0.0, swap_1=1.0)]) == []
    (last,) = watch.look([report(102, acceptance=0.0, swap_1=1.0)], last=True)
    assert last.startswith("no proposal")
    assert "in steps 101 to 102" in last
    assert Standstill(mala).look([], last=True) == []
    assert Standstill(mala).look([report(1)], last=True) == []


def standing(self, model, state, key):
    return state, {"acceptance": torch.zeros(len(state.x))}


def running_away(self, model, state, key):
    return state._replace(x=state.x * math.nan), {}


@pytest.mark.long
def test_training_says_once_that_chains_stand_still(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(BlockGibbs, "step", standing)
    answer = train("steps=250 log_every=10")
    assert answer.code == 0
    assert answer.err.count("the model is trained against what does not move") == 1
    assert "in steps 1 to 100" in answer.err
    assert "they stand still; take another sampler" in answer.err
    assert "sampler.step_size" not in answer.err


def test_samples_that_are_no_numbers_are_not_handed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained()
    before = set(Path("run/samples").iterdir())
    monkeypatch.setattr(BlockGibbs, "step", running_away)
    answer = ebm("sample run=run n=4 steps=2")
    assert answer.code == 1
    assert "4 of 4 chains have run away" in answer.err
    assert set(Path("run/samples").iterdir()) == before
    monkeypatch.setattr(BlockGibbs, "step", standing)
    answer = ebm("sample run=run n=4 steps=2")
    assert answer.code == 0
    assert "no proposal of the chains accepted" in answer.err
