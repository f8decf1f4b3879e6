"""Every registered kernel on every fitting small target: it leaves p invariant, forgets its start, is what it says."""

import dataclasses
import math
from functools import partial

import pytest
import torch
from helpers.components import FALSE_ALARM, SIGMAS, component
from helpers.keys import COUNTING, ENGINES, keys_used
from helpers.matrices import is_defined, matrix_of
from helpers.models import double_states, exact_p, for_energies, small_model, target
from helpers.samplers import (
    FITTING,
    FITTING_DISCRETE,
    INVARIANT,
    NETWORKS,
    SAMPLERS,
    fewer,
    first,
    is_product,
    is_slow,
    marked,
    marked_slow,
    reach,
)  # fmt: skip
from helpers.statistics import assert_close, assert_distributed, assert_mean, cells, chi_square, chi_square_tail

from ebm_cli import registry
from ebm_cli.device.base import Device
from ebm_cli.errors import UserError
from ebm_cli.log_z import enumeration
from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import stream
from ebm_cli.sampler import hamming_ball
from ebm_cli.sampler.augmented import Augmented
from ebm_cli.sampler.base import run, transitions
from ebm_cli.sampler.heating import Heating
from ebm_cli.sampler.predictor_corrector import PredictorCorrector
from ebm_cli.space import Binary, Counts, Real, Spin
from ebm_cli.training import checks

kernels = pytest.mark.parametrize(("name", "model_name"), marked(FITTING))
kernels_of_longer_tests = pytest.mark.parametrize(("name", "model_name"), fewer(FITTING))
DEFINED = [(s, t) for s, t in FITTING_DISCRETE if is_defined(SAMPLERS[s])]
BY_DRAWS = [pair for pair in INVARIANT if pair in first(INVARIANT) or pair not in DEFINED]
"""Draws of a step are compared with its matrix where that is written out, so that a few of these stand for all."""
kernels_by_draws = pytest.mark.parametrize(("name", "model_name"), fewer(BY_DRAWS))
discrete_kernels_by_draws = pytest.mark.parametrize(
    ("name", "model_name"), fewer([pair for pair in BY_DRAWS if pair in FITTING_DISCRETE])
)
defined_kernels = pytest.mark.parametrize(("name", "model_name"), fewer(DEFINED))
invariant_defined_kernels = pytest.mark.parametrize(
    ("name", "model_name"), marked([pair for pair in DEFINED if pair in INVARIANT])
)


def forgetting(pairs):
    """Parameters: kernels with a written matrix forget as that does, one model of bits stands for their many steps.

    Those of short steps do so on one model, where longer ones are on all.
    """
    without = [pair for pair in pairs if pair not in DEFINED or pair[1] == "boltzmann-binary"]
    return marked_slow([(s, t) for s, t in without if not is_slow(s, t) or is_product(t) or s == "gibbs_langevin"])


def test_every_sampler_has_a_target():
    assert {name for name, _ in FITTING} == set(SAMPLERS)
    every = registry.components("sampler").values()
    assert {type(sampler) for sampler in SAMPLERS.values()} == {
        cls for cls in every if for_energies(cls) and getattr(cls, "spaces", None) not in ((Counts,), ())
    }


# Invariance


@kernels_by_draws
def test_leaves_the_target_invariant(name, model_name):
    """Exact draws are still exact draws after three steps, in the float32 of production."""
    model = target(model_name)
    x = enumeration.sample(model, 100_000, stream(0, "start"))
    y, _ = run(SAMPLERS[name], model.float(), x.float(), 3, stream(0, "kernel"))
    assert_distributed(model, y)


@pytest.mark.parametrize(("name", "model_name"), forgetting(INVARIANT))
def test_forgets_where_it_started(name, model_name):
    """All chains start at one point. The slowest of these kernels (step 0.1 on R^2) forgets in some 200 steps.

    It gets ten times as many, five times where it follows a gradient, and kernels of longer steps fewer: the way they
    go is what counts.
    """
    model = target(model_name)
    start = model.space.noise(1, stream(0, "point")).double()
    way = 200 if name.startswith("metropolis") else 100
    steps = max(150, round(way / reach(SAMPLERS[name]) * isinstance(model.space, Real)))
    n = 3000 if steps <= 500 else 1500
    y, _ = run(SAMPLERS[name], model, start.expand(n, *model.space.shape), steps, stream(1, "kernel"))
    assert_distributed(model, y)


