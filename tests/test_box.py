"""Boxes: their definition, and chains that walls throw back."""

import math

import pytest
import torch
from helpers.components import component
from helpers.statistics import assert_mean
from torch.testing import assert_close

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.sampler.reflection import rebound
from ebm_cli.space import Box

BOX = Box((2,), -1.0, 2.0)


def test_a_box():
    x = torch.tensor([[-1.0, 2.0], [0.0, 2.1], [-1.5, 0.0]])
    assert [BOX.contains(row[None]) for row in x] == [True, False, False]
    assert BOX.nearest(x).tolist() == [[-1, 2], [0, 2], [-1, 0]]
    assert BOX.allowed(torch.zeros(3), x).tolist() == [0, -math.inf, -math.inf]
    assert BOX.brightness(x[:1]).tolist() == [[0, 1]]
    assert BOX.of_unit(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-1, 0.5, 2]
    noise = BOX.noise(20_000, stream(0)).double()
    assert BOX.contains(noise)
    assert_mean(noise[:, 0], 0.5)
    assert_mean((noise[:, 0] - 0.5).square(), 9 / 12)


class Slope(EnergyModel):
    """E(x) = a.x, whose density on a box is a product of truncated exponentials."""

    def __init__(self, space, a):
        super().__init__()
        self.space, self.a = space, torch.nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def energy(self, x):
        return x.flatten(1) @ self.a


@pytest.mark.quick("metropolis", "mala")
@pytest.mark.parametrize("name", ["metropolis", "mala", "hmc"])
def test_chains_in_a_box_have_its_truncated_density(name):
    """Exact draws by inversion stay what they are; moments of exp(-a x) on [-1, 2] in closed form."""
    a = torch.tensor([1.0, -2.5], dtype=torch.float64)
    u = rng.uniform((20_000, 2), stream(0, "draws"), dtype=torch.float64)
    x = BOX.low - torch.log1p(-u * (1 - torch.exp(-3 * a))) / a
    end, info = run(
        component("sampler", name, step_size=0.5 if name == "metropolis" else 0.05),
        Slope(BOX, a.tolist()),
        x,
        20,
        stream(1),
    )
    assert BOX.contains(end)
    assert 0.2 < info["acceptance"].mean() < 0.99
    mean, beyond = BOX.low + 1 / a - 3 / torch.expm1(3 * a), 1 - torch.expm1(-2 * a) / torch.expm1(-3 * a)
    for i in range(2):
        assert_mean(end[:, i], mean[i].item())
        assert_mean((end[:, i] > 1).double(), beyond[i].item())


class Waves(EnergyModel):
    """E(x, y) = 2 sin(3 x y) - y^2 on the box: steep at its walls, and no gradient is like another."""

    space = BOX

    def energy(self, x):
        a, b = x.unbind(1)
        return 2 * (3 * a * b).sin() - b.square()

    def sample(self, n):
        """Exact draws, from even ones by rejection: E > -2 - 4."""
        x = BOX.noise(n, stream(0, "even")).double()
        u = rng.uniform((n,), stream(0, "kept"), dtype=torch.float64)
        return x[u < (-6 - self.energy(x)).exp()]


REFLECTED = [
    ("metropolis", {"step_size": 0.3}),
    ("metropolis", {"step_size": 4.0}),
    ("mala", {"step_size": 0.02}),
    ("mala", {"step_size": 1.0}),
    ("mala", {"step_size": 1.0, "decades": 3.0}),
    ("hmc", {"step_size": 0.15, "leapfrog": 3}),
    ("hmc", {"step_size": 1.0, "leapfrog": 2}),
    ("underdamped", {"step_size": 1.0, "leapfrog": 2}),
    ("nuts", {"step_size": 1.0, "max_depth": 2}),
]


@pytest.mark.quick("hmc-keys6", "metropolis-keys1")
@pytest.mark.parametrize(("name", "keys"), REFLECTED)
def test_what_walls_throw_back_leaves_the_model_invariant(name, keys):
    """Exact draws after 5 steps, which cross a wall or many: means change by chance alone, near the walls too."""
    model = Waves()
    x = model.sample(2_000_000)
    y, info = run(component("sampler", name, **keys), model, x, 5, stream(1))
    assert len(x) > 20_000
    assert BOX.contains(y)
    assert info["acceptance"].mean() > 0.01
    for f in (
        lambda x: x,
        lambda x: x.square(),
        lambda x: x.prod(1, keepdim=True),
        lambda x: (x < -0.9).double(),
        lambda x: (x > 1.9).double(),
    ):
        for change in (f(y) - f(x)).unbind(1):
            assert_mean(change, 0.0)


@pytest.mark.parametrize("name", ["metropolis", "mala", "hmc"])
def test_chains_in_a_box_of_many_pixels_move_at_the_shipped_step_size(name):
    """One of 64 coordinates is beyond a wall in all but a few proposals; that rejects none of them."""
    space = Box((64,))
    _, info = run(
        component("sampler", name), Slope(space, [1.0, -1.0] * 32), space.noise(50, stream(0)).double(), 20, stream(1)
    )
    assert info["acceptance"].mean() > 0.3


def test_ways_are_reflected_as_often_as_they_meet_a_wall():
    x = torch.tensor([[-1.5, 2.5], [-4.5, 6.0], [0.25, 5.5], [-1.0, 2.0]])
    end, way = rebound(BOX, x, torch.ones_like(x))
    assert_close(end, torch.tensor([[-0.5, 1.5], [1.5, 0.0], [0.25, -0.5], [-1.0, 2.0]]), rtol=0, atol=1e-6)
    assert way.tolist() == [[-1, -1], [1, 1], [1, 1], [1, 1]]
    there = 3 * rng.normal((1000, 2), stream(0), dtype=torch.float64)
    start = BOX.noise(1000, stream(1)).double()
    end, way = rebound(BOX, start + there, there)
    back, returned = rebound(BOX, end - way, -way)
    assert BOX.contains(end)
    assert_close(back, start)
    assert_close(returned, -there)


def test_langevin_stays_in_the_box():
    start = BOX.noise(50, stream(0)).double()
    x, _ = run(component("sampler", "langevin", step_size=1.0), Slope(BOX, [3.0, -3.0]), start, 5, stream(1))
    assert BOX.contains(x)
    assert ((x == -1) | (x == 2)).any()
