"""The centred gradient of an RBM: that of the centred energy, in plain loops."""

import itertools
import math

import pytest
import torch
from helpers.components import component
from helpers.models import small_model, target
from helpers.objectives import data_rows, likelihood_gradient
from helpers.statistics import assert_close
from helpers.training import gradients

from ebm_cli.errors import UserError
from ebm_cli.model.centred import Centred
from ebm_cli.objective.likelihood import center
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Spin
from ebm_cli.training import checks

# Float64 sums over 16 states lose a few units in the last place.
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def centred_rbm():
    model = target("rbm-binary")
    model.visible_offset.copy_(torch.tensor([0.2, 0.7, 0.4, 0.9]))
    model.hidden_offset.copy_(torch.tensor([0.3, 0.8, 0.55]))
    return model


def hidden_means(model, x):
    """p(h_j = 1 | v) for each row, in plain loops."""
    W, c = model.W.tolist(), model.c.tolist()
    logits = [[c[j] + sum(v[i] * W[i][j] for i in range(4)) for j in range(3)] for v in x.flatten(1).tolist()]
    return [[1 / (1 + math.exp(-a)) for a in row] for row in logits]


def centred_gradient(model, x, x_neg, lam):
    """Melchior, Fischer and Wiskott 2016, eq. 7-12, of -log p (hence chains minus data).

    In E' = -(v - mu).b' - (h - lam).c' - (v - mu).W'(h - lam) the gradients are centred moments. Expanding gives
    b = b' - W' lam and c = c' - W'^T mu, so that is how the updates of b and c follow from those of b', c' and W'.
    """
    mu = model.visible_offset.tolist()

    def moments(rows):
        v, h = rows.flatten(1).tolist(), hidden_means(model, rows)
        n = len(v)
        W = [[sum((r[i] - mu[i]) * (s[j] - lam[j]) for r, s in zip(v, h, strict=True)) / n for j in range(3)]
             for i in range(4)]  # fmt: skip
        b = [sum(r[i] for r in v) / n for i in range(4)]
        c = [sum(s[j] for s in h) / n for j in range(3)]
        return [torch.tensor(values, dtype=torch.float64) for values in (W, b, c)]

    W, b, c = (chains - data for chains, data in zip(moments(x_neg), moments(x), strict=True))
    for i, j in itertools.product(range(4), range(3)):
        b[i] -= W[i, j] * lam[j]
        c[j] -= W[i, j] * mu[i]
    return {"W": W, "b": b, "c": c}


@pytest.mark.parametrize("rate", [0.01, 0.5])
def test_the_centred_gradient_is_that_of_the_centred_energy(rate):
    model = centred_rbm()
    x, x_neg = data_rows(model), model.space.noise(5, stream(1, "chains")).double()
    active = hidden_means(model, x)
    mean = [sum(row[j] for row in active) / len(active) for j in range(3)]
    lam = [old + rate * (new - old) for old, new in zip(model.hidden_offset.tolist(), mean, strict=True)]
    found, metrics = gradients(component("objective", "pcd", centered=True, offset_rate=rate), model, x, x_neg)
    assert_close(model.hidden_offset, torch.tensor(lam, dtype=torch.float64), **EXACT)
    expected = centred_gradient(model, x, x_neg, lam)
    for name in expected:
        assert_close(found[name], expected[name], **EXACT)
    plain = gradients(component("objective", "pcd", centered=False), centred_rbm(), x, x_neg)[1]
    assert metrics["loss"].item() == pytest.approx(plain["loss"].item(), rel=1e-12)


def test_without_offsets_the_centred_gradient_is_the_plain_one():
    model = centred_rbm()
    model.visible_offset.zero_()
    model.hidden_offset.zero_()
    x, x_neg = data_rows(model), model.space.noise(5, stream(1, "chains")).double()
    plain, _ = gradients(component("objective", "pcd", centered=False), model, x, x_neg)
    centred = center(plain, model.visible_offset, model.hidden_offset)
    assert all(torch.equal(centred[name], plain[name]) for name in plain)


def test_the_centred_gradient_is_a_descent_direction():
    """It is the plain one in other coordinates: their inner product is a sum of squares."""
    model = centred_rbm()
    x = data_rows(model)
    plain, _ = likelihood_gradient(model, x)
    centred, _ = gradients(component("objective", "exact", centered=True), model, x, None)
    assert sum((plain[name] * centred[name]).sum() for name in plain).item() > 0


