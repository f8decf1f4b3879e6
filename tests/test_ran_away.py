"""Chains that ran away are told from chains among rows that lie close together."""

import math

import pytest
import torch
from helpers.components import component
from test_evaluation import Still
from test_untrusted_figures import gaussian

from ebm_cli.dataset.base import Data, Split
from ebm_cli.evaluation.base import Subject
from ebm_cli.rng import normal, stream
from ebm_cli.space import Real


def warnings(samples):
    """Of samples beside 20000 rows on a circle of radius 1."""
    angle = torch.arange(20000) * (2 * math.pi / 20000)
    space = Real((2,))
    split = Split(space, torch.stack([angle.cos(), angle.sin()], 1), 1.0, stochastic=False, labels=None)
    held_out = Split(space, split.stored * 1.0001, 1.0, stochastic=False, labels=None)
    about = Subject(gaussian(0.0, 1.0), Data(space, split, None, held_out), "test", Still(), samples, stream(0, "away"))
    return component("evaluation", "samples", count=len(samples), steps=1).evaluate(about).warnings


def on_the_circle(radius):
    """100 points near a circle of this radius, as a model has them that has learned it."""
    x = normal((100, 2), stream(0, "points"))
    return radius * x / x.norm(dim=1, keepdim=True) + 0.05 * normal((100, 2), stream(0, "off"))


def test_samples_among_rows_that_lie_close_together_have_not_run_away():
    assert warnings(on_the_circle(1.0)) == ()


@pytest.mark.parametrize("radius", [8.0, 1e6])
def test_samples_beyond_everything_in_the_data_have_run_away(radius):
    (said,) = warnings(on_the_circle(radius))
    assert "times as far from the training rows as these are from their mean: the chains have run away" in said
