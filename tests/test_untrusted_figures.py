"""Figures that cannot be trusted are not given; a sentence is."""

import math

import numpy as np
import pytest
import torch
from helpers.components import component
from test_walls import KEY, Units, about, beta, perceptron, rows_of, uniform, wells

from ebm_cli.dataset.base import Data, Split
from ebm_cli.evaluation import bridge
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.density_2d import Cells, apart, steep
from ebm_cli.model.exponential_family import product
from ebm_cli.space import Box, Real

PLANE = Real((2,))


def on_plane(model, rows, evaluation="density_2d", sampler="mala", **changes):
    """The result of an evaluation with these rows (n, 2) as all the data."""
    split = Split(PLANE, torch.as_tensor(rows, dtype=torch.float32), 1.0, stochastic=False, labels=None)
    subject = Subject(
        model, Data(PLANE, split, None, split), "test", component("sampler", sampler), torch.empty(0), KEY
    )
    return component("evaluation", evaluation, **changes).evaluate(subject)


def normal(mean, std, n=500):
    return mean + std * np.random.default_rng(0).normal(size=(n, 2))


def gaussian(mean, std):
    return product(PLANE, torch.full((2,), mean), torch.full((2,), std))


def only_said(result, words):
    """No numbers, and one sentence that says why."""
    assert not result.metrics
    assert len(result.warnings) == 1
    assert words in result.warnings[0]
    assert "no figures" in result.warnings[0] or "nothing to sum" in result.warnings[0]


# Maps


def test_a_map_is_around_the_data():
    """Rows far from the origin, on the scale that they have: the known likelihood, with the shipped settings."""
    rows = normal(100.0, 0.05)
    found = on_plane(gaussian(100.0, 0.05), rows)
    z = (np.float32(rows).astype(float) - 100) / 0.05
    expected = -(z**2).sum(1).mean() / 2 - 2 * math.log(0.05 * math.sqrt(2 * math.pi))
    assert found.metrics["density_2d/log_likelihood"] == pytest.approx(expected, abs=2e-3)
    assert not found.warnings


def test_a_map_has_a_width_for_each_coordinate():
    rows = normal(0.0, 1.0) * np.array([[1.0, 1e4]]) + np.array([[5.0, 0.0]])
    model = product(PLANE, torch.tensor([5.0, 0.0]), torch.tensor([1.0, 1e4]))
    found = on_plane(model, rows, side=200)
    assert found.metrics["density_2d/log_z"] == pytest.approx(model.log_z().item(), abs=2e-3)


def test_a_map_is_made_wide_enough_for_the_model():
    """Which has ten times the width of the data."""
    found = on_plane(gaussian(0.0, 10.0), normal(0.0, 1.0))
    assert found.metrics["density_2d/log_z"] == pytest.approx(2 * math.log(10 * math.sqrt(2 * math.pi)), abs=2e-3)


def test_rows_that_are_all_alike_have_a_map():
    found = on_plane(gaussian(3.0, 0.2), np.full((20, 2), 3.0))
    assert found.metrics["density_2d/log_z"] == pytest.approx(2 * math.log(0.2 * math.sqrt(2 * math.pi)), abs=2e-3)


def test_mass_that_leaves_every_map_is_said():
    """Without a Gaussian around it, a perceptron that begins at E = 0 has no integral."""
    result = on_plane(perceptron(PLANE, None), normal(0.0, 1.0), side=50)
    only_said(result, "of the model's mass is at the edge of the map")
    assert "density_2d" in result.images


@pytest.mark.parametrize(
    ("side", "words"), [(100, "energies of data differ"), (99, "log Z by every other cell differs")]
)
def test_cells_wider_than_what_was_learned_are_said(side, words):
    """Two spots of width 0.1, 2000 apart: cells of 30, of which 99 a side have centres on both spots."""

    def each(v):
        return -torch.logsumexp(torch.stack([-v.square(), -(v - 2000).square()]) / (2 * 0.1**2), 0)

    found = on_plane(Units(PLANE, each), np.array([[0.0, 0.0], [2000.0, 2000.0]]), side=side)
    only_said(found, "raise evaluation.density_2d.side")
    assert words in found.warnings[0] or side == 100


def test_a_spike_that_no_centre_meets_is_seen_by_the_data():
    """A wide hill holds all the mass that the cells see; the rows lie on a spike between them."""
    spike = torch.tensor(0.3331)

    def energy(x):
        hill = -x.square().sum(1) / 2
        return -torch.logaddexp(hill, 12 - (x - spike).square().sum(1) / (2 * 1e-4**2))

    model = Units(PLANE, wells)
    model.energy = energy
    rows = np.concatenate([normal(0.0, 1.0, 50), 0.3331 + 1e-5 * normal(0.0, 1.0, 450)])
    only_said(on_plane(model, rows, side=100), "energies of data differ from those at the centres of their cells")