def test_centred_training_ignores_which_value_is_called_one():
    """Flipping every visible bit and its parameters gives the mirrored gradient; the plain gradient lacks this."""
    model = centred_rbm()
    x, x_neg = data_rows(model), model.space.noise(5, stream(1, "chains")).double()
    flipped = centred_rbm()
    with torch.no_grad():
        flipped.W.copy_(-model.W)
        flipped.b.copy_(-model.b)
        flipped.c.copy_(model.c + model.W.sum(0))
        flipped.visible_offset.copy_(1 - model.visible_offset)
    objective = component("objective", "pcd", centered=True)
    a, _ = gradients(objective, model, x, x_neg)
    b, _ = gradients(objective, flipped, 1 - x, 1 - x_neg)
    assert_close(b["W"], -a["W"], **EXACT)
    assert_close(b["b"], -a["b"], **EXACT)
    # c = c' - W^T mu: the same model has c + sum_i W_i after the flip.
    assert_close(b["c"], a["c"] + a["W"].sum(0), **EXACT)


def test_offsets_start_at_the_data_mean_and_one_half():
    mean = torch.tensor([[0.1, 0.2], [0.3, 0.9]])
    model = component("model", "rbm").build(Binary((2, 2)), mean, stream(0))
    assert torch.equal(model.visible_offset, mean.flatten())
    assert (model.hidden_offset == 0.5).all()


def test_the_centred_gradient_needs_an_rbm():
    choice = {"model": "boltzmann", "objective": "pcd"}
    objective = component("objective", "pcd", centered=True)
    assert objective.needs == (Centred,)
    assert component("objective", "pcd").needs == ()
    with pytest.raises(UserError, match=r"centered = true wants.*model=boltzmann is not.*fit: rbm.*centered=false"):
        checks.check_objective(objective, component("model", "boltzmann"), choice)
    checks.check_objective(objective, component("model", "rbm"), choice)


@pytest.mark.parametrize("kind", ["bits", "drelu on spins"])
def test_the_standardised_gradient_is_that_of_standardised_couplings(kind):
    """By the chain rule in the parameters of -((v - mu) / s).w ((h - lam) / t), b' and c': W = w / (s t).

    Then a step down in (w, b', c') is one down by the found gradient in (W, b, c), to first order.
    """
    model = centred_rbm() if kind == "bits" else small_model("rbm", Spin((2, 2)), hidden_units="drelu")
    x, x_neg = data_rows(model), model.space.noise(5, stream(1, "chains")).double()
    plain, _ = gradients(component("objective", "pcd", centered=False), model, x, x_neg)
    found, _ = gradients(component("objective", "pcd", standardized=True), model, x, x_neg)
    mu, lam = model.visible_offset, model.hidden_offset
    if kind == "bits":
        s, t = (mu * (1 - mu)).sqrt(), (lam * (1 - lam)).sqrt()
    else:
        s, t = (1 - mu**2).sqrt(), (model.hidden_square - lam**2).sqrt()
    w = plain["W"] - torch.outer(mu, plain["c"]) - torch.outer(plain["b"], lam)
    W = w / torch.outer(s, t) / torch.outer(s, t)  # of w, and back to W
    assert_close(found["W"], W, **EXACT)
    assert_close(found["b"], plain["b"] - W @ lam, **EXACT)
    assert_close(found["c"], plain["c"] - mu @ W, **EXACT)


def test_variances_near_0_do_not_blow_the_gradient_up():
    model = centred_rbm()
    x, x_neg = data_rows(model), model.space.noise(5, stream(1, "chains")).double()
    model.visible_offset[0] = 1e-9
    one, _ = gradients(component("objective", "pcd", standardized=True, least_variance=0.25), model, x, x_neg)
    centred, _ = gradients(component("objective", "pcd"), centred_with(model), x, x_neg)
    assert_close(one["W"], 16 * centred["W"], rtol=1e-3, atol=1e-3)  # no variance of a bit is above 1/4


def centred_with(model):
    """As it was before the offsets followed."""
    fresh = centred_rbm()
    fresh.visible_offset.copy_(model.visible_offset)
    return fresh


def test_standardised_is_a_kind_of_centred():
    objective = component("objective", "pcd", standardized=True, centered=False)
    assert "objective.centered to auto or true" in objective.refusal()
    choice = {"model": "boltzmann", "objective": "pcd"}
    with pytest.raises(UserError, match=r"standardized = true wants.*model=boltzmann is not.*standardized=false"):
        checks.check_objective(
            component("objective", "pcd", standardized=True), component("model", "boltzmann"), choice
        )
