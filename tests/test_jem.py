"""JEM: energy, class probabilities, gradient and calibration against what their formulas give written out."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers.cli import ebm
from helpers.components import component, shipped
from helpers.data import small_data
from helpers.keys import keys_used
from helpers.models import small_model, target
from helpers.statistics import assert_close
from helpers.training import small_run

from ebm_cli.errors import UserError
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.classify import calibration, reliability
from ebm_cli.model.base import Classifier, EnergyModel
from ebm_cli.model.convnet import transposed
from ebm_cli.model.jem import JEM
from ebm_cli.objective.base import Batch
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Box
from ebm_cli.training import checks

SPACE = Box((4, 4), -1.0, 1.0)
LABELS = torch.tensor([2, 0, 1, 2, 1, 0])
# Float64 sums of a few hundred terms agree to this whatever their order.
EXACT = {"rtol": 1e-9, "atol": 1e-12}
SIZES = [(7, 7), (8, 5), (3, 4), (2, 2)]
WEIGHT = torch.linspace(-1, 1, 5 * 3 * 9, dtype=torch.float64).sin().reshape(5, 3, 3, 3)


def model_of(classes=3):
    return small_model("jem", SPACE, classes=classes)


def rows(n, name):
    return SPACE.noise(n, stream(0, name)).double()


def batch(chains=True):
    return Batch(rows(6, "data"), rows(4, "chains") if chains else None, LABELS)


def written_out(model, batch, w, penalty=0.0):
    """mean -log p(y | x) + w (mean E(x) - mean E(x_neg) + penalty * squares), from the logits alone, row by row."""

    def energy(x):
        return -torch.stack([torch.stack([f.exp() for f in row]).sum().log() for row in model.logits(x)])

    logits, data, chains = model.logits(batch.x), energy(batch.x), energy(batch.x_neg)
    losses = [-row[y] - e for row, y, e in zip(logits, batch.labels.tolist(), data, strict=True)]
    squares = data.square().mean() + chains.square().mean()
    return torch.stack(losses).mean() + w * (data.mean() - chains.mean() + penalty * squares)


# The model


def test_the_energy_is_minus_the_log_of_the_summed_exponentials():
    model, x = model_of(), rows(5, "x")
    expected = [-math.log(sum(math.exp(f) for f in row)) for row in model.logits(x).tolist()]
    assert model.logits(x).shape == (5, 3)
    assert model.energy(x).tolist() == pytest.approx(expected, rel=1e-12)
    assert_close(Classifier.energy(model, x), model.energy(x), **EXACT)


@pytest.mark.parametrize("kind", [JEM, Classifier])
def test_logits_vjp_is_the_weighted_sum_of_gradients(kind):
    model, x, weight = model_of(), rows(5, "x"), torch.linspace(-1, 2, 15, dtype=torch.float64).reshape(5, 3)
    logits, pull = kind.logits_vjp(model, x)
    found = pull(weight)
    expected = torch.autograd.grad((model.logits(x) * weight).sum(), [*model.parameters()])
    assert list(found) == [name for name, _ in model.named_parameters()]
    for value, grad in zip(found.values(), expected, strict=True):
        assert_close(value, grad, **EXACT)
    assert_close(logits, model.logits(x).detach(), **EXACT)
    assert not logits.requires_grad


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
def test_the_way_back_through_a_convolution_is_that_of_autograd(size, stride):
    """Even and odd sides, which a convolution of stride 2 cuts off differently."""
    x = torch.zeros(2, 3, *size, dtype=torch.float64, requires_grad=True)
    y = torch.nn.functional.conv2d(x, WEIGHT, stride=stride, padding=1)
    grad = torch.arange(y.numel(), dtype=torch.float64).cos().reshape(y.shape)
    assert_close(transposed(grad, WEIGHT, stride, size), torch.autograd.grad(y, x, grad)[0], **EXACT)


@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_same_in_bfloat16_but_for_rounding(size):
    """Each number is a sum of 45 products at most, of numbers below 1, rounded to 8 bits at the end."""
    grad = torch.arange(10 * math.prod(-(-n // 2) for n in size), dtype=torch.float64).cos()
    grad = grad.reshape(2, 5, -1, -(-size[1] // 2)).bfloat16()
    found = transposed(grad, WEIGHT.bfloat16(), 2, size)
    assert found.dtype == torch.bfloat16
    assert_close(found.double(), transposed(grad.double(), WEIGHT.bfloat16().double(), 2, size), rtol=2**-7, atol=2**-8)


def test_a_larger_network_has_the_gradient_of_its_energy():
    """28 x 28 pixels of two channels: sides 28, 14, 7, 4, 2 and a layer without stride."""
    space = Box((2, 28, 28), -0.5, 1.5)
    spec = component("model", "convnet", widths=[3, 4, 3, 4, 3])
    model = spec.build(space, torch.zeros(space.shape), stream(0, "model")).double()
    x = space.noise(3, stream(0, "x")).double().requires_grad_()
    energy = model.energy(x)
    found, grad = model.energy_and_grad(x)
    assert_close(grad, torch.autograd.grad(energy.sum(), x)[0], **EXACT)
    assert_close(found, energy.detach(), **EXACT)


@pytest.mark.parametrize("name", ["convnet-boxed", "jem-boxed", "mlp-boxed"])
def test_langevin_steps_leave_no_graph_behind(name):
    """What a step returns holds on to nothing before it, so memory does not grow with the number of steps."""
    model, sampler = target(name), component("sampler", "langevin")
    state = sampler.init(model, model.space.noise(3, stream(0, "x")).double())
    for i in range(3):
        state, info = sampler.step(model, state, stream(0, i))
        assert all(t.grad_fn is None and not t.requires_grad for t in (*state, *info.values()))


# The objective


@pytest.mark.parametrize(("w", "penalty"), [(1.0, 0.0), (0.3, 0.0), (0.7, 0.2)])
def test_the_gradient_is_that_of_the_written_out_loss(w, penalty):
    model = model_of()
    objective = component("objective", "jem", likelihood_weight=w, energy_l2=penalty)
    found = objective.gradient(model, batch(), stream(0, "objective"))
    loss = written_out(model, batch(), w, penalty)
    expected = torch.autograd.grad(loss, [*model.parameters()])
    assert list(found.parameters) == [name for name, _ in model.named_parameters()]
    for value, grad in zip(found.parameters.values(), expected, strict=True):
        assert_close(value, grad, **EXACT)
    assert found.metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-12)


def test_the_gradient_agrees_with_finite_differences():
    """Central differences in every parameter: truncation and rounding are both near 1e-9 at h = 1e-5."""
    model, objective, h = model_of(), component("objective", "jem", likelihood_weight=0.5), 1e-5
    found = objective.gradient(model, batch(), stream(0, "objective")).parameters
    for name, p in model.named_parameters():
        for i in range(0, p.numel(), max(1, p.numel() // 5)):
            ends = []
            for sign in (1, -1):
                p.data.view(-1)[i] += sign * h
                ends.append(written_out(model, batch(), 0.5).item())
                p.data.view(-1)[i] -= sign * h
            assert found[name].reshape(-1)[i].item() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6, abs=1e-8)


def test_metrics():
    model, data = model_of(), batch()
    metrics = component("objective", "jem").gradient(model, data, stream(0, "objective")).metrics
    p = model.logits(data.x).softmax(1)
    of_label = [row[y].item() for row, y in zip(p, LABELS.tolist(), strict=True)]
    right = [row.argmax().item() == y for row, y in zip(p, LABELS.tolist(), strict=True)]
    energies = [model.energy(x).mean().item() for x in (data.x, data.x_neg)]
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx({
        "loss": -np.mean(np.log(of_label)) + energies[0] - energies[1],
        "cross_entropy": -np.mean(np.log(of_label)),
        "accuracy": np.mean(right),
        "energy_data": energies[0],
        "energy_chains": energies[1],
        "energy_gap": energies[0] - energies[1],
    })  # fmt: skip
    assert 0 < sum(right) < len(right)


def test_without_likelihood_it_is_the_cross_entropy_and_has_no_chains():
    model, objective = model_of(), component("objective", "jem", likelihood_weight=0.0)
    assert not objective.negatives
    found = objective.gradient(model, batch(chains=False), stream(0, "objective"))
    loss = torch.nn.functional.cross_entropy(model.logits(batch().x), LABELS)
    for value, grad in zip(found.parameters.values(), torch.autograd.grad(loss, [*model.parameters()]), strict=True):
        assert_close(value, grad, **EXACT)
    assert set(found.metrics) == {"loss", "cross_entropy", "accuracy"}
    assert found.metrics["loss"] == found.metrics["cross_entropy"]
    assert "objective.energy_l2 = 0.1" in component("objective", "jem", likelihood_weight=0.0, energy_l2=0.1).refusal()


# What does not fit

CHOICE = {"model": "convnet", "objective": "jem", "dataset": "array"}


def data_with(labels):
    data = small_data(SPACE, 6)
    return dataclasses.replace(data, valid=None, train=dataclasses.replace(data.train, labels=LABELS),
                               test=dataclasses.replace(data.test, labels=labels))  # fmt: skip


def test_other_models_are_refused():
    said = r"objective=jem wants a classifying model, model=convnet is not; models that fit: class_rbm, jem$"
    with pytest.raises(UserError, match=said):
        checks.check_objective(component("objective", "jem"), component("model", "convnet"), CHOICE)
    checks.check_objective(component("objective", "jem"), component("model", "jem"), CHOICE)


@pytest.mark.parametrize("name", ["jem", "level_jem"])
def test_what_needs_labels_names_an_objective_of_its_models_that_needs_none(name):
    """One that exists, and that such a model can be trained by."""
    objective = component("objective", name)
    other = component("objective", objective.without_labels)
    assert not other.labelled
    assert all(issubclass(model, other.requires or EnergyModel) for model in objective.requires)
    with pytest.raises(UserError, match=f"or objective={objective.without_labels}$"):
        checks.check_labels(objective, model_of(), data_with(None), CHOICE | {"objective": name})


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (None, "dataset=array: the test split has no labels, which objective=jem needs; use a labelled dataset"),
        (LABELS + 1, r"model.classes = 3: dataset=array: the test split has labels 1 to 3, .*; set model.classes=4"),
        (LABELS - 2, r"model.classes = 3: dataset=array: the test split has labels -2 to 0, .*; renumber them"),
    ],
)
def test_labels_that_are_missing_or_beyond_the_classes_are_refused(labels, said):
    objective, model = component("objective", "jem"), model_of()
    with pytest.raises(UserError, match=said):
        checks.check_labels(objective, model, data_with(labels), CHOICE)
    checks.check_labels(objective, model, data_with(LABELS), CHOICE)
    checks.check_labels(component("objective", "ml_replay"), model, data_with(labels), CHOICE)


def test_a_run_checks_labels_before_it_begins():
    changes = {group: shipped(group)[name] for group, name in (("model", "jem"), ("objective", "jem"))}
    changes |= {"sampler": shipped("sampler")["langevin"], "chains": shipped("chains")["replay"]}
    changes["dataset"] = shipped("dataset")["digits"]
    with pytest.raises(UserError, match=r"model.classes = 9: .*train split has labels 0 to 9"):
        small_run(**changes | {"model": changes["model"] | {"classes": 9}})
    small_run(**changes)


# Calibration


def test_calibration_by_hand():
    """Five bins of width 0.2, their upper ends included: 0.4 is in the second, 0.9 and 1 in the last."""
    confidence = torch.tensor([0.3, 0.4, 0.4, 0.5, 0.9, 0.9, 1.0, 0.95], dtype=torch.float64)
    right = torch.tensor([False, True, False, True, True, False, True, True])
    found = calibration(confidence, right, 5)
    assert found.share.tolist() == [0, 3 / 8, 1 / 8, 0, 4 / 8]
    assert found.accuracy.tolist() == pytest.approx([0, 1 / 3, 1, 0, 3 / 4])
    assert found.confidence.tolist() == pytest.approx([0, 1.1 / 3, 0.5, 0, 3.75 / 4])
    error = 3 / 8 * (1.1 / 3 - 1 / 3) + 1 / 8 * (1 - 0.5) + 4 / 8 * (3.75 / 4 - 3 / 4)
    assert found.error == pytest.approx(error, rel=1e-12)
    picture = reliability(found)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3


def test_confidence_equal_to_the_accuracy_is_perfect_calibration():
    confidence = torch.full((10,), 0.7, dtype=torch.float64)
    assert calibration(confidence, torch.arange(10) < 7).error == pytest.approx(0, abs=1e-12)
    assert calibration(confidence, torch.arange(10) < 2).error == pytest.approx(0.5)


def subject(model, labels, key="classify"):
    data = data_with(labels)
    sampler = component("sampler", "langevin")
    return Subject(model, data, "test", sampler, torch.empty(0, *SPACE.shape), stream(0, key))


def test_classify_is_of_the_softmax_on_held_out_rows():
    model = model_of().float()
    found = component("evaluation", "classify").evaluate(subject(model, LABELS))
    p = model.logits(data_with(LABELS).test.all()).double().softmax(1).detach()
    confidence, guess = p.max(1)
    assert found.metrics == pytest.approx({
        "classify/accuracy": (guess == LABELS).double().mean().item(),
        "classify/cross_entropy": -p[range(6), LABELS].log().mean().item(),
        "classify/calibration_error": calibration(confidence, guess == LABELS, 15).error,
    })  # fmt: skip
    for name, rows in found.by_row.items():
        assert len(rows) == len(LABELS)
        assert rows.mean().item() == pytest.approx(found.metrics[name])
    assert set(found.by_row) == {"classify/accuracy", "classify/cross_entropy"}
    assert list(found.images) == ["reliability"]


@pytest.mark.parametrize(("labels", "said"), [(None, "no labels"), (LABELS + 1, "labels go from 1 to 3")])
def test_classify_says_which_labels_it_lacks(labels, said):
    found = component("evaluation", "classify").evaluate(subject(model_of().float(), labels))
    assert found.metrics == {}
    assert said in found.warnings[0]


def test_classify_refuses_models_without_classes():
    evaluation, sampler = component("evaluation", "classify"), component("sampler", "langevin")
    assert evaluation.refusal(model_of(), sampler) is None
    assert "no p(y | x)" in evaluation.refusal(target("convnet-boxed"), sampler)


# From the command line


@pytest.mark.long
def test_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = ebm(
        "train experiment=jem_digits steps=4 chains.steps=2 chains.size=64 batch_size=8 eval_every=2 tracker=none "
        "hydra.run.dir=run model.widths=[4,4] evaluation=[classify]"
    )
    assert answer.code == 0, answer.err
    assert "classify/calibration_error" in answer.out
    assert (tmp_path / "run" / "samples" / "reliability.png").exists()
    again = ebm("evaluate run=run evaluation=[classify]")
    assert again.code == 0, again.err


def test_unlabelled_data_are_refused_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", train=np.arange(160, dtype=np.uint8).reshape(10, 4, 4))
    answer = ebm("train model=jem objective=jem dataset=array dataset.path=data.npz tracker=none hydra.run.dir=run")
    assert answer.code == 2
    assert "dataset=array: the train split has no labels" in answer.err


def test_chains_follow_the_energy_of_the_classifier():
    """Without noise a small step goes down it."""
    model, x = model_of(), rows(5, "x")
    end, _ = run(component("sampler", "langevin", step_size=1e-4, noise=0.0), model, x, 3, stream(0, "down"))
    assert (model.energy(end) < model.energy(x)).all()


def test_it_draws_nothing(monkeypatch):
    used, model, data = keys_used(monkeypatch), model_of(), batch()
    used.clear()
    component("objective", "jem").gradient(model, data, stream(0, "objective"))
    assert used == []
