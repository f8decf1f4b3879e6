"""Spaces: what a configuration is, in which order they are counted, where noise starts, how they are shown."""

import itertools

import pytest
import torch
from helpers.components import SIGMAS, SMALL_SPACES
from helpers.keys import ENGINES, form

from ebm_cli.rng import stream
from ebm_cli.space import SPACES, Binary, Real, Spin

spaces = pytest.mark.parametrize("space", SMALL_SPACES.values(), ids=lambda s: s.name)


def test_every_space_is_tested():
    assert set(SPACES.values()) == set(SMALL_SPACES)
    assert all(SPACES[space.name] is type(space) for space in SMALL_SPACES.values())


def test_enumeration_is_every_state_once_in_counting_order():
    space = Binary((3, 2))
    x = space.enumerate()
    assert x.shape == (64, 3, 2)
    assert x.dtype == torch.float32
    # itertools counts with the last place fastest, `enumerate` with site 0 fastest.
    expected = [list(reversed(bits)) for bits in itertools.product((0.0, 1.0), repeat=6)]
    assert x.flatten(1).tolist() == expected


def test_enumeration_in_pieces_is_the_same():
    space = Binary((5,))
    pieces = [space.enumerate(first, min(first + 7, space.states)) for first in range(0, space.states, 7)]
    assert torch.equal(torch.cat(pieces), space.enumerate())


def test_code_is_the_inverse_of_enumeration():
    space = Binary((2, 5))
    assert torch.equal(space.code(space.enumerate()), torch.arange(space.states))
    assert torch.equal(space.code(space.enumerate(100, 110).double()), torch.arange(100, 110))


def test_spins_are_bits_at_other_values():
    spin, binary = Spin((2, 2)), Binary((2, 2))
    x = spin.enumerate()
    assert x.unique().tolist() == [-1, 1]
    assert torch.equal(spin.bits(x), binary.enumerate())
    assert torch.equal(spin.of_bits(binary.enumerate()), x)
    assert torch.equal(spin.code(x), torch.arange(16))
    assert torch.equal(spin.flipped(x), -x)
    assert torch.equal(binary.flipped(binary.enumerate()), 1 - binary.enumerate())
    assert spin.contains(x)
    assert not spin.contains(binary.enumerate())
    assert torch.equal(spin.brightness(x), binary.enumerate())


def test_numbers_of_sites_and_states():
    assert Binary((2, 3)).sites == 6
    assert Binary((2, 3)).states == 64
    assert Real((1, 4)).sites == 4


def test_binary_contains_zeros_and_ones_of_its_shape():
    space = Binary((2, 2))
    assert space.contains(space.enumerate())
    assert not space.contains(torch.full((3, 2, 2), 0.5))
    assert not space.contains(torch.tensor([[[0.0, 1.0], [-1.0, 0.0]]]))
    assert not space.contains(torch.full((1, 2, 2), torch.nan))
    assert not space.contains(torch.zeros(3, 4))
    assert not space.contains(torch.zeros(2, 2))


def test_real_contains_finite_numbers_of_its_shape():
    space = Real((2,))
    assert space.contains(torch.tensor([[-1e30, 3.0]]))
    assert not space.contains(torch.tensor([[0.0, torch.nan]]))
    assert not space.contains(torch.tensor([[torch.inf, 0.0]]))
    assert not space.contains(torch.zeros(1, 3))


@spaces
def test_noise_is_in_the_space_and_a_function_of_its_key(space):
    x = space.noise(10, stream(0, "noise"))
    assert x.shape == (10, *space.shape)
    assert x.dtype == torch.float32
    assert space.contains(x)
    assert torch.equal(x, space.noise(10, stream(0, "noise")))
    assert not torch.equal(x, space.noise(10, stream(1, "noise")))


def test_noise_is_fair_coins_or_standard_normal():
    """Every site by itself, and sites uncorrelated: means of n values of variance v are within SIGMAS sqrt(v / n)."""
    n = 100_000
    for space, mean, variance in ((Binary((4,)), 0.5, 0.25), (Spin((4,)), 0.0, 1.0), (Real((4,)), 0.0, 1.0)):
        x = space.noise(n, stream(1, "noise")).double() - mean
        assert (x.mean(0).abs() < SIGMAS * (variance / n) ** 0.5).all()
        covariance = x.T @ x / n - variance * torch.eye(4)
        # The variance of z_i z_j is v^2 off the diagonal; of z_i^2 at most 2 v^2 on it.
        assert covariance.abs().max() < SIGMAS * variance * (2 / n) ** 0.5


@pytest.mark.parametrize(
    ("shape", "image"),
    [((4, 6), (1, 4, 6)), ((1, 4, 6), (1, 4, 6)), ((3, 4, 6), (3, 4, 6)), ((2, 4, 6), (1, 1, 48)), ((9,), (1, 3, 3)),
     ((6,), (1, 1, 6)), ((2, 8, 4), (1, 8, 8)), ((1,), (1, 1, 1))],
)  # fmt: skip
def test_shapes_of_pictures(shape, image):
    x = Binary(shape).noise(5, stream(0, "picture"))
    pixels = Binary(shape).pixels(x)
    assert pixels.shape == (5, *image)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels.flatten(1), (255 * x.flatten(1)).byte())


def test_pixels_of_real_values():
    """Values within [0, 1] are grey levels as they are; others are stretched from their minimum to their maximum."""
    as_they_are = Real((2,)).pixels(torch.tensor([[0.2, 1.0]]))
    assert as_they_are.flatten().tolist() == [51, 255]
    stretched = Real((2,)).pixels(torch.tensor([[-2.0, 0.0], [1.0, 3.0]]))
    assert stretched.flatten().tolist() == [0, 102, 153, 255]
    assert Real((2,)).pixels(torch.full((3, 2), 7.0)).flatten().tolist() == [0] * 6  # a constant: no division by zero


@spaces
@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_noise_of_some_rows_is_those_rows_of_the_whole(space, engine):
    key = stream(0, "noise")
    whole = space.noise(12, form(engine, key))
    assert space.contains(whole)
    assert torch.equal(space.noise(5, form(engine, key.at_row(3))), whole[3:8])


def test_one_number_far_out_leaves_a_picture_as_it_is():
    """Of 400 numbers two at either end may lie anywhere, and are black or white."""
    space = Real((20, 20))
    x = torch.linspace(0, 1, 400).reshape(1, 20, 20)
    far = x.clone()
    far[0, 3, :2], far[0, 5, :2] = -25.0, 40.0
    assert torch.equal(space.brightness(far), far)
    assert (space.pixels(far) != space.pixels(x)).sum() == 4
    wide = 3 * x
    assert torch.equal(space.brightness(wide), (wide - wide.flatten()[2]) / (wide.flatten()[397] - wide.flatten()[2]))
    few = torch.tensor([[-1.0, 3.0]])
    assert Real((2,)).brightness(few).tolist() == [[0.0, 1.0]]
