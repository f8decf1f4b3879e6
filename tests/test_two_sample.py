"""Two sets of rows beside each other: what is one law, what is apart, what is copied, what is missing."""

import warnings

import pytest
import torch
from helpers.components import component
from helpers.data import small_data
from helpers.models import target

from ebm_cli.evaluation.base import Subject
from ebm_cli.rng import normal, stream
from ebm_cli.yardstick.two_sample import aats, c2st, compared, precision_recall

X, Y = (normal((80, 3), stream(seed)) for seed in (0, 1))


def test_rows_of_one_law_cannot_be_told_apart():
    found = compared(X, Y, stream(2))
    assert list(found) == ["c2st", "precision", "recall", "aats"]
    assert found["c2st"] == pytest.approx(0.5, abs=0.12)
    assert found["aats"] == pytest.approx(0.5, abs=0.1)
    assert min(found["precision"], found["recall"]) > 0.8


def test_the_classifier_judges_rows_that_it_has_not_seen():
    """In 40 dimensions it learns 60 rows of noise by heart."""
    x, y = (normal((30, 40), stream(seed)) for seed in (4, 5))
    assert c2st(x, y, stream(2)) < 0.75


def test_rows_that_are_apart_are_told_apart():
    found = compared(X, Y + 20, stream(2))
    assert found == pytest.approx({"c2st": 1, "precision": 0, "recall": 0, "aats": 1}, abs=0.01)


def test_copies_have_others_for_their_nearest_neighbours():
    """Each row nearer to its copy than to any of its own: 0."""
    assert aats(X, X + 1e-4) == 0
    assert aats(X, X) == 0


def test_one_of_two_modes_is_precise_and_lacks_recall():
    """Half of the data is where no sample is; precision and recall are not mistaken for each other."""
    both = torch.cat([X[:40], X[40:] + 20])
    near, kept = precision_recall(Y, both)
    assert near > 0.8
    assert kept == pytest.approx(0.5, abs=0.1)
    assert precision_recall(both, Y) == (kept, near)


def test_balls_reach_to_the_third_neighbour():
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0], [10.0]])
    assert precision_recall(torch.tensor([[18.9], [19.1]]), line)[0] == 0.5


def test_the_classifier_is_a_function_of_its_key():
    assert c2st(X[:40], Y[:40], stream(3)) == c2st(X[:40], Y[:40], stream(3))


def test_a_classifier_that_goes_on_learning_is_cut_short_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        c2st(X[:12], Y[:12], stream(2))


def test_samples_are_held_against_held_out_rows_and_training_rows_too():
    model = target("rbm-binary").float()
    data, sampler = small_data(model.space), component("sampler", "block_gibbs")
    about = Subject(model, data, "test", sampler, torch.empty(0, *model.space.shape), stream(0))
    found = component("evaluation", "samples", count=20, steps=2, two_samples=15).evaluate(about)
    assert [few for few in found.warnings if "15 rows of each kind" in few and "0.09 by chance" in few]
    for name in ("c2st", "precision", "recall", "aats"):
        for kind in ("", "_of_data"):
            assert 0 <= found.metrics[f"samples/{name}{kind}"] <= 1
    assert not {"samples/c2st"} & set(component("evaluation", "samples", count=20, steps=2).evaluate(about).metrics)
    few = component("evaluation", "samples", count=20, two_samples=4).refusal(model, sampler)
    assert few == "evaluation.samples.two_samples needs at least 10 rows and samples, not 4"
