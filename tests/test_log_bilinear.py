"""The log-bilinear model of a word given its context: energies, gradients, contrast with noise, sparse updates."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers.components import SMALL_SPACES, component, shipped
from helpers.models import randomised
from helpers.statistics import assert_close, chi_square
from helpers.text import text
from helpers.training import gradients, small_run
from torch.utils._python_dispatch import TorchDispatchMode

from ebm_cli import optimizer
from ebm_cli.device.engine import EAGER, Engine
from ebm_cli.model.base import EnergyModel
from ebm_cli.noise.unigram import Unigram
from ebm_cli.objective.base import Batch
from ebm_cli.optimizer import At
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Words
from ebm_cli.training.step import check, train_step

EXACT = {"rtol": 1e-9, "atol": 1e-12}
SPACE = SMALL_SPACES[Words]
FORMS = [
    {"context_weights": weights, "vectors": vectors}
    for weights, vectors in itertools.product(("diagonal", "full"), ("separate", "shared"))
]
forms = pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form.values()))
FREQUENCIES = torch.arange(1.0, 8.0) / 28


def small_model(space=SPACE, **changes):
    """A log-bilinear model of V = 7 words, two before each, every parameter non-zero, in float64."""
    spec = component("model", "log_bilinear", dim=3, **changes)
    return randomised(spec.build(space, FREQUENCIES, stream(1, "model")))


def rows(n=9, space=SPACE):
    """Rows among which contexts and words repeat."""
    return space.noise(n, stream(2, "rows")).double() % 4


# The model


@forms
def test_the_energy_is_the_definition(form):
    model = small_model(**form)
    Q, R = model.Q.tolist(), (model.Q if model.R is None else model.R).tolist()
    for x, energy in zip(rows(), model.energy(rows()), strict=True):
        *context, word = (int(i) for i in x)
        r = torch.zeros(3, dtype=torch.float64)
        for place, other in enumerate(context):
            C = model.C[place].detach()
            r += (C.diag() if C.dim() == 1 else C) @ torch.tensor(R[other], dtype=torch.float64)
        expected = -sum(a * b for a, b in zip(r.tolist(), Q[word], strict=True)) - model.b[word].item()
        assert energy.item() == pytest.approx(expected, rel=1e-12)


@forms
def test_scores_are_the_energies_of_all_words(form):
    model, x = small_model(**form), rows()
    scores = model.scores(x[:, :-1])
    for word in range(SPACE.values):
        other = torch.cat([x[:, :-1], torch.full((len(x), 1), float(word), dtype=torch.float64)], 1)
        assert_close(scores[:, word], -model.energy(other), **EXACT)
    log_p = -model.energy(x) - model.log_z(x[:, :-1])
    assert_close(model.log_prob(x), log_p, **EXACT)
    assert_close(model.log_conditionals(x, torch.tensor([0])).squeeze(1), log_p, **EXACT)
    assert_close(model.sites(x).log_conditional(0), log_p, **EXACT)


@forms
@pytest.mark.parametrize("sparse", [True, False])
def test_the_gradient_is_that_of_autograd(form, sparse):
    """With weights of both signs, and rows, contexts and words that repeat."""
    model, x = small_model(sparse=sparse, **form), rows()
    weight = torch.tensor([0.7, -1.3, 0.0, 2.0, -0.4, 0.1, -2.5, 1.0, 0.3], dtype=torch.float64)
    energy, pull = model.energy_vjp(x)
    found = pull(weight)
    _, reference = EnergyModel.energy_vjp(model, x)
    expected = reference(weight)
    assert_close(energy, model.energy(x).detach(), **EXACT)
    assert list(found) == list(expected)
    for name, grad in found.items():
        assert grad.is_sparse == (sparse and name != "C")
        dense = grad.to_dense() if grad.is_sparse else grad
        assert_close(dense, expected[name], **EXACT)
        if grad.is_sparse:
            assert grad.coalesce().indices().unique().numel() <= 4  # the words that are there, not all of them


def test_a_model_begins_at_the_frequencies():
    """Vectors of small size move p(w | context) little away from them, and Z little away from 1."""
    spec = component("model", "log_bilinear", dim=3, weight_std=1e-4)
    model = spec.build(SPACE, FREQUENCIES, stream(0, "model"))
    assert_close(model.scores(rows().float()[:, :-1]).exp(), FREQUENCIES.expand(9, 7), atol=1e-6)
    assert all(p.dtype == torch.float32 for p in model.parameters())


@forms
def test_the_number_of_parameters(form):
    spec = component("model", "log_bilinear", dim=3, **form)
    assert spec.parameters(SPACE) == sum(p.numel() for p in small_model(**form).parameters())


def test_the_last_word_is_drawn_given_its_context():
    model, n = small_model(), 50_000
    x = rows(1).expand(n, -1).float()
    end, _ = run(component("sampler", "gibbs"), model.float(), x, 1, stream(0, "run"))
    assert torch.equal(end[:, :-1], x[:, :-1])
    assert SPACE.contains(end)
    p = model.scores(x[:1, :-1]).softmax(1).squeeze(0).detach().numpy()
    assert chi_square(np.bincount(end[:, -1].long(), minlength=7), p * n) > 1e-6


@forms
def test_the_full_softmax_is_the_likelihood(form):
    """Loss and gradient of a sum over the vocabulary, word by word."""
    model, x = small_model(**form), rows()
    found, metrics = gradients(component("objective", "softmax"), model, x, None)
    every = [torch.cat([x[:, :-1], torch.full((len(x), 1), float(word))], 1) for word in range(SPACE.values)]
    log_z = torch.stack([-model.energy(other) for other in every]).logsumexp(0)
    loss = (model.energy(x) + log_z).mean()
    expected = torch.autograd.grad(loss, [*model.parameters()])
    assert metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-12)
    for grad, (name, _) in zip(expected, model.named_parameters(), strict=True):
        assert_close(found[name], grad, **EXACT)


# Noise


def unigram(path, power=0.75):
    """The noise of a small text, in float64, and what its probabilities should be."""
    data = text(path).load((Words,))
    count = np.bincount(data.train.all()[:, -1].long(), minlength=len(data.words)) + 1.0
    q = torch.from_numpy(count / count.sum()) ** power
    return component("noise", "unigram", power=power).build(data, stream(0, "noise")).double(), q / q.sum(), data


@pytest.mark.parametrize("power", [0.0, 0.75, 1.0])
def test_noise_is_the_frequency_to_a_power(power, small_text):
    """Draws beside rows keep their contexts, and are those of each row whatever the rows before it."""
    noise, q, data = unigram(small_text, power)
    x = data.train.all().double()
    assert_close(noise.log_prob(x), q.log()[x[:, -1].long()], rtol=1e-5)
    drawn = noise.beside(x, 500, stream(0, "draws"))
    assert data.space.contains(drawn)
    assert torch.equal(drawn[:, :-1], x[:, :-1].repeat_interleave(500, 0))
    counts = np.bincount(drawn[:, -1].long(), minlength=len(data.words))
    assert chi_square(counts, q.numpy() * len(drawn)) > 1e-6
    assert torch.equal(noise.beside(x[7:], 500, stream(0, "draws").at_row(7)), drawn[7 * 500 :])


def contrast(small_text, **changes):
    """NCE with c = 0 held, k = 3, a model and rows of the small text in float64."""
    noise, q, data = unigram(small_text)
    spec = component("model", "log_bilinear", dim=3)
    model = randomised(spec.build(data.space, data.smoothed_mean(), stream(0, "model")))
    objective = component("objective", "nce", ratio=3, **{"learn_c": False, "c": 0.0} | changes)
    return objective, model, objective.auxiliary(model, noise, stream(0, "c")).double(), data.train.all().double(), q


@pytest.mark.parametrize("density", ["known", "one"])
def test_contrast_with_noise_is_its_definition(density, small_text):
    """Loss and sparse gradient against the formula word by word, by automatic differentiation."""
    objective, model, beside, x, q = contrast(small_text, density=density)
    x = x[:6]
    found, metrics = gradients(objective, model, x, None, beside)
    y = beside.noise.beside(x, 3, stream(0, "objective").fold("noise"))
    log_q = (q.log() if density == "known" else torch.zeros_like(q)).to(torch.float64)

    def log_odds(rows):
        return -model.energy(rows) - log_q[rows[:, -1].long()] - math.log(3)

    loss = -log_odds(x).sigmoid().log().mean() - 3 * (1 - log_odds(y).sigmoid()).log().mean()
    expected = torch.autograd.grad(loss, [*model.parameters()])
    assert metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-6)  # log q is kept in float32
    assert set(found) == {name for name, _ in model.named_parameters()}
    for grad, (name, _) in zip(expected, model.named_parameters(), strict=True):
        assert found[name].is_sparse == (name != "C")
        assert_close(found[name].to_dense() if found[name].is_sparse else found[name], grad, rtol=1e-5, atol=1e-7)


def test_the_normalised_truth_is_where_contrast_ends(small_text):
    """At exp(-E) = p(w | context), the frequency of w after that context, the expected gradient vanishes.

    Summed over all words instead of draws: k q(w) sigmoid(G) = p(w | context) sigmoid(-G) for each context and word.
    """
    _, model, beside, x, q = contrast(small_text)
    context = x[:1, :-1].expand(len(q), -1)
    every = torch.cat([context, torch.arange(len(q), dtype=torch.float64)[:, None]], 1)
    p = model.log_prob(every).exp().detach()
    logits = beside.logits(-p.log(), every)
    assert_close(3 * q * logits.sigmoid(), p * (-logits).sigmoid(), rtol=1e-5)


def words_run(path, engine=EAGER, **model):
    """Parts and state of a small run on a small text, told from noise."""
    return small_run(
        engine,
        dataset=shipped("dataset")["text"] | {"path": str(path), "context": 2, "min_count": 1},
        model=shipped("model")["log_bilinear"] | {"dim": 4} | model,
        sampler=shipped("sampler")["gibbs"],
        noise=shipped("noise")["unigram"],
        objective=shipped("objective")["nce"],
        chains=shipped("chains")["data"],
        optimizer=shipped("optimizer")["sgd"] | {"lr": 0.5, "clip": 0.3},
    )


def test_sparse_shards_of_a_batch_are_one_batch(small_text):
    """Gradients of parts of the rows are averaged, clipped and applied as those of all rows, and as dense ones are."""
    found = []
    for engine, sparse in ((EAGER, True), (Engine(compiled=False, rows=2), True), (EAGER, False)):
        parts, state = words_run(small_text, engine, sparse=sparse)
        for _ in range(3):
            check(state, [train_step(parts, state)], parts.components.objective)
        found.append(state.model.state_dict())
    for name, p in found[0].items():
        assert_close(found[1][name], p, rtol=1e-5, atol=1e-6)
        assert_close(found[2][name], p, rtol=1e-5, atol=1e-6)


class Sizes(TorchDispatchMode):
    """The largest tensor that any operation makes, beside views of those that are there."""

    def __init__(self, there):
        super().__init__()
        self.there, self.largest = {t.data_ptr() for t in there}, 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        found = function(*arguments, **(keywords or {}))
        for made in found if isinstance(found, tuple | list) else (found,):
            if isinstance(made, torch.Tensor):
                dense = made._values() if made.is_sparse else made
                if dense.data_ptr() not in self.there:
                    self.largest = max(self.largest, dense.numel())
        return found


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_step_makes_nothing_of_the_size_of_the_vocabulary(name):
    """Of 10^5 words none but those of the batch and of the noise: so its cost is the same for any vocabulary."""
    space, n, k = Words((3,), 100_000), 4, 5
    model = component("model", "log_bilinear", dim=3).build(space, torch.full((space.values,), 1e-5), stream(0, "m"))
    noise, how = Unigram(space, torch.full((space.values,), 1e-5)), component("optimizer", name, weight_decay=0.1)
    objective = component("objective", "nce", ratio=k, learn_c=False, c=0.0)
    beside, x = objective.auxiliary(model, noise, stream(0, "c")), space.noise(n, stream(0, "x"))
    parameters = dict(model.named_parameters())
    slots = how.init({name: p.detach() for name, p in parameters.items()})
    with Sizes([*parameters.values(), *slots.values(), noise.total, noise.log_q]) as sizes:
        found = objective.gradient(model, Batch(x, auxiliary=beside), stream(0, "draws")).parameters
        grads = optimizer.clipped(found, 1e-3, optimizer.norms(found).norm())
        optimizer.apply(how, parameters, grads, slots, At(0, 0.1, 0.0))
    assert 0 < sizes.largest <= n * (1 + k) * 3 * 3
    assert all(p.grad is None for p in parameters.values())
