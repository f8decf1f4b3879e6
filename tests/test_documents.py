"""Samples of documents and words: given words that stay, lengths, the vocabulary of the run, and what is written."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm, train
from helpers.components import FALSE_ALARM, component
from helpers.statistics import assert_close, chi_square
from test_replicated_softmax import K, documents, log_sequences, small

from ebm_cli.commands.documents import conditional, lines, next_words
from ebm_cli.model.replicated_softmax import GivenWords
from ebm_cli.record.run import Run
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Counts, Words

GIVEN = torch.tensor([2.0, 0, 0, 1]).double()


def law(model, given, length):
    """All ways to fill up a document of this length, and their probabilities by the words in their order.

    Each document that has the given words, weighted by the number of sequences in which these have the first places.
    """
    whole = documents(length)
    rest = (whole - given)[(whole >= given).all(1)]
    log_p = log_sequences(rest) - model.energy(rest + given)
    return rest, log_p.softmax(0).detach()


def test_the_law_of_the_rest_is_that_of_sequences_with_the_given_words():
    """By all sequences of five words, of which the first three are given."""
    model, length = small(), 5
    rest, p = law(model, GIVEN, length)
    first = [word for word, n in enumerate(GIVEN.long().tolist()) for _ in range(n)]
    sequences = [(*first, *more) for more in itertools.product(range(K), repeat=2)]
    x = torch.stack([torch.bincount(torch.tensor(words), minlength=K) for words in sequences]).double()
    weight = (-model.energy(x)).softmax(0)
    due = torch.stack([weight[((x - GIVEN) == row).all(1)].sum() for row in rest])
    assert_close(p, due.detach(), rtol=1e-10)


KERNELS = {"block_gibbs": 20, "metropolis": 100}


@pytest.mark.parametrize("kernel", KERNELS)
def test_chains_with_given_words_come_to_the_law_of_the_rest(kernel):
    model, length, chains = small(2), 6, 2000
    what = conditional(model, GIVEN, length)
    assert what.space.length == 3
    x = what.space.noise(chains, stream(2, kernel)).double()
    end, _ = run(component("sampler", kernel), what, x, KERNELS[kernel], stream(3, kernel))
    rest, p = law(model, GIVEN, length)
    found = (end[:, None] == rest).all(2)
    assert (found.sum(1) == 1).all()
    assert chi_square(found.sum(0), p * chains) > FALSE_ALARM


def test_a_sweep_is_the_kernel_of_the_formulas():
    """From one state: sum over h of p(h | x + g) times the multinomial of b + W h, enumerated."""
    model, chains, x = small(), 20_000, torch.tensor([0.0, 1, 1, 0]).double()
    on = (5 * model.c + (x + GIVEN) @ model.W).sigmoid()
    rest, total = documents(2), 0
    for h in itertools.product((0.0, 1.0), repeat=2):
        h = torch.tensor(h).double()
        words = (model.b + model.W @ h).log_softmax(0)
        total = total + (on * h + (1 - on) * (1 - h)).prod() * (log_sequences(rest) + rest @ words).exp()
    end = GivenWords(model, GIVEN, 2).sweep(x.expand(chains, K), stream(4, "sweep"), backwards=False)
    count = (end[:, None] == rest).all(2).sum(0)
    assert chi_square(count, total.detach() * chains) > FALSE_ALARM


def test_lengths_are_those_asked_for_or_leave_room():
    model = small(7)
    assert [conditional(model, GIVEN, length).space.length for length in (None, 20)] == [4, 17]
    assert conditional(small(2), GIVEN, None).space.length == 1  # of a document of four words
    nothing = conditional(model, torch.zeros(K).double(), None)
    assert nothing.space == model.space
    assert_close(nothing.energy(documents(3)), model.energy(documents(3)), rtol=0, atol=0)


def test_next_words_are_those_of_enumeration():
    """p(w | g) and p(w | g) / p(w), by the energies of documents with one word more."""
    model, words = small(), ["ab", "cd", "ef", "gh"]
    each = torch.eye(K).double()
    p, alone = ((-model.energy(each + given)).softmax(0).detach() for given in (GIVEN, torch.zeros(K).double()))
    order = [p.argsort(descending=True).tolist(), (p / alone).argsort(descending=True).tolist()]
    due = [
        "next word: " + ", ".join(f"{words[i]} {p[i]:.3g}" for i in order[0]),
        "raised most: " + ", ".join(f"{words[i]} {(p / alone)[i]:.3g}x" for i in order[1] if GIVEN[i] == 0),
    ]
    assert next_words(model, GIVEN, words) == due


def test_samples_are_written_as_words():
    words = ["ab", "cd", "ef", "gh"]
    x = torch.tensor([[1.0, 0, 3, 1], [0, 2, 0, 0]])
    assert lines(Counts((4,), 3), x, words) == ["ef:3 ab:1 gh:1", "cd:2"]
    assert lines(Counts((4,), 3), x[:1], words, torch.tensor([1.0, 0, 0, 0])) == ["ab:1 ef:3 gh:1"]
    assert lines(Words((3,), 4), torch.tensor([[0.0, 3, 1], [2, 2, 0]]), words) == ["ab gh cd", "ef ef ab"]


# From the command line

COLOURS = ["red", "green", "blue", "amber"]
LINE = (
    "train model=replicated_softmax model.hidden=2 objective=cd dataset=bag_of_words dataset.path=texts steps=3 "
    "batch_size=5 dataset.max_documents=1 tracker=none evaluation=[] checkpoint.monitor=null device=cpu "
    "hydra.run.dir=run"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on documents of four colours, of three words each."""
    home = tmp_path_factory.mktemp("documents")
    (home / "texts").mkdir()
    for i, text in enumerate(itertools.product(COLOURS, repeat=3)):
        (home / "texts" / f"{i:02}.txt").write_text(" ".join(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        answer = ebm(LINE)
    assert answer.code == 0, answer.err
    return home


@pytest.fixture
def there(trained, monkeypatch):
    """In its directory; the vocabulary is put back afterwards."""
    monkeypatch.chdir(trained)
    kept = (trained / "run" / "vocabulary.txt").read_bytes()
    yield trained
    (trained / "run" / "vocabulary.txt").write_bytes(kept)


def drawn(home):
    """The newest samples, and the lines of their text."""
    folder = max((home / "run" / "samples").iterdir(), key=lambda path: (path.stat().st_mtime_ns, path.name))
    text = folder / "documents.txt"
    return np.load(folder / "samples.npz")["samples"], text.read_text().splitlines() if text.exists() else None


@pytest.mark.long
def test_a_run_has_its_vocabulary_and_samples_are_text(there):
    assert (there / "run" / "vocabulary.txt").read_text() == "amber\nblue\ngreen\nred\n"
    answer = ebm("sample run=run n=7 steps=2")
    assert answer.code == 0, answer.err
    x, text = drawn(there)
    assert (x.shape, x.dtype) == ((7, 4), np.int32)
    assert (x.sum(1) == 3).all()
    assert text == lines(Counts((4,), 3), torch.from_numpy(x), sorted(COLOURS))
    assert [line for line in answer.out.splitlines() if line.startswith("  ")] == [f"  {line}" for line in text[:5]]


@pytest.mark.long
def test_documents_have_the_given_words_and_the_length(there):
    answer = ebm("sample run=run n=50 steps=2 length=6 given=[red,red,blue]")
    assert answer.code == 0, answer.err
    x, _ = drawn(there)
    assert (x.sum(1) == 6).all()
    assert (x >= [0, 1, 0, 2]).all()
    assert (x[:, [0, 2]] > 0).any()
    assert answer.out.splitlines()[-2].startswith("next word: ")
    assert answer.out.splitlines()[-1].startswith("raised most: ")
    assert ebm("sample run=run n=5 steps=2 given=[red,red,red,red]").code == 0
    assert (drawn(there)[0].sum(1) == 5).all()


REFUSED = {
    "given=[reed]": "given = [reed]: the vocabulary of the run lacks 'reed'; did you mean red or green?",
    "given=[zzz]": "lacks 'zzz'; name words that it has",
    "length=2 given=[red,red]": "length = 2: the 2 given words leave none to draw; make it longer",
    "length=0": "length = 0: must be greater than or equal to 1",
    "length=5 start=chains": "length = 5: the run's own chains have words of their own; use start=noise",
    "given=[red] start=chains": "given = [red]: the run's own chains have words of their own; use start=noise",
    "given=red": "given = red: documents are drawn given words: name these, given=[WORD,...]",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_drawn_is_one_sentence(line, there):
    assert_refused(ebm(f"sample run=run n=2 steps=1 {line}"), REFUSED[line])


BAD_VOCABULARIES = {
    None: "vocabulary.txt is missing or no list of words; ebm train resume=run writes it where it is missing",
    b"red\ngreen\n": "vocabulary.txt has 2 words, the model 4; it was edited",
    b"red\ngreen\nblue\n\x1b[31m\n": "vocabulary.txt is missing or no list of words",
    b"red\ngreen\nblue\n\xff\n": "vocabulary.txt is missing or no list of words",
}


@pytest.mark.quick("red\\ngreen\\n")
@pytest.mark.parametrize("content", BAD_VOCABULARIES)
def test_without_a_vocabulary_samples_are_numbers(content, there):
    file = there / "run" / "vocabulary.txt"
    file.unlink() if content is None else file.write_bytes(content)
    said = BAD_VOCABULARIES[content]
    answer = ebm("sample run=run n=2 steps=1")
    assert answer.code == 0, answer.err
    assert answer.err.count(said) == 1
    x, text = drawn(there)
    assert x.shape == (2, 4)
    assert text is None
    if content is None:
        assert_refused(ebm("sample run=run n=2 steps=1 given=[red]"), said)


@pytest.mark.long
def test_a_resumed_run_writes_a_vocabulary_that_is_missing(there):
    file = there / "run" / "vocabulary.txt"
    before = file.read_bytes()
    file.unlink()
    assert ebm("train resume=run steps=4").code == 0
    assert file.read_bytes() == before
    assert Run(there / "run").words() == tuple(sorted(COLOURS))


@pytest.mark.long
def test_words_given_their_context_are_written_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "\n\n".join(f"the {a} sees the {b}." for a, b in itertools.permutations(COLOURS, 2))
    Path("some.txt").write_text(text)
    answer = ebm(
        "train model=log_bilinear model.dim=4 dataset.min_count=1 dataset.context=2 dataset.path=some.txt steps=2 "
        "batch_size=5 evaluation=[] checkpoint.monitor=null tracker=none device=cpu hydra.run.dir=run"
    )
    assert answer.code == 0, answer.err
    answer = ebm("sample run=run n=3 steps=2")
    assert answer.code == 0, answer.err
    folder = next(Path("run/samples").glob("*/samples.npz")).parent
    words = Path("run/vocabulary.txt").read_text().split()
    found = [[words.index(word) for word in line.split()] for line in (folder / "words.txt").read_text().splitlines()]
    assert found == np.load(folder / "samples.npz")["samples"].tolist()
    assert_refused(ebm("sample run=run n=3 steps=2 length=4"), "length = 4: is for models of documents")


def test_other_models_have_no_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train().code == 0
    assert not Path("run/vocabulary.txt").exists()
    assert_refused(ebm("sample run=run n=2 steps=1 given=[red]"), "given = [red]: is for models of documents, this one")
