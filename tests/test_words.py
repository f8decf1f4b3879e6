"""Words given their context: the space, the text, the log-bilinear model, its sparse updates and what is measured."""

import dataclasses
import itertools
import math
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm, facts
from helpers.components import SMALL_SPACES, component, shipped
from helpers.models import randomised
from helpers.statistics import assert_close, chi_square
from helpers.training import gradients, small_run
from torch.utils._python_dispatch import TorchDispatchMode

from ebm_cli import optimizer
from ebm_cli.commands.trained import recorded_space
from ebm_cli.dataset import docstrings
from ebm_cli.dataset.base import Split
from ebm_cli.dataset.text import START, UNKNOWN, tokens, windows
from ebm_cli.device.engine import EAGER, Engine
from ebm_cli.errors import UserError
from ebm_cli.evaluation.base import Subject
from ebm_cli.model.base import EnergyModel
from ebm_cli.noise.unigram import Unigram
from ebm_cli.objective.base import Batch
from ebm_cli.optimizer import At
from ebm_cli.record import checkpoint
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


def text_file(tmp_path, *paragraphs):
    path = tmp_path / "some.txt"
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    return path


SENTENCES = [f"The {a} sees the {b}. The {b} runs!" for a, b in itertools.permutations(["cat", "dog", "cow", "ox"], 2)]


def text(path, **changes):
    """A dataset of a small text."""
    return component("dataset", "text", path=str(path), context=2, min_count=1, **changes)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """In a directory of its own, which has a small text."""
    monkeypatch.chdir(tmp_path)
    return text_file(tmp_path, *SENTENCES)


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
def test_noise_is_the_frequency_to_a_power(power, elsewhere):
    """Draws beside rows keep their contexts, and are those of each row whatever the rows before it."""
    noise, q, data = unigram(elsewhere, power)
    x = data.train.all().double()
    assert_close(noise.log_prob(x), q.log()[x[:, -1].long()], rtol=1e-5)
    drawn = noise.beside(x, 500, stream(0, "draws"))
    assert data.space.contains(drawn)
    assert torch.equal(drawn[:, :-1], x[:, :-1].repeat_interleave(500, 0))
    counts = np.bincount(drawn[:, -1].long(), minlength=len(data.words))
    assert chi_square(counts, q.numpy() * len(drawn)) > 1e-6
    assert torch.equal(noise.beside(x[7:], 500, stream(0, "draws").at_row(7)), drawn[7 * 500 :])


def contrast(elsewhere, **changes):
    """NCE with c = 0 held, k = 3, a model and rows of the small text in float64."""
    noise, q, data = unigram(elsewhere)
    spec = component("model", "log_bilinear", dim=3)
    model = randomised(spec.build(data.space, data.smoothed_mean(), stream(0, "model")))
    objective = component("objective", "nce", ratio=3, **{"learn_c": False, "c": 0.0} | changes)
    return objective, model, objective.auxiliary(model, noise, stream(0, "c")).double(), data.train.all().double(), q


@pytest.mark.parametrize("density", ["known", "one"])
def test_contrast_with_noise_is_its_definition(density, elsewhere):
    """Loss and sparse gradient against the formula word by word, by automatic differentiation."""
    objective, model, beside, x, q = contrast(elsewhere, density=density)
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


def test_the_normalised_truth_is_where_contrast_ends(elsewhere):
    """At exp(-E) = p(w | context), the frequency of w after that context, the expected gradient vanishes.

    Summed over all words instead of draws: k q(w) sigmoid(G) = p(w | context) sigmoid(-G) for each context and word.
    """
    _, model, beside, x, q = contrast(elsewhere)
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


def test_sparse_shards_of_a_batch_are_one_batch(elsewhere):
    """Gradients of parts of the rows are averaged, clipped and applied as those of all rows, and as dense ones are."""
    found = []
    for engine, sparse in ((EAGER, True), (Engine(compiled=False, rows=2), True), (EAGER, False)):
        parts, state = words_run(elsewhere, engine, sparse=sparse)
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


