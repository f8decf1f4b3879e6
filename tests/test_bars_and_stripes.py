"""Bars and stripes: which images there are, how often, and their best likelihood."""

import math

import pytest
import torch
from helpers.components import component

from ebm_cli.space import Binary


@pytest.mark.parametrize("side", [2, 3, 4])
def test_bars_and_stripes_counts(side):
    data = component("dataset", "bars_and_stripes", side=side).load((Binary,))
    assert data.valid is None
    assert data.space == Binary((side, side))
    x = data.train.all()
    assert torch.equal(x, data.test.all())
    codes, counts = data.space.code(x).unique(return_counts=True)
    assert len(x) == 2 * 2**side
    assert len(codes) == 2 * 2**side - 2
    assert {int(code): int(count) for code, count in zip(codes, counts, strict=True) if count > 1} == {
        0: 2,
        data.space.states - 1: 2,
    }
    bars, stripes = x[: 2**side], x[2**side :]
    assert (bars == bars[:, :1, :]).all()
    assert (stripes == stripes[:, :, :1]).all()


def test_bars_and_stripes_best_likelihood():
    """sum over the 30 distinct images of log p = 2 log(2/32) + 28 log(1/32)."""
    data = component("dataset", "bars_and_stripes").load((Binary,))
    counts = data.space.code(data.train.all()).unique(return_counts=True)[1]
    assert (counts.double() / 32).log().sum().item() == pytest.approx(-102.5858, abs=1e-4)
    assert 2 * math.log(2 / 32) + 28 * math.log(1 / 32) == pytest.approx(-102.5858, abs=1e-4)
