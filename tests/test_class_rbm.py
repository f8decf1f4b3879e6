"""Class RBM: probabilities, free energy, gradients and the annealing path by enumeration; classes not known."""

import json
import math

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm
from helpers.components import FALSE_ALARM, component
from helpers.models import double_states, exact_p, small_model
from helpers.statistics import assert_close, chi_square

from ebm_cli import load
from ebm_cli.commands.labels import of_label
from ebm_cli.errors import UserError
from ebm_cli.log_z import enumeration
from ebm_cli.log_z.class_path import ClassPath
from ebm_cli.model.base import Classifier
from ebm_cli.model.exponential_family import BernoulliProduct, CategoricalProduct
from ebm_cli.objective.base import Batch
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Categorical, Spin

SPACE, CLASSES = Binary((2, 2)), 3
SPACES = pytest.mark.parametrize("space", [SPACE, Spin((2, 2)), Categorical((2, 3))], ids=lambda space: space.name)
KEY = stream(0, "objective")
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def machine(space=SPACE):
    return small_model("class_rbm", space, classes=CLASSES)


def joint(model):
    """log p(v, y, h) + log Z of all states, (16, 3, 8), from the four terms of the energy, each by itself."""
    v, h = double_states(model).flatten(1), Binary((model.hidden,)).enumerate().double()
    y = torch.eye(CLASSES, dtype=torch.float64)
    found = (v @ model.b)[:, None, None] + (y @ model.d)[None, :, None] + (h @ model.c)[None, None]
    return found + (v @ model.W @ h.T)[:, None] + (y @ model.U @ h.T)[None]


@SPACES
def test_p_of_the_class_and_the_free_energy_are_those_of_the_joint_law(space):
    model, log_p = machine(space), joint(machine(space))
    x = double_states(model)
    assert_close(model.logits(x), log_p.logsumexp(2), **EXACT)
    p = log_p.exp().sum(2)
    assert_close(model.logits(x).softmax(1), p / p.sum(1, keepdim=True), **EXACT)
    assert_close(model.energy(x), -log_p.exp().sum((1, 2)).log(), **EXACT)
    h = Binary((model.hidden,)).enumerate().double()
    assert_close(model.log_marginal(h), log_p.logsumexp((0, 1)), **EXACT)
    assert enumeration.log_z(model).item() == pytest.approx(log_p.logsumexp((0, 1, 2)).item(), rel=1e-12)
    on = (log_p.exp().sum(1)[:, :, None] * h).sum(1) / log_p.exp().sum((1, 2))[:, None]
    assert_close(model.features(x)["hidden"], on, **EXACT)


@SPACES
def test_gradients_are_those_of_automatic_differentiation(space):
    model = machine(space)
    x = double_states(model)
    weight = torch.linspace(-1, 2, len(x) * CLASSES).double().reshape(-1, CLASSES)
    for own, plain, w in (("logits_vjp", Classifier.logits_vjp, weight), ("energy_vjp", None, weight[:, 0])):
        value, pull = getattr(model, own)(x)
        expected = (model.logits(x) if plain else model.energy(x)) * w
        grads = torch.autograd.grad(expected.sum(), [*model.parameters()])
        found = pull(w)
        assert list(found) == [name for name, _ in model.named_parameters()]
        for one, other in zip(found.values(), grads, strict=True):
            assert_close(one, other, **EXACT)
        assert not value.requires_grad
    x.requires_grad_()
    (slope,) = torch.autograd.grad(model.energy(x).sum(), x)
    assert_close(model.energy_and_grad(x.detach())[1], slope, **EXACT)


@SPACES
def test_a_class_alone_is_an_rbm_of_its_own(space):
    """p(v | y) by enumeration, as a class of any classifier and as one of this."""
    model, log_p = machine(space), joint(machine(space))
    for y in range(CLASSES):
        expected = log_p[:, y].exp().sum(1) / log_p[:, y].exp().sum()
        for found in (model.of_class(y), Classifier.of_class(model, y)):
            assert_close(exact_p(found), expected, **EXACT)
        h = model.hidden_states().enumerate().double()
        of_hidden = log_p[:, y].logsumexp(0) - model.d[y]
        assert_close(model.of_class(y).log_marginal(h), of_hidden, **EXACT)
    assert of_label(model, None) is model
    with pytest.raises(UserError, match=r"label = 3: the classes of the model are 0 to 2"):
        of_label(model, 3)
    with pytest.raises(UserError, match=r"label = 0: this model has no classes"):
        of_label(small_model("rbm", SPACE), 0)


def labelled_loss(model, x, labels):
    """-mean log p(v, y), or log p(v) where y is -1, by the sum over all states."""
    log_p = joint(model).logsumexp(2)
    log_p, code = log_p - log_p.logsumexp((0, 1)), SPACE.code(x)
    terms = [log_p[n, y] if y >= 0 else log_p[n].logsumexp(0) for n, y in zip(code, labels.tolist(), strict=True)]
    return -torch.stack(terms).mean()


