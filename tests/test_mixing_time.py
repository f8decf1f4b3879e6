"""evaluation=mixing_time: overlaps and the time against enumeration, what is refused, what is said."""

import csv
import itertools
import math

import pytest
import torch
from helpers.cli import assert_refused, ebm, facts, trained
from helpers.components import SIGMAS, component
from helpers.data import small_data
from helpers.matrices import gibbs_matrix
from helpers.models import double_states, small_model, target
from helpers.samplers import SAMPLERS

from ebm_cli import registry
from ebm_cli.evaluation import mixing_time as evaluation
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.mixing_time import measured
from ebm_cli.evaluation.overlap import RUNNING, Look, halves, least_chains, mixing_time
from ebm_cli.evaluation.table import Numbers
from ebm_cli.rng import stream
from ebm_cli.space import Categorical, Spin

SWEEP = registry.build("sampler", {"name": "gibbs", "scan": "systematic", "updates": None})
SITE = registry.build("sampler", {"name": "gibbs", "scan": "random", "updates": 1})


def subject(model, sampler=SWEEP):
    return Subject(model, small_data(model.space), "test", sampler, torch.empty(0, *model.space.shape), stream(0, "t"))


def small(**changes):
    return component("evaluation", "mixing_time", **{"max_steps": 40, "chains": 400, **changes})


def two_wells(sites=5, coupling=0.25):
    """Spins that are nearly all up or nearly all down: each pulls at each other."""
    model = small_model("ising", Spin((sites,)), graph="complete")
    with torch.no_grad():
        model.J.fill_(coupling)
        model.b.fill_(0.1)
    return model


def exact(model, sampler, start, steps):
    """The looks at 1, ..., `steps` of infinitely many chains: by the powers of the transition matrix."""
    T, states = gibbs_matrix(sampler, model), double_states(model).flatten(1)
    share = (states[:, None] == states).double().mean(2)
    found = []
    for h in range(1, steps + 1):
        far = torch.linalg.matrix_power(T, h)
        before = start @ far
        now = before @ far
        laws = before[:, None] * far, torch.outer(now, now)
        means = [(law * share).sum().item() for law in laws]
        spread = sum((law * share.square()).sum().item() - mean**2 for law, mean in zip(laws, means, strict=True))
        found.append(Look(h, *means, math.sqrt(spread)))
    return found


# The overlaps


@pytest.fixture(scope="module")
def wells():
    """Looks at 20 000 chains with all spins up, and the exact ones."""
    model, chains = two_wells(), 20_000
    states = double_states(model)
    law = torch.zeros(len(states), dtype=torch.float64)
    law[-1] = 1
    start = states[-1:].expand(chains, -1)
    return measured(subject(model, SITE), start, 200, 0.1, 1), exact(model, SITE, law, 200), chains


def test_overlaps_are_those_of_the_transition_matrix(wells):
    seen, curve, chains = wells
    assert len(seen) > 15
    for look in seen:
        by = curve[look.steps - 1]
        error = SIGMAS * by.spread / chains**0.5
        assert abs(look.own - by.own) < error
        assert abs(look.others - by.others) < 2 * error  # every chain is in two pairs
        assert look.spread == pytest.approx(by.spread, rel=0.05)


def test_the_time_is_where_the_exact_curves_meet(wells):
    """At the look of that step or a neighbour of it: a look is a tenth of the steps apart."""
    seen, curve, _ = wells
    looked = [curve[h - 1] for h in halves(150)]
    exactly, found = mixing_time(looked, 0.1), mixing_time(seen, 0.1)
    assert exactly > 40
    steps = [look.steps for look in looked]
    assert abs(steps.index(found) - steps.index(exactly)) <= 1


@pytest.mark.parametrize("name", ["exponential_family-binary", "exponential_family-categorical"])
def test_independent_sites_have_mixed_after_one_sweep(name):
    for start in ("data", "noise"):
        result = small(start=start, chains=1000).evaluate(subject(target(name).float()))
        assert result.metrics["mixing_time/steps"] == 1
        assert result.warnings == ()


def test_looks_go_a_step_on_and_then_a_tenth():
    assert [*halves(3)] == [1, 2, 3, 4, 5]
    found = [*halves(1000)]
    assert found[:12] == [*range(1, 13)]
    assert all(b - a <= math.ceil(0.11 * a) for a, b in itertools.pairwise(found))
    assert sum(h > 1000 for h in found) == RUNNING - 1


def test_curves_that_only_cross_have_not_met():
    def look(h, gap):
        return Look(h, 0.5 + gap, 0.5, 1.0)

    crossing = [look(h, gap) for h, gap in enumerate((0.4, 0.05, -0.3, -0.05, 0.05, -0.09, 0.01), 1)]
    assert mixing_time(crossing, 0.1) == 4
    assert mixing_time(crossing[:5], 0.1) is None
    assert mixing_time([Look(1, 1.0, 1.0, 0.0)] * 5, 0.1) is None


