"""Levels of noise with classes: against sums over the classes, and normal laws with labels, of which all is known."""

import math

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm
from helpers.components import SIGMAS, component, shipped
from helpers.models import randomised
from helpers.statistics import assert_close
from torch.distributions import MultivariateNormal

from ebm_cli import registry
from ebm_cli.errors import UserError
from ebm_cli.model.levels import LeveledClassifier
from ebm_cli.objective.base import Batch
from ebm_cli.objective.denoising import noised
from ebm_cli.rng import normal, stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Real

KEY = stream(0, "leveled jem")
DOUBLE = {"dtype": torch.float64}
EXACT = {"rtol": 1e-9, "atol": 1e-11}
SHARES = torch.tensor([0.3, 0.7], **DOUBLE)  # of the classes
MEANS = torch.tensor([[1.2, -0.4], [-0.6, 0.3]], **DOUBLE)  # of the data of each, in units of r
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.3]], **DOUBLE)
SCALE = torch.tensor([2.0, 0.5], **DOUBLE)


class TwoNormalLaws(LeveledClassifier):
    """E(x, k, y) = -log N(x; m + r a_k c_y, r (a_k^2 C + s_k^2) r) - b_k[y], b_k[y] = log of the share of y."""

    def __init__(self, levels=6):
        scales = component("process", "vp", levels=levels).scales()
        super().__init__(Real((2,)), scales, torch.tensor([0.5, -1.0], **DOUBLE), SCALE)
        self.double()
        self.classes = 2
        self.centres = torch.nn.Parameter(MEANS.expand(levels, 2, 2).clone())
        self.constants = torch.nn.Parameter(SHARES.log().expand(levels, 2).clone())
        self.precision = torch.stack([self.law(k, 0).precision_matrix for k in range(levels)]).detach()

    def law(self, k, y):
        a, s = self.a[k], self.s[k]
        covariance = a**2 * COVARIANCE + s**2 * torch.eye(2, **DOUBLE)
        mean = self.mean + self.scale * a * self.centres[k, y]
        return MultivariateNormal(mean, self.scale * covariance * self.scale[:, None])

    def joint_at(self, x, level):
        precision = self.precision.to(x)[level]
        off = x[:, None] - self.mean - self.scale * self.a[level, None, None] * self.centres[level]
        far = torch.einsum("nyi,nij,nyj->ny", off, precision, off)
        return far / 2 - precision.logdet()[:, None] / 2 + math.log(2 * math.pi) - self.constants[level]

    def joint_vjp_at(self, x, level):
        named = dict(self.named_parameters())
        with torch.enable_grad():
            joint = self.joint_at(x, level)
        return joint.detach(), lambda weight: dict(
            zip(named, torch.autograd.grad(joint, [*named.values()], weight), strict=True)
        )

    def slope_of(self, x, level, among):
        recorded = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = -(-self.joint_at(x, level)).masked_fill(~among, -math.inf).logsumexp(1)
            (grad,) = torch.autograd.grad(energy.sum(), x, create_graph=recorded)
        return energy if recorded else energy.detach(), grad


def labelled(model, n, key=KEY):
    """Rows (n, 2) of both classes, and which they are of."""
    y = torch.arange(n) % 10 // 3  # 0, 0, 0, 1, ...
    y = y.clamp(max=1)
    z = normal((n, 2), key.fold("rows"), **DOUBLE) @ torch.linalg.cholesky(COVARIANCE).T
    return model.mean + model.scale * (MEANS[y] + z), y


def network(**changes):
    """The shipped model, small, every parameter random, in float64."""
    small = {"network": {"name": "mlp", "widths": [5, 4], "input_scale": 1.0, "spread": None}, "waves": 1}
    keys = shipped("model")["leveled_jem"] | small | {"process": shipped("process")["vp"], "classes": 3} | changes
    shape = (1, 5, 6) if "scale" in changes else (3,)
    model = randomised(registry.build("model", keys).build(Real(shape), normal(shape, KEY), stream(1)))
    model.measure(lambda: normal((200, math.prod(shape)), KEY, **DOUBLE))
    return model


CONVOLUTIONS = {"network": {"name": "convnet", "widths": [3], "hidden": 5}, "scale": "common", "correlated": False}
KINDS = {
    "perceptron": network(),
    "marginals": network(marginals=2, correlated=False, gain=2.0, bound=1.0),
    "convolutions": network(**CONVOLUTIONS),
}
LEVEL = torch.tensor([0, 1, 5, 17, 30, 31, 31])


