"""Kernels that propose by balanced gains: every choice of theirs is what it says, in every space."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.components import FALSE_ALARM, component
from helpers.matrices import matrix_of
from helpers.models import double_states, exact_p, small_model, target
from helpers.statistics import assert_distributed, chi_square

from ebm_cli import registry
from ebm_cli.rng import stream
from ebm_cli.sampler.adaptation import adapted
from ebm_cli.sampler.base import run
from ebm_cli.sampler.informed import log_balanced
from ebm_cli.space import Binary, Categorical, Spin

OTHER = ("barker", "min", "max")
SETTINGS = {
    **{f"gwg-{name}": ("gwg", {"balance": name, "flips": 2}) for name in OTHER},
    **{f"dmala-{name}": ("dmala", {"balance": name}) for name in OTHER},
    **{f"dlmc-{name}": ("dlmc", {"balance": name}) for name in OTHER},
    "dmala-scales": ("dmala", {"scales": [0.4, 3.0, 1.5, 0.7], "step_size": 0.5}),
    "pafs-barker": ("pafs", {"balance": "barker", "radius": 1.25}),
    "dlmc-euler": ("dlmc", {"solver": "euler", "step_size": 1.5}),
    "dlmc-long": ("dlmc", {"step_size": 1.5}),
    "acs-backwards": ("acs", {"backwards": True, "cycle": 3, "balance": 0.95}),
}
MODELS = ("rbm-binary", "ising-spin", "potts-categorical")
QUICK = ("dmala-scales", "gwg-barker", "dmala-max", "dmala-barker", "dlmc-euler", "acs-backwards")


@pytest.mark.quick(*(f"{name}-rbm-binary" for name in QUICK), "dlmc-barker-potts-categorical")
@pytest.mark.parametrize("model_name", MODELS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_choice_is_its_definition_and_exact(setting, model_name):
    """From every state 2000 chains take one step; the matrix that they are held against leaves p as it is, and p T is
    reversible up to the order of a cycle."""
    name, keys = SETTINGS[setting]
    model, n = target(model_name), 2000
    keys = keys | {key: keys[key][: model.space.sites] for key in keys if key == "scales"}
    sampler = component("sampler", name, **keys)
    matrix, p = matrix_of(sampler, model), exact_p(model)
    assert (p @ matrix - p).abs().max() < 1e-12
    flow = p[:, None] * matrix
    assert (flow - (p[:, None] * matrix_of(sampler.reversal(), model)).T).abs().max() < 1e-14
    x = double_states(model).repeat_interleave(n, 0)
    y, _ = run(sampler, model, x, 1, stream(3, setting, model_name))
    states = model.space.states
    pairs = model.space.code(x) * states + model.space.code(y)
    count = torch.bincount(pairs, minlength=states**2).reshape(states, states)
    assert chi_square(count, matrix.numpy() * n, cells_lost=states) > FALSE_ALARM


@pytest.mark.parametrize("balance", ["sqrt", *OTHER])
def test_balancing_functions(balance):
    """g(t) = t g(1 / t) and g(1) = 1, also where e^t is infinite."""
    log_t = torch.tensor([-300.0, -3.0, -0.1, 0.0, 0.1, 3.0, 300.0], dtype=torch.float64)
    log_g = log_balanced(log_t / 2, balance)
    assert (log_g - log_t - log_balanced(-log_t / 2, balance)).abs().max() < 1e-12
    assert log_g[3] == 0
    expected = {"sqrt": 1.5, "barker": math.log(2 / (1 + math.exp(-3))), "min": 0.0, "max": 3.0}[balance]
    assert log_g[5].item() == pytest.approx(expected, rel=1e-12)


def test_runs_from_before_have_the_square_root():
    """The key came later."""
    old = registry.build("sampler", {"name": "gwg", "temperature": 2.0, "flips": 1})
    assert old == component("sampler", "gwg")
    old = registry.build("sampler", {"name": "dmala", "step_size": 0.2, "adjusted": True, "adapt": None})
    assert old == component("sampler", "dmala")


@pytest.mark.parametrize("space", [Binary((4,)), Categorical((3, 3))])
def test_scales_follow_the_gradient_and_stay(space):
    """Inverse to the root mean square of the gains at the chains where the first half of a warm-up ends."""
    model = small_model("potts" if isinstance(space, Categorical) else "boltzmann", space)
    x, key = space.noise(300, stream(0, "noise")).double(), stream(0, "adapt")
    plain = component("sampler", "dmala", adapt=0.6)
    halfway, there = adapted(plain, model, x, 100, key.fold("equal"))
    found, _ = adapted(component("sampler", "dmala", adapt=0.6, scales="gradient"), model, x, 200, key)
    energies = []
    for site, value in itertools.product(range(space.sites), range(space.values)):  # each site at each of its values
        y = there.reshape(300, space.sites, -1).clone()
        y[:, site] = F.one_hot(torch.tensor(value), space.values) if space.values > 2 else value
        energies.append(model.energy(y.reshape(there.shape)))
    gain = (model.energy(there) - torch.stack(energies)).reshape(space.sites, -1)  # exact: linear in each site
    size = gain.detach().square().mean(1).sqrt()
    assert found.scales == pytest.approx((size.mean() / size).tolist(), rel=1e-6)
    assert sum(1 / g for g in found.scales) == pytest.approx(space.sites)
    assert found.step_size != halfway.step_size
    assert found.found() == {
        "step_size": found.step_size,
        "scales_lowest": min(found.scales),
        "scales_highest": max(found.scales),
    }
    asked = component("sampler", "dmala", scales="gradient").refusal(space)
    assert asked == "sampler.scales = gradient: found in a warm-up, which there is with sampler.adapt=0.574"
    few = component("sampler", "dmala", scales=[1.0]).refusal(space)
    assert few == f"sampler.scales: 1 numbers for {space.sites} sites; give one for each"


@pytest.mark.parametrize("model_name", ["rbm-binary", "potts-categorical"])
def test_paths_of_one_site_are_gibbs_with_gradients(model_name):
    model = target(model_name)
    one, gwg = component("sampler", "pafs", radius=1.0), component("sampler", "gwg")
    assert torch.equal(matrix_of(one, model), matrix_of(gwg, model))
    n, states = 500, model.space.states
    x = double_states(model).repeat_interleave(n, 0)
    y, info = run(one, model, x, 1, stream(4, "path"))
    pairs = model.space.code(x) * states + model.space.code(y)
    count = torch.bincount(pairs, minlength=states**2).reshape(states, states)
    assert chi_square(count, matrix_of(gwg, model).numpy() * n, cells_lost=states) > FALSE_ALARM
    assert torch.equal(info["flips"], info["acceptance"])


def test_paths_are_as_long_as_the_radius_in_the_mean():
    """At equal energies every path is taken: 1, ..., 2 radius - 1 sites equally often."""
    model = small_model("boltzmann", Binary((4, 4)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    _, info = run(component("sampler", "pafs", radius=3.0), model, torch.zeros(5000, 4, 4).double(), 1, stream(0))
    count = torch.bincount(info["flips"].long(), minlength=7)
    assert chi_square(count[1:6], torch.full((5,), 1000.0)) > FALSE_ALARM
    assert count.sum() == count[1:6].sum()


@pytest.mark.parametrize("space", [Binary((4,)), Spin((4,)), Categorical((4, 3))])
def test_a_long_time_forgets_where_sites_were(space):
    """Sites that know nothing of each other: jumps end in equilibrium, so that proposals are draws and are taken."""
    model = small_model("exponential_family", space)
    start = space.noise(1, stream(0)).double().expand(20_000, *space.shape)
    y, info = run(component("sampler", "dlmc", step_size=1e6), model, start, 1, stream(1))
    assert info["acceptance"].min() == 1
    assert_distributed(model, y)


def test_cycles_go_from_large_steps_to_small_ones():
    sampler = component("sampler", "acs", step_size=2.0, final_step_size=0.2, balance=0.9, cycle=5)
    sizes, balances = zip(*(sampler.proposal(k) for k in range(5)), strict=True)
    assert sizes == pytest.approx((2.0, 1.736396, 1.1, 0.463604, 0.2), abs=1e-6)
    assert balances == pytest.approx((0.9, 0.841421, 0.7, 0.558579, 0.5), abs=1e-6)
    assert "at most sampler.step_size" in component("sampler", "acs", final_step_size=5.0).refusal(Binary((4,)))


@pytest.mark.parametrize(("name", "goal", "keys"), [("pafs", 0.8, {}), ("dlmc", 0.9, {}), ("acs", 0.7, {"cycle": 3})])
def test_a_warm_up_finds_how_far_they_go(name, goal, keys):
    """On 5 x 5 spins below the critical temperature; a cycle keeps the ratio of its ends."""
    model, sampler = small_model("ising", Spin((5, 5))), component("sampler", name, adapt=goal, **keys)
    x = model.space.noise(100, stream(0, "noise")).double()
    found, end = adapted(sampler, model, x, 150, stream(0, "adapt"))
    assert not torch.equal(end, x)
    known = {"pafs": {"radius"}, "dlmc": {"step_size"}, "acs": {"step_size", "final_step_size"}}
    assert set(found.found()) == known[name]
    assert found.size != sampler.size
    if name == "acs":
        assert found.step_size / found.final_step_size == pytest.approx(5)
    share = run(found, model, end, 60, stream(0, "check"))[1]["acceptance"].mean().item()
    assert share == pytest.approx(goal, abs=0.05)


def test_a_path_has_a_site():
    assert component("sampler", "pafs").resized(0.2).radius == 1
