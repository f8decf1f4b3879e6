"""Convolutional RBM: the RBM of the matrix that its filters make, written by loops."""

import itertools

import pytest
import torch
from helpers.cli import assert_refused, ebm
from helpers.components import component
from helpers.models import small_model
from helpers.statistics import assert_close

from ebm_cli.log_z import enumeration
from ebm_cli.model.rbm import RBM
from ebm_cli.rng import stream
from ebm_cli.space import Binary

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def matrix(model):
    """Of the weight between each pixel and each hidden unit: that of the filter at their offset, else 0."""
    (colours, height, width), (filters, *_), size = model.image, model.maps, model.W.shape[2]
    found = torch.zeros(*model.image, *model.maps, dtype=torch.float64)
    for k, y, x, c, dy, dx in itertools.product(*map(range, (filters, height, width, colours, size, size))):
        row, column = y + dy - size // 2, x + dx - size // 2
        if 0 <= row < height and 0 <= column < width:
            found[c, row, column, k, y, x] = model.W[k, c, dy, dx]
    return found.reshape(model.space.sites, model.hidden)


@pytest.fixture(params=[(2, 3), (2, 2, 2), (4, 5)], ids=str)
def pair(request):
    model = small_model("conv_rbm", Binary(request.param), filters=2, filter_size=3)
    dense = RBM(model.space, model.hidden, 0.0, torch.full(request.param, 0.5), stream(0, "dense")).double()
    with torch.no_grad():
        dense.W.copy_(matrix(model))
        dense.b.copy_(model.b)
        dense.c.copy_(model.c.repeat_interleave(model.hidden // len(model.c)))
    return model, dense


def test_it_is_the_rbm_of_the_matrix_of_its_filters(pair):
    """Energies, gradients, conditionals, log Z where it can be summed, and draws to the bit."""
    model, dense = pair
    x = model.space.noise(7, stream(0, "noise")).double()
    h = torch.rand(7, model.hidden, generator=torch.Generator().manual_seed(0)).round().double()
    assert_close(model.energy(x), dense.energy(x), **EXACT)
    for one, other in zip(model.energy_and_grad(x), dense.energy_and_grad(x), strict=True):
        assert_close(one, other, **EXACT)
    assert_close(model.visible_logits(h), dense.visible_logits(h), **EXACT)
    assert_close(model.log_marginal(h), dense.log_marginal(h), **EXACT)
    assert torch.equal(*(m.sweep(x, stream(0, "sweep"), backwards=False) for m in pair))
    if model.space.sites <= 8:
        assert enumeration.log_z(model).item() == pytest.approx(enumeration.log_z(dense).item(), rel=1e-12)


def test_gradients_are_those_of_automatic_differentiation(pair):
    model, _ = pair
    x = model.space.noise(6, stream(0, "noise")).double()
    weight = torch.linspace(-1, 2, 6).double()
    energy, pull = model.energy_vjp(x)
    grads = torch.autograd.grad((model.energy(x) * weight).sum(), [*model.parameters()])
    found = pull(weight)
    assert list(found) == [name for name, _ in model.named_parameters()]
    for one, other in zip(found.values(), grads, strict=True):
        assert_close(one, other, **EXACT)
    assert not energy.requires_grad
    spec = component("model", "conv_rbm", filters=2, filter_size=3)
    assert spec.parameters(model.space) == sum(p.numel() for p in model.parameters())


@pytest.mark.long
def test_what_is_no_image_and_even_filters_are_refused():
    assert_refused(ebm("train model=conv_rbm model.filter_size=4"), "model.filter_size = 4: must be odd, as 5")
    assert_refused(ebm("train model=conv_rbm dataset=points_gray"), "model.name = conv_rbm: takes images, the data")
