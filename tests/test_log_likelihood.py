"""One bracket of the log-likelihood: exact, annealed until it is narrow, told where own chains are elsewhere."""

import dataclasses
import math

import pytest
import torch
from helpers.components import component
from helpers.models import target
from test_evaluation import subject
from test_ising import ising

from ebm_cli.commands import known_log_z
from ebm_cli.comparison.likelihood import judged, shown
from ebm_cli.dataset.base import Data, Split
from ebm_cli.evaluation import log_likelihood
from ebm_cli.evaluation.above import Above, above
from ebm_cli.evaluation.base import Result
from ebm_cli.evaluation.table import Numbers
from ebm_cli.log_z import enumeration
from ebm_cli.space import Spin

FEW = {"chains": 50, "temperatures": 20, "most_temperatures": 320, "points": 20, "bootstrap": 100}


def found(about, **keys):
    return component("evaluation", "log_likelihood", **{**FEW, **keys}).evaluate(about)


@pytest.fixture
def _large(monkeypatch):
    """Models that no sum over states is tried of."""
    monkeypatch.setattr(log_likelihood.enumeration, "refusal", lambda _: "too many states")


def log_z_of(model):
    """Exact, in float64, of the small models of this file."""
    states = model.space.enumerate().double()
    return (-model.double().energy(states)).logsumexp(0).item()


def ends(metrics):
    return [metrics[f"log_likelihood/log_z_{end}"] for end in ("low", "high")]


def test_a_model_that_can_be_summed_is():
    about = subject(target("rbm-binary"))
    result, exact = found(about), component("evaluation", "exact").evaluate(about)
    for name, value in exact.metrics.items():
        assert result.metrics[name.replace("exact/", "log_likelihood/")] == value
    assert ends(result.metrics) == [exact.metrics["exact/log_z"]] * 2
    assert result.metrics["log_likelihood/width"] == 0
    assert result.by_row.keys() == {"log_likelihood/log_likelihood"}
    line, log_z = log_likelihood.LogLikelihood.lines(Numbers(result.metrics), "test").values()
    assert line.endswith("nats, exact")
    assert log_z == f"{exact.metrics['exact/log_z']:.2f}"


@pytest.mark.usefixtures("_large")
@pytest.mark.parametrize("name", ["rbm-binary", "potts-categorical"])
def test_the_bracket_holds_the_exact_value(name):
    about = subject(target(name))
    log_z = log_z_of(target(name))
    result = found(about)
    low, high = ends(result.metrics)
    assert low < log_z < high
    assert high - low == pytest.approx(result.metrics["log_likelihood/width"])
    assert high - low <= 0.5
    assert result.warnings == ()
    assert "no chains of its own" in result.said[-1]
    keys = {"chains": 50, "temperatures": int(result.metrics["log_likelihood/temperatures"]), "raise_points": 20}
    ais = component("evaluation", "ais", **keys, bootstrap=100).evaluate(about).metrics
    by_raise = ais["ais/log_z"] + ais["ais/gap"] + 1.96 * ais["ais/gap_standard_error"]
    assert high == pytest.approx(max(by_raise, ais["ais/log_z_high"]), abs=1e-6)
    middle = result.metrics["log_likelihood/log_likelihood"]
    assert middle == pytest.approx(result.by_row["log_likelihood/log_likelihood"].mean().item())


@pytest.mark.long
@pytest.mark.usefixtures("_large")
def test_temperatures_grow_until_the_bracket_is_narrow_enough_and_no_further():
    about = subject(target("rbm-binary"))
    wide = found(about, width=100.0)
    assert wide.metrics["log_likelihood/temperatures"] == 20
    most = found(about, width=1e-6, most_temperatures=100)
    assert most.metrics["log_likelihood/temperatures"] == 100
    assert most.said[-1].count("temperatures") == 3, "20, 80 and 100"
    (warning,) = most.warnings
    assert "nats wide after 100 temperatures, width=1e-06 asked" in warning
    assert "log_likelihood.most_temperatures" in warning


@pytest.fixture
def two_wells():
    """Nine spins that are alike in the model, up in all rows, and chains that are down."""
    model, up = ising((3, 3), coupling=2.5), torch.ones(40, 3, 3)
    split = Split(Spin((3, 3)), up.byte(), 1.0, stochastic=False, labels=None)
    data = Data(split.space, split, None, split)
    return subject(model, component("sampler", "gibbs"), data, -up), log_z_of(ising((3, 3), coupling=2.5))


