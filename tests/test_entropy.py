"""evaluation=entropy: its tilted models, formulas and interval against enumeration; what is refused and said."""

import csv

import pytest
import torch
from helpers.cli import assert_refused, ebm, facts, trained
from helpers.components import component
from helpers.data import small_data
from helpers.matrices import matrix_of
from helpers.models import DISCRETE, double_states, exact_p, small_model, target
from helpers.samplers import SAMPLERS
from helpers.statistics import assert_close

from ebm_cli import registry
from ebm_cli.evaluation.base import Subject
from ebm_cli.log_z.integration import Found, Pull, Walk, found, interval
from ebm_cli.log_z.tilted import agreement, tilted
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Categorical, Spin

SWEEP = registry.build("sampler", {"name": "gibbs", "scan": "systematic", "updates": None})
BLOCK = registry.build("sampler", {"name": "block_gibbs", "backwards": False})
TINY = {"rtol": 1e-9, "atol": 1e-9}


def entropy_of(p):
    return -(p * p.log()).sum().item()


def subject(model, sampler=SWEEP):
    return Subject(model, small_data(model.space), "test", sampler, torch.empty(0, *model.space.shape), stream(0, "s"))


def small(**changes):
    return component("evaluation", "entropy", **{"chains": 200, "steps": 4, "warmup": 10, "thetas": 8, **changes})


# Models pulled towards a row


