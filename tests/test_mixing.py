"""evaluation=mixing: its estimators against brute force and closed forms, its clock, its refusals, its table."""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.cli import TINY, assert_refused, ebm
from helpers.components import component
from helpers.data import small_data
from helpers.keys import COUNTING
from helpers.models import double_states, exact_p, small_model, target
from helpers.samplers import SAMPLERS
from helpers.statistics import assert_mean

from ebm_cli import registry
from ebm_cli.device.base import CPU
from ebm_cli.errors import UserError
from ebm_cli.evaluation import mixing, mixing_table
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.mixing import Course, Moving, Trace, calls_of_a_step, effective
from ebm_cli.evaluation.mixing_reference import Bits
from ebm_cli.rng import bernoulli, normal, stream
from ebm_cli.sampler.base import Sampler, run
from ebm_cli.sampler.block_gibbs import BlockGibbsState
from ebm_cli.space import Binary, Spin
from ebm_cli.yardstick.mmd import mmd, resolution

SITE = {"name": "gibbs", "scan": "random", "updates": 1}
SWEEP = {"name": "gibbs", "scan": "systematic", "updates": None}
BLOCK = {"name": "block_gibbs", "backwards": False}
DULA = {"name": "dmala", "step_size": 0.2, "adjusted": False, "adapt": None}
GWG = {"name": "gwg", "temperature": 2.0, "flips": 1}


def subject(model, sampler=None):
    data, store = small_data(model.space), torch.empty(0, *model.space.shape)
    own = sampler or registry.build("sampler", SWEEP)
    return Subject(model, data, "test", own, store, stream(0, "mixing"))


def small(**changes):
    """The shipped settings on few chains and steps."""
    few = {"steps": 60, "points": 6, "chains": 50, "reference_chains": 60, "reference_steps": 10, "levels": [0.5]}
    return component("evaluation", "mixing", **few, **changes)


def bits(n, sites, name, p=0.5):
    return bernoulli(torch.full((n, sites), math.log(p / (1 - p))), stream(3, name))


# The discrepancy


def test_mmd_is_the_formula_term_by_term():
    x, y = bits(5, 6, "x").reshape(5, 2, 3), bits(7, 6, "y", 0.8).reshape(7, 2, 3)

    def k(a, b):
        return math.exp(-sum(u != v for u, v in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)) / 6)

    within_x = sum(k(a, b) for a, b in itertools.permutations(x, 2)) / 20
    within_y = sum(k(a, b) for a, b in itertools.permutations(y, 2)) / 42
    between = sum(k(a, b) for a, b in itertools.product(x, y)) / 35
    assert mmd(x, y) == pytest.approx(within_x + within_y - 2 * between, abs=1e-12)


def law(model):
    """p(x) of every state, the states, and the kernel between them, from its definition."""
    states = double_states(model).flatten(1)
    share = (states[:, None] != states).double().mean(2)
    return exact_p(model), states, (-share).exp()


def test_mmd_of_equal_laws_is_zero_on_average_and_of_others_the_squared_distance():
    """E = p'Kp + q'Kq - 2 p'Kq exactly: all samples of 3 rows from p and 2 from q, each with its probability."""
    p, states, K = law(small_model("rbm", Binary((2,))))
    q = p.flip(0)
    for first, second in ((p, p), (p, q)):
        mean = 0.0
        for rows in itertools.product(range(4), repeat=5):
            weight = first[list(rows[:3])].prod() * second[list(rows[3:])].prod()
            mean += weight.item() * mmd(states[list(rows[:3])], states[list(rows[3:])])
        expected = first @ K @ first + second @ K @ second - 2 * first @ K @ second
        assert mean == pytest.approx(expected.item(), abs=1e-14)
    assert expected > 1e-3