# The text


def test_sentences_end_and_words_are_letters():
    assert tokens("It's 3.5 m; isn't_it?  Yes\n\nΝαί. ") == (
        ["it's", "m", "isn't", "it", START, "yes", START, "ναί", START]
    )
    assert tokens("... 12 -- _!") == []


def test_windows_are_words_and_those_before_them():
    number = {START: 0, UNKNOWN: 1, "a": 2, "b": 3}
    found = windows([["a", "x", "b"], ["b", START]], number, 2)
    assert found.tolist() == [[0, 0, 2], [0, 2, 1], [2, 1, 3], [0, 0, 3], [0, 3, 0]]
    assert found.dtype == np.int32


def test_a_text_is_read_whole(tmp_path):
    """Every document is in one split; put back together they are the text."""
    data = text(text_file(tmp_path, *SENTENCES)).load((Words,))
    assert data.words[:3] == (START, UNKNOWN, "the")
    assert data.space == Words((3,), len(data.words))
    splits = [data.train, data.valid, data.test]
    assert [len(split) for split in splits] == [100, 10, 10]  # of 12 documents one each is held out
    x = torch.cat([split.all() for split in splits])
    assert data.space.contains(x)
    said = " ".join(data.words[int(i)] for i in x[:, -1])
    ours = sorted(part.strip() for part in said.split(START) if part.strip())
    assert ours == sorted(part.strip(" ") for s in SENTENCES for part in s.lower().replace("!", ".").split(".") if part)
    count = np.bincount(data.train.all()[:, -1].long(), minlength=len(data.words))
    assert_close(data.train.mean(), torch.from_numpy(count / 100).float())
    assert_close(data.smoothed_mean(), torch.from_numpy((count + 1) / (100 + len(data.words))).float())


def test_the_vocabulary_is_that_of_frequent_words_in_training(tmp_path):
    path = text_file(tmp_path, *SENTENCES)
    whole, short = text(path).read(), text(path, vocabulary=4).read()
    assert short.words == whole.words[:4]
    assert (short.train.values == 1).sum() == (whole.train.values >= 4).sum()
    often = component("dataset", "text", path=str(path), context=2, min_count=15).read().words
    counts = dict(zip(whole.words, np.bincount(whole.train.values[:, -1]).tolist(), strict=True))
    assert often == (START, UNKNOWN, *(word for word in whole.words[2:] if counts[word] >= 15))
    assert 2 < len(often) < len(whole.words)


def test_other_words_are_other_data(tmp_path):
    first = text(text_file(tmp_path, *SENTENCES)).load((Words,))
    other = text(text_file(tmp_path, *(s.replace("cow", "cew") for s in SENTENCES))).load((Words,))
    assert torch.equal(first.train.stored, other.train.stored)
    assert first.fingerprint != other.fingerprint


BAD_TEXTS = {
    b"one two\n": "too few paragraphs or lines with words (1); give it 3 at least",
    b"\n\n12 13\n\n": "too few paragraphs or lines with words (0)",
    b"same\n" * 9: "the training documents hold one word only, 'same'; give more text",
    b"some words\n" * 2 + b"caf\xe9\n": "not UTF-8 (invalid continuation byte at byte 25); convert it to UTF-8",
    b"a b\nc d\ne f\n": "dataset.min_count = 3: no word is so frequent in",
}


@pytest.mark.parametrize("content", BAD_TEXTS, ids=range(len(BAD_TEXTS)))
def test_a_bad_text_is_one_sentence(content, tmp_path):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(UserError) as error:
        component("dataset", "text", path=str(tmp_path / "bad.txt")).read()
    assert BAD_TEXTS[content] in str(error.value)


def test_a_text_that_is_not_there():
    with pytest.raises(UserError, match=r"dataset.path = nowhere.txt: cannot be read \(No such file"):
        component("dataset", "text", path="nowhere.txt").read()


