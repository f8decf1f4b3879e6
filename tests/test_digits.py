"""Digits: their split, their threshold and how well independent pixels describe them."""

import pytest
import torch
from helpers.components import component

from ebm_cli.errors import UserError
from ebm_cli.space import Binary, Real


def test_digits_split_covers_every_row_once():
    from sklearn.datasets import load_digits

    data = component("dataset", "digits", dequantise=False).load((Real,))
    parts = (data.train, data.valid, data.test)
    assert [len(part) for part in parts] == [1293, 144, 360]
    assert data.space == Real((8, 8))
    split = torch.cat([part.all() for part in parts]).flatten(1) * 16
    labels = torch.cat([part.labels for part in parts])
    source = load_digits()
    # All 1797 images are distinct, so equal sets of (image, label) mean disjoint splits that leave nothing out.
    expected = {(*map(int, row), int(label)) for row, label in zip(source.data, source.target, strict=True)}
    assert len(expected) == 1797
    assert {(*map(int, row), int(label)) for row, label in zip(split.tolist(), labels, strict=True)} == expected


def test_digits_without_validation_keeps_the_test_rows():
    whole, cut = (component("dataset", "digits", dequantise=False, **keys).load((Real,)) for keys in ({"valid": 0}, {}))
    assert whole.valid is None
    assert len(whole.train) == 1437
    assert torch.equal(whole.test.all(), cut.test.all())
    assert torch.equal(whole.train.all()[:1293], cut.train.all())
    assert torch.equal(whole.train.all()[1293:], cut.valid.all())


def test_digits_refuse_validation_that_leaves_no_training_rows():
    with pytest.raises(UserError, match=r"dataset.valid = 1437: must be below 1437"):
        component("dataset", "digits", valid=1437).read()


def test_digits_are_thresholded_at_half():
    grey, binary = (
        component("dataset", "digits", dequantise=False).load((Real,)),
        component("dataset", "digits").load((Binary,)),
    )
    assert binary.space == Binary((8, 8))
    assert torch.equal(binary.train.all(), (grey.train.all() * 16 >= 8).float())
    assert not torch.equal(binary.train.all(), (grey.train.all() * 16 > 8).float())


def test_digits_under_independent_pixels():
    """The simplest model fixes scale, threshold and split. Over random splits it gives -25.13, sd 0.18."""
    data = component("dataset", "digits", valid=0).load((Binary,))
    x, test = data.train.all().flatten(1).double(), data.test.all().flatten(1).double()
    p = (x.sum(0) + 0.5) / (len(x) + 1)
    value = (test @ p.log() + (1 - test) @ (1 - p).log()).mean().item()
    assert value == pytest.approx(-25.176, abs=2e-3)
