"""Windows of text: rows, their noise, their model, the n-gram model beside it, and a run from text to text."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm, facts
from helpers.components import FALSE_ALARM, component
from helpers.models import double_states, small_model
from helpers.statistics import chi_square

from ebm_cli.commands import sample
from ebm_cli.dataset.base import Data, Split
from ebm_cli.dataset.conformed import conformed
from ebm_cli.dataset.own_rows import OwnRows
from ebm_cli.errors import UserError
from ebm_cli.evaluation import text_perplexity
from ebm_cli.log_z import enumeration
from ebm_cli.model.word_window import WordWindowSpec
from ebm_cli.rng import stream
from ebm_cli.space import Categorical
from ebm_cli.yardstick.kneser_ney import KneserNey

SENTENCES = ["the cat sat on the mat", "a dog sat on the cat", "the dog saw a cat", "a cat saw the mat on the dog"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Paragraphs of a small language."""
    file = tmp_path_factory.mktemp("text") / "story.txt"
    order = np.random.default_rng(1).integers(0, len(SENTENCES), (30, 4))
    file.write_text("\n\n".join(". ".join(SENTENCES[i] for i in row) + "." for row in order), encoding="utf-8")
    return file


def _read(path, **keys):
    return component("dataset", "text_windows", path=str(path), min_count=1, **keys).load((Categorical,))


def test_rows_are_words_in_a_row(corpus):
    data = _read(corpus, length=3, vocabulary=30)
    assert data.words[:2] == ("<s>", "<unk>")
    assert [component("dataset", "text_windows", unit=unit).out_of_vocabulary for unit in ("words", "characters")] == [
        1,
        0,
    ]
    assert data.space == Categorical((3, len(data.words)))
    train = [" ".join(data.words[i] for i in row) for row in data.train.stored.tolist()]
    assert {"the cat sat", "cat sat on", "sat on the", "the mat <s>", "mat <s> a"} <= set(train)
    first, second = data.train.stored[:2]
    assert torch.equal(first[1:], second[:-1]), "a window at each word for training"
    assert len(data.test) < len(data.train) / 3 / 5, "held-out windows do not overlap"
    assert len(_read(corpus, length=3, vocabulary=7).words) == 7


def test_rows_are_characters_in_a_row(corpus):
    data = _read(corpus, length=5, vocabulary=30, unit="characters")
    assert data.words[0] == "<unk>"
    assert " " in data.words
    assert "".join(data.words[i] for i in data.test.stored[0].tolist()) in corpus.read_text().replace("\n", " ")


def test_lines_of_text_are_windows_with_gaps(corpus, tmp_path):
    file, spec = tmp_path / "rows.txt", component("dataset", "text_windows", path=str(corpus), min_count=1, length=4)
    file.write_text("the ? sat on\n\nA zebra saw ?\n")
    rows, words = spec.own_rows(file, "given = rows.txt", None), spec.read().words
    assert [[words[i] for i in row] for row in rows.values.tolist()][1][:3] == ["a", "<unk>", "saw"]
    assert rows.missing.tolist() == [[False, True, False, False], [False, False, False, True]]
    assert rows.place(1) == "line 3"
    assert rows.remarks == ("given = rows.txt: words that the run's vocabulary lacks are read as <unk>: zebra",)
    file.write_text("the cat\n")
    with pytest.raises(UserError, match="line 1: has 2 words, the windows of the run 4"):
        spec.own_rows(file, "given = rows.txt", None)


def _pairs_of(rows, values):
    space = Categorical((rows.shape[1], values))
    split = Split(space, rows, 1.0, stochastic=False, labels=None)
    return Data(space, split, None, split)