@pytest.mark.long
def test_resolution_is_the_spread_of_mmd_under_equal_laws():
    """By its definition over all states, and by 2000 pairs of samples."""
    p, states, K = law(small_model("rbm", Binary((2, 2))))
    centred = K - (K @ p)[:, None] - K @ p + p @ K @ p
    n, m = 12, 20
    variance = (p @ centred.square() @ p) * (2 / (n * (n - 1)) + 2 / (m * (m - 1)) + 4 / (n * m))
    chosen = torch.multinomial(p, 2000 * (n + m), replacement=True, generator=torch.Generator().manual_seed(0))
    drawn = states[chosen].reshape(2000, n + m, -1)
    values = torch.tensor([mmd(rows[:n], rows[n:]) for rows in drawn])
    assert_mean(values, 0.0)
    assert values.std().item() == pytest.approx(variance.sqrt().item(), rel=0.08)
    large = drawn.reshape(-1, states.shape[1])[:4000]
    assert resolution(large, n) == pytest.approx(
        (p @ centred.square() @ p).sqrt().item() * math.sqrt(2 / (n * (n - 1)) + 4 / (n * 4000)), rel=0.02
    )


# Effective sample sizes and what else is measured of a sampler


def moving(steps, seconds=2.0, calls=(0, 0)):
    return SimpleNamespace(step=steps, seconds=seconds, calls=calls, sampler=SAMPLERS["gibbs"])


def autoregressive(rho, chains, draws):
    x = normal((chains, draws), stream(0, "ar")).double().numpy()
    for i in range(1, draws):
        x[:, i] = rho * x[:, i - 1] + math.sqrt(1 - rho**2) * x[:, i]
    return x


def test_ess_of_an_autoregressive_trace():
    """(1 - rho) / (1 + rho) for each step; per second of all chains, and for each energy call of one."""
    trace = autoregressive(0.6, 20, 4000)[None]
    found = effective(trace, 1, moving(8000, 2.0, (3, 2)))
    assert found["ess_per_step"] == pytest.approx(0.25, rel=0.05)
    assert found["ess_per_energy_call"] == pytest.approx(found["ess_per_step"] / 3)
    assert found["ess_per_gradient_call"] == pytest.approx(found["ess_per_step"] / 2)
    assert found["ess_per_second"] == pytest.approx(found["ess_per_step"] * 20 * 8000 / 2)
    assert found["r_hat"] == pytest.approx(1, abs=0.01)


def test_ess_of_every_fourth_step():
    """Of each step a quarter of that of each record."""
    trace = autoregressive(0.95, 20, 8000)
    every, fourth = (effective(t[None], s, moving(8000)) for t, s in ((trace, 1), (trace[:, ::4], 4)))
    assert fourth["ess_per_step"] == pytest.approx(every["ess_per_step"], rel=0.05)
    assert "ess_per_energy_call" not in every


def test_the_worst_quantity_counts():
    slow, fast = autoregressive(0.9, 10, 2000), autoregressive(0.0, 10, 2000)
    both = effective(np.stack([fast, slow]), 1, moving(2000))
    assert both == effective(slow[None], 1, moving(2000)) | {"r_hat": both["r_hat"]}


@pytest.mark.long
@pytest.mark.parametrize(
    "space", [Binary((2, 3)), pytest.param(Spin((2, 3)), marks=pytest.mark.long)], ids=["binary", "spin"]
)
def test_ess_of_one_site_a_step_on_independent_units(space):
    """A site drawn afresh with probability 1/D shrinks linear functions, energies and distances, by 1 - 1/D."""
    choice = "exponential_family" if isinstance(space, Binary) else "ising"
    model = small_model(choice, space).float()
    with torch.no_grad():
        getattr(model, "J", torch.zeros(1)).zero_()
    evaluation = dataclasses.replace(small(samplers={"site": SITE, "sweep": SWEEP}), steps=2100, chains=20, distances=1)
    found = evaluation.evaluate(subject(model)).metrics
    assert found["mixing/site/ess_per_step"] == pytest.approx(1 / 11, rel=0.15)
    assert found["mixing/sweep/ess_per_step"] == pytest.approx(1, rel=0.15)
    p = 0.5 * (1 + torch.tanh(model.b.detach())) if isinstance(space, Spin) else model.b.detach().sigmoid()
    assert found["mixing/site/jump_distance"] == pytest.approx((2 * p * (1 - p)).mean().item(), rel=0.05)
    assert found["mixing/sweep/jump_distance"] == pytest.approx((2 * p * (1 - p)).sum().item(), rel=0.05)


