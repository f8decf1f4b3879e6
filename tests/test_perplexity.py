"""Annealing in the length of documents, up and down, and the perplexities made of it, against enumeration."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers.components import FALSE_ALARM, SIGMAS, component, shipped
from helpers.models import randomised, target
from scipy import stats
from scipy.sparse import csr_matrix

from ebm_cli import registry, rng
from ebm_cli.dataset.base import Data, Split
from ebm_cli.dataset.sparse import SparseRows
from ebm_cli.device.engine import Engine
from ebm_cli.evaluation import base
from ebm_cli.evaluation.base import Subject
from ebm_cli.log_z import enumeration, length_annealing
from ebm_cli.log_z.length_annealing import LengthPath
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Counts
from ebm_cli.yardstick import lda

K, HIDDEN = 4, 3
LENGTHS = torch.tensor([1, 2, 5, 20])
SMALLER = {"chains": 60, "temperatures": 30, "bootstrap": 100, "lda_topics": 0, "documents": 9}


def build(scale=1.0, hidden=HIDDEN, words=K):
    spec = registry.build("model", shipped("model")["replicated_softmax"] | {"hidden": hidden})
    model = randomised(spec.build(Counts((words,), 5), torch.full((words,), 1 / words), stream(1, "model")))
    with torch.no_grad():
        model.W.mul_(scale)
    return model


def states(model):
    return Binary((model.hidden,)).enumerate().double()


def log_marginal(model):
    """s(h) of every h, from the definition."""
    h = states(model)
    return (h @ model.c + (model.b + h @ model.W.T).exp().sum(1).log()).detach()


def transition(model, length, *, backwards=False):
    """T[h, h'] of a sweep: one unit after the other drawn given all the others, from exp(D s(h))."""
    h, s = states(model), log_marginal(model)
    total = torch.eye(len(h)).double()
    for j in reversed(range(model.hidden)) if backwards else range(model.hidden):
        kept = torch.arange(model.hidden) != j
        same = (h[:, None, kept] == h[None, :, kept]).all(2)
        total = total @ torch.where(same, length * s, -torch.inf).softmax(1)
    return total


def z(values, mean):
    return ((values.mean() - mean) / (values.std() / len(values) ** 0.5)).item()


# Moves


@pytest.mark.quick("True-*")
@pytest.mark.parametrize(("length", "scale"), [(0.4, 1.0), (3.0, 1.0), (0.01, 150.0)])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_sweep_follows_its_transition_matrix(length, scale, backwards):
    """With weights of hundreds of nats too, where the words' weights are summed anew within the sweep."""
    model, chains = build(scale), 3000
    path = LengthPath(model)
    assert (len(path.blocks) > 1) == (scale > 1)
    h = states(model)
    start = path.observe(h.repeat_interleave(chains, 0))
    torch.testing.assert_close(start.s, log_marginal(model).repeat_interleave(chains), rtol=1e-12, atol=1e-12)
    end = path.move(start, length, stream(2, "sweep"), backwards=backwards)
    index = (end.h[:, None] == h).all(2).int().argmax(1).reshape(len(h), chains)
    assert torch.equal(h[index.flatten()], end.h)
    for row, p in zip(index, transition(model, length, backwards=backwards), strict=True):
        observed, due = torch.bincount(row, minlength=len(h)).numpy(), (p * chains).numpy()
        rare = due < 5
        observed, due = (np.append(each[~rare], each[rare].sum() + 1e-9) for each in (observed, due))
        assert stats.chisquare(observed, due * observed.sum() / due.sum()).pvalue > FALSE_ALARM


@pytest.mark.parametrize("length", [0.4, 3.0])
def test_a_sweep_leaves_the_hidden_units_invariant_and_is_reversed_by_the_opposite_order(length):
    model = build()
    p = (length * log_marginal(model)).softmax(0)
    up, down = transition(model, length), transition(model, length, backwards=True)
    torch.testing.assert_close(p @ up, p, rtol=1e-12, atol=0)
    torch.testing.assert_close(p[:, None] * up, (p[:, None] * down).T, rtol=1e-12, atol=1e-15)


# Annealing


def test_the_ladder_holds_all_lengths():
    rungs = length_annealing.ladder(torch.tensor([3, 7, 500]), 50)
    assert rungs[0] == 0
    assert rungs[-1] == 500
    assert torch.isin(torch.tensor([3.0, 7.0]).double(), rungs).all()
    assert len(rungs) == 53
    assert (rungs.diff() > 0).all()
    assert rungs.diff()[0] < 2  # fractions of a word to begin with


@pytest.mark.long
def test_weights_of_one_run_have_the_ratio_of_partition_functions_as_mean_at_every_length():
    model, chains = build(hidden=5), 4000
    path = LengthPath(model)
    rungs = length_annealing.ladder(LENGTHS, 12)
    found = length_annealing.forward(path, rungs, LENGTHS, chains, stream(3, "forward"))
    due = enumeration.log_z_of_lengths(model, LENGTHS).detach() - path.log_z_base
    w = (found.log_w - due[:, None]).exp()
    assert all(abs(z(of, 1)) < SIGMAS for of in w)
    assert w.std(1).max() < 3  # else the test says little
    assert found.best == pytest.approx(log_marginal(model).max().item(), rel=1e-12)
    parts = length_annealing.forward(
        path, rungs, LENGTHS, chains, stream(3, "forward"), Engine(compiled=False, rows=1500)
    )
    assert torch.allclose(parts.log_w, found.log_w)
    assert torch.equal(parts.h, found.h)


@pytest.mark.long
def test_ends_are_drawn_by_their_weights():
    log_w = torch.tensor([[0.0, 0.0, 0.0], [0.0, math.log(3), -torch.inf]]).double()
    risen = length_annealing.Risen(log_w.repeat(1, 1000), torch.arange(3.0).repeat(1000)[:, None], 0.0)
    count = torch.bincount(risen.ends(stream(0, "ends"))[:, 0].long(), minlength=3)
    assert count[2] == 0
    assert stats.chisquare(count[:2], [750, 2250]).pvalue > FALSE_ALARM


def test_inverse_weights_of_chains_down_from_the_model_have_the_inverse_ratio_as_mean():
    model, chains = build(), 4000
    path, top = LengthPath(model), 5
    rungs, lengths = torch.tensor([0, 0.7, 2, 5]).double(), torch.tensor([2, top])
    p = (top * log_marginal(model)).softmax(0)
    h = states(model)[rng.categorical(p.log().expand(chains, -1), stream(4, "h"))]
    found = length_annealing.backward(path, rungs, lengths, h, stream(4, "backward"))
    due = enumeration.log_z_of_lengths(model, lengths).detach() - path.log_z_base
    assert found.shape == (2, chains)
    assert abs(z((due[1] - found[1]).exp(), 1)) < SIGMAS
    # Chains that lag behind are at D = 2 still distributed as the reversals left them.
    lag = p @ transition(model, 5, backwards=True)
    s, moves = log_marginal(model), [transition(model, d, backwards=True) for d in (2, 0.7)]
    mean = lag @ moves[0] @ torch.diag((-1.3 * s).exp()) @ moves[1] @ (-0.7 * s).exp()
    assert abs(z((-found[0]).exp(), mean)) < SIGMAS


def test_reverse_chains_have_the_annealed_probability_of_the_document_as_mean():
    """Documents of two lengths go down together; the annealed model is summed over all its paths."""
    model = build()
    path, rungs = LengthPath(model), torch.tensor([0, 1.5, 2, 4, 5]).double()
    x = torch.tensor([[1.0, 1, 0, 0], [0, 2, 0, 3]])
    found = (
        length_annealing.reverse_log_p(path, rungs, x.repeat(400, 1), 20, stream(5, "reverse")).exp().reshape(400, 2)
    )
    h = states(model)
    words = (model.b + h @ model.W.T).log_softmax(1)
    for i, steps in enumerate(([1.5, 2], [1.5, 2, 4, 5])):
        p = torch.full((len(h),), 1 / len(h)).double()
        for length in steps:
            p = p @ transition(model, length)
        due = p @ (words @ x[i].double()).exp()
        assert abs(z(found[:, i], due.item())) < SIGMAS
        assert found[:, i].std() < due


# What is measured


def counts(n, words=K, seed=6, mean_length=6):
    """Documents of words of uneven frequency, one of them empty."""
    logits = torch.linspace(0, 2, words).expand(n, -1)
    number = rng.integers(2 * mean_length, (n,), stream(seed, "length"))
    number[1] = 0
    return SparseRows.of(csr_matrix(rng.multinomial(number, logits, stream(seed, "words")).numpy().astype(np.int64)))


def data(words=K):
    space = Counts((words,), 5)
    splits = [
        Split(space, counts(n, words, seed), 1.0, stochastic=False, labels=None) for seed, n in enumerate((90, 30, 40))
    ]
    return Data(space, *splits, words=tuple(f"w{i}" for i in range(words)))


def subject(model, of, seed=0, split="test"):
    return Subject(model.float(), of, split, component("sampler", "block_gibbs"), torch.empty(0, K), stream(seed, "s"))


def evaluation(**changes):
    return component("evaluation", "perplexity", **SMALLER | changes)


def of_rows(log_p, rows):
    """exp(-mean log p / D) of the rows with words."""
    length = rows.of_rows()
    told = length > 0
    return math.exp(-(log_p[told] / length[told]).mean().item())


def test_perplexity_is_that_of_enumeration_and_in_its_bracket():
    model, of = build(hidden=4), data()
    found = evaluation(chains=200, temperatures=100, reverse_chains=50).evaluate(subject(model, of))
    log_p = enumeration.log_likelihood(model.double(), of.test.all().double()).detach()
    due = of_rows(log_p, of.test.stored)
    metrics = found.metrics
    assert metrics["perplexity/model"] == pytest.approx(due, rel=0.003)
    assert metrics["perplexity/model_low"] < metrics["perplexity/model"] < metrics["perplexity/model_high"]
    assert metrics["perplexity/upper_bound"] == pytest.approx(due, rel=0.003)
    assert metrics["perplexity/weight_ess"] > 150
    assert not found.warnings
    (name,) = found.by_row
    rows = of.test.stored.of_rows()[found.index[name]]
    assert (rows > 0).all()
    assert len(rows) == (of.test.stored.of_rows() > 0).sum()
    torch.testing.assert_close(found.by_row[name], log_p[found.index[name]] / rows, rtol=0.01, atol=0.01)
    chosen = metrics["perplexity/documents/model"]
    assert metrics["perplexity/documents/annealed_upper_bound"] == pytest.approx(chosen, rel=0.01)
    both = component("evaluation", "exact").evaluate(subject(model, of)).metrics
    assert both["exact/perplexity"] == pytest.approx(due, rel=1e-5)
    assert both["exact/log_likelihood"] == pytest.approx(log_p.mean().item(), rel=1e-5)
    assert "exact/log_z" not in both


def test_without_weights_it_is_that_of_the_word_frequencies():
    model, of = build(), data()
    with torch.no_grad():
        model.W.zero_()
        model.c.zero_()
        model.b.copy_(of.smoothed_mean().log())
    metrics = evaluation().evaluate(subject(model, of)).metrics
    due = of_rows(of.test.all().double() @ of.smoothed_mean().double().log(), of.test.stored)
    assert metrics["perplexity/unigram"] == pytest.approx(due, rel=1e-9)
    for name in ("model", "documents/model", "documents/annealed_upper_bound", "upper_bound"):
        same = metrics["perplexity/documents/unigram" if "/" in name else "perplexity/unigram"]
        assert metrics[f"perplexity/{name}"] == pytest.approx(same, rel=1e-6)


@pytest.mark.long
def test_lda_is_measured_on_the_same_documents_whatever_model_and_seed():
    of = data()
    found = [
        evaluation(lda_topics=topics, lda_passes=2).evaluate(subject(model, of, seed)).metrics
        for seed, model, topics in ((0, build(), None), (1, build(0.5), HIDDEN))
    ]
    bound = lda.fitted(of, HIDDEN, 2, 0).log_bound(of.test.stored)
    assert found[0]["perplexity/lda_bound"] == pytest.approx(of_rows(bound, of.test.stored), rel=1e-9)
    assert found[0]["perplexity/lda"] < found[0]["perplexity/lda_bound"]
    estimate = lda.fitted(of, HIDDEN, 2, 0).log_evidence(of.test.stored, 80, stream(0, "lda"))
    assert found[0]["perplexity/lda"] == pytest.approx(of_rows(estimate, of.test.stored), rel=1e-9)
    for name in ("lda", "lda_bound", "unigram", "documents/lda", "documents/unigram"):
        assert found[0][f"perplexity/{name}"] == found[1][f"perplexity/{name}"]
    assert found[0]["perplexity/documents/lda"] != found[0]["perplexity/lda"]
    assert found[0]["perplexity/documents/model_to_lda"] == pytest.approx(
        found[0]["perplexity/documents/model"] / found[0]["perplexity/documents/lda"], rel=1e-12
    )


@pytest.mark.long
def test_all_chosen_documents_are_the_whole_split():
    metrics = evaluation(documents=1000).evaluate(subject(build(), data(), split="valid")).metrics
    for name in ("model", "model_low", "model_high", "upper_bound", "unigram"):
        assert metrics[f"perplexity/{name}"] == pytest.approx(metrics[f"perplexity/documents/{name}"], rel=1e-12)


def test_log_z_is_not_below_what_one_state_has_alone():
    """Of long documents, where few steps leave the chains far apart; what the chains down say stays above."""
    model, lengths = build(3.0, hidden=6), torch.tensor([2, 3000])
    path = LengthPath(model)
    rungs = length_annealing.ladder(lengths, 10)
    about = subject(model, data())
    found = evaluation(chains=50)._log_z(path, rungs, lengths, about)
    due = enumeration.log_z_of_lengths(path.model, lengths).detach()
    best = log_marginal(path.model).max()
    plain = found.log_w.logsumexp(1) - math.log(50) + path.log_z_base
    assert plain[1] < 3000 * best - 1
    assert found.log_z[1].item() == pytest.approx(3000 * best.item(), rel=1e-12)
    assert found.log_z[1] <= due[1]
    assert found.others.min(0).values[1] == found.log_z[1]
    assert found.above[1] > due[1] - 1e-6
    assert found.log_z[0].item() == plain[0].item()


def test_few_chains_that_carry_the_estimate_are_warned_of():
    about = subject(build(4.0, hidden=8), data())
    warnings = evaluation(chains=100, temperatures=1).evaluate(about).warnings
    assert "of 100 chains carry the estimate" in warnings[0]
    assert all("raise evaluation.perplexity.temperatures" in warning for warning in warnings)


@pytest.mark.long
def test_a_table_says_what_errs_which_way():
    found = evaluation(lda_topics=2, lda_passes=1).evaluate(subject(build(), data()))
    lines = found.files["perplexity.txt"].splitlines()
    assert tuple(lines) == found.said
    told = int((data().test.stored.of_rows() > 0).sum())
    assert lines[0].split("9 of split test")[1].split() == ["all", str(told)]
    assert lines[1].split() == [
        "model,", "by", "AIS", "(errs", "low)",
        f"{found.metrics['perplexity/documents/model']:.1f}", f"{found.metrics['perplexity/model']:.1f}",
    ]  # fmt: skip


def test_documents_are_measured_by_what_is_made_for_them():
    model = build().float()
    sampler = component("sampler", "block_gibbs")
    for name in shipped("evaluation"):
        part = component("evaluation", name, **({"words": 2} if name == "topics" else {}))
        why = base.refusal(part, model, sampler)
        assert (why is None) if part.of_counts else why, name
    assert "take perplexity" in base.refusal(component("evaluation", "ais"), model, sampler)
    assert base.refusal(component("evaluation", "chains"), model, sampler)
    rbm = target("rbm-binary")
    assert "that has is replicated_softmax" in base.refusal(component("evaluation", "perplexity"), rbm, sampler)


def test_documents_without_a_word_are_named_before_any_work():
    of = data()
    bare = dataclasses.replace(of.test, stored=SparseRows.of(csr_matrix((3, K), dtype=np.int64)))
    assert evaluation().refusal_of_data(of) is None
    assert evaluation().refusal_of_data(dataclasses.replace(of, test=bare)).startswith("no test document has a word")