@pytest.mark.parametrize("name", DISCRETE)
def test_a_pulled_model_has_the_energy_less_theta_for_each_site(name):
    """But for a constant; its gradient and its conditionals are those of that energy."""
    model = target(name)
    states = double_states(model)
    goal, theta = states[len(states) // 3], 0.7
    pulled = tilted(model, goal, theta)
    n = agreement(model.space, states, goal)
    with torch.no_grad():
        energy = pulled.energy(states)
        apart = energy - (model.energy(states) - theta * n)
    assert_close(apart, apart[:1].expand_as(apart), **TINY)
    x = states[::7]
    with torch.no_grad():
        due = torch.stack([pulled.log_conditionals(x, torch.tensor([i]))[:, 0] for i in range(model.space.sites)], 1)
    sites = pulled.sites(x)
    got = torch.stack([sites.log_conditional(i) for i in range(model.space.sites)], 1)
    assert_close(got, due, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("name", "sampler"), [
    ("rbm-binary", BLOCK), ("rbm-categorical", BLOCK), ("ising-spin", BLOCK), ("fhmm-binary", BLOCK),
    ("potts-categorical", SWEEP), ("boltzmann-binary", SWEEP),
])  # fmt: skip
def test_chains_of_a_pulled_model_leave_it_invariant(name, sampler):
    model = target(name)
    pulled = tilted(model, double_states(model)[5], 1.3)
    p = exact_p(pulled)
    assert_close(p @ matrix_of(sampler, pulled), p, **TINY)
    assert (p - exact_p(model)).abs().sum() > 0.1


def test_a_bipartite_model_keeps_its_layers_and_others_their_kind():
    for name in ("ising-spin", "potts-categorical"):
        model = target(name)
        assert type(tilted(model, double_states(model)[0], 1.0)) is type(model)
    assert small().refusal(target("rbm-binary"), BLOCK) is None


# The integral and its interval


def exact_walk(model, goal, thetas):
    """What infinitely many chains would say."""
    states = double_states(model)
    with torch.no_grad():
        energy = model.energy(states)
    n = agreement(model.space, states, goal)
    laws = [torch.softmax(-energy + theta * n, 0) for theta in thetas]
    differ = torch.stack([model.space.sites - law @ n for law in laws])
    spread = tuple((law @ n.square() - (law @ n) ** 2).item() for law in (laws[0], laws[-1]))
    walk = Walk((laws[0] @ energy).expand(2), differ.expand(2, -1), laws[-1][n == model.space.sites].expand(2), spread)
    return walk, energy[n == model.space.sites].item()


@pytest.mark.parametrize("choice", [("potts", Categorical((4, 3))), ("rbm", Binary((8,))), ("boltzmann", Binary((7,)))])
def test_exact_means_give_the_exact_entropy(choice):
    """To the fourth order in the distance of the thetas; the plain trapezoid is off by what is said of it."""
    model = small_model(*choice)
    goal, p = double_states(model)[3], exact_p(model)
    with torch.no_grad():
        log_z = torch.logsumexp(-model.energy(double_states(model)), 0).item()
    errors = []
    for count in (11, 21):
        thetas = [4.0 * i / (count - 1) for i in range(count)]
        way = found(*exact_walk(model, goal, thetas), 4.0)
        assert abs(way.log_z - log_z) < 0.1 * abs(way.bias)
        assert way.energy + log_z == pytest.approx(entropy_of(p), abs=1e-9)
        errors.append(abs(way.entropy - entropy_of(p)))
    assert errors[1] < errors[0] / 8


def test_the_error_is_that_of_all_three_means_of_a_chain():
    """By hand: energies 1 and 3, integrals 2 and 2 (of 1 over 0 ... 2), the goal seen half the time and always."""
    walk = Walk(torch.tensor([1.0, 3.0]), torch.ones(2, 3), torch.tensor([0.5, 1.0]), (1.0, 0.0))
    way = found(walk, 0.0, 2.0)
    each = torch.tensor([1 - 0.5 / 0.75, 3 - 1 / 0.75])
    assert way.error == pytest.approx((each.std() / 2**0.5).item())
    assert way.bias == pytest.approx(1 / 12)
    back = walk._replace(differ=torch.tensor([[1.0, 2.0, 3.0]])).backwards()
    assert (back.differ[0].tolist(), back.spread) == ([3.0, 2.0, 1.0], (0.0, 1.0))


COVERED = {
    "potts": ("potts", Categorical((4, 3)), SWEEP),
    "rbm": ("rbm", Binary((8,)), BLOCK),
    "boltzmann": ("boltzmann", Binary((7,)), SWEEP),
    "ising": ("ising", Spin((2, 3)), BLOCK),
}


@pytest.mark.parametrize(
    "name", [*COVERED][:1] + [pytest.param(name, marks=pytest.mark.long) for name in [*COVERED][1:]]
)
def test_the_interval_covers_the_enumerated_entropy(name):
    """Chains are independent: 40 groups of 100 are 40 measurements."""
    choice, space, sampler = COVERED[name]
    model, groups, each = small_model(choice, space), 40, 100
    goal, theta = double_states(model)[5], 4.0
    pull = Pull(model, sampler, goal, 6)
    thetas = [theta * i / 11 for i in range(12)]
    start = space.noise(groups * each // 2, stream(0, "start")).double()
    low, high = (pull.moved(start, end, 30, stream(0, "end", i))[0] for i, end in enumerate((0.0, theta)))
    up, down = pull.walk(low, thetas, stream(1, "up")), pull.walk(high, thetas[::-1], stream(1, "down")).backwards()
    with torch.no_grad():
        energy = model.energy(goal[None]).item()
    due, hits, off = entropy_of(exact_p(model)), 0, []
    for i in range(groups):
        rows = slice(i * each // 2, (i + 1) * each // 2)
        ways = [found(Walk(w.energy[rows], w.differ[rows], w.there[rows], w.spread), energy, theta) for w in (up, down)]
        whole = interval(*ways)
        hits += whole.low <= due <= whole.high
        off.append((whole.entropy - due) / whole.error)
    assert hits >= 0.95 * groups
    assert torch.tensor(off).std().item() == pytest.approx(1, abs=0.35)
    assert abs(torch.tensor(off).mean().item()) < 4 / groups**0.5


def test_what_both_ways_differ_by_beyond_their_error_widens_the_interval():
    def way(entropy):
        return Found(0.0, entropy, 0.1, 0.0)

    error = 0.1 / 2**0.5
    near, far = interval(way(5.0), way(5.0)), interval(way(9.0), way(5.0))
    assert (near.entropy, far.entropy, far.apart) == (5.0, 7.0, 4.0)
    assert near.high - near.low == pytest.approx(2 * 1.96 * error)
    assert far.high - far.entropy == pytest.approx(1.96 * 2.0, rel=1e-3)


def test_theta_rises_until_enough_chains_are_at_the_target():
    model = small_model("exponential_family", Binary((12,)))
    goal = double_states(model)[9]
    pull = Pull(model, SWEEP, goal, 2)
    start = model.space.noise(500, stream(0, "start")).double()
    theta, x = pull.largest(start, 0.5, stream(0, "rise"))
    there = (agreement(model.space, x, goal) == 12).double().mean().item()
    assert theta > 0.5
    assert 0.1 < there < 0.3
    pulled = exact_p(tilted(model, goal, theta))[9].item()
    assert pulled == pytest.approx(there, abs=0.06)


# What is said


def test_numbers_curve_and_file(drawings):
    model = small_model("potts", Categorical((4, 3))).float()
    result = small(theta_max=3.0).evaluate(subject(model))
    metrics, due = result.metrics, entropy_of(exact_p(small_model("potts", Categorical((4, 3)))))
    assert metrics["entropy/by_exact_log_z"] == pytest.approx(due, abs=1e-6)
    assert abs(metrics["entropy/nats"] - due) < 5 * metrics["entropy/standard_error"]
    assert metrics["entropy/per_site"] == pytest.approx(metrics["entropy/nats"] / 4)
    assert metrics["entropy/mean_energy"] + metrics["entropy/log_z"] == pytest.approx(metrics["entropy/nats"])
    assert set(metrics) <= set(type(small()).reports)
    rows = [*csv.DictReader(result.files["entropy.csv"].splitlines())]
    curves = {line.get_label(): line for line in drawings[0].at[0][0].lines}
    for way in ("up", "down"):
        assert [float(row[f"differ_{way}"]) for row in rows] == pytest.approx(
            [*curves[f"{way} in theta"].get_ydata()], rel=1e-4, abs=1e-5
        )
    assert float(rows[0]["differ_up"]) > float(rows[-1]["differ_up"])


def test_the_target_is_a_row_of_the_split():
    model = small_model("rbm", Binary((8,))).float()
    about = subject(model)
    rows = about.held_out.all()
    assert torch.equal(small(target=7)._goal(about), rows[7])
    lowest = small()._goal(about)
    assert model.energy(lowest[None]).item() == pytest.approx(model.energy(rows).min().item())
    assert "rows have the numbers 0 to 19" in small(target=20).refusal_of_data(about.data)


def test_what_cannot_be_measured_is_refused():
    assert "a real space has none" in small().refusal(target("gaussian_rbm-real"), SAMPLERS["langevin"])
    assert "does not leave the model invariant" in small().refusal(target("rbm-binary"), SAMPLERS["dula"])
    up_down = registry.build("sampler", {"name": "up_down", "sweeps": 1})
    refusal = small().refusal(target("rbm-binary"), up_down)
    assert "block_gibbs" in refusal.partition("samplers that can: ")[2].split(", ")


def test_chains_that_never_come_there_give_no_figure(monkeypatch):
    monkeypatch.setattr(type(SWEEP), "step", lambda self, model, state, key: (state, {}))
    monkeypatch.setattr("ebm_cli.log_z.integration._RAISES", 3)
    result = small().evaluate(subject(small_model("rbm", Binary((12,))).float()))
    assert result.metrics == {}
    assert "at no theta above 5 more than 10 % of the chains are at the target" in result.warnings[0]


def test_chains_that_lag_are_warned_of():
    model = small_model("ising", Spin((3, 3)), coupling=0.0).float()
    with torch.no_grad():
        model.J.fill_(1.2)
    result = small(steps=2, thetas=30).evaluate(
        subject(model, registry.build("sampler", {"name": "metropolis", "flips": 1, "step_size": 1.0, "adapt": None}))
    )
    assert "chains lag behind theta" in result.warnings[0]
    assert result.metrics["entropy/up_above_down"] > 0


def test_a_run_has_its_entropy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = trained()
    short = ("chains=40", "steps=4", "warmup=10", "thetas=6")
    answer = ebm("evaluate", f"run={run}", "evaluation=[entropy]", *(f"evaluation.entropy.{word}" for word in short))
    assert answer.code == 0, answer.err
    assert "  by exact log Z" in answer.out
    (folder,) = (run / "evaluations").iterdir()
    assert {"entropy.png", "entropy.csv"} <= {path.name for path in folder.iterdir()}
    results = facts(folder, "results.json")
    assert results["entropy/low"] < results["entropy/nats"] < results["entropy/high"]
    assert_refused(
        ebm("evaluate", f"run={run}", "evaluation=[entropy]", "evaluation.entropy.target=99999"),
        "rows have the numbers",
    )