@pytest.mark.parametrize("labels", [[0, 2, 1, 1, 0, 2], [0, -1, -1, 1, -1, 2], [-1] * 6])
def test_with_exact_negatives_jem_follows_the_likelihood_of_what_is_known(labels):
    """As the gradient is linear in the negatives, one state after the other weighted by p(v)."""
    model, objective, labels = machine(), component("objective", "jem"), torch.tensor(labels)
    x = double_states(model)[[3, 5, 5, 8, 14, 1]]
    grads = torch.autograd.grad(labelled_loss(model, x, labels), [*model.parameters()])
    each = [objective.gradient(model, Batch(x, state[None], labels), KEY) for state in double_states(model)]
    p = exact_p(model)
    for grad, name in zip(grads, each[0].parameters, strict=True):
        assert_close(sum(w * found.parameters[name] for w, found in zip(p, each, strict=True)), grad, **EXACT)
    known = labels >= 0
    correct = model.logits(x).argmax(1) == labels
    share = correct[known].double().mean().item() if known.any() else 0
    assert each[0].metrics["accuracy"].item() == pytest.approx(share)
    assert each[0].metrics["loss"].isfinite()


def units_of(space):
    """Independent ones of different means."""
    if isinstance(space, Categorical):
        return CategoricalProduct(space, torch.linspace(0.5, 3, 6).reshape(2, 3).softmax(1)).double()
    return BernoulliProduct(space, torch.linspace(0.15, 0.7, 4).reshape(2, 2)).double()


@SPACES
def test_block_gibbs_and_the_path_leave_the_law_as_it_is(space):
    """Exact draws, moved once; the path's densities with classes and hidden units summed one by one."""
    model, n, base = machine(space), 20_000, units_of(space)

    def counts(x):
        return torch.bincount(space.code(x), minlength=space.states)

    moved = model.sweep(enumeration.sample(model, n, stream(0, "exact")), stream(0, "sweep"), backwards=False)
    assert chi_square(counts(moved), exact_p(model) * n) > FALSE_ALARM
    with torch.no_grad():
        path, states, log_p = ClassPath(base, model), double_states(model), joint(model)

        def log_f(beta):
            return (-(1 - beta) * base.energy(states)[:, None, None] + beta * log_p).logsumexp((1, 2))

        state = path.observe(states)
        assert_close(path.log_base(state), log_f(0.0), **EXACT)
        assert path.log_z_base == pytest.approx(log_f(0.0).logsumexp(0).item(), rel=1e-12)
        for to, origin in ((0.3, 0.0), (1.0, 0.3), (0.2, 0.9)):
            assert_close(path.log_ratio(state, to, origin), log_f(to) - log_f(origin), **EXACT)
        p = log_f(0.4).softmax(0)
        u = torch.rand(n, generator=torch.Generator().manual_seed(1)).double()
        start = states[torch.searchsorted(p.cumsum(0), u).clamp_max(len(p) - 1)]
        ends = path.move(path.observe(start), 0.4, stream(0, "move")).x
    assert chi_square(counts(ends), p * n) > FALSE_ALARM


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Rows of two classes, which are the value of the first bit, half of the classes not known."""
    folder = tmp_path_factory.mktemp("class_rbm")
    bits = np.random.default_rng(0).integers(0, 2, (240, 6)).astype(np.uint8)
    label = bits[:, 0].astype(np.int64)
    hidden = np.where(np.arange(200) % 2 == 0, label[:200], -1)
    np.savez(folder / "data.npz", train=bits[:200], train_label=hidden, test=bits[200:], test_label=label[200:])
    answer = ebm(
        f"train model=class_rbm model.hidden=4 model.classes=2 dataset=array dataset.path={folder}/data.npz steps=300 "
        "optimizer.lr=0.05 batch_size=50 eval_every=0 checkpoint.monitor=null evaluation=[classify,exact_if_possible] "
        f"tracker=none device=cpu running=none hydra.run.dir={folder}/run"
    )
    assert answer.code == 0, answer.err
    return folder / "run"


@pytest.mark.long
def test_a_run_learns_the_class_from_the_rows_that_have_one(run):
    found = json.loads((run / "summary.json").read_text())
    assert found["classify/accuracy"] == 1
    assert found["exact/log_likelihood"] == pytest.approx(-6 * math.log(2), abs=0.2)


@pytest.mark.long
def test_samples_are_of_the_class_that_is_asked_for(run):
    for label in (0, 1):
        answer = ebm(f"sample run={run} label={label} n=50 steps=100 device=cpu out={run}/of{label}")
        assert answer.code == 0, answer.err
        drawn = np.load(run / f"of{label}" / "samples.npz")["samples"]
        assert abs(drawn[:, 0].mean() - label) < 0.2
        assert np.array_equal(load(run).sample(50, 100, label=label), drawn)
    assert "label = 2: the classes of the model are 0 to 1" in ebm(f"sample run={run} label=2 device=cpu").err


@pytest.mark.long
def test_classes_that_are_never_seen_are_said_or_refused(tmp_path):
    bits, none = np.random.default_rng(0).integers(0, 2, (60, 6), dtype=np.uint8), np.full(60, -1)
    np.savez(tmp_path / "none.npz", train=bits, train_label=none, test=bits, test_label=none)
    line = f"train model=class_rbm dataset=array dataset.path={tmp_path}/none.npz model.classes=2 device=cpu steps=2"
    assert_refused(ebm(f"{line} tracker=none"), "no row of the train split has a label, all are -1; give some of them")
    more = f"objective=pcd evaluation=[] checkpoint.monitor=null tracker=none hydra.run.dir={tmp_path}/run"
    said = ebm(f"{line} {more}").err
    assert (
        "objective=pcd reads no labels, so that the classes of model=class_rbm are not learned; objective=jem" in said
    )
