"""Laws of sites given a code: densities that integrate to 1, and draws of them."""

import math

import pytest
import torch
from helpers.components import FALSE_ALARM
from helpers.statistics import assert_close, chi_square

from ebm_cli.model.emission import BernoulliEmission, NormalEmission, TruncatedEmission, emission
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Box, Real

KEY = stream(0, "emission")
WALLS = Box((2,), -1.0, 2.0)
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def made(kind, by_code):
    """A law of two sites, and what a decoder gives for one row."""
    space = {"normal": Real((2,)), "truncated": WALLS}[kind]
    law = emission(space, 0.1, by_code=by_code).double()
    if not by_code:
        with torch.no_grad():
            law.r.copy_(torch.tensor([-0.4, 0.3], dtype=torch.float64))
    given = torch.tensor([[0.8, -1.3, -0.4, 0.3]], dtype=torch.float64)
    return law, given if by_code else given[:, :2]


LAWS = [(kind, by_code) for kind in ("normal", "truncated") for by_code in (False, True)]


@pytest.mark.parametrize(("kind", "by_code"), LAWS)
def test_densities_integrate_to_one_and_draws_are_of_them(kind, by_code):
    """Of each site along a grid; draws in twelve intervals that are equally likely."""
    law, given = made(kind, by_code)
    m, s = law.law(given)
    assert_close(s[0], (torch.tensor([-0.8, 0.6], dtype=torch.float64).exp() + 0.01).sqrt(), **EXACT)
    low, high = (-1.0, 2.0) if kind == "truncated" else (-12.0, 12.0)
    grid = torch.linspace(low, high, 20_001, dtype=torch.float64)
    draws = law.draw(given.expand(20_000, -1), KEY)
    assert law.space.contains(draws)
    for site in range(2):
        x = m.expand(len(grid), -1).clone()
        x[:, site] = grid
        p = law.log_prob(x, given.expand(len(grid), -1)).exp().detach()
        total = torch.trapezoid(p, grid)
        assert_close(total, _density(kind, m, s, 1 - site)[0].detach(), rtol=1e-6, atol=0)
        cdf = torch.cumulative_trapezoid(p, grid) / total
        ends = grid[1:][torch.searchsorted(cdf, torch.arange(1, 12, dtype=torch.float64) / 12)]
        count = torch.bincount(torch.bucketize(draws[:, site].contiguous(), ends), minlength=12)
        assert chi_square(count, torch.full((12,), 20_000 / 12)) > FALSE_ALARM


def _density(kind, m, s, site):
    """Of a site at its m, by the distribution function of torch."""
    peak = 1 / (s[:, site] * math.sqrt(2 * math.pi))
    if kind == "normal":
        return peak
    low, high = (torch.special.ndtr((wall - m[:, site]) / s[:, site]) for wall in (-1.0, 2.0))
    return peak / (high - low)


@pytest.mark.parametrize(("kind", "by_code"), LAWS)
def test_it_begins_at_the_mean_of_the_data(kind, by_code):
    law, _ = made(kind, by_code)
    mean = torch.tensor([0.2, 1.5], dtype=torch.float64)
    first = law.first(mean)
    assert first.shape == (law.outputs,)
    assert_close(law.mean(first[None])[0], mean, rtol=1e-12, atol=1e-12)
    if kind == "truncated":
        at_wall = law.first(torch.tensor([-1.0, 2.0], dtype=torch.float64))
        assert_close(law.mean(at_wall[None])[0], torch.tensor([-0.97, 1.97], dtype=torch.float64), **EXACT)


def test_bits_sum_to_one():
    space = Binary((3,))
    law, given = BernoulliEmission(space), torch.tensor([[0.5, -2.0, 3.0]], dtype=torch.float64)
    states = space.enumerate().double()
    log_p = law.log_prob(states, given.expand(8, -1))
    assert log_p.exp().sum().item() == pytest.approx(1, rel=1e-12)
    draws = law.draw(given.expand(20_000, -1), KEY)
    assert chi_square(torch.bincount(space.code(draws), minlength=8), log_p.exp() * 20_000) > FALSE_ALARM
    assert_close(law.mean(given), given.sigmoid(), **EXACT)
    assert_close(law.first(torch.tensor([0.0, 0.5])).sigmoid(), torch.tensor([0.01, 0.5]))


def test_each_space_has_its_law():
    for space, kind in (
        (Binary((2,)), BernoulliEmission),
        (Real((2,)), NormalEmission),
        (Box((2,)), TruncatedEmission),
    ):
        assert type(emission(space, 0.1, by_code=True)) is kind


def test_far_beyond_its_walls_a_law_keeps_its_gradient():
    """A box of which hardly anything is reached: log mass and its derivative stay finite."""
    law = TruncatedEmission(Box((1,)), 1e-3, by_code=True)
    given = torch.tensor([[30.0, -8.0], [-30.0, -8.0]], requires_grad=True)
    value = law.log_prob(torch.tensor([[0.99], [0.01]]), given).sum()
    (slope,) = torch.autograd.grad(value, given)
    assert value.isfinite()
    assert slope.isfinite().all()
