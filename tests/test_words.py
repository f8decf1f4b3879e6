"""Words given their context: what is measured, runs from the command line, and what does not go with them."""

import dataclasses
import math
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm, facts
from helpers.components import SMALL_SPACES, component
from helpers.models import randomised
from helpers.text import SENTENCES, text, text_file

from ebm_cli.dataset import docstrings
from ebm_cli.dataset.base import Split
from ebm_cli.errors import UserError
from ebm_cli.evaluation.base import Subject
from ebm_cli.record import checkpoint
from ebm_cli.record.checkpoint_space import recorded_space
from ebm_cli.rng import stream
from ebm_cli.space import Words

SPACE = SMALL_SPACES[Words]


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
    assert result.by_row["words/log_likelihood"].tolist() == pytest.approx(log_p, rel=1e-9)
    some = component("evaluation", "words", words=["cat"], near=3, rows=3).evaluate(subject)
    numbers = some.index["words/log_likelihood"].tolist()
    assert len(set(numbers)) == 3
    assert some.by_row["words/log_likelihood"].tolist() == pytest.approx([log_p[i] for i in numbers], rel=1e-9)
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


def test_a_run_learns_is_resumed_evaluated_and_sampled(tmp_path, small_text):
    """From the command line; contexts of so small a text say nearly all about the next word."""
    answer = tiny(small_text, "steps=150")
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
def test_contrast_comes_near_the_likelihood(tmp_path, small_text):
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
    "objective=pcd": "objective=pcd works on binary, spin, categorical, real, boxed, mixed or counts data, "
    "model=log_bilinear",
    "sampler=gwg": "samplers that fit: gibbs",
    "evaluation=[ais]": "evaluation=ais: it measures whole configurations, this model gives the last word of one given",
    "evaluation.words.words=[dragon]": "evaluation=words: words has dragon, which the vocabulary lacks; name others",
    "dataset.binarize=threshold": "dataset.binarize = threshold",
}


@pytest.mark.quick("device*", "optimizer*", "evaluation.words*")
@pytest.mark.parametrize("line", REFUSED)
def test_what_does_not_go_with_words_is_one_sentence(line, tmp_path, small_text):
    assert_refused(tiny(small_text, line), REFUSED[line])
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_other_models_take_no_words(small_text):
    answer = ebm(f"train dataset=text dataset.path={small_text} tracker=none")
    assert_refused(answer, "dataset=text (binarize=auto) gives words data", "models that fit: log_bilinear")


@pytest.mark.parametrize("values", [0, 2**30, "many", None])
def test_a_vocabulary_that_no_checkpoint_can_have(values, tmp_path):
    described = {"name": "words", "shape": [3], "values": values}
    saved = checkpoint.Checkpoint(tmp_path, 0, {"model.b": torch.zeros(7)}, {"space": described})
    with pytest.raises(UserError, match="records no known space"):
        recorded_space(saved)
    saved.numbers["space"]["values"] = 7
    assert recorded_space(saved) == SPACE