@dataclass(frozen=True)
class Flips(Sampler):
    """Flips the first `sites` sites of the first half of the chains."""

    sites: int
    spaces = (Binary, Spin)

    def init(self, model, x):
        return BlockGibbsState(x)

    def step(self, model, state, key):
        flat = state.x.flatten(1).clone()
        half = len(flat) // 2
        flat[:half, : self.sites] = 1 - flat[:half, : self.sites]
        return BlockGibbsState(flat.reshape(state.x.shape)), {"acceptance": (torch.arange(len(flat)) < half).float()}


def with_sampler(monkeypatch, sampler):
    """A `samplers` entry that builds to this."""
    build = registry.build
    monkeypatch.setattr(registry, "build", lambda g, c, **at: sampler if c == {"name": "own"} else build(g, c, **at))
    return {"own": {"name": "own"}}


@pytest.mark.quick("3-1.5")
@pytest.mark.parametrize(("sites", "expected"), [(1, 0.5), (3, 1.5)])
def test_jump_distance_and_acceptance_are_means_over_chains(monkeypatch, sites, expected):
    evaluation = small(samplers=with_sampler(monkeypatch, Flips(sites)))
    found = evaluation.evaluate(subject(target("rbm-binary").float())).metrics
    assert found["mixing/own/jump_distance"] == expected
    assert found["mixing/own/acceptance"] == 0.5


def test_a_sampler_that_never_moves_has_drawn_nothing(monkeypatch):
    """Chains at different places make the trace vary, which must not pass for mixing."""
    evaluation = small(samplers=with_sampler(monkeypatch, Flips(0)) | {"site": SITE})
    result = evaluation.evaluate(subject(target("rbm-binary").float()))
    own = {key.split("/")[2]: v for key, v in result.metrics.items() if key.startswith("mixing/own/")}
    assert own["ess_per_step"] == own["ess_per_second"] == own["jump_distance"] == 0
    assert not {"r_hat", "steps_to_0.5"} & set(own)
    assert any("no site changed in the second half of the steps of own" in warning for warning in result.warnings)
    assert mixing_table.rows(result.metrics)["steps until MMD² is below 50 % of noise's"][0] == "> 60"


CALLS = {
    **dict.fromkeys(("gwg", "gwg-2", "pafs", "dmala", "dlmc", "dula"), (1, 1)),
    "acs": (3, 3),
    "metropolis": (1, 0),
    **dict.fromkeys(("block_gibbs", "gibbs", "gibbs-random-2"), (0, 0)),
}


@pytest.mark.parametrize("label", [label for label in SAMPLERS if label in CALLS])
@pytest.mark.parametrize("name", ["rbm-binary", "resnet_binary-binary"])
def test_energy_calls_of_a_step(label, name):
    """Two for each site where conditionals come from energies; the model is left as it was."""
    model = target(name).float()
    expected = CALLS[label]
    if name.startswith("resnet"):
        if label == "block_gibbs":
            return
        expected = {"gibbs": (8, 0), "gibbs-random-2": (4, 0)}.get(label, expected)
    x = model.space.noise(3, stream(0, "x"))
    assert calls_of_a_step(SAMPLERS[label], model, x, stream(0, "count")) == expected
    assert not {"energy", "energy_and_grad"} & set(vars(model))


# Along the way


def test_steps_to_is_the_first_point_below_the_share():
    course = Course(steps=[1, 5, 9, 20], seconds=[0.1, 0.5, 0.9, 2.0], mmd=[1.5, 0.9, 0.15, 0.4])
    expected = {"steps_to_0.5": 5, "seconds_to_0.5": 0.5, "steps_to_0.1": 9, "seconds_to_0.1": 0.9}
    assert course.reached([0.5, 0.1, 0.05], 2.0) == expected