@kernels
def test_stays_in_the_space_and_keeps_its_input(name, model_name):
    model = target(model_name).float()
    x = model.space.noise(50, stream(0, "noise"))
    before = x.clone()
    for steps in (1, 2, 9):
        y, info = run(SAMPLERS[name], model, x, steps, stream(0, "kernel"))
        assert y.shape == x.shape
        assert y.dtype == x.dtype
        assert model.space.contains(y)
        assert not torch.equal(y, x)
        assert all(value.shape == (50,) and value.isfinite().all() for value in info.values())
    assert torch.equal(x, before)


@kernels_of_longer_tests
def test_reads_only_its_key(name, model_name):
    model = target(model_name).float()
    x = model.space.noise(64, stream(0, "noise"))
    ends = []
    for seed in (0, 1):
        torch.manual_seed(seed)  # noqa: TID251
        before = torch.get_rng_state()
        ends.append(run(SAMPLERS[name], model, x, 3, stream(5, "kernel"))[0])
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(*ends)
    assert not torch.equal(ends[0], run(SAMPLERS[name], model, x, 3, stream(6, "kernel"))[0])


@kernels_of_longer_tests
@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_no_key_serves_two_draws(name, model_name, engine, monkeypatch):
    """Two draws from one key share their numbers, which shifts them between chains where no marginal shows it."""
    model = target(model_name).float()
    x = model.space.noise(5, stream(0, "noise"))
    used = keys_used(monkeypatch)
    transitions(SAMPLERS[name], model, x, engine.keys([stream(5, "kernel").fold(i) for i in range(4)], "cpu"))
    assert len(used) >= 4
    assert len(set(used)) == len(used)


@kernels_of_longer_tests
@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_some_rows_alone_move_as_in_the_whole(name, model_name, engine):
    """Rows 3 to 7 with keys at row 3 end where they end among all twelve: chains can be split among processes.

    To the bit, but where products of real numbers sum in an order that depends on how many rows there are: in networks,
    in means of real units, and on some CPUs in quadratic forms.
    """
    model = target(model_name)
    products = (*NETWORKS, "mixed_rbm", "gaussian_rbm")
    network = model_name.partition("-")[0] in products or model_name == "exponential_family-real"
    alike = partial(assert_close, rtol=1e-9, atol=1e-9) if network else partial(assert_close, rtol=0, atol=0)
    keys = [stream(5, "kernel").fold(i) for i in range(5)]
    x = model.space.noise(12, stream(0, "noise")).double()
    whole, about_whole = transitions(SAMPLERS[name], model, x, engine.keys(keys, "cpu"))
    for start, end in ((3, 8), (0, 4), (11, 12)):
        share = engine.keys([key.at_row(start) for key in keys], "cpu")
        part, about = transitions(SAMPLERS[name], model, x[start:end], share)
        alike(part, whole[start:end])
        for said in about_whole:
            alike(about[said], about_whole[said][start:end])


@kernels_by_draws
def test_leaves_the_target_invariant_with_counters(name, model_name):
    """The same draws as inside compiled regions, from Philox4x32."""
    model = target(model_name)
    x = enumeration.sample(model, 100_000, stream(0, "start"))
    keys = COUNTING.keys([stream(0, "kernel").fold(i) for i in range(2)], "cpu")
    assert_distributed(model, transitions(SAMPLERS[name], model.float(), x.float(), keys)[0])


@kernels_of_longer_tests
def test_every_step_draws_anew(name, model_name):
    """Chains side by side and steps one after the other do not share their random numbers, if they are not cold."""
    sampler, model = SAMPLERS[name], target(model_name).float()
    if isinstance(sampler, Heating):
        sampler = dataclasses.replace(sampler, cold=0.0)
    x = model.space.noise(1, stream(0, "noise")).expand(200, *model.space.shape)
    with torch.no_grad():
        first = sampler.step(model, sampler.init(model, x), stream(5).fold(0))[0].x
        second = sampler.step(model, sampler.init(model, x), stream(5).fold(1))[0].x
    assert len(first.flatten(1).unique(dim=0)) > 1
    assert not torch.equal(first, second)


@kernels_of_longer_tests
def test_parameters_need_no_gradient_and_get_none(name, model_name):
    model = target(model_name)
    y, _ = run(SAMPLERS[name], model, model.space.noise(5, stream(0)).double(), 2, stream(1))
    assert not y.requires_grad
    assert all(p.grad is None for p in model.parameters())