@pytest.mark.parametrize("family", ["poisson", "dirichlet", "gamma"])
def test_a_law_without_an_area_has_no_map(family):
    """Counts, and shares that sum to one; beside them one that has a density."""
    model = component("model", "exponential_family", family=family).build(PLANE, torch.full((2,), 0.5), KEY)
    why = component("evaluation", "density_2d").refusal(model, component("sampler", "mala"))
    assert why == (None if family == "gamma" else "log Z of this family, which is known, is no integral over the plane")


def test_a_map_without_any_density_is_said():
    """A model of some values alone, as a product with counts is: no centre of a cell is one of them."""
    values = torch.tensor([0.13, 0.71])
    model = Units(PLANE, lambda v: torch.where(torch.isin(v, values), v.square() / 2, torch.inf))
    rows = values[torch.tensor([[0, 1], [1, 0], [1, 1]])].numpy()
    only_said(on_plane(model, rows, side=100), "no cell of the map has a finite energy")


def test_a_density_that_is_infinite_at_its_wall_has_no_figure():
    """Gamma units of a small shape, whose mass is within one cell."""
    model = component("model", "exponential_family", family="gamma").build(PLANE, torch.ones(2), KEY)
    model.s.data.fill_(-2.0)
    only_said(on_plane(model, model.sample(500, KEY).detach().numpy()), "raise evaluation.density_2d.side")


def test_a_sum_that_misses_a_known_log_z_is_no_figure(monkeypatch):
    model = gaussian(0.0, 1.0)
    true = model.log_z()
    for off, given in ((0.04, True), (0.06, False)):
        monkeypatch.setattr(model, "log_z", lambda off=off: true + off)
        result = on_plane(model, normal(0.0, 1.0), side=100)
        assert bool(result.metrics) == given
        assert given or "log Z is known and off by 0.06 nats" in result.warnings[0]


def test_sub_maps_of_an_even_function_agree():
    cells = Cells((-5.0, -5.0), (5.0, 5.0), 51)
    f = -cells.centres().double().square().sum(1) / 2
    assert apart(51, f) < 1e-4
    narrow = -cells.centres().double().square().sum(1) / (2 * 0.05**2)
    assert apart(51, narrow) > 1


def test_a_row_is_compared_with_its_own_cell():
    cells, model = Cells((0.0, 10.0), (4.0, 12.0), 4), Units(PLANE, lambda v: 3 * v)
    assert cells.number(torch.tensor([[0.1, 10.1], [3.9, 10.1], [0.1, 11.9], [4.1, 11.0]])).tolist() == [0, 3, 12, -1]
    f = -model.energy(cells.centres()).double()
    rows = torch.tensor([[0.5, 10.25], [0.6, 10.25], [9.0, 9.0]])
    assert steep(model, cells, f, rows) == pytest.approx(0.15, abs=1e-5)
    assert steep(model, cells, f, rows[2:]) == 0


# Rows without a density, and rungs without anything in common


@pytest.mark.parametrize("evaluation", ["ais", "bridge", "density_2d"])
def test_held_out_rows_of_infinite_energy_have_no_mean(evaluation):
    def each(v):
        return torch.where(v > 1.5, torch.inf, v.square() / 2)

    rows = normal(0.0, 0.3)
    rows[:3] = 2.0
    found = on_plane(Units(PLANE, each), rows, evaluation, "metropolis")
    only_said(found, "3 of 500 held-out rows have no finite energy")


@pytest.mark.parametrize("evaluation", ["ais", "bridge"])
def test_chains_that_meet_no_density_give_no_figure(evaluation, monkeypatch):
    """The model has one on a square that draws of the base lie beyond, though chains come to it; the rows are there."""

    def each(v):
        return torch.where((v - 0.5).abs() > 0.2, torch.inf, 0 * v)

    monkeypatch.setattr(bridge, "bennett", lambda *_: pytest.fail("of infinite numbers it takes minutes"))
    target = uniform(2)._replace(model=Units(Box((2,)), each), rows=torch.full((20, 2), 0.5))
    keys = {"chains": 3, "temperatures": 50} if evaluation == "ais" else {"chains": 20, "rungs": 3, "steps": 20}
    only_said(component("evaluation", evaluation, **keys).evaluate(about(target)), "density")


def test_rungs_that_share_no_draw_give_no_figure():
    """One step from a wide base to rows a thousandth as wide, whose chains are where they belong."""
    found = on_plane(gaussian(0.0, 1e-3), normal(0.0, 1.0), "bridge", "metropolis", rungs=1, chains=50)
    assert set(found.metrics) == {"bridge/overlap"}
    assert "nothing" not in found.warnings[0]
    assert "no other figures are given" in found.warnings[0]


def test_beta_rows_touch_the_walls_of_no_map():
    """A density that is 0 at the walls, and rows that come near them."""
    target = beta(2, 3.0, 3.0)
    assert target.rows.min() < 0.1
    assert rows_of(target.model.space, 3, 3).shape == target.rows.shape
    found = component("evaluation", "density_2d").evaluate(about(target))
    assert found.metrics["density_2d/log_z"] == pytest.approx(target.log_z, abs=1e-4)