def test_the_curves_are_those_of_the_chains():
    """Every point against a loop of its own: the same keys, nothing else."""
    about, evaluation = subject(target("rbm-binary").float()), small(samplers={"gwg": GWG})
    reference, _ = evaluation._reference(about)
    start = about.model.space.noise(50, about.key.fold("noise"))
    sampler, key = registry.build("sampler", GWG), about.key.fold("steps", "gwg")
    course, trace = evaluation._follow("own", Moving.of(sampler, about, start, key), reference)
    state, expected = sampler.init(about.model, start), {}
    for step in range(60):
        state, _ = sampler.step(about.model, state, key.fold(step))
        error = abs(about.model.energy(state.x).double().mean() - reference.energy.mean()).item()
        expected[step + 1] = (mmd(state.x, reference.states), error)
    assert course.steps == [1, 2, 5, 12, 26, 60]
    assert list(zip(course.mmd, course.energy_error, strict=True)) == [expected[step] for step in course.steps]
    assert course.seconds == sorted(course.seconds)
    distances = (state.x.flatten(1)[:, None] != reference.states[:4].flatten(1)).sum(2)
    assert torch.equal(trace.records[-1][0][:, 1:], distances.double())


def test_what_is_said_of_several_steps_is_said_of_the_last():
    about = subject(target("rbm-binary").float())
    sampler, start, key = registry.build("sampler", GWG), about.model.space.noise(9, stream(0, "x")), stream(0, "steps")
    chains = Moving.of(sampler, about, start, key)
    chains.advance(2)
    before, info = chains.advance(6)
    state = sampler.init(about.model, start)
    for step in range(5):
        state, _ = sampler.step(about.model, state, key.fold(step))
    assert torch.equal(before, state.x)
    state, expected = sampler.step(about.model, state, key.fold(5))
    assert torch.equal(chains.x, state.x)
    assert torch.equal(info["acceptance"], expected["acceptance"])


def test_regions_draw_from_counters():
    """Where the run is compiled the steps are those of `run`, with its keys."""
    about = dataclasses.replace(subject(target("rbm-binary").float()), device=dataclasses.replace(CPU, engine=COUNTING))
    sampler, start, key = registry.build("sampler", GWG), about.model.space.noise(9, stream(0, "x")), stream(0, "steps")
    chains = Moving.of(sampler, about, start, key)
    chains.advance(2)
    chains.advance(7)
    assert torch.equal(chains.x, run(sampler, about.model, start, 7, key, COUNTING)[0])
    assert not torch.equal(chains.x, run(sampler, about.model, start, 7, key)[0])


def test_the_clock_ends_a_sampler(monkeypatch):
    """Time stands still but for a second at every look: the fourth step is beyond 3.5 s, and a point of the curves."""
    ticks = itertools.count()
    monkeypatch.setattr(mixing.time, "perf_counter", lambda: float(next(ticks)))
    evaluation = dataclasses.replace(small(samplers={"gwg": GWG}), seconds=3.5)
    about = subject(target("rbm-binary").float())
    found = evaluation.evaluate(about).metrics
    assert found["mixing/gwg/steps"] == 4
    assert found["mixing/gwg/seconds"] == 4.0
    reference, _ = evaluation._reference(about)
    start = about.model.space.noise(50, about.key.fold("noise"))
    moving = Moving.of(registry.build("sampler", GWG), about, start, about.key.fold("steps", "gwg"))
    assert evaluation._follow("own", moving, reference)[0].steps == [1, 2, 4]


@torch.no_grad()
def recorded(monkeypatch, r_hat):
    """A trace of 100 steps that keeps 4 to 8 of them, where chains always agree so well."""
    monkeypatch.setattr(mixing, "_RECORDS", 4)
    monkeypatch.setattr(mixing, "agreement", lambda quantities: r_hat)
    model, trace = target("rbm-binary"), Trace(Bits(target("rbm-binary").space), torch.zeros(0, 4))
    x = double_states(model)[:5]
    for step in range(1, 101):
        trace.look(step, model, x, x, {"step": torch.tensor([float(step)])})
        assert len(trace.records) <= 8
        assert not trace.due(step + 1) or trace.next(step) == step + 1
    return trace, [int(info["step"]) for _, info in trace.records]


def test_records_stay_few_and_evenly_spaced(monkeypatch):
    trace, kept = recorded(monkeypatch, 1.02)
    assert trace.stride == 16
    assert kept == [16, 32, 48, 64, 80, 96]
    assert trace.found(moving(100))["step"] == (64 + 80 + 96) / 3