def test_bigram_noise_is_normalised_and_has_the_density_of_its_draws():
    """Over all 27 rows; one value of three never begins a pair, another never ends one."""
    rows = torch.tensor([[0, 1, 1], [0, 1, 0], [0, 2, 2], [1, 1, 2]], dtype=torch.int32)
    data = _pairs_of(rows, 3)
    noise = component("noise", "bigram", strength=0.5).build(data, stream(0, "noise"))
    states = data.space.enumerate()
    p = noise.log_prob(states).double().exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-6)
    single = data.smoothed_mean().double().mean(0)
    after = single / single.sum()
    expected = after[0] * (2 + 0.5 * after[1]) / (3 + 0.5) * (2 + 0.5 * after[1]) / (4 + 0.5)
    assert noise.log_prob(data.space.encode(torch.tensor([[0, 1, 1]]))).exp().item() == pytest.approx(expected.item())
    n = 20_000
    count = torch.bincount(data.space.code(noise.sample(n, stream(1, "draws"))), minlength=27)[None]
    assert chi_square(count, (p * n).numpy()[None], cells_lost=1) > FALSE_ALARM


def test_the_model_begins_normalised_and_looks_up_what_products_give():
    space = Categorical((3, 5))
    mean = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)) + 0.1
    begun = WordWindowSpec(dim=4, hidden=3).build(space, mean / mean.sum(1, keepdim=True), stream(0, "model"))
    assert enumeration.log_z(begun.double()).item() == pytest.approx(0, abs=1e-6)
    model = small_model("word_window", space, dim=4)
    x = double_states(model)
    with torch.no_grad():
        looked_up, grad = model.energy_and_grad(x)
        assert torch.equal(model.energy(x), looked_up)
        assert torch.equal(model.energy_vjp(x)[0], looked_up)
    z = x @ model.V
    pairs = sum((z[:, i] @ model.A[j - i - 1] * z[:, j]).sum(1) for i, j in itertools.combinations(range(3), 2))
    units = torch.nn.functional.silu(model.units(z.flatten(1)))
    expected = -(x * model.b).sum((1, 2)) - pairs - model.out(units).squeeze(1)
    torch.testing.assert_close(looked_up, expected.detach(), rtol=1e-12, atol=1e-12)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(model.energy(x).sum(), x)
    torch.testing.assert_close(grad, slope, rtol=1e-12, atol=1e-12)


def _language(values=5, length=200):
    text = np.random.default_rng(0).integers(0, values, length)
    return np.lib.stride_tricks.sliding_window_view(text, 3)


@pytest.mark.parametrize("discount", [None, 0.75])
def test_kneser_ney_sums_to_one(discount):
    """After every context, seen or not, and of words that never were."""
    model = KneserNey(_language()[:40], 3, 7, discount)
    for length in range(3):
        for context in itertools.product(range(7), repeat=length):
            assert sum(model.probability((*context, word)) for word in range(7)) == pytest.approx(1, abs=1e-12)


def test_kneser_ney_is_the_formula():
    """a b a b a c, order 2, d = 1/2: after a, b twice and c once; each of the words was seen after one."""
    model = KneserNey(np.array([[0, 1], [1, 0], [0, 1], [1, 0], [0, 2]]), 2, 3, 0.5)
    alone = (1 - 0.5 + 0.5 * 3 / 3) / 3
    assert model.probability((0, 1)) == pytest.approx((2 - 0.5 + 0.5 * 2 * alone) / 3, abs=1e-15)
    assert model.probability((0, 2)) == pytest.approx((1 - 0.5 + 0.5 * 2 * alone) / 3, abs=1e-15)
    assert model.probability((2, 0)) == pytest.approx(alone, abs=1e-15)
    assert model.log_prob(np.array([[0, 1]]))[0] == pytest.approx(
        np.log(model.probability((0,)) * model.probability((0, 1)))
    )


def test_kneser_ney_is_that_of_nltk():
    """Scores of nltk.lm.KneserNeyInterpolated(3, discount=0.75) of nltk 3.10.4 for the same text."""
    scores = {
        (0, 1, 2): 0.16176470588235295,
        (3, 3, 1): 0.3446969696969697,
        (4, 2, 0): 0.13311688311688313,
        (2, 0, 4): 0.16842105263157894,
    }
    ours = KneserNey(_language(), 3, 5, 0.75)
    for gram, score in scores.items():
        assert ours.probability(gram) == pytest.approx(score, abs=1e-12)