@kernels_of_longer_tests
def test_caches_follow_the_chain(name, model_name):
    """Stepping on with the state of the last step is the same as with a fresh one at the same positions.

    Transforms and temperatures come by the number of steps, which is no cache: every step has the former here, and the
    latter are those of the chain.
    """
    sampler, model = SAMPLERS[name], target(model_name)
    if isinstance(sampler, Augmented):
        sampler = dataclasses.replace(sampler, every=1)
    state = sampler.init(model, model.space.noise(500, stream(0, "noise")).double())
    with torch.no_grad():
        for i in range(6):
            fresh = sampler.init(model, sampler.positions(state).clone())
            if isinstance(sampler, Heating | PredictorCorrector):
                fresh = fresh._replace(taken=i)
            state, _ = sampler.step(model, state, stream(1).fold(i))
            assert torch.equal(state.x, sampler.step(model, fresh, stream(1).fold(i))[0].x)


# Transition matrices


@invariant_defined_kernels
def test_the_definition_leaves_the_target_invariant(name, model_name):
    """|p T - p| <= 1e-12 with T multiplied out in float64, and T a stochastic matrix."""
    model = target(model_name)
    matrix, p = matrix_of(SAMPLERS[name], model), exact_p(model)
    assert matrix.min() >= 0
    assert (matrix.sum(1) - 1).abs().max() < 1e-12
    assert (p @ matrix - p).abs().max() < 1e-12


@invariant_defined_kernels
def test_the_definition_forgets_where_it_started(name, model_name):
    """T^1000 has p in every row: it comes to every state, and to none only in every second step."""
    model = target(model_name)
    rows = torch.linalg.matrix_power(matrix_of(SAMPLERS[name], model), 1000)
    assert (rows - exact_p(model)).abs().max() < 1e-10


@defined_kernels
def test_one_step_is_the_definition(name, model_name):
    """From every state 10 000 chains take one step: their ends, cell by cell, against the row of the matrix."""
    model, n = target(model_name), 10_000
    matrix = matrix_of(SAMPLERS[name], model).numpy()
    x = double_states(model).repeat_interleave(n, 0)
    y, _ = run(SAMPLERS[name], model, x, 1, stream(2, name, model_name))
    states = model.space.states
    pairs = model.space.code(x) * states + model.space.code(y)
    count = torch.bincount(pairs, minlength=states**2).reshape(states, states)
    assert chi_square(count, matrix * n, cells_lost=states) > FALSE_ALARM


@invariant_defined_kernels
def test_reversal_is_the_time_reversal(name, model_name):
    """p(x) T(x, x') = p(x') T~(x', x)."""
    sampler, model = SAMPLERS[name], target(model_name)
    p = exact_p(model)[:, None]
    flow = p * matrix_of(sampler, model)
    assert (flow - (p * matrix_of(sampler.reversal(), model)).T).abs().max() < 1e-14
    assert sampler.reversal().reversal() == sampler


@discrete_kernels_by_draws
def test_reversal_runs_backwards(name, model_name):
    """Draws: pairs (start, end) of a step from p, and pairs (end, start) of the reversal, have one distribution.

    Needs no written matrix, so it holds for any kernel. Two counts of n each: sum (a - b)^2 / (a + b) is chi-square.
    """
    sampler, model, n = SAMPLERS[name], target(model_name), 50_000
    pairs = []
    for kernel, seed in ((sampler, 0), (sampler.reversal(), 1)):
        x = enumeration.sample(model, n, stream(seed, "start"))
        y, _ = run(kernel, model, x, 1, stream(seed, "kernel"))
        ends = [model.space.code(x), model.space.code(y)]
        pairs.append(torch.bincount(ends[seed] * model.space.states + ends[1 - seed], minlength=model.space.states**2))
    often = pairs[0] + pairs[1] >= 20
    a, b = (torch.cat([count[often], count[~often].sum()[None]]).double() for count in pairs)
    # As if a had the mean of both: (a - m)^2 / m with m = (a + b) / 2 is half of (a - b)^2 / (a + b).
    statistic = ((a - b) ** 2 / (a + b).clamp_min(1)).sum().item()
    assert chi_square_tail(statistic, len(a) - 1) > FALSE_ALARM


def test_unadjusted_langevin_is_off_by_what_its_step_size_says():
    """It is called unadjusted for a reason; and with ever smaller steps p is ever nearer to invariant."""
    model = target("rbm-binary")
    p, errors = exact_p(model), []
    for step_size in (1.0, 0.1):
        matrix = matrix_of(component("sampler", "dula", step_size=step_size), model)
        errors.append((p @ matrix - p).abs().max().item())
    assert errors[0] > 1e-3
    assert errors[1] < errors[0] / 10
    assert not component("sampler", "dula").leaves_invariant