def test_docstrings_are_read_and_nothing_is_run(tmp_path, monkeypatch):
    library = {
        "b.py": '"""Module b."""\nraise SystemExit\n\ndef f():\n    """Does f."""\n\nclass C:\n    def g(self):\n'
        '        """Does g."""\n    """no docstring"""\n\nasync def h():\n    """Does h."""\n',
        "a/__init__.py": "'''Package a.'''\n",
        "a/inner.py": "x = 1\n",
        "test/b.py": '"""A test."""\n',
        "site-packages/c.py": '"""Installed."""\n',
        "broken.py": '"""Is broken."""\ndef\n',
        "latin.py": "# -*- coding: latin-1 -*-\n'''Caf\xe9.'''\n",
    }
    for name, content in library.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="latin-1")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path) if name == "stdlib" else None)
    assert docstrings.documents() == [
        ("a", "Package a."),
        ("b", "Module b.\n\nDoes f.\n\nDoes g.\n\nDoes h."),
        ("latin", "Café."),
    ]


# What is measured


def tiny(path, *more):
    """A run on a small text in the directory run."""
    return ebm(
        "train model=log_bilinear model.dim=4 optimizer=adam optimizer.lr=0.05 steps=30 batch_size=10 eval_every=20 "
        "dataset.min_count=1 dataset.context=2 evaluation=[words] tracker=none device=cpu "
        f"checkpoint.monitor=words/valid/log_likelihood hydra.run.dir=run dataset.path={path}",
        *more,
    )


def test_perplexity_is_that_of_the_normalised_model(tmp_path):
    """By loops over the held-out words, in float64."""
    data = text(text_file(tmp_path, *SENTENCES)).load((Words,))
    spec = component("model", "log_bilinear", dim=3)
    model = randomised(spec.build(data.space, data.smoothed_mean(), stream(0, "model")))
    doubled = dataclasses.replace(data, test=Doubled(**vars(data.test)))
    subject = Subject(model, doubled, "test", component("sampler", "gibbs"), torch.empty(0), stream(0, "words"))
    result = component("evaluation", "words", words=["cat", "the"], near=3).evaluate(subject)
    log_p, log_z, unnormalised = [], [], []
    for x in data.test.all().double():
        scores = [model.scores(x[None, :-1])[0, w].item() for w in range(len(data.words))]
        log_z.append(math.log(sum(map(math.exp, scores))))
        unnormalised.append(scores[int(x[-1])])
        log_p.append(unnormalised[-1] - log_z[-1])
    found = {name.removeprefix("words/"): value for name, value in result.metrics.items()}
    n = len(log_p)
    assert found["log_likelihood"] == pytest.approx(sum(log_p) / n, rel=1e-9)
    assert found["perplexity"] == pytest.approx(math.exp(-sum(log_p) / n), rel=1e-9)
    assert found["unnormalised_perplexity"] == pytest.approx(math.exp(-sum(unnormalised) / n), rel=1e-9)
    assert found["log_z"] == pytest.approx(sum(log_z) / n, rel=1e-9)
    assert found["log_z_std"] == pytest.approx(np.std(log_z), rel=1e-9)
    frequencies = data.smoothed_mean()[data.test.all()[:, -1].long()].double()
    assert found["unigram_perplexity"] == pytest.approx(math.exp(-frequencies.log().mean().item()), rel=1e-6)
    assert result.files["words.txt"].splitlines() == [nearest_by_hand(model, data.words, w) for w in ("cat", "the")]


class Doubled(Split):
    """Rows in float64."""

    def rows(self, index, key):
        return super().rows(index, key).double()


def nearest_by_hand(model, words, word, count=3):
    vectors = dict(zip(words, model.Q.detach().unbind(0), strict=True))
    cosine = {w: (v @ vectors[word] / v.norm() / vectors[word].norm()).item() for w, v in vectors.items() if w != word}
    best = sorted(cosine, key=cosine.get, reverse=True)[:count]
    return f"{word}: " + " ".join(f"{w} {cosine[w]:.2f}" for w in best)


