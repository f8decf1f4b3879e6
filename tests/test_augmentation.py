"""Transforms of images, and chains that are transformed now and then."""

import itertools

import pytest
import torch
from helpers.components import component, shipped
from helpers.models import small_model
from helpers.statistics import assert_mean
from torch.testing import assert_close

from ebm_cli import rng
from ebm_cli.rng import stream
from ebm_cli.sampler.augmentation import TRANSFORMS, Strengths
from ebm_cli.sampler.base import followed
from ebm_cli.space import Box


@pytest.mark.quick("rescale", "elastic", "colour")
@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_a_transform_is_an_images_own(name):
    """A function of its key, different for each image, the same alone as among others, and none at strength near 0."""
    image = rng.uniform((6, 3, 8, 8), stream(0, "image"))
    strong, weak = Strengths(0.3, 0.5, 1.0, 0.5, 0.1), Strengths(1e-7, 1e-7, 1e-2, 1e-7, 1e-7)
    found = TRANSFORMS[name](image, strong, stream(1))
    assert (found - image).abs().flatten(1).amax(1).min() > 0.01
    assert torch.equal(found, TRANSFORMS[name](image, strong, stream(1)))
    assert_close(TRANSFORMS[name](image[2:4], strong, stream(1).at_row(2)), found[2:4])
    same = image[:1].expand(6, -1, -1, -1)
    assert len(TRANSFORMS[name](same, strong, stream(1)).flatten(1).unique(dim=0)) == 6
    assert_close(TRANSFORMS[name](image, weak, stream(1)), image, atol=1e-4, rtol=0)


def test_a_shift_is_a_share_of_the_side():
    """A bright pixel moves by at most 2 of 8 pixels and on average by none."""
    image = torch.zeros(4000, 1, 9, 9)
    image[:, :, 4, 4] = 1
    found = TRANSFORMS["shift"](image, Strengths(2 / 9, 0, 0, 0, 0), stream(0)).double()
    place = torch.arange(9) - 4.0
    moved = (found.sum((1, 2)) * place).sum(1)
    assert moved.abs().max() <= 2 + 1e-6
    assert_mean(moved, 0.0)
    assert_mean(moved.square(), 4 / 3)


def test_rescaling_is_symmetric_in_its_logarithm():
    image = torch.zeros(2000, 1, 33, 33)
    image[:, :, 12:21, 12:21] = 1
    area = TRANSFORMS["rescale"](image, Strengths(0, 0.5, 0, 0, 0), stream(0)).sum((1, 2, 3)).double() / 81
    assert area.min() > 1 / 1.5**2 * 0.9
    assert area.max() < 1.5**2 * 1.1
    assert area.log().mean().item() == pytest.approx(0, abs=0.03)


def test_augmented_chains_are_transformed_when_it_is_due():
    """With steps of the kernel that do not move, what changes is the transform, before steps 1 and 4."""
    model = small_model("convnet", Box((4, 4), -1.0, 1.0))
    kernel = shipped("sampler")["langevin"] | {"step_size": 1e-12, "noise": 0.0}
    sampler = component("sampler", "augmented", kernel=kernel, every=3, elastic=0.2)
    x, found = model.space.noise(3, stream(0)).double(), []
    for frame in followed(sampler, model, x, [stream(1, i) for i in range(7)], range(8)):
        found.append(frame)
    changed = [(a - b).abs().max() > 1e-6 for a, b in itertools.pairwise(found)]
    assert changed == [True, False, False, True, False, False, True]
    assert all(model.space.contains(frame) for frame in found)
    assert "elastic every 3 steps" in sampler.remark()
