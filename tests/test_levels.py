"""Levels of brightness: spread over their share of the box, and noise added to data."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers.components import component
from helpers.statistics import assert_mean
from torch.testing import assert_close

from ebm_cli.dataset.base import Arrays, GreyDataset, Raw
from ebm_cli.errors import UserError
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Box, Categorical, Real


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grey(GreyDataset):
    """Four levels, as floats."""

    values = "grey"

    def read(self):
        part = Arrays(np.tile(np.arange(4, dtype=np.float32) / 3, (3000, 1)))
        return Raw("grey", part, None, part, categories=4)


def grey(**keys):
    settings = {"binarize": "auto", "box": "unit", "dequantise": True, "noise": 0.0}
    return Grey(**settings | keys)


@pytest.mark.parametrize(("box", "low"), [("unit", 0.0), ("symmetric", -1.0)])
def test_levels_are_spread_evenly_over_their_share_of_the_box(box, low):
    data = grey(box=box).load((Box,))
    assert data.space == Box((4,), low, 1.0)
    x = ((data.train.all() - low) / (1 - low)).double()
    for level in range(4):
        assert (x[:, level] * 4).floor().unique().tolist() == [level]
        assert_mean(x[:, level], (level + 0.5) / 4)
        assert_mean((x[:, level] - (level + 0.5) / 4).square(), 1 / 16 / 12)
    mean = low + (1 - low) * (torch.arange(4) + 0.5) / 4
    assert_close(data.train.mean(), mean)
    assert torch.equal(data.train.all(), data.train.all())
    index = torch.arange(5)
    assert not torch.equal(*(data.train.rows(index, stream(seed)) for seed in (0, 1)))


def test_noise_is_added_and_kept_within():
    x = grey(dequantise=False, noise=0.1).load((Box,)).train.all().double()
    assert x.min() == 0
    assert x.max() == 1
    assert_mean(x[:, 1], 1 / 3)  # what is cut off below, 3 standard deviations away, is 4e-5
    assert x[:, 1].std().item() == pytest.approx(0.1, rel=0.05)
    assert torch.equal(grey(dequantise=False).load((Box,)).train.all()[0], torch.arange(4) / 3)


def test_levels_are_spread_for_models_of_real_numbers_too():
    """Else the density of a level is a point's, which has no bound."""
    data = grey(noise=0.05).load((Real,))
    x = data.train.all().double()
    for level in range(4):
        assert_mean(x[:, level], (level + 0.5) / 4)
        assert_mean((x[:, level] - (level + 0.5) / 4).square(), 1 / 16 / 12 + 0.05**2)
    assert_close(data.train.mean(), (torch.arange(4) + 0.5) / 4)
    assert data.describe().startswith("4 real, 4 levels spread evenly, noise 0.05; 3000 rows")
    assert torch.equal(grey(dequantise=False).load((Real,)).train.all()[0], torch.arange(4) / 3)


def test_noise_is_added_to_numbers_of_any_size(tmp_path):
    np.savez(tmp_path / "x.npz", train=np.tile([[-40.0, 7.0]], (4000, 1)))
    x = component("dataset", "array", path=str(tmp_path / "x.npz"), noise=0.5).load((Real,)).train.all().double()
    assert_mean(x[:, 0], -40)
    assert_mean((x[:, 1] - 7).square(), 0.25)


def test_levels_nobody_knows_are_refused():
    data = component("dataset", "array", path="x.npz", dequantise=True)
    part = Arrays(np.zeros((3, 2), np.float32))
    with pytest.raises(UserError, match=r"^dataset.dequantise = true: "):
        _read(data, Raw("grey", part, part, part)).load((Box,))


def _read(data, raw):
    """The dataset as if it had read that."""
    keys = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    return type("Read", (type(data),), {"read": lambda _: raw})(**keys)


def test_models_without_a_box_get_what_they_take():
    assert grey().load((Real,)).space == Real((4,))
    assert grey().load((Categorical,)).space == Categorical((4, 4))
    assert isinstance(grey(binarize="threshold").load((Binary,)).space, Binary)
