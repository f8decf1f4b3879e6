"""Latent Dirichlet allocation: bounds against those of scikit-learn, evidence against the sum over all topics."""

import itertools
from functools import cache

import numpy as np
import torch
from numpy.testing import assert_allclose
from scipy.sparse import csr_matrix
from scipy.special import gammaln, psi
from sklearn.decomposition import LatentDirichletAllocation

from ebm_cli.dataset.base import Data, Split
from ebm_cli.dataset.sparse import SparseRows
from ebm_cli.rng import stream
from ebm_cli.space import Counts
from ebm_cli.yardstick import lda

COUNTS = np.random.default_rng(0).poisson(np.repeat([[3, 2, 1, 0.2, 0.1], [0.1, 0.2, 1, 2, 3]], 10, 0))
COUNTS[:, 2] += 1  # no document is empty
TOPICS, PASSES = 2, 15


@cache
def fitted() -> lda.LDA:
    rows = Split(Counts((5,), 7), SparseRows.of(csr_matrix(COUNTS)), 1.0, stochastic=False, labels=None)
    return lda.fitted(Data(rows.space, rows, None, rows), TOPICS, PASSES, 3)


def test_topics_and_proportions_are_those_of_scikit_learn():
    direct = LatentDirichletAllocation(TOPICS, learning_method="batch", max_iter=PASSES, random_state=3).fit(COUNTS)
    due = direct.components_ / direct.components_.sum(1, keepdims=True)
    assert_allclose(fitted().topics, due, rtol=1e-9)
    proportions = fitted().proportions(SparseRows.of(csr_matrix(COUNTS)))
    assert_allclose(proportions, direct.transform(COUNTS), rtol=1e-9)
    assert_allclose(proportions.sum(1), 1, rtol=1e-12)


def test_bounds_of_documents_and_the_term_of_the_topics_are_the_bound_of_scikit_learn():
    """Its `score` is the sum over documents and E_q[log p(topics) - log q(topics)], of Dirichlet laws."""
    model = fitted().fitted
    shape, eta = model.components_, model.topic_word_prior_
    log_beta = psi(shape) - psi(shape.sum(1, keepdims=True))
    topics = ((eta - shape) * log_beta + gammaln(shape) - gammaln(eta)).sum()
    topics += (gammaln(5 * eta) - gammaln(shape.sum(1))).sum()
    bound = fitted().log_bound(SparseRows.of(csr_matrix(COUNTS)))
    assert bound.shape == (len(COUNTS),)
    assert_allclose(bound.sum().item() + topics, model.score(COUNTS), rtol=1e-6)


def test_the_bound_of_a_document_does_not_depend_on_the_others():
    every = fitted().log_bound(SparseRows.of(csr_matrix(COUNTS)))
    assert_allclose(fitted().log_bound(SparseRows.of(csr_matrix(COUNTS[4:6]))), every[4:6], rtol=1e-4)


def test_the_evidence_is_the_sum_over_all_topics_of_all_words():
    document = np.array([[1, 0, 1, 0, 2]])
    words, alpha = np.repeat(np.arange(5), document[0]), fitted().fitted.doc_topic_prior_
    total = 0.0
    for z in itertools.product(range(TOPICS), repeat=len(words)):
        n = np.bincount(z, minlength=TOPICS)
        prior = gammaln(TOPICS * alpha) - gammaln(len(z) + TOPICS * alpha) + (gammaln(n + alpha) - gammaln(alpha)).sum()
        total += np.exp(prior) * fitted().topics[list(z), words].prod()
    found = fitted().log_evidence(SparseRows.of(csr_matrix(document)), 20_000, stream(0, "lda"))
    assert_allclose(found, np.log(total), atol=0.03)
    assert fitted().log_bound(SparseRows.of(csr_matrix(document))) < np.log(total) + 0.03


def test_documents_keep_their_counts():
    rows = SparseRows.of(csr_matrix(COUNTS))
    assert (lda.matrix(rows).toarray() == COUNTS).all()
    assert torch.equal(rows[torch.arange(len(COUNTS))].long(), torch.from_numpy(COUNTS).long())