def test_systematic_scan_is_not_its_own_reversal():
    """Otherwise the tests of the reversal would show nothing."""
    model = target("rbm-binary")
    flow = exact_p(model)[:, None] * matrix_of(SAMPLERS["gibbs"], model)
    assert (flow - flow.T).abs().max() > 1e-3


# The loop


def test_run_averages_the_info_over_steps():
    model = target("boltzmann-binary")
    sampler, key = component("sampler", "metropolis"), stream(0, "run")
    x = model.space.noise(100, stream(0, "noise")).double()
    y, info = run(sampler, model, x, 4, key)
    state, accepted = sampler.init(model, x), []
    with torch.no_grad():
        for i in range(4):
            state, one = sampler.step(model, state, key.fold(i))
            accepted.append(one["acceptance"])
    assert torch.equal(y, state.x)
    assert_close(info["acceptance"], torch.stack(accepted).mean(0))


# Metropolis


@pytest.mark.parametrize("flips", [1, 2, 3, 4])
def test_metropolis_flips_distinct_sites_drawn_uniformly(flips):
    """Numbers from 1 to `flips` equally likely, and all sets of one number."""
    model = small_model("boltzmann", Binary((2, 2)))
    sampler, n = component("sampler", "metropolis", flips=flips), 60_000
    x = model.space.noise(n, stream(0, "noise"))
    flipped = (sampler.propose(model, x, stream(0, "proposal")) != x).float()
    numbers = [code.bit_count() for code in range(16)]
    weight = [1 / math.comb(4, number) / flips if 1 <= number <= flips else 0 for number in numbers]
    count = torch.bincount(model.space.code(flipped), minlength=16)
    assert chi_square(count, torch.tensor(weight, dtype=torch.float64) * n) > FALSE_ALARM


def test_a_sampler_of_another_space_is_refused():
    """Those offered move in that space and find in the model what they need."""
    message = "moves in binary, spin, categorical or words spaces, the data are real; samplers that fit: "
    message += "heating, hmc, langevin, mala, metropolis, nuts, parallel_tempering, underdamped$"
    spec = component("model", "exponential_family")
    with pytest.raises(UserError, match=message):
        checks.check_moves(component("sampler", "gibbs"), Real((2, 2)), spec, {"sampler": "gibbs"})


def test_more_flips_than_sites_are_refused():
    assert component("sampler", "metropolis", flips=4).refusal(Binary((2, 2))) is None
    assert component("sampler", "metropolis", flips=5).refusal(Real((2, 2))) is None
    spec, five = component("model", "rbm"), component("sampler", "metropolis", flips=5)
    with pytest.raises(UserError, match=r"sampler.flips = 5: the data have 4 sites"):
        checks.check_moves(five, Binary((2, 2)), spec, {"sampler": "metropolis"})


@pytest.mark.parametrize("step_size", [0.1, 1.5])
def test_metropolis_steps_are_normal_and_symmetric(step_size):
    """x' - x is N(0, step_size^2) in every coordinate, whatever x is, so q(x' | x) = q(x | x')."""
    model = small_model("exponential_family", Real((1, 2)))
    sampler, n = component("sampler", "metropolis", step_size=step_size), 100_000
    for start in (0.0, 3.0):
        x = torch.full((n, 1, 2), start, dtype=torch.float64)
        z = (sampler.propose(model, x, stream(0, "proposal")) - x).flatten(1) / step_size
        count = torch.histc(torch.special.ndtr(z[:, 0]), 50, 0, 1)
        assert chi_square(count, torch.full((50,), n / 50)) > FALSE_ALARM
        assert_mean(z[:, 1], 0)
        assert_mean(z[:, 1].square(), 1)
        assert_mean(z[:, 0] * z[:, 1], 0)


@pytest.mark.parametrize("step_size", [0.5, 2.0])
def test_acceptance_is_the_known_integral(step_size):
    """On N(m, s^2) in one dimension a random walk of step t is accepted with probability 2/pi arctan(2 s / t)."""
    model = small_model("exponential_family", Real((1,)))
    sampler = component("sampler", "metropolis", step_size=step_size)
    scale = math.exp(-model.r.item() / 2)
    x = enumeration.sample(model, 100_000, stream(0, "start"))
    y, info = run(sampler, model, x, 1, stream(0, "kernel"))
    assert_mean(info["acceptance"], 2 / math.pi * math.atan(2 * scale / step_size))
    assert torch.equal(info["acceptance"] == 1, (y != x).flatten())