@pytest.mark.parametrize("model", [*KINDS.values()], ids=[*KINDS])
def test_energies_and_slopes_are_sums_over_the_classes(model):
    """Of all classes, of one, of two; each row at a level of its own."""
    x = normal((7, *model.space.shape), KEY, **DOUBLE)
    joint = model.joint_at(x, LEVEL)
    assert_close(model.energy_at(x, LEVEL), -(-joint).exp().sum(1).log(), **EXACT)
    assert_close(model.logits(x), -model.joint_at(x, torch.zeros(7, dtype=torch.int64)), **EXACT)
    assert_close(model.energy(x), -model.logits(x).exp().sum(1).log(), **EXACT)
    assert_close((-joint).softmax(1)[-2:], torch.full((2, 3), 1 / 3, **DOUBLE), **EXACT)
    assert (joint[:-2, 0] - joint[:-2, 1]).abs().min() > 1e-3
    last = model.last()
    at_end = last.energy(x[-2:]) + last.log_z()
    assert_close(model.energy_at(x, LEVEL)[-2:], at_end, rtol=1e-5)  # its widths are float32 numbers
    for among in (torch.ones(7, 3) > 0, torch.eye(3)[LEVEL % 3] > 0, torch.eye(3)[LEVEL % 3] == 0):
        at = x.clone().requires_grad_()
        expected = -torch.where(among, (-model.joint_at(at, LEVEL)).exp(), 0).sum(1).log()
        (grad,) = torch.autograd.grad(expected.sum(), at)
        energy, slope = model.slope_of(x, LEVEL, among)
        assert_close(energy, expected, **EXACT)
        assert_close(slope, grad, **EXACT)
    one = model.of_class(2)
    energy, grad = one.energy_and_grad_at(x, LEVEL)
    assert_close(energy, joint[:, 2].detach() - math.log(3), **EXACT)
    assert_close(one.energy_at(x, LEVEL).detach(), energy, **EXACT)
    assert_close(grad, model.slope_of(x, LEVEL, torch.eye(3)[[2] * 7] > 0)[1].detach(), **EXACT)
    assert_close(one.energy_at(x, LEVEL)[-2:], at_end, rtol=1e-5)


@pytest.mark.parametrize("model", [KINDS["marginals"], KINDS["marginals"].of_class(1)], ids=["all", "class"])
def test_gradients_in_parameters_are_those_of_automatic_differentiation(model):
    x, weight = normal((7, 3), KEY, **DOUBLE), normal((7,), KEY.fold("weight"), **DOUBLE)
    named = dict(model.named_parameters())
    expected = torch.autograd.grad((weight * model.energy_at(x, LEVEL)).sum(), [*named.values()])
    energy, pull = model.energy_vjp_at(x, LEVEL)
    assert_close(energy, model.energy_at(x, LEVEL).detach(), **EXACT)
    for one, other in zip(pull(weight).values(), expected, strict=True):
        assert_close(one, other, **EXACT)


def written_out(model, objective, batch, labels):
    """The loss that the docstring states, row by row and class by class."""
    noisy, n = noised(model, batch, model.levels, KEY), len(batch.x)
    others = objective._compared(model, noisy.level, KEY.after(0).fold("others"))
    weights = torch.stack([(-model.joint_at(noisy.x, others[:, j])).exp() for j in range(objective.levels)], 1)
    own = [weights[i, 0].sum() if y < 0 else weights[i, 0, y] for i, y in enumerate(labels)]
    told = -torch.stack([mine / weights[i].sum() for i, mine in enumerate(own)]).log().mean()
    at = noisy.x.clone().requires_grad_()
    joint = (-model.joint_at(at, noisy.level)).exp()
    energy = -torch.stack([joint[i].sum() if y < 0 else joint[i, y] for i, y in enumerate(labels)]).log()
    (slope,) = torch.autograd.grad(energy.sum(), at, create_graph=True)
    off = model.scale * model.s[noisy.level].reshape(n, 1) * slope - noisy.z
    return told + objective.denoising * off.square().mean()


