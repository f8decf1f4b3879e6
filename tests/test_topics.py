"""Hidden units of documents: top words and their statistics by hand, retrieval against scikit-learn, and refusals."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm, facts
from helpers.components import component
from helpers.models import randomised, target
from scipy.sparse import csr_matrix
from sklearn.metrics import average_precision_score

from ebm_cli.dataset.base import Data, Split
from ebm_cli.dataset.sparse import SparseRows
from ebm_cli.errors import UserError
from ebm_cli.evaluation import documents, retrieval, topics
from ebm_cli.evaluation.base import Subject
from ebm_cli.rng import stream
from ebm_cli.space import Counts
from ebm_cli.yardstick import coherence, lda

A, B, C, D, E, F = range(6)
DOCUMENTS = csr_matrix(np.array([[3, 1, 0, 0], [1, 1, 2, 0], [0, 0, 5, 0], [1, 0, 0, 1]]))


def split(rows, labels=None):
    rows = np.asarray(rows)
    space = Counts((rows.shape[1],), 5)
    labels = None if labels is None else torch.tensor(labels)
    return Split(space, SparseRows.of(csr_matrix(rows)), 1.0, stochastic=False, labels=labels)


def corpus(n=60, seed=0, labelled=True):
    """Documents of 5 to 20 words, of two kinds: one has the words 0 to 3, the other 4 to 7, both have 8."""
    rng = np.random.default_rng(seed)
    kinds = (rng.random(n) < 0.3).astype(int)
    p = np.array([[4, 4, 4, 4, 0.5, 0.5, 0.5, 0.5, 3], [0.5, 0.5, 0.5, 0.5, 4, 4, 4, 4, 3]])
    rows = [rng.multinomial(rng.integers(5, 21), p[kind] / p[kind].sum()) for kind in kinds]
    return split(rows, kinds.tolist() if labelled else None)


def data(labelled=True, **splits):
    parts = {"train": corpus(labelled=labelled), "valid": None, "test": corpus(30, 1, labelled=labelled)} | splits
    words = tuple("abcdefghi"[: parts["train"].space.shape[0]])
    return Data(parts["train"].space, parts["train"], parts["valid"], parts["test"], words=words)


def model_of(space, hidden=3):
    """A small one, every parameter asymmetric and non-zero, in float64."""
    spec = component("model", "replicated_softmax", hidden=hidden)
    mean = torch.full(space.shape, 1 / space.shape[0])
    return randomised(spec.build(space, mean, stream(1, "model"))).requires_grad_(requires_grad=False)


def planted(weight=3.0):
    """Unit 0 for the words of the first kind of documents, unit 1 for those of the second."""
    model = model_of(corpus().space, hidden=2)
    for parameter in model.parameters():
        parameter.zero_()
    model.W[:4, 0] = model.W[4:8, 1] = weight
    model.W[4:8, 0] = model.W[:4, 1] = -weight
    return model


def subject(model, about=None, where="test", seed=0):
    sampler = component("sampler", "block_gibbs")
    return Subject(model, about or data(), where, sampler, torch.empty(0, *model.space.shape), stream(seed, "subject"))


def evaluation(name, **changes):
    return component("evaluation", name, **({"lda_topics": 0} | changes))


@pytest.fixture
def undrawn(monkeypatch):
    """No figures, which take longer than all else."""
    for module, name in ((topics, "bars"), (retrieval, "figure")):
        monkeypatch.setattr(module, name, lambda *_: np.zeros((1, 1), np.uint8))


# Coherence


def test_npmi_is_that_of_the_shares_of_documents():
    """p_A = 3/4, p_B = p_C = 1/2, p_D = p_AD = p_AC = p_BC = 1/4, p_AB = 1/2, no document has D with B or C."""
    pairs = {
        (A, B): math.log(0.5 / (0.75 * 0.5)) / math.log(2),
        (A, C): math.log(0.25 / (0.75 * 0.5)) / math.log(4),
        (B, C): 0.0,
        (A, D): math.log(0.25 / (0.75 * 0.25)) / math.log(4),
        (B, D): -1.0,
        (C, D): -1.0,
    }
    found = coherence.npmi(np.array([*pairs]), DOCUMENTS)
    assert found.tolist() == pytest.approx([*pairs.values()], abs=1e-12)
    assert coherence.npmi(np.array([[A, B, D]]), DOCUMENTS)[0] == pytest.approx(
        (pairs[A, B] + pairs[A, D] + pairs[B, D]) / 3, abs=1e-12
    )


def test_npmi_goes_from_minus_one_to_one():
    """A and B always together, C in the other documents, E and F in all, D nowhere."""
    rows = csr_matrix(np.array([[1, 2, 0, 0, 1, 1], [4, 1, 0, 0, 1, 2], [0, 0, 1, 0, 3, 1]]))
    found = coherence.npmi(np.array([[A, B], [A, C], [E, F], [A, D], [A, E]]), rows)
    assert found.tolist() == pytest.approx([1, -1, 1, -1, 0], abs=1e-12)


def test_distinct_words_of_topics_that_are_the_same_and_of_topics_apart():
    assert coherence.distinct(np.array([[0, 1, 2]] * 4)) == 1 / 4
    assert coherence.distinct(np.array([[0, 1, 2], [2, 1, 0]])) == 1 / 2
    assert coherence.distinct(np.arange(12).reshape(4, 3)) == 1
    assert coherence.distinct(np.array([[0, 1], [1, 2]])) == 3 / 4


def test_correlation_of_words_with_topics():
    rng = np.random.default_rng(0)
    activity = rng.random((50, 3))
    rows = rng.poisson(0.7, (50, 5))
    rows[:, 4] = 1
    activity[:, 2] = 0.3
    found = coherence.correlation(csr_matrix(rows), activity)
    for k, j in itertools.product(range(4), range(2)):
        assert found[k, j] == pytest.approx(np.corrcoef(rows[:, k] > 0, activity[:, j])[0, 1], abs=1e-12)
    assert (found[4] == 0).all()
    assert (found[:, 2] == 0).all()


# Topics


def test_hidden_logits_are_those_of_all_documents_at_once(monkeypatch):
    model, rows = model_of(corpus().space), corpus()
    monkeypatch.setattr(documents, "_AT_ONCE", 7 * 9)
    torch.testing.assert_close(documents.hidden_logits(model, rows.stored), model.hidden_logits(rows.all().double()))


def test_scores_of_units_are_their_definitions():
    model, about = model_of(corpus().space), data()
    scores, on = topics.of_units(model, about)
    x = about.train.all().double()
    W, b, c = (p.detach() for p in (model.W, model.b, model.c))
    active = torch.stack([torch.sigmoid(row.sum() * c + row @ W) for row in x])
    torch.testing.assert_close(on, active, rtol=1e-10, atol=0)
    unigram = (x.sum(0) + 1) / (x.sum() + 9)
    share = (active.T / active.sum(1)).numpy()
    for k, j in itertools.product(range(9), range(3)):
        p = (torch.exp(b + W[:, j]) / torch.exp(b + W[:, j]).sum())[k].item()
        assert scores["weight"][k, j] == W[k, j].item()
        assert scores["probability"][k, j] == pytest.approx(p, rel=1e-10)
        assert scores["lift"][k, j] == pytest.approx(math.log(p / unigram[k].item()), abs=1e-6)
        assert scores["activity"][k, j] == pytest.approx(np.corrcoef(x[:, k] > 0, share[j])[0, 1], abs=1e-10)


def test_units_that_are_never_on_have_finite_scores():
    model = model_of(corpus().space)
    model.c.fill_(-300)
    scores, _ = topics.of_units(model, data())
    assert all(np.isfinite(score).all() for score in scores.values())


@pytest.mark.parametrize("score", topics.SCORES)
def test_planted_topics_are_found(score):
    result = evaluation("topics", words=4, score=score).evaluate(subject(planted()))
    top = {line for line in result.said if line.startswith("unit ")}
    assert {"".join(sorted(line.partition(": ")[2].split())) for line in top} == {"abcd", "efgh"}
    assert result.metrics["topics/distinct"] == 1
    due = coherence.npmi(np.array([[0, 1, 2, 3], [4, 5, 6, 7]]), lda.matrix(data().train.stored)).mean()
    assert result.metrics["topics/npmi"] == pytest.approx(due, abs=1e-12)
    assert result.warnings == ()
    assert result.images["topics"].dtype == np.uint8
    assert result.files["topics.txt"].count("NPMI") == 3


def test_the_score_and_the_documents_asked_for_are_counted(undrawn):
    model, about = model_of(corpus().space), data()
    scores, _ = topics.of_units(model, about)
    for score, reference in itertools.product(topics.SCORES, ("train", "test")):
        found = evaluation("topics", words=3, score=score, reference=reference).evaluate(subject(model, about))
        top = np.array([sorted(range(9), key=lambda k: -column[k])[:3] for column in scores[score].T])
        due = coherence.npmi(top, lda.matrix(getattr(about, reference).stored)).mean()
        assert found.metrics["topics/npmi"] == pytest.approx(due, abs=1e-12)
        assert found.metrics["topics/distinct"] == coherence.distinct(top)


def test_units_that_share_their_words_are_said(undrawn):
    """Five units that are one."""
    model = model_of(corpus().space, hidden=5)
    model.W.copy_(0.1 * model.W[:, :1].expand(-1, 5))
    model.c.zero_()
    result = evaluation("topics", words=2, score="weight").evaluate(subject(model))
    assert result.metrics["topics/distinct"] == 1 / 5
    assert result.warnings == ("units share their words: 20% of the top ones by weight are distinct",)
    assert len([line for line in result.said if line.startswith("unit ")]) == 1
    probability = evaluation("topics", words=2, score="probability").evaluate(subject(model))
    assert "score=activity looks past" in probability.warnings[0]
    many = model_of(corpus().space, hidden=20)
    many.c.zero_()
    result = evaluation("topics", words=2, score="weight").evaluate(subject(many))
    assert result.metrics["topics/distinct"] == 9 / 40  # there are no more than nine words
    assert result.warnings == ()


def test_idle_units_are_counted_and_come_last(undrawn):
    model = model_of(corpus().space, hidden=5)
    model.W.mul_(0.1)
    model.c.copy_(torch.tensor([0.0, -90, 90, -90, 0.01]))
    result = evaluation("topics", words=2, score="weight").evaluate(subject(model))
    assert (result.metrics["topics/dead"], result.metrics["topics/always_on"]) == (2, 1)
    on = model.hidden_logits(data().train.all().double()).sigmoid()
    assert result.metrics["topics/on"] == pytest.approx(on.mean().item(), abs=1e-12)
    assert "3 of 5 units are off in nearly all documents" in result.warnings[-1]
    listed = [line.split(",")[0] for line in result.files["topics.txt"].splitlines() if line.startswith("unit ")]
    assert listed == [f"unit {j} (on {on[:, j].mean():.1%}" for j in on.var(0).argsort(descending=True, stable=True)]


def test_lda_is_measured_the_same_way(undrawn):
    about = data()
    result = evaluation("topics", words=3, lda_topics=2, lda_passes=20, score="probability").evaluate(
        subject(planted(), about)
    )
    fitted = lda.fitted(about, 2, 20, 0)
    top = np.argsort(-fitted.topics, 1, kind="stable")[:, :3]
    assert result.metrics["topics/lda_npmi"] == pytest.approx(
        coherence.npmi(top, lda.matrix(about.train.stored)).mean(), abs=1e-12
    )
    assert result.metrics["topics/lda_distinct"] == coherence.distinct(top)
    proportions, x = fitted.proportions(about.train.stored), about.train.all()
    scores, found = topics.of_lda(fitted, about)
    assert torch.equal(found, proportions)
    assert scores["activity"][3, 1] == pytest.approx(np.corrcoef(x[:, 3] > 0, proportions[:, 1])[0, 1], abs=1e-10)
    unigram = about.smoothed_mean()[5].item()
    assert scores["lift"][5, 1] == pytest.approx(math.log(fitted.topics[1, 5] / unigram), abs=1e-6)
    many = evaluation("topics", words=3, lda_topics=None, lda_passes=1).evaluate(subject(model_of(about.space)))
    assert many.files["topics.txt"].count("\nLDA topic ") == 3


# Retrieval


def random_retrieval(n=83, m=19, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, 4)), rng.integers(3, size=m), rng.standard_normal((n, 4)), rng.integers(3, size=n)


def cosine(x, y):
    return (x / np.linalg.norm(x, axis=1)[:, None]) @ (y / np.linalg.norm(y, axis=1)[:, None]).T


@pytest.mark.parametrize("at_once", [2**22, 83, 250])
def test_precision_recall_and_average_precision_are_those_of_scikit_learn_and_of_loops(at_once, monkeypatch):
    monkeypatch.setattr(retrieval, "_AT_ONCE", at_once)
    queries, wanted, collection, labels = random_retrieval()
    found = retrieval.retrieved(queries, wanted, collection, labels)
    similarity = cosine(queries, collection)
    relevant = labels == wanted[:, None]
    hits = np.array([row[np.argsort(-s)] for row, s in zip(relevant, similarity, strict=True)])
    assert found.number.tolist() == [1, 3, 7, 15, 31, 63, 83]
    assert found.precision == pytest.approx([hits[:, :k].mean() for k in found.number], abs=1e-12)
    assert found.recall == pytest.approx(
        [np.mean(hits[:, :k].sum(1) / relevant.sum(1)) for k in found.number], abs=1e-12
    )
    assert found.at_10 == pytest.approx(hits[:, :10].mean(), abs=1e-12)
    due = [average_precision_score(row, s) for row, s in zip(relevant, similarity, strict=True)]
    assert found.average == pytest.approx(np.mean(due), abs=1e-12)


def test_precision_by_hand():
    """Ranks: relevant, not, relevant; average precision (1 + 2/3) / 2."""
    queries, collection = np.array([[1.0, 0.0]]), np.array([[0.5, 0.5], [1.0, 0.1], [0.1, 1.0]])
    found = retrieval.retrieved(queries, np.array([7]), collection, np.array([4, 7, 7]))
    assert found.precision.tolist() == pytest.approx([1, 2 / 3])
    assert found.recall.tolist() == pytest.approx([1 / 2, 1])
    assert (found.at_10, found.average) == pytest.approx((2 / 3, 5 / 6))


def test_neither_length_nor_order_of_representations_matters():
    queries, wanted, collection, labels = random_retrieval()
    rng = np.random.default_rng(1)
    order, other = rng.permutation(len(collection)), rng.permutation(len(queries))
    scaled = collection * rng.uniform(0.1, 9, (len(collection), 1))
    first = retrieval.retrieved(queries, wanted, collection, labels)
    again = retrieval.retrieved(5 * queries[other], wanted[other], scaled[order], labels[order])
    for name in ("precision", "recall", "at_10", "average"):
        assert getattr(again, name) == pytest.approx(getattr(first, name), abs=1e-12)
    sparse = retrieval.retrieved(csr_matrix(queries), wanted, csr_matrix(collection), labels)
    assert sparse.precision == pytest.approx(first.precision, abs=1e-12)


def test_ties_are_in_the_order_of_the_collection():
    """Also where rounding tells equal similarities apart, and for representations that are 0."""
    queries = np.array([[1.0, 0.0], [0.0, 0.0]])
    collection = np.array([[0.6, 0.8], [0.6 + 1e-13, 0.8], [1.0, 0.0], [0.6 - 1e-13, 0.8], [-1.0, 0.0], [0.6, 0.8]])
    assert retrieval.ranked(queries, collection).tolist() == [[2, 0, 1, 3, 5, 4], [0, 1, 2, 3, 4, 5]]


def test_documents_that_are_not_told_apart_are_found_by_chance(undrawn):
    """Whatever the order of the rows: those of one label may come first in a file. Five standard errors of 6 orders."""
    rows = np.ones((200, 4), int)
    about = data(train=split(rows, [0] * 100 + [1] * 100), test=split(rows[:40], [0] * 40))
    keys = [retrieval_of(model_of(about.space), about, seed=seed) for seed in range(6)]
    found = np.mean([metrics["retrieval/precision_at_10"] for metrics in keys])
    assert found == pytest.approx(0.5, abs=5 * 0.5 / 60**0.5)
    assert keys[0]["retrieval/by_chance"] == pytest.approx(0.5)


def retrieval_of(model, about, seed=0, **changes):
    return evaluation("retrieval", **changes).evaluate(subject(model, about, seed=seed)).metrics


@pytest.mark.parametrize("features", ["probabilities", "logits"])
def test_representations_are_hidden_units_lda_and_tf_idf(features):
    model, about = model_of(corpus().space), data()
    model.W.mul_(0.1)
    asked = evaluation("retrieval", features=features, lda_topics=2, lda_passes=20)
    result = asked.evaluate(subject(model, about))
    assert result.warnings == ()
    assert result.images["retrieval"].dtype == np.uint8
    chance = result.metrics["retrieval/by_chance"]
    assert result.files["retrieval.csv"].splitlines()[-1] == f"tf-idf,60,{chance:.6g},1"
    train, test = (part.all().double() for part in (about.train, about.test))
    logits = [model.hidden_logits(x) for x in (test, train)]
    fitted = lda.fitted(about, 2, 20, 0)
    idf = ((1 + 60) / (1 + (train > 0).double().sum(0))).log() + 1
    due = {
        "": [a.sigmoid() if features == "probabilities" else a for a in logits],
        "lda_": [fitted.proportions(part.stored) for part in (about.test, about.train)],
        "tfidf_": [test * idf, train * idf],
    }
    relevant = (about.test.labels[:, None] == about.train.labels).numpy()
    assert chance == pytest.approx(relevant.mean(), abs=1e-12)
    pairs = asked._representations(subject(model, about))
    for (prefix, pair), found in zip(due.items(), pairs.values(), strict=True):
        similarity = cosine(*(part.numpy() for part in pair))
        first, second = (part if isinstance(part, np.ndarray) else part.toarray() for part in found)
        assert cosine(first, second) == pytest.approx(similarity, abs=1e-9)
        average = np.mean([average_precision_score(row, s) for row, s in zip(relevant, similarity, strict=True)])
        # Documents of the same few words are tied, which scikit-learn has at one rank.
        assert result.metrics[f"retrieval/{prefix}mean_average_precision"] == pytest.approx(average, abs=0.02)


def test_planted_kinds_are_found(undrawn):
    metrics = retrieval_of(planted(), data(), queries=10)
    assert metrics["retrieval/precision_at_10"] > 0.8
    assert metrics == retrieval_of(planted(), data(), queries=10)
    assert metrics != retrieval_of(planted(), data(), queries=10, seed=1)


def test_labels_of_no_training_document_and_queries_that_find_themselves_are_said(undrawn):
    about = data()
    strange = dataclasses.replace(about.test, labels=about.test.labels.clone().index_fill(0, torch.arange(3), 9))
    found = evaluation("retrieval").evaluate(subject(planted(), dataclasses.replace(about, test=strange)))
    assert found.warnings == ("3 queries have labels that no training document has; they are left out",)
    known = dataclasses.replace(about, test=split(about.test.all().int().numpy()[3:], about.test.labels[3:].tolist()))
    assert found.metrics == pytest.approx(retrieval_of(planted(), known), abs=1e-12)
    none = dataclasses.replace(about.test, labels=about.test.labels + 7)
    found = evaluation("retrieval").evaluate(subject(planted(), dataclasses.replace(about, test=none)))
    assert (dict(found.metrics), len(found.warnings)) == ({}, 1)
    own = evaluation("retrieval").evaluate(subject(planted(), about, "train"))
    assert own.warnings == ("the queries are training documents, and each finds itself",)


# What does not go together


@pytest.mark.parametrize("name", ["topics", "retrieval"])
def test_other_models_have_no_hidden_units_of_documents(name):
    why = evaluation(name).refusal(target("rbm-binary"), component("sampler", "block_gibbs"))
    assert "a model that has is replicated_softmax" in why


def test_more_words_than_there_are_are_refused():
    why = evaluation("topics", words=10).refusal(planted(), component("sampler", "block_gibbs"))
    assert why == "evaluation.topics.words = 10: the vocabulary has 9 words; take so many at most"
    assert evaluation("topics", words=9).refusal(planted(), component("sampler", "block_gibbs")) is None


def test_what_the_data_lack_is_said():
    assert "reference = valid" in evaluation("topics", reference="valid").refusal_of_data(data())
    assert evaluation("topics", reference="valid").refusal_of_data(data(valid=corpus())) is None
    assert evaluation("retrieval").refusal_of_data(data()) is None
    assert "no labels" in evaluation("retrieval").refusal_of_data(data(labelled=False))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("topics", {"words": 1}),
        ("topics", {"score": "best"}),
        ("retrieval", {"queries": 0}),
        ("topics", {"lda_topics": -1}),
    ],
)
def test_values_out_of_range_are_refused(name, change):
    with pytest.raises(UserError, match=f"evaluation.{next(iter(change))} = "):
        evaluation(name, **change)


@pytest.mark.long
def test_a_run_measures_both(tmp_path, monkeypatch):
    """From counts in a file, with the default LDA; more words than there are, are refused before any training."""
    monkeypatch.chdir(tmp_path)
    parts = {"vocab": np.array(list("abcdefghi"))}
    for name, part in (("train", corpus()), ("test", corpus(30, 1))):
        rows = lda.matrix(part.stored)
        parts |= {f"{name}_{key}": getattr(rows, key) for key in ("data", "indices", "indptr", "shape")}
        parts[f"{name}_label"] = part.labels.numpy()
    np.savez("counts.npz", **parts)
    line = (
        "train dataset=bag_of_words dataset.path=counts.npz model=replicated_softmax model.hidden=2 "
        "objective=cd sampler=block_gibbs steps=5 tracker=none device=cpu checkpoint.monitor=null hydra.run.dir=run "
        "evaluation=[topics,retrieval] evaluation.topics.lda_passes=1 evaluation.retrieval.lda_passes=1"
    )
    answer = ebm(line, "evaluation.topics.words=4")
    assert answer.code == 0, answer.err
    assert {"topics/npmi", "topics/lda_npmi", "retrieval/tfidf_precision_at_10"} <= set(
        facts(tmp_path / "run", "summary.json")
    )
    assert "units by" in answer.err
    assert_refused(ebm(line, "hydra.run.dir=other"), "evaluation.topics.words = 10: the vocabulary has 9 words")