@pytest.mark.long
@pytest.mark.usefixtures("_large")
def test_own_chains_in_a_mode_that_annealing_misses_are_told(two_wells):
    """AIS and RAISE agree on the rows and are both wrong by log 2; the bracket holds log Z none the less."""
    about, log_z = two_wells
    keys = {"base_mix": 0.0, "temperatures": 80, "most_temperatures": 80, "points": 10}
    result = found(about, **keys)
    low, high = ends(result.metrics)
    assert low < log_z < high
    (warning,) = result.warnings
    assert warning.startswith("annealed chains hardly come to where the run's own chains are: AIS and RAISE differ by")
    blind = found(dataclasses.replace(about, store=torch.empty(0, 3, 3)), **keys)
    assert blind.warnings == ()
    assert ends(blind.metrics)[1] < log_z - math.log(2) / 2, "which is why own chains are looked at"
    there = found(dataclasses.replace(about, store=-about.store), **keys)
    assert there.warnings == ()
    assert "are where annealed chains come to" in there.said[-1]


@pytest.mark.usefixtures("_large")
@pytest.mark.parametrize(("many", "shift", "says"), [(10, 0.0, "within"), (10, 50.0, "apart"), (9, 0.0, None)])
def test_where_it_stays_too_wide_checkpoints_are_gone_along(monkeypatch, many, shift, says):
    """Ten of them or more; what they say takes the place of the bracket, or widens it."""
    model = target("rbm-binary")
    log_z, about = log_z_of(model) + shift, subject(model)
    rows = torch.full((len(about.held_out),), -3.0).double()
    along = {"log_z": log_z, "log_z_low": log_z - 0.01, "log_z_high": log_z + 0.01, "log_likelihood": -3.0, "lag": 0.0}
    result = Result({f"trajectory/{k}": v for k, v in along.items()}, by_row={"trajectory/log_likelihood": rows})
    monkeypatch.setattr(type(log_likelihood._along_checkpoints()), "evaluate", lambda *_: result)
    about = dataclasses.replace(about, passed=lambda: dict.fromkeys(range(many), model))
    metrics = (answer := found(about, width=1e-3, most_temperatures=20)).metrics
    low, high = ends(metrics)
    if says == "within":
        assert (low, high) == (log_z - 0.01, log_z + 0.01)
        assert metrics["log_likelihood/width"] == pytest.approx(0.02)
        assert metrics["log_likelihood/log_likelihood"] == -3
        assert answer.warnings == ()
        assert answer.said[-1].endswith("along the checkpoints, within that bracket")
        assert "log_likelihood/lag" not in metrics
    else:
        assert answer.warnings
    if says == "apart":
        assert high == log_z + 0.01
        assert low < log_z - shift
        assert answer.warnings[-1].endswith("by AIS and RAISE; the bracket is of both")
    if says is None:
        assert high - low > 0.02


METRICS = {
    "log_likelihood/log_likelihood": -20.0,
    "log_likelihood/above_independent": 1.0,
    "log_likelihood/log_z": 90.0,
    "log_likelihood/log_z_low": 89.9,
    "log_likelihood/log_z_high": 90.6,
    "log_likelihood/width": 0.7,
}


def test_what_is_said_of_a_bracket_has_its_ends():
    lines = log_likelihood.LogLikelihood.lines(Numbers(METRICS), "test")
    likelihood = {"log-likelihood (test)": "-20.00 nats, bracket [-20.60, -19.90]"}
    assert lines == likelihood | {"  log Z": "90.00, in [89.90, 90.60]"}
    likely, verdict = judged(METRICS), above(METRICS)
    assert likely is not None
    assert isinstance(verdict, Above)
    assert shown(likely, "{:.2f}".format) == "[-20.60, -19.90]"
    assert verdict[:3] == pytest.approx((1.0, 0.4, 1.1))
    known = known_log_z._known(METRICS, "summary.json")
    assert known == (90.0, 89.9, 90.6, "by the bracket of summary.json")
    exact = {**METRICS, "log_likelihood/log_z_low": 90.0, "log_likelihood/log_z_high": 90.0}
    assert (verdict.by, above(exact).by) == ("bracket of the log-likelihood", "exact log-likelihood")
    few = {**METRICS, "log_likelihood/weight_ess": 1.1}
    assert log_likelihood.LogLikelihood.lines(Numbers(few), "test")["log-likelihood (test)"].endswith(
        "not to be relied on"
    )


def test_a_sampler_that_does_not_leave_the_model_invariant_is_refused_where_it_is_needed(monkeypatch):
    evaluation, model = component("evaluation", "log_likelihood"), target("rbm-binary")
    dula = component("sampler", "dula")
    assert evaluation.refusal(model, dula) is None, "the sum needs no sampler"
    monkeypatch.setattr(enumeration, "refusal", lambda _: "too many states")
    assert "does not leave the model invariant" in evaluation.refusal(model, dula)
