"""Energies of degree two: what a change of few numbers makes of them, and steps that are taken by it."""

import pytest
import torch
from helpers.components import component
from helpers.models import small_model
from helpers.statistics import assert_close

from ebm_cli.model.base import Quadratic
from ebm_cli.model.ising import Ising
from ebm_cli.model.scaled import Scaled
from ebm_cli.rng import stream
from ebm_cli.sampler import base
from ebm_cli.sampler.base import followed, run, transitions
from ebm_cli.sampler.gwg import GibbsWithGradients
from ebm_cli.space import Binary, Categorical, Spin

MODELS = {
    "boltzmann": lambda: small_model("boltzmann", Binary((9,))),
    "ising": lambda: small_model("ising", Spin((9,)), graph="complete"),
    "potts": lambda: small_model("potts", Categorical((9, 4))),
}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def states(model, n=40):
    return model.space.noise(n, stream(0, "x")).to(next(model.parameters()).dtype)


def after(sampler, model, steps):
    """The state after some steps, by `step` alone."""
    state = sampler.init(model, states(model))
    for i in range(steps):
        state, _ = sampler.step(model, state, stream(1, i))
    return state


@each_model
@pytest.mark.parametrize("flips", [1, 3])
def test_energies_and_slopes_follow_the_changes(make, flips):
    model = make()
    assert isinstance(model, Quadratic)
    with torch.no_grad():
        state = after(component("sampler", "gwg", flips=flips), model, 30)
    assert not torch.equal(state.x, states(model))
    energy, grad = model.energy_and_grad(state.x)
    assert_close(state.energy, energy, rtol=1e-12, atol=1e-12)
    assert_close(state.grad, grad, rtol=1e-12, atol=1e-12)


@each_model
@pytest.mark.parametrize("flips", [1, 3])
def test_steps_are_those_of_any_model(make, flips):
    """That go by energies and gradients made anew, as they do for a model that is not known to be of degree two."""
    model, sampler = make(), component("sampler", "gwg", flips=flips)
    x = states(model)
    ends = [run(sampler, one, x, 20, stream(2)) for one in (model, Scaled(model, torch.ones(len(x)).double()))]
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1]["acceptance"], ends[1][1]["acceptance"])


@each_model
def test_products_are_made_once(make, monkeypatch):
    model, calls = make(), []
    whole = type(model).coupling
    monkeypatch.setattr(type(model), "coupling", lambda self: calls.append(1) or whole(self))
    run(component("sampler", "gwg"), model, states(model), 5, stream(3))
    assert len(calls) == 1


@pytest.mark.long
def test_rounding_of_a_thousand_steps_is_small():
    """In float32, couplings of size 1: what is kept errs by some 2^-24 of its size a step, at random."""
    model = MODELS["potts"]().float()
    with torch.no_grad():
        state = after(component("sampler", "gwg"), model, base._REFRESH)
    energy, grad = model.energy_and_grad(state.x)
    assert (state.energy - energy).abs().max() < 1e-4
    assert (state.grad - grad).abs().max() < 2e-5


@pytest.mark.parametrize("way", ["transitions", "followed"])
def test_what_is_kept_is_made_anew_now_and_then(way, monkeypatch):
    monkeypatch.setattr(base, "_REFRESH", 3)
    model, sampler, taken, seen = MODELS["potts"](), component("sampler", "gwg"), [], []
    step, refreshed = GibbsWithGradients.step, GibbsWithGradients.refreshed
    monkeypatch.setattr(GibbsWithGradients, "step", lambda self, *a: taken.append(1) or step(self, *a))

    def counted(self, model, state):
        found = refreshed(self, model, state)
        seen.append((len(taken), found is state))
        return found

    monkeypatch.setattr(GibbsWithGradients, "refreshed", counted)
    keys = [stream(4, i) for i in range(7)]
    if way == "transitions":
        transitions(sampler, model, states(model), keys)
    else:
        assert len([*followed(sampler, model, states(model), keys, (2, 5, 7))]) == 3
    assert seen == [(3, False), (6, False)]


def test_spins_of_all_pairs_list_no_neighbours():
    assert MODELS["ising"]().neighbours.shape == (9, 1)


def test_a_sweep_of_spins_forms_its_couplings_once(monkeypatch):
    model, calls = MODELS["ising"](), []
    whole = Ising.coupling
    monkeypatch.setattr(Ising, "coupling", lambda self: calls.append(1) or whole(self))
    with torch.no_grad():
        model.sweep(states(model), stream(5), backwards=False)
    assert len(calls) == 1