def test_metropolis_rejects_what_has_no_probability():
    """An energy of infinity or nan is never moved to."""

    class Wall(EnergyModel):
        space = Real((1,))

        def __init__(self, outside):
            super().__init__()
            self.outside = outside

        def energy(self, x):
            return torch.where(x.flatten() > 0, self.outside, 0.0)

    for outside in (math.inf, math.nan):
        y, _ = run(
            component("sampler", "metropolis", step_size=1.0), Wall(outside), torch.full((100, 1), -1.0), 20, stream(0)
        )
        assert (y <= 0).all()


# Hamming ball


def test_a_ball_is_gone_through_in_pieces_alike(monkeypatch):
    model, sampler = target("rbm-binary"), SAMPLERS["hamming_ball-2"]
    x = model.space.noise(50, stream(0, "noise")).double()
    whole, _ = run(sampler, model, x, 3, stream(1))
    monkeypatch.setattr(hamming_ball, "_AT_ONCE", sampler.ball * 4 * 7)
    assert torch.equal(run(sampler, model, x, 3, stream(1))[0], whole)


def test_blocks_are_drawn_uniformly_and_no_other_site_moves():
    """Radius 3 in 3 of 4 sites at equal energies: new values of a random block are fair coins."""
    model, n = small_model("boltzmann", Binary((2, 2))), 100_000
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    sampler = component("sampler", "hamming_ball", block=3, radius=3)
    x = torch.zeros(n, 2, 2, dtype=torch.float64)
    y, info = run(sampler, model, x, 1, stream(0, "ball"))
    share = [
        (3 if code.bit_count() == 1 else 2 if code.bit_count() == 2 else code.bit_count() == 3) for code in range(16)
    ]
    expected = torch.tensor([4, *share[1:]], dtype=torch.float64) / 32
    assert chi_square(torch.bincount(model.space.code(y), minlength=16), expected * n) > FALSE_ALARM
    assert torch.equal(info["flips"], y.flatten(1).sum(1))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"block": 17}, "sampler.block = 17: the data have 16 sites"),
        ({"radius": 11}, r"sampler.radius = 11: a block has 10 sites \(sampler.block\); give at most that"),
        ({"block": 40, "radius": 8}, "a ball in 40 sites has 100146724 configurations"),
    ],
)
def test_balls_that_are_too_large_are_refused(settings, sentence):
    sampler = component("sampler", "hamming_ball", **settings)
    space = Binary((4, 4)) if settings.get("block") != 40 else Binary((8, 8))
    with pytest.raises(UserError, match=sentence):
        checks.check_moves(sampler, space, component("model", "rbm"), {"sampler": "hamming_ball"})
    assert component("sampler", "hamming_ball", block=10, radius=10).refusal(Spin((4, 4))) is None


# Low precision


@discrete_kernels_by_draws
def test_chains_in_bfloat16_are_close(name, model_name):
    """Products with 7-bit mantissas: logits of size 3 err by 0.01, probabilities by 0.003, four sites by about 0.01.

    Total variation: 0.01 of that, and 0.01 of the finite sample (16 cells, 50 000 chains).
    """
    model = target(model_name).float()
    x = enumeration.sample(model, 50_000, stream(0, "start")).float()
    with Device(torch.device("cpu"), "", "bf16").chain_precision():
        y, _ = run(SAMPLERS[name], model, x, 3, stream(0, "kernel"))
    y = y.float()
    count, p = cells(model, y)
    assert abs(count / len(y) - p).sum() / 2 < 0.03


def test_bfloat16_is_used_and_left():
    """The context lowers matrix products, and only inside it."""
    a = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    with Device(torch.device("cpu"), "", "bf16").chain_precision():
        assert (a @ a).dtype == torch.bfloat16
    with Device(torch.device("cpu"), "", "fp32").chain_precision():
        assert (a @ a).dtype == torch.float32
    assert (a @ a).dtype == torch.float32


def test_sigmas_and_false_alarm_agree():
    """Both statistics of this suite alarm about once in a million."""
    assert 2 * torch.special.ndtr(torch.tensor(-SIGMAS, dtype=torch.float64)).item() < FALSE_ALARM