def test_records_end_once_chains_agree(monkeypatch):
    trace, kept = recorded(monkeypatch, 1.005)
    assert (kept, trace.stride) == ([1, 2, 3, 4, 5, 6, 7, 8], 1)
    assert trace.found(moving(100))["step"] == 6.5


@pytest.mark.long
def test_another_sampler_beside_it_changes_nothing():
    about = subject(target("ising-spin").float())
    alone = small(samplers={"gwg": GWG}).evaluate(about).metrics
    beside = small(samplers={"site": SITE, "gwg": GWG}).evaluate(about).metrics
    for key, value in alone.items():
        assert "second" in key or beside[key] == value, key


# The reference


def test_the_reference_comes_to_the_model_from_the_data():
    model = target("rbm-binary")
    mean = (exact_p(model) @ model.energy(double_states(model))).item()
    evaluation = dataclasses.replace(small(samplers={"gwg": GWG}), reference_chains=4000)
    reference, warnings = evaluation._reference(subject(model.float()))
    assert_mean(reference.energy, mean)
    assert not warnings
    assert reference.landmarks.shape == (4, *model.space.shape)


@dataclass(frozen=True)
class Fills(Sampler):
    """Every site that is 0 becomes 1 with probability 0.1, none the reverse."""

    spaces = (Binary,)

    def init(self, model, x):
        return BlockGibbsState(x)

    def step(self, model, state, key):
        return BlockGibbsState(torch.maximum(state.x, bernoulli(torch.full_like(state.x, -2.2), key))), {}


def test_a_reference_that_still_moves_is_said():
    evaluation = dataclasses.replace(small(samplers={"gwg": GWG}), reference_chains=400, reference_steps=10)
    _, sentences = evaluation._reference(subject(target("rbm-binary").float(), Fills()))
    assert len(sentences) == 1
    assert "take more evaluation.mixing.reference_steps" in sentences[0]


@pytest.mark.long
def test_a_level_that_cannot_be_told_from_zero_is_left_out():
    evaluation = dataclasses.replace(small(samplers={"gwg": GWG}), levels=[0.5, 1e-6])
    result = evaluation.evaluate(subject(target("rbm-binary").float()))
    assert not any(key.endswith("1e-06") for key in result.metrics)
    assert any(w.startswith("the share 1e-06 of the discrepancy of noise") for w in result.warnings)


# Refusals


@pytest.mark.parametrize(
    ("changes", "model", "words"),
    [
        ({"samplers": {"gwg": GWG}}, "potts-categorical", "a categorical space has neither"),
        ({"samplers": {"b": BLOCK}}, "boltzmann-binary", "samplers.b wants a block-structured model, this one is not"),
        ({"samplers": {"g": GWG | {"flips": 5}}}, "rbm-binary", "samplers.g does not fit: sampler.flips = 5: the data"),
        ({"samplers": {"g": SITE | {"scan": "systematic"}}}, "rbm-binary", "add sampler.scan=random"),
        ({"reference": DULA}, "rbm-binary", "reference only approximates the model"),
        ({"reference": BLOCK}, "boltzmann-binary", "reference wants a block-structured model"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_sentence(changes, model, words):
    why = small(**changes).refusal(target(model), SAMPLERS["gibbs"])
    assert words in why
    assert "\n" not in why


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "gwg", "flips": 1}, "evaluation.mixing.samplers.mine.temperature is missing"),
        (GWG | {"flips": 0}, "evaluation.mixing.samplers.mine.flips = 0: must be greater than or equal to 1"),
        ({"name": "gwgg"}, "evaluation.mixing.samplers.mine.name = 'gwgg': no such sampler"),
    ],
)
def test_settings_of_a_sampler_are_checked_by_their_key(settings, words):
    with pytest.raises(UserError, match=words.replace("[", r"\[")):
        small(samplers={"mine": settings}).refusal(target("rbm-binary"), SAMPLERS["gibbs"])


def test_everything_shipped_fits_two_values():
    for name in ("rbm-binary", "ising-spin", "boltzmann-binary", "resnet_binary-binary"):
        assert component("evaluation", "mixing").refusal(target(name), SAMPLERS["gibbs"]) is None