def test_a_run_learns_is_resumed_evaluated_and_sampled(tmp_path, elsewhere):
    """From the command line; contexts of so small a text say nearly all about the next word."""
    answer = tiny(elsewhere, "steps=150")
    assert answer.code == 0, answer.err
    found = facts(tmp_path / "run", "summary.json")
    assert found["words/perplexity"] < 0.5 * found["words/unigram_perplexity"]
    assert (tmp_path / "run" / "samples" / "words.txt").read_text().splitlines()[1].startswith("dog: ")
    assert not list((tmp_path / "run" / "samples").glob("*.png"))
    assert ebm("train resume=run steps=160").code == 0
    answer = ebm("evaluate run=run evaluation=[words] evaluation.words.words=[cat] split=valid")
    assert answer.code == 0, answer.err
    assert "cat:" in answer.err + answer.out
    answer = ebm("sample run=run n=5 steps=2")
    assert answer.code == 0, answer.err
    drawn = np.load(next((tmp_path / "run" / "samples").glob("*/samples.npz")))["samples"]
    assert (drawn.shape, drawn.dtype) == ((5, 3), np.int32)


@pytest.mark.long
def test_contrast_comes_near_the_likelihood(tmp_path, elsewhere):
    """On the docstrings of some modules: within 15 % of the full softmax, and nearly normalised."""
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("[b-f]*.py"))
    docs = text_file(tmp_path, *(part for path in modules for part in docstrings._docstrings(path)))
    short = f"steps=300 eval_every=0 model.dim=20 dataset.path={docs} tracker=none device=cpu checkpoint.monitor=null"
    found = {}
    for name in ("words_stdlib", "words_stdlib_softmax"):
        answer = ebm(f"train experiment={name} {short} hydra.run.dir={name}")
        assert answer.code == 0, answer.err
        found[name] = facts(Path(name), "summary.json")
    ours, full = found.values()
    assert ours["words/perplexity"] < 1.15 * full["words/perplexity"]
    assert full["words/perplexity"] < 0.6 * full["words/unigram_perplexity"]
    assert abs(ours["words/log_z"]) < 0.3


REFUSED = {
    "optimizer.ema=0.9": "optimizer.ema = 0.9: sparse gradients leave most rows out; set it to 0, or model.spar",
    "device.ranks=2": "device.ranks = 2: sparse gradients are not exchanged; leave it out, or model.sparse=false",
    "objective=pcd": "objective=pcd works on binary, spin, categorical, real, boxed or counts data, model=log_bilinear",
    "sampler=gwg": "samplers that fit: gibbs",
    "evaluation=[ais]": "evaluation=ais: it measures whole configurations, this model gives the last word of one given",
    "evaluation.words.words=[dragon]": "evaluation=words: words has dragon, which the vocabulary lacks; name others",
    "dataset.binarize=threshold": "dataset.binarize = threshold",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_does_not_go_with_words_is_one_sentence(line, tmp_path, elsewhere):
    assert_refused(tiny(elsewhere, line), REFUSED[line])
    assert not (tmp_path / "run").exists()


def test_other_models_take_no_words(elsewhere):
    answer = ebm(f"train dataset=text dataset.path={elsewhere} tracker=none")
    assert_refused(answer, "dataset=text (binarize=auto) gives words data", "models that fit: log_bilinear")


@pytest.mark.parametrize("values", [0, 2**30, "many", None])
def test_a_vocabulary_that_no_checkpoint_can_have(values, tmp_path):
    described = {"name": "words", "shape": [3], "values": values}
    saved = checkpoint.Checkpoint(tmp_path, 0, {"model.b": torch.zeros(7)}, {"space": described})
    with pytest.raises(UserError, match="records no known space"):
        recorded_space(saved)
    saved.numbers["space"]["values"] = 7
    assert recorded_space(saved) == SPACE