def test_numbers_of_words_beyond_a_byte_are_written_whole():
    space = Categorical((2, 1000))
    x = space.encode(torch.tensor([[999, 256]]))
    assert sample.as_data(space, x).tolist() == [[999, 256]]
    assert (
        sample.as_data(Categorical((2, 256)), Categorical((2, 256)).encode(torch.tensor([[255, 0]]))).dtype == np.uint8
    )


def test_large_numbers_of_categories_stay_whole():
    rows = OwnRows(np.array([[999, 256]]), np.zeros((1, 2), bool))
    spec = component("dataset", "text_windows")
    found, _ = conformed(spec, rows, "categorical", Categorical((2, 1000)), "given")
    assert found.stored.tolist() == [[999, 256]]


def test_ends_of_the_bracket_are_on_their_sides():
    """A higher log Z is a lower likelihood, and a higher perplexity: of two words, log p = -4 with log Z = 1."""
    metrics = {"log_likelihood": -4.0, "log_z": 1.0, "log_z_low": 0.0, "log_z_high": 3.0}
    found = text_perplexity._perplexities({f"text_perplexity/{name}": value for name, value in metrics.items()}, 2)
    expected = {"perplexity": math.exp(2), "perplexity_low": math.exp(1.5), "perplexity_high": math.exp(3)}
    assert found == pytest.approx(expected)


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """Trained for a moment, of windows so short that log Z is a sum."""
    home = tmp_path_factory.mktemp("run") / "run"
    line = f"train experiment=text_ngram dataset.path={corpus} dataset.length=3 dataset.vocabulary=10 steps=100"
    line += " dataset.min_count=1 model.dim=8 model.hidden=4 batch_size=50 evaluation=[text_perplexity] tracker=none"
    answer = ebm(f"{line} evaluation.text_perplexity.order=2 device=cpu hydra.run.dir={home}")
    assert answer.code == 0, answer.err
    return home, answer.out


@pytest.mark.long
def test_perplexities_stand_side_by_side(run):
    home, out = run
    found = {key.partition("/")[2]: value for key, value in facts(home, "summary.json").items() if "perplexity/" in key}
    assert found["perplexity_low"] == found["perplexity"] == found["perplexity_high"], "log Z is exact here"
    assert found["perplexity"] == pytest.approx(np.exp(-found["log_likelihood"] / 3))
    assert found["n_gram_perplexity"] < found["unigram_perplexity"]
    assert found["perplexity"] < found["unigram_perplexity"]
    assert found["beside_n_gram"] == pytest.approx(np.log(found["perplexity"] / found["n_gram_perplexity"]))
    assert "perplexity (test)" in out
    assert "a word, bracket [" in out


@pytest.mark.long
def test_gaps_in_lines_are_filled_with_words(run, tmp_path):
    home, _ = run
    file, out = tmp_path / "rows.txt", tmp_path / "out"
    file.write_text("the ? sat\nsat on ?\n")
    answer = ebm(f"sample run={home} given={file} n=50 steps=20 out={out}")
    assert answer.code == 0, answer.err
    words = set((home / "vocabulary.txt").read_text().split()) - {"<unk>"}
    samples = (out / "samples.txt").read_text().splitlines()
    assert len(samples) == 100
    assert all(line.split()[::2] == ["the", "sat"] and set(line.split()) <= words for line in samples[:50])
    assert (out / "filled.txt").read_text().splitlines()[1].startswith("sat on ")
    table = (out / "imputed.csv").read_text().splitlines()
    assert table[0] == "row,site,word,share,r_hat"
    assert table[1].split(",")[:2] == ["1", "2"]
    assert table[1].split(",")[2] in words


@pytest.mark.long
def test_windows_longer_than_the_ngrams_and_nothing_else(run):
    home, _ = run
    line = f"evaluate run={home} evaluation=[text_perplexity] evaluation.text_perplexity.order=4"
    assert_refused(ebm(line), "text_perplexity", "order = 4: the windows have 3 words; give at most that")