def test_the_gradient_of_the_objective_is_that_of_its_loss():
    """Of rows with a class and of rows without; all without are those of diffusive classification."""
    model, x = KINDS["perceptron"], normal((12, 3), KEY, **DOUBLE)
    objective = component("objective", "level_jem", denoising=0.7)
    named = dict(model.named_parameters())
    for labels in ([0, 1, 2, -1] * 3, [-1] * 12):
        batch = Batch(x, labels=torch.tensor(labels))
        found, loss = objective.gradient(model, batch, KEY), written_out(model, objective, batch, labels)
        expected = torch.autograd.grad(loss, [*named.values()], materialize_grads=True)
        assert_close(found.metrics["loss"], loss.detach(), **EXACT)
        for name, value in zip(named, expected, strict=True):
            assert_close(found.parameters[name], value, **EXACT)
    plain = component("objective", "diffusive_classification", denoising=0.7).gradient(model, batch, KEY)
    for name in ("loss", "classification_loss", "accuracy", "denoising_loss"):
        assert_close(found.metrics[name], plain.metrics[name], **EXACT)
    for name in named:
        assert_close(found.parameters[name], plain.parameters[name], **EXACT)


@pytest.mark.long
def test_normal_laws_with_labels_are_where_gradients_vanish():
    """Within 5 standard errors in every centre and constant, and far from it where one of them is off."""

    def scores(model):
        x, y = labelled(model, 40_000)
        objective, found = component("objective", "level_jem"), []
        for i, rows in enumerate(zip(x.chunk(40), y.chunk(40), strict=True)):
            grads = objective.gradient(model, Batch(rows[0], labels=rows[1]), KEY.fold(i)).parameters
            found.append(torch.cat([grads["centres"].flatten(), grads["constants"].flatten()]))
        stacked = torch.stack(found)
        return stacked.mean(0) / (stacked.std(0) / 40**0.5)

    model = TwoNormalLaws()
    assert scores(model).abs().max() < SIGMAS
    with torch.no_grad():
        model.centres[2, 1] += 0.3
        model.constants[1, 0] += 0.4
    z = scores(model)
    assert z[10:12].abs().max() > 8
    assert z[24 + 2].abs() > 8


def test_classes_of_normal_laws_have_their_energies_and_slopes():
    """At each level, of one class, and of both as a mixture."""
    model, x = TwoNormalLaws(), normal((9, 2), KEY, **DOUBLE)
    for k in range(6):
        level = torch.full((9,), k)
        one, other = (model.law(k, y) for y in range(2))
        mixture = (SHARES[0] * one.log_prob(x).exp() + SHARES[1] * other.log_prob(x).exp()).log()
        assert_close(model.energy_at(x, level), -mixture, rtol=1e-9)
        energy, grad = model.of_class(1).energy_and_grad_at(x, level)
        assert_close(energy, (-other.log_prob(x) - SHARES[1].log() - math.log(2)).detach(), rtol=1e-9)
        assert_close(grad, ((x - other.mean) @ other.precision_matrix).detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.long
@pytest.mark.parametrize("y", [0, 1])
def test_the_walk_down_ends_at_the_rows_of_the_class(y):
    model, n = TwoNormalLaws(20), 5000
    law = model.law(0, y)
    sampler = component("sampler", "predictor_corrector", predictor="flow", transitions=2)
    x, info = run(sampler, model.float().of_class(y), torch.full((n, 2), 50.0), 19, KEY)
    assert_close(info["level"].mean(), torch.tensor(9.0))
    error = (law.covariance_matrix.diagonal() / n).sqrt()
    assert ((x.mean(0) - law.mean).abs() < SIGMAS * error).all()
    assert_close(torch.cov(x.double().T), law.covariance_matrix, rtol=0.06, atol=0.03)


def test_other_networks_are_refused():
    for other in ({"name": "mlp", "widths": [3], "input_scale": 1.0, "spread": 1.0}, {"name": "flow"}):
        network = shipped("model")["flow"] if other["name"] == "flow" else other
        with pytest.raises(UserError, match=r"model.network"):
            globals()["network"](network=network)


@pytest.mark.long
def test_a_run_draws_rows_of_the_class_that_is_asked_for(tmp_path):
    line = (
        "train model=leveled_jem dataset=digits dataset.binarize=none model.network.widths=[8] steps=12 batch_size=10 "
        f"model.process.levels=5 evaluation=[classify] tracker=none device=cpu hydra.run.dir={tmp_path}/run"
    )
    answer = ebm(line)
    assert answer.code == 0, answer.err
    drawn = {}
    for label in (0, 3):
        answer = ebm(f"sample run={tmp_path}/run label={label} n=5 steps=1 device=cpu out={tmp_path}/{label}")
        assert answer.code == 0, answer.err
        drawn[label] = np.load(tmp_path / str(label) / "samples.npz")["samples"]
    assert drawn[0].shape == (5, 8, 8)
    assert not np.array_equal(drawn[0], drawn[3])
    said = ebm(f"sample run={tmp_path}/run label=10 device=cpu")
    assert_refused(said, "label = 10: the classes of the model are 0 to 9")
