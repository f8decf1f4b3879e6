"""evaluation=mixing of real numbers: distances in standard deviations, the slowest direction, gradients as counted."""

import math
from dataclasses import dataclass

import pytest
import torch
from helpers.components import component, shipped
from helpers.data import small_data
from helpers.models import target
from helpers.samplers import SAMPLERS

from ebm_cli import registry, rng, terminal
from ebm_cli.errors import UserError
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.mixing_reference import Deviations, Reference, units
from ebm_cli.model.exponential_family import GaussianProduct
from ebm_cli.rng import normal, stream
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.block_gibbs import BlockGibbsState
from ebm_cli.space import Real

SCALES = torch.tensor([0.1, 1.0, 30.0])


def gaussian():
    """Independent units of these standard deviations."""
    model = GaussianProduct(Real((3,)), torch.zeros(3))
    with torch.no_grad():
        model.m.zero_()
        model.r.copy_(-2 * SCALES.log())
    return model


@dataclass(frozen=True)
class Autoregressive(Sampler):
    """x' = a x + sqrt(1 - a^2) s z with a correlation a and a standard deviation s for each site: exact for p."""

    spaces = (Real,)
    a = torch.tensor([0.0, 0.2, 0.8])

    def init(self, model, x):
        return BlockGibbsState(x)

    def step(self, model, state, key):
        x = self.a * state.x + (1 - self.a.square()).sqrt() * SCALES * normal(state.x.shape, key)
        return BlockGibbsState(x), {"gradients": 3 + 2 * (rng.uniform((len(x),), key.fold("length")) < 0.5).float()}


def test_units_are_standard_deviations_and_the_axes_the_longest():
    x = normal((4000, 3), stream(0, "x")) * SCALES + 5
    by = units(Real((3,)), x, 2)
    assert isinstance(by, Deviations)
    assert torch.allclose(by.scale, SCALES, rtol=0.1)
    assert by.axes.shape == (3, 2)
    assert torch.allclose(by.axes.abs().T, torch.tensor([[0.0, 0, 1], [0, 1, 0]]), atol=0.02)
    a, b = x[:2], x[2:5]
    far = [[sum(((p - q) / by.scale).square().tolist()) for q in b] for p in a]
    assert torch.allclose(by.apart(a, b), torch.tensor(far), rtol=1e-4)
    assert torch.allclose(by.moved(a, b[:2]), torch.tensor([far[0][0], far[1][1]]), rtol=1e-4)
    with pytest.raises(ValueError, match="a categorical space has no distances"):
        units(target("potts-categorical").space, x, 1)


def test_states_of_one_law_have_no_discrepancy():
    model = gaussian()
    x, y = (normal((800, 3), stream(0, name)) * SCALES for name in ("x", "y"))
    with torch.no_grad():
        reference = Reference.of(model, x, 2)
    assert abs(reference.mmd(y)) < 4 * reference.errors(len(y))["mmd_standard_error"]
    assert reference.mmd(y / 3) > 20 * reference.errors(len(y))["mmd_standard_error"]


@pytest.mark.long
def test_the_slowest_direction_and_the_gradients_of_each_chain_count(monkeypatch):
    """The third site has the longest axis: 1 / ESS = (1 + a) / (1 - a) of it; |x' - x|^2 is 2 (1 - a) s^2."""
    build = registry.build
    own = {"name": "own"}
    monkeypatch.setattr(registry, "build", lambda g, c, **at: Autoregressive() if c == own else build(g, c, **at))
    model, data = gaussian(), small_data(Real((3,)))
    few = {"steps": 2100, "points": 6, "chains": 20, "reference_chains": 400, "reference_steps": 40, "levels": [0.5]}
    evaluation = component("evaluation", "mixing_real", samplers={"own": own}, reference=own, **few)
    subject = Subject(model, data, "test", SAMPLERS["mala"], torch.empty(0, 3), stream(0, "mixing"))
    found = evaluation.evaluate(subject).metrics
    assert found["mixing/own/ess_per_step"] == pytest.approx(1 / 9, rel=0.15)
    assert found["mixing/own/jump_distance"] == pytest.approx(2 * (3 - 1.0), rel=0.1)
    assert found["mixing/own/gradients"] == pytest.approx(4.0, rel=0.02)
    per_call = found["mixing/own/ess_per_step"] / found["mixing/own/gradients"]
    assert found["mixing/own/ess_per_gradient_call"] == pytest.approx(per_call, rel=1e-12)
    assert math.isclose(found["mixing/own/ess_per_energy_call"], per_call)


@pytest.mark.long
def test_long_walks_and_their_warm_ups_say_how_far_they_are(monkeypatch):
    model, data, lines = gaussian(), small_data(Real((3,))), list[str]()
    few = {"steps": 8, "points": 3, "chains": 4, "reference_chains": 8, "reference_steps": 30, "levels": [0.5]}
    evaluation = component(
        "evaluation", "mixing_real", samplers={"mala": shipped("sampler")["mala"] | {"adapt": 0.5}}, **few
    )
    subject = Subject(model, data, "test", SAMPLERS["mala"], torch.empty(0, 3), stream(0, "mixing"))
    monkeypatch.setattr(terminal.log, "info", lambda form, *words: lines.append(form % words))
    evaluation.evaluate(subject)
    assert len(lines) == 1
    monkeypatch.setattr(terminal, "_FOLLOWED_SECONDS", -1.0)
    evaluation.evaluate(subject)
    assert any(line.startswith("warm-up: block 2/3") for line in lines)
    assert "mixing: mala step 8/8, 0 of 60 s" in lines


def test_what_is_shipped_fits_real_numbers():
    evaluation = component("evaluation", "mixing_real")
    assert evaluation.refusal(gaussian(), SAMPLERS["mala"]) is None
    why = component("evaluation", "mixing", samplers={"gwg": shipped("sampler")["gwg"]}).refusal(
        gaussian(), SAMPLERS["mala"]
    )
    assert why.startswith("samplers.gwg moves in binary, spin or categorical spaces, this one is real")
    assert "has neither" in evaluation.refusal(target("potts-categorical"), SAMPLERS["gibbs"])


def test_a_label_must_be_part_of_a_name():
    with pytest.raises(UserError, match="a/b"):
        component("evaluation", "mixing", samplers={"a/b": shipped("sampler")["gwg"]})