def test_no_chain_is_held_against_itself(monkeypatch):
    """Chains in as many different places agree with none but themselves."""
    model = small_model("exponential_family", Categorical((1, 20)))
    start = torch.eye(20).reshape(20, 1, 20)
    monkeypatch.setattr(type(SWEEP), "step", lambda self, model, state, key: (state, {}))
    last = measured(subject(model), start, 9, 0.1, 1)[-1]
    assert (last.own, last.others, last.steps) == (1.0, 0.0, 11)


# What is said


def test_chains_that_do_not_mix_have_no_time():
    model = two_wells(coupling=2.0)
    result = small(start="noise").evaluate(subject(model, SITE))
    assert "mixing_time/steps" not in result.metrics
    assert result.metrics["mixing_time/more_than"] == 40
    assert "chains do not mix in 40 steps" in result.warnings[0]
    line = small().lines(Numbers(result.metrics), "test")["mixing time"]
    assert line.startswith("> 40 steps (")


def test_chains_in_one_place_tell_nothing(monkeypatch):
    model = two_wells()
    monkeypatch.setattr(type(model.space), "noise", lambda self, n, key, device="cpu": torch.ones(n, 5))
    monkeypatch.setattr(type(SITE), "step", lambda self, model, state, key: (state, {}))
    result = small(start="noise").evaluate(subject(model, SITE))
    assert "nothing tells whether they mix" in result.warnings[0]
    assert all(math.isfinite(value) for value in result.metrics.values())


def test_all_looks_are_kept_and_drawn(drawings):
    result = small(chains=2000).evaluate(subject(target("rbm-binary").float()))
    rows = [*csv.DictReader(result.files["mixing_time.csv"].splitlines())]
    axis = drawings[0].at[0][0]
    curves = {line.get_label(): line for line in axis.lines}
    time = result.metrics["mixing_time/steps"]
    columns = {name: [float(row[name]) for row in rows] for name in rows[0]}
    assert columns["own"][columns["steps"].index(time)] == pytest.approx(result.metrics["mixing_time/own"], rel=1e-5)
    for name, curve in (("own", "a chain and itself h steps before"), ("others", "two chains")):
        assert columns[name] == pytest.approx([*curves[curve].get_ydata()], rel=1e-5)
    assert [*curves[f"mixing time {time:.0f}"].get_xdata()] == [time, time]
    band = axis.collections[0].get_paths()[0].vertices
    first = band[band[:, 0] == 1][:, 1]
    assert max(first) - min(first) == pytest.approx(0.2 * columns["spread"][0], rel=1e-4)
    assert axis.get_xlabel() == "h [steps]"


@pytest.mark.parametrize(
    ("changes", "model", "words"),
    [
        ({}, "exponential_family-real", "it counts sites that agree, numbers of a real space never do"),
        ({"chains": 399}, "rbm-binary", "take at least 400, or a higher evaluation.mixing_time.threshold"),
        ({"chains": 44, "threshold": 0.3}, "rbm-binary", "take at least 45"),
    ],
)
def test_what_cannot_be_told_is_refused(changes, model, words):
    assert words in small(**changes).refusal(target(model), SWEEP)
    assert small(chains=least_chains(0.1)).refusal(target("rbm-binary"), SWEEP) is None


@pytest.mark.long
def test_a_sampler_that_adapts_does_so_before(monkeypatch):
    taken = []
    original = evaluation.adapted

    def told(sampler, model, x, steps, key):
        taken.append(steps)
        return original(sampler, model, x, steps, key)

    monkeypatch.setattr(evaluation, "adapted", told)
    model = target("rbm-binary").float()
    sampler = registry.build("sampler", {"name": "dmala", "step_size": 0.2, "adjusted": True, "adapt": 0.5})
    small(warmup=20, max_steps=2).evaluate(subject(model, sampler))
    small(warmup=20, max_steps=2).evaluate(subject(model, SAMPLERS["gibbs"]))
    assert taken == [20]


# At the command line


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(tmp_path_factory.mktemp("run"))
        return trained().resolve()


SHORT = ("evaluation=[mixing_time]", "evaluation.mixing_time.chains=400")


def test_a_run_is_asked_for_its_mixing_time(run):
    answer = ebm("evaluate", f"run={run}", *SHORT)
    assert answer.code == 0, answer.err
    assert "mixing time" in answer.out
    assert " % of sites as they were, " in answer.out
    (folder,) = (run / "evaluations").iterdir()
    assert {"mixing_time.png", "mixing_time.csv"} <= {path.name for path in folder.rglob("*")}
    assert facts(folder, "results.json")["mixing_time/steps"] >= 1


def test_too_few_chains_are_refused_before_any_work(run):
    assert_refused(ebm("evaluate", f"run={run}", *SHORT, "evaluation.mixing_time.chains=100"), "take at least 400")
