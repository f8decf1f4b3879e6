"""Densities of noise against an integral and a product by hand."""

import pytest
import torch
from test_noise import KEY, built

from ebm_cli.space import Binary, Real


def test_the_density_of_a_flow_as_noise_has_the_integral_1():
    noise = built("flow", Real((2,)))
    centre, spread = noise.sample(2000, KEY).mean(0), noise.sample(2000, KEY).std(0).max()
    line = torch.linspace(-8, 8, 161).double() * spread
    points = centre + torch.cartesian_prod(line, line)
    with torch.no_grad():
        total = noise.log_prob(points).exp().sum() * (line[1] - line[0]) ** 2
    assert total.item() == pytest.approx(1, abs=0.01)


def test_coins_are_flipped_with_the_probability_asked_for():
    noise = built("bernoulli", Binary((4,)), p=0.2)
    assert noise.log_prob(torch.tensor([[1.0, 0, 0, 1]]).double()).exp().item() == pytest.approx(0.2**2 * 0.8**2)
