"""The evidence of documents under known topics: against the sum over all topics of all words."""

import itertools

import numpy as np
import pytest
import torch
from helpers.statistics import assert_close, assert_mean
from scipy.sparse import csr_matrix
from scipy.special import gammaln

from ebm_cli.dataset.sparse import SparseRows
from ebm_cli.rng import stream
from ebm_cli.yardstick import particles

TOPICS = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.05, 0.6, 0.3, 0.05], [0.2, 0.1, 0.1, 0.6]], dtype=torch.float64)
ALPHA = 0.3
COUNTS = np.array([[3, 1, 0, 2], [0, 0, 0, 0], [1, 0, 0, 0], [0, 2, 4, 1], [1, 1, 1, 1]])


def evidence(counts):
    """log sum_z p(z) prod_t topics[z_t, w_t], p(z) Dirichlet-multinomial."""
    words, total = np.repeat(np.arange(4), counts), 0.0
    for z in itertools.product(range(3), repeat=len(words)):
        n = np.bincount(z, minlength=3)
        log_p = gammaln(3 * ALPHA) - gammaln(len(z) + 3 * ALPHA) + (gammaln(n + ALPHA) - gammaln(ALPHA)).sum()
        total += np.exp(log_p + np.log(TOPICS[list(z), words].numpy()).sum())
    return np.log(total)


def estimates(count, seed):
    documents = SparseRows.of(csr_matrix(COUNTS))
    return particles.log_evidence(documents, TOPICS, ALPHA, count, stream(seed, "evidence"))


shares = pytest.mark.parametrize("share", [particles._RESAMPLED, 1.0])  # with 1 after every word


@pytest.mark.long
@shares
def test_the_mean_of_the_estimates_is_the_sum_over_all_topics(share, monkeypatch):
    """Of p itself."""
    monkeypatch.setattr(particles, "_RESAMPLED", share)
    due = torch.tensor([evidence(row) for row in COUNTS])
    found = torch.stack([estimates(4, seed) for seed in range(400)])
    assert_close(found[:, 1:3], due[1:3].expand(400, -1), atol=1e-12)  # no word, and one: nothing to draw
    for document in (0, 3, 4):
        assert_mean((found[:, document] - due[document]).exp(), 1.0)


@shares
def test_with_many_particles_it_is_that_sum(share, monkeypatch):
    monkeypatch.setattr(particles, "_RESAMPLED", share)
    assert_close(estimates(20_000, 0), torch.tensor([evidence(row) for row in COUNTS]), atol=0.02)


@pytest.mark.parametrize("at_once", [12, 2**24])
def test_documents_come_in_parts_that_fit(at_once, monkeypatch):
    monkeypatch.setattr(particles, "_AT_ONCE", at_once)
    assert_close(estimates(4000, 1), torch.tensor([evidence(row) for row in COUNTS]), atol=0.05)
