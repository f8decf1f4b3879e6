"""Hidden units that do no work are counted."""

from dataclasses import replace

import pytest
import torch
from helpers.data import small_data
from helpers.models import target
from test_evaluation import subject

from ebm_cli.evaluation.units import idle_units
from ebm_cli.model.dbn import DBN
from ebm_cli.model.rbm import RBM
from ebm_cli.rng import stream
from ebm_cli.space import Binary

SPACE = Binary((6,))


def rbm(biases, columns):
    """An RBM whose hidden unit j has this bias and this column of weights."""
    model = RBM(SPACE, len(biases), 0.1, torch.full((6,), 0.5), stream(0))
    model.c.data.copy_(torch.tensor(biases))
    model.W.data.copy_(torch.tensor(columns).T)
    return model


LEFT, RIGHT = [4.0, -4.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 4.0, 0.0, -4.0, 0.0]


def found(model):
    return idle_units(subject(model, data=small_data(SPACE, 200)))


def test_dead_saturated_and_duplicate_units_are_counted():
    model = rbm([-40.0, -40.0, 40.0, 0.0, 0.0, 0.0], [LEFT, RIGHT, LEFT, LEFT, LEFT, RIGHT])
    result = found(model)
    assert result.metrics == {"units/hidden": 6, "units/dead": 2, "units/saturated": 1, "units/duplicate": 1}
    assert (
        "4 of 6 hidden units do no work (2 off and 1 on for practically all training rows, 1 the" in result.warnings[0]
    )


@pytest.mark.parametrize(
    ("biases", "way"), [([-40.0, -40.0, 0.0, 0.0], "a lower optimizer.lr"), ([-40.0, 0.0, 0.0, 0.0], "more steps, in")]
)
def test_the_advice_is_of_what_most_units_lack(biases, way):
    (said,) = found(rbm(biases, [LEFT] * 4)).warnings
    assert f"take {way}" in said


def test_units_that_differ_are_none_of_these():
    """Not even those that hardly depend on the data, as of a model that has learned nothing yet."""
    small = (0.01 * torch.randn(6, 6, generator=torch.Generator().manual_seed(0))).tolist()
    opposite = [[-w for w in LEFT], LEFT, RIGHT]
    for model in (rbm([0.0] * 6, small), rbm([0.0] * 3, opposite)):
        result = found(model)
        assert sum(result.metrics.values()) == result.metrics["units/hidden"]
        assert not result.warnings


def test_a_unit_that_is_on_for_a_few_rows_is_not_dead():
    """1 % of the rows have all six bits: a unit that finds these is worth having."""
    model = rbm([-110.0], [[20.0] * 6])
    data = small_data(SPACE, 200)
    rows = torch.zeros_like(data.train.stored)
    rows[:2] = 1
    data = replace(data, train=replace(data.train, stored=rows))
    assert idle_units(subject(model, data=data)).metrics["units/dead"] == 0


def test_each_layer_of_a_deep_network_is_looked_at():
    model = DBN(SPACE, [4, 3], 1.0, torch.full((6,), 0.5), stream(0))
    model.stack(warm=False)
    model.rbm(1).c.data.fill_(-40)
    result = found(model)
    assert result.metrics["units/hidden"] == 7
    assert result.metrics["units/dead"] == 3
    assert "3 of 3 hidden units of layer 2 do no work" in result.warnings[-1]


@pytest.mark.parametrize("name", ["rbm-categorical", "gaussian_rbm-real"])
def test_every_bipartite_model_has_units_to_look_at(name):
    model = target(name)
    result = idle_units(subject(model))
    assert result.metrics["units/hidden"] == len(model.c)


def test_a_model_without_hidden_units_has_none_to_count():
    assert not idle_units(subject(target("boltzmann-binary"))).metrics
