"""Independent units beside a model: their likelihood against counting, and the difference with its error."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers.components import component
from helpers.data import small_data
from helpers.models import small_model, target
from test_evaluation import subject

from ebm_cli.commands.verdict import verdict
from ebm_cli.dataset.base import Data, Split
from ebm_cli.dataset.moments import moments
from ebm_cli.evaluation.base import measured
from ebm_cli.evaluation.baseline import above_independent, independent
from ebm_cli.model.exponential_family import product
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Box, Categorical, Real, Spin, Units

SPACES = [Binary((5,)), Spin((5,)), Categorical((4, 3))]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_they_have_the_smoothed_shares_of_each_value_in_the_training_rows(space):
    """Counted by hand, one site after the other: a value seen k times in n rows has (k + 1) / (n + K)."""
    data = small_data(space, 40)
    about = subject(small_model("exponential_family", space), data=data)
    train, test = (space.decode(split.all()).flatten(1).long().numpy() for split in (data.train, data.test))
    expected = np.zeros(len(test))
    for site in range(space.sites):
        counts = np.bincount(train[:, site], minlength=space.values) + 1
        expected += np.log(counts / counts.sum())[test[:, site]]
    np.testing.assert_allclose(independent(about, data.test.all()).numpy(), expected, rtol=1e-5)


def test_they_are_normalised_over_all_states():
    space = Spin((5,))
    about = subject(small_model("exponential_family", space))
    assert independent(about, space.enumerate()).exp().sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-2.0, 3.0)])
def test_between_walls_they_have_the_histograms_of_the_training_rows(low, high):
    """numpy's histograms; of uniform rows there is nothing to gain, where normal laws of their moments would lose."""
    space = Box((2,), low, high)
    x = space.noise(8000, stream(0, "rows"))
    x[:, 1] = space.of_unit(space.brightness(x[:, 1]).square())
    split = Split(space, space.brightness(x), 1.0, stochastic=False, labels=None)
    about = subject(small_model("exponential_family", Real((2,))))
    about = dataclasses.replace(about, data=Data(space, split, None, split), model=product(space, *moments(split)))
    expected = np.zeros(8000)
    for column in x.double().numpy().T:
        counts, ends = np.histogram(column, bins=40, range=(low, high))
        p = (counts + 1) / (8040 * np.diff(ends))
        expected += np.log(p[np.clip(np.searchsorted(ends, column, side="right") - 1, 0, 39)])
    found = independent(about, x).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    uniform, squared = -np.log(high - low), -np.log(high - low) - np.log(2) + 1
    assert found.mean() == pytest.approx(uniform + squared, abs=0.06)


def test_what_a_model_is_above_them_has_the_error_of_paired_rows():
    about = subject(target("rbm-binary"))
    x = about.held_out.all()
    log_p = independent(about, x) + torch.tensor([0.5, 1.5]).repeat(len(x))[: len(x)].double()
    found = above_independent("exact", about, x, log_p)
    difference = np.resize([0.5, 1.5], len(x))
    assert found["exact/above_independent"] == pytest.approx(difference.mean())
    assert found["exact/above_independent_error"] == pytest.approx(difference.std(ddof=1) / len(x) ** 0.5)


@pytest.mark.quick("bridge", "pseudo_likelihood", "exact")
@pytest.mark.parametrize("name", ["exact", "ais", "pseudo_likelihood", "bridge", "trajectory"])
def test_every_likelihood_has_the_difference_to_its_own_rows(name):
    """The mean of what it says of each row, minus what they say of the same rows."""
    about = subject(target("rbm-binary"))
    few = {"chains": 20, "bootstrap": 100, "raise_points": 2, "raise_chains": 2, "rungs": 4, "steps": 3, "rounds": 40}
    few["temperatures"] = 50
    keys = {key: few[key] for key in component("evaluation", name).__dataclass_fields__ if key in few}
    found = component("evaluation", name, **keys).evaluate(about)
    (rows,) = (each for metric, each in found.by_row.items() if "likelihood" in metric)
    beside = independent(about, about.held_out.all()).mean().item()
    assert len(rows) == len(about.held_out)
    assert found.metrics[f"{name}/above_independent"] == pytest.approx(rows.mean().item() - beside, abs=1e-5)


@pytest.mark.parametrize("name", ["exact", "ais", "bridge", "density_2d", "trajectory"])
def test_every_likelihood_is_in_the_units_of_the_data(name):
    """The figure, the rows it is the mean of, and the independent units beside it, which this model is."""
    units = Units((3.0, -1.0), (1e4, 0.05))
    split = Split(
        Real((2,), units=units), Real((2,)).noise(1000, stream(0, "rows")), 1.0, stochastic=False, labels=None
    )
    data = Data(split.space, split, None, split)
    model = product(data.space, *moments(split)).float()
    sampler = component("sampler", "mala")
    about = dataclasses.replace(subject(model, data=data), sampler=sampler)
    few = {"chains": 100, "temperatures": 10, "bootstrap": 100, "raise_points": 0, "rungs": 4, "steps": 3, "rounds": 9}
    few |= {"side": 80, "warmup": 0}
    keys = {key: few[key] for key in component("evaluation", name).__dataclass_fields__ if key in few}
    found = measured(component("evaluation", name, **keys), about)
    about_rows = independent(about, split.all())
    expected = about_rows.mean().item() - np.log(1e4 * 0.05)
    assert found.metrics[f"{name}/log_likelihood"] == pytest.approx(expected, abs=0.01)
    assert found.metrics[f"{name}/above_independent"] == pytest.approx(0, abs=0.01)
    assert found.metrics[f"{name}/standard_error"] == pytest.approx(about_rows.std().item() / 1000**0.5, rel=1e-4)
    for rows in found.by_row.values():
        assert rows.mean().item() == pytest.approx(expected, abs=0.01)
    assert verdict(about, found.metrics).metrics["baseline/independent"] == pytest.approx(expected, abs=1e-6)


def test_pseudo_likelihood_of_independent_units_is_their_likelihood():
    model = small_model("exponential_family", Binary((5,)))
    about = subject(model)
    about = dataclasses.replace(about, model=type(model)(model.space, about.data.smoothed_mean()))
    found = component("evaluation", "pseudo_likelihood").evaluate(about).metrics
    assert found["pseudo_likelihood/above_independent"] == pytest.approx(0, abs=1e-5)
