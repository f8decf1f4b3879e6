"""Rows of Markov chains: the frequencies of all series against their probabilities, and of the late ones."""

import itertools

import numpy as np
import pytest
import torch
from helpers.components import component
from helpers.statistics import assert_mean
from numpy.testing import assert_allclose

from ebm_cli.space import Binary

START, STAY = 0.2, 0.7


def rows(**keys) -> np.ndarray:
    """(rows, length, chains), of the training split."""
    spec = component("dataset", "markov_chains", **({"start": START, "stay": STAY, "held_out": 1} | keys))
    return spec.load((Binary,)).train.all().numpy()


def probability(series, start=START, stay=STAY) -> float:
    found = start if series[0] else 1 - start
    for one, other in itertools.pairwise(series):
        found *= stay if one == other else 1 - stay
    return found


def test_every_series_is_as_frequent_as_it_is_probable():
    x = rows(length=3, chains=2, train=20_000)
    for series in itertools.product((0, 1), repeat=3):
        found = (x == np.array(series)[:, None]).all(1).reshape(-1)
        assert_mean(torch.from_numpy(found), probability(series))


def test_chains_of_a_row_are_independent():
    x = rows(length=2, chains=2, train=20_000)
    for one, other in itertools.product(itertools.product((0, 1), repeat=2), repeat=2):
        found = (x[:, :, 0] == one).all(1) & (x[:, :, 1] == other).all(1)
        assert_mean(torch.from_numpy(found), probability(one) * probability(other))


@pytest.mark.parametrize("start", [0.05, 0.95])
def test_late_states_have_the_stationary_law_of_the_transitions(start):
    """The left eigenvector of eigenvalue 1: one half each, whatever the start."""
    value, vectors = np.linalg.eig(np.array([[STAY, 1 - STAY], [1 - STAY, STAY]]).T)
    law = vectors[:, value.argmax()] / vectors[:, value.argmax()].sum()
    x = rows(length=40, chains=1, train=20_000, start=start)
    assert_mean(torch.from_numpy(x[:, 0, 0]), start)
    assert_mean(torch.from_numpy(x[:, -1, 0]), law[1])
    assert_allclose(law, 0.5)
