"""Residual networks of discrete images: their energy against the same network written out with torch's functions."""

import pytest
import torch
import torch.nn.functional as F
from helpers.components import component
from numpy.testing import assert_allclose

from ebm_cli.errors import UserError
from ebm_cli.rng import stream, uniform
from ebm_cli.space import Binary, Categorical

SPACES = {"binary": Binary((2, 4, 6)), "binary of one channel": Binary((5, 4)), "categorical": Categorical((4, 6, 3))}


def network(space, blocks: int = 1):
    """A small one with weights that are none of them 0, the mean of its data, and rows."""
    name = "resnet_categorical" if isinstance(space, Categorical) else "resnet_binary"
    mean = uniform(space.shape, stream(1, "mean"))
    mean.flatten()[::5] = 0  # beyond the clip
    mean = mean / mean.sum(-1, keepdim=True) if isinstance(space, Categorical) else mean
    spec = component("model", name, width=3, blocks=blocks)
    model = spec.build(space, mean, stream(2, "model")).double()
    with torch.no_grad():
        model.last.weight.copy_(torch.tensor([[0.7, -1.1, 0.4]]))
    return spec, model, mean, space.noise(7, stream(3, "x")).double()


def features(weights: dict[str, torch.Tensor], image: torch.Tensor, blocks: int) -> torch.Tensor:
    """Of images (n, channels, height, width) the linear function of the mean over pixels, (n,)."""

    def conv(name, x, stride=1, padding=1):
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride, padding)

    x = conv("first", image)
    for name, stride in [("down.0", 2), ("down.1", 2), *((f"blocks.{i}", 1) for i in range(blocks))]:
        inner = conv(f"{name}.second", F.silu(conv(f"{name}.first", x, stride)))
        x = F.silu(inner + (conv(f"{name}.shortcut", x, stride, 0) if stride == 2 else x))
    return (x.mean((2, 3)) * weights["last.weight"]).sum(1)


def log_base(space, clip: float, mean: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """log p of independent pixels, (n,)."""
    if isinstance(space, Categorical):
        kept = mean.clamp_min(clip)
        return (x * (kept / kept.sum(-1, keepdim=True)).double().log()).flatten(1).sum(1)
    p = mean.clamp(clip, 1 - clip).double()
    return (x * p.log() + (1 - x) * (1 - p).log()).flatten(1).sum(1)


@pytest.mark.parametrize("name", SPACES)
@torch.no_grad()
def test_the_energy_is_that_of_the_network_written_out(name):
    space = SPACES[name]
    spec, model, mean, x = network(space)
    image = x.permute(0, 3, 1, 2) if isinstance(space, Categorical) else 2 * x - 1  # a channel for each value
    image = image.reshape(7, -1, *space.site_shape[-2:])
    due = -features(dict(model.named_parameters()), image, 1) - log_base(space, spec.clip, mean, x)
    assert_allclose(model.energy(x), due, rtol=1e-6)


@pytest.mark.parametrize("name", SPACES)
@torch.no_grad()
def test_it_begins_as_independent_pixels(name):
    """At the mean of the data, normalised."""
    space = SPACES[name]
    spec, _, mean, x = network(space)
    model = spec.build(space, mean, stream(2, "model"))
    assert_allclose(-model.energy(x.float()), log_base(space, spec.clip, mean, x), rtol=1e-5)


@pytest.mark.parametrize("name", SPACES)
def test_parameters_are_counted_before_they_are_made(name):
    spec, model, _, _ = network(SPACES[name], blocks=2)
    assert spec.parameters(SPACES[name]) == sum(p.numel() for p in model.parameters())


def test_weights_are_within_their_bound_and_reach_it():
    _, model, _, _ = network(SPACES["binary"])
    bound = 1 / (9 * 2) ** 0.5
    assert 0.9 * bound < model.first.weight.abs().max() <= bound
    assert not torch.equal(model.blocks[0].first.weight, model.blocks[0].second.weight)


def test_rows_that_are_no_images_are_refused():
    with pytest.raises(UserError, match=r"model.name = resnet_binary: takes images, the data have shape 6"):
        component("model", "resnet_binary").build(Binary((6,)), torch.full((6,), 0.5), stream(0))
