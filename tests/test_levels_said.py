"""What is said of leveled models and their samplers where a person took a wrong turn."""

import pytest
import torch
from helpers.cli import assert_refused, ebm
from helpers.components import component, shipped
from test_leveled import KEY, network, truth

from ebm_cli import registry, terminal
from ebm_cli.errors import UserError
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.sampler.remarks import remarks_on
from ebm_cli.space import Real

LEVELED = "train model=leveled dataset=points_2d steps=1"
REFUSED = {
    "sampler": (
        "train sampler=level_exchange",
        "level_exchange wants a leveled and real model, model=rbm is not; samplers",
    ),
    "reference": (
        f"{LEVELED} evaluation=[mixing_real]",
        "reference, the sampler of the run, only approximates the model; set evaluation.mixing.reference, e.g. "
        "evaluation.mixing.reference='{name: mala, step_size: 0.01, decades: 0.0, adapt: 0.574}'",
    ),
    "network": (
        f"{LEVELED} model.network.name=convnet",
        "model.network.name = convnet: has other keys; add ~model.network.input_scale ~model.network.spread "
        "+model.network.hidden=... (ebm list model convnet); model=leveled_convnet has them",
    ),
    "name": (
        f"{LEVELED} model.network=convnet",
        "set model.network.name and its others, or take model=leveled_convnet",
    ),
    "place": (f"{LEVELED} model@model.network=convnet", "no model is chosen at model.network, where it has keys it is"),
    "chains": (
        f"{LEVELED} evaluation=[mode_weights] evaluation.mode_weights.chains=9",
        "unknown key evaluation.mode_weights.chains; did you mean evaluation.mode_weights.samples? (see",
    ),
}


@pytest.mark.quick("place", "sampler")
@pytest.mark.parametrize("turn", REFUSED)
def test_a_wrong_turn_is_refused_with_the_way_out(turn):
    line, words = REFUSED[turn]
    assert_refused(ebm(line), words)


def test_a_sampler_of_one_level_is_doubted():
    model = truth()
    for name in ("mala", "hmc"):
        (remark,) = remarks_on(component("sampler", name), model)
        assert "first level of noise alone" in remark
    for name in ("predictor_corrector", "level_exchange"):
        assert remarks_on(component("sampler", name), model) == []


def test_long_walks_say_how_far_they_are(monkeypatch):
    lines, seconds = [], iter(range(0, 10**6, 4))
    monkeypatch.setattr(terminal.time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(terminal.log, "info", lambda form, *words: lines.append(form % words))
    model, sampler = truth(levels=5).float(), component("sampler", "predictor_corrector")
    quiet = run(sampler, model, torch.zeros(4, 2), 6, stream(1))[0]
    assert lines == []
    told = run(sampler, model, torch.zeros(4, 2), 6, stream(1), told="samples: step")[0]
    assert lines[0].startswith("samples: step 2/6")
    assert torch.equal(quiet, told)


def test_a_walk_that_cannot_move_is_refused():
    sampler = component("sampler", "predictor_corrector", transitions=0, predictor="none")
    assert "sampler.predictor" in sampler.refusal(Real((2,)))


def test_a_convolutional_network_wants_images():
    spec = registry.build("model", shipped("model")["leveled_convnet"])
    with pytest.raises(UserError, match="takes images, the data have shape 3"):
        spec.build(Real((3,)), torch.zeros(3), stream(1))
    with pytest.raises(UserError, match=r"model\.network = rbm: must be an energy of real numbers"):
        network(network=shipped("model")["rbm"])


def test_a_walk_of_too_few_steps_is_said_with_how_many_are_enough():
    sampler, model = component("sampler", "predictor_corrector"), truth(levels=6)
    assert sampler.too_few(model, 5) is None
    assert sampler.too_few(model, 3) == "the walk comes to level 2 of 5 alone, with its noise; take 5 or more"
    _, info = run(sampler, model.float(), torch.zeros(4, 2), 3, KEY)
    assert info["level"][0] == (4 + 3 + 2) / 3