# At the command line

SHORT = (
    "evaluation=[mixing]", "evaluation.mixing.steps=40", "evaluation.mixing.chains=20", "evaluation.mixing.points=5",
    "evaluation.mixing.reference_chains=30", "evaluation.mixing.reference_steps=10",
)  # fmt: skip


def test_a_sampler_that_does_not_fit_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [word for word in TINY if not word.startswith(("evaluation", "model."))]
    answer = ebm(
        "train",
        *lines,
        "model=boltzmann",
        *SHORT,
        "+evaluation.mixing.samplers.b={name: block_gibbs, backwards: false}",
    )
    assert_refused(answer, "samplers.b wants a block-structured model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_an_untrained_model_is_compared_and_shown(tmp_path, monkeypatch):
    """steps=0: the model as it begins has a checkpoint, a table, a picture; nothing in 80 columns is cut."""
    monkeypatch.chdir(tmp_path)
    lines = [word for word in TINY if not word.startswith(("evaluation", "steps"))]
    answer = ebm("train", *lines, "steps=0", "hydra.run.dir=run", *SHORT)
    assert answer.code == 0, answer.err
    assert (tmp_path / "run" / "samples" / "mixing.png").exists()
    assert ebm("train resume=run evaluation=[]").code == 0
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000000"]
    for words in ("gibbs_site", "ESS per step of a chain", "sites changed by a step", "seconds they took"):
        assert words in answer.out
    assert "mixing/gwg" not in answer.out
    again = ebm("evaluate", "run=run", *SHORT)
    assert again.code == 0, again.err
    assert "mixing.png" in again.out


def test_rows_of_the_table():
    values = {
        "mixing/noise_mmd": 0.2, "mixing/mmd_standard_error": 0.001, "mixing/energy_standard_error": 0.5,
        "mixing/a/steps_to_0.02": 1234.0, "mixing/a/steps_to_0.5": 7.0, "mixing/a/seconds_to_0.5": 0.12345,
        "mixing/a/ess_per_step": 0.1, "mixing/a/r_hat": 1.11, "mixing/b/ess_per_step": 0.05, "mixing/b/r_hat": 1.09,
        "mixing/a/steps": 5000.0, "mixing/a/seconds": 60.0, "mixing/a/acceptance": 0.25,
        "mixing/b/steps": 400.0, "mixing/b/seconds": 3.0,
    }  # fmt: skip
    rows = mixing_table.rows(values)
    assert list(rows)[:4] == [
        "steps taken", "seconds they took",
        "steps until MMD² is below 50 % of noise's", "seconds until MMD² is below 50 % of noise's",
    ]  # fmt: skip
    assert rows["steps until MMD² is below 50 % of noise's"] == ["7", "> 400"]
    assert rows["seconds until MMD² is below 50 % of noise's"] == ["0.123", "> 3"]
    assert rows["steps until MMD² is below 2 % of noise's"] == ["1234", "> 400"]
    assert rows["share of proposals accepted"] == ["0.25", "-"]
    assert rows["ESS per step of a chain"] == ["0.1 ?", "0.05"]
    assert mixing_table.rows({"ais/log_z": 1.0}) == {name: [] for name in rows if "until" not in name}


@pytest.mark.quick("gwg_ising*")
@pytest.mark.parametrize("name", ["gwg_rbm_mixing", "gwg_ising_mixing"])
def test_experiments_compose(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    answer = ebm("train", f"experiment={name}", "--cfg", "job")
    assert answer.code == 0
    assert all(f"{label}:" in answer.out for label in ("gwg", "dmala", "gibbs_site", "gibbs_sweep", "block_gibbs"))


@pytest.mark.long
def test_a_sampler_that_adapts_has_done_so_before():
    """Its clock starts at the step size it found, which is reported; the others' curves are as without it."""
    settings = {"name": "dmala", "step_size": 0.01, "adjusted": True, "adapt": 0.6}
    about = subject(target("rbm-binary").float())
    found = small(samplers={"dmala": settings, "gibbs": SWEEP}).evaluate(about).metrics
    assert found["mixing/dmala/step_size"] > 0.02
    assert "mixing/gibbs/step_size" not in found
