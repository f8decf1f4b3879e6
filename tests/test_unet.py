"""U-Nets as energies of images: what goes down and comes up, the error, and gradients in closed form."""

from functools import partial

import pytest
import torch
from helpers.cli import assert_refused, ebm
from helpers.components import component, shipped
from helpers.statistics import assert_close

import ebm_cli
from ebm_cli import registry, rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import stream
from ebm_cli.space import Box

SHAPES = [((8, 8), [2, 3]), ((2, 5, 7), [3, 4, 2]), ((3, 4, 4), [2])]
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def unet(shape, widths, low=-1.0, high=2.0):
    """One whose weights are all far from 0, in float64."""
    space = Box(shape, low, high)
    model = component("model", "unet", widths=widths, hidden=3).build(space, torch.zeros(shape), stream(0, "model"))
    model = model.double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.3 * rng.normal(parameter.shape, stream(0, name), dtype=torch.float64))
    return model


def images(model, n=3):
    space = model.space
    return space.low + (space.high - space.low) * rng.uniform((n, *space.shape), stream(0, "x"), dtype=torch.float64)


@pytest.mark.parametrize(("shape", "widths"), SHAPES)
def test_gradients_are_those_of_automatic_differentiation(shape, widths):
    model = unet(shape, widths)
    x, weight = images(model), torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    for found, expected in zip(model.energy_and_grad(x), EnergyModel.energy_and_grad(model, x), strict=True):
        assert_close(found, expected, **EXACT)
    grads, others = (form(x)[1](weight) for form in (model.energy_vjp, partial(EnergyModel.energy_vjp, model)))
    assert [*grads] == [*others]
    for name, grad in grads.items():
        assert grad.abs().max() > 0
        assert_close(grad, others[name], **EXACT)


@pytest.mark.parametrize(("shape", "widths"), SHAPES)
def test_its_energy_is_the_error_of_what_it_gives_back(shape, widths):
    """Of brightness in [-1, 1]; it begins at 0, with as many numbers as it says."""
    model, spec = unet(shape, widths), component("model", "unet", widths=widths, hidden=3)
    x = images(model)
    v = (2 * (x + 1) / 3 - 1).flatten(1)
    g = model.features(x)["reconstruction"]
    assert g.shape == v.shape
    assert_close(model.energy(x), ((v - g).square().sum(1) - v.square().sum(1)) / 2, **EXACT)
    start = spec.build(model.space, torch.zeros(shape), stream(0, "model"))
    assert not start.energy(x.float()).any()
    assert sum(p.numel() for p in start.parameters()) == spec.parameters(model.space)


def test_every_pixel_that_comes_back_depends_on_every_pixel():
    """Through the linear layers of the coarsest scale, and over the convolutions on its own neighbours most."""
    model = unet((1, 12, 12), [2, 2, 2])
    of_corner = torch.autograd.functional.jacobian(
        lambda x: model.features(x)["reconstruction"].reshape(12, 12)[0, 0], images(model, 1)
    )[0, 0]
    assert (of_corner != 0).all()
    assert of_corner[:3, :3].abs().mean() > 5 * of_corner[6:, 6:].abs().mean()


def test_channels_beside_the_image_leave_it_its_weight():
    """Weights of the convolution and the patches that see it begin as wide with ten channels as with one."""
    for channels in (1, 10):
        space = Box((channels, 8, 8), -1.0, 1.0)
        model = component("model", "unet", widths=[16, 16]).build(space, torch.zeros(space.shape), stream(0, "model"))
        for weight, bound in ((model.enter.weight, 1 / 3), (model.patches[0].weight, 1 / 2)):
            assert 0.95 * bound < weight.abs().max() <= bound


def test_data_that_are_no_images_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(ebm("train model=leveled_unet dataset=points_2d"), "takes images, the data have shape 2")


@pytest.mark.long
def test_levels_of_images_are_learned_and_walked(tmp_path, monkeypatch):
    """From the command line, resumed: less noise is left than at the start, and walks end at images."""
    monkeypatch.chdir(tmp_path)
    line = (
        "model=leveled_unet model.network.widths=[8,16] model.network.hidden=16 model.process.levels=6 dataset=digits "
        "dataset.binarize=none batch_size=64 evaluation=[] tracker=none optimizer.lr=0.01 eval_every=0 "
        "checkpoint.monitor=null device.compile=never log_every=10"
    )
    assert ebm(f"train {line} steps=250 hydra.run.dir=run").code == 0
    assert ebm("train resume=run steps=300").code == 0
    run = ebm_cli.load("run")
    samples = run.sample(8, steps=10)
    assert samples.shape == (8, 8, 8)
    losses = run.metrics()["loss"]
    assert losses.iloc[-5:].mean() < 0.8 * losses.iloc[:3].mean()


def test_leveled_networks_are_shipped_with_the_same_keys():
    kinds = ("leveled", "leveled_convnet", "leveled_unet")
    keys = [shipped("model")[name].keys() for name in kinds]
    assert keys[0] == keys[1] == keys[2]
    assert registry.build("model", shipped("model")["leveled_unet"]).network.builds.convolves
