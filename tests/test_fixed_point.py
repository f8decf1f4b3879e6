"""Products with binary matrices in 24-bit fixed point: as exact as float32, whatever the numbers."""

import pytest
import torch
from helpers.models import small_model

from ebm_cli import rng
from ebm_cli.device.engine import EAGER
from ebm_cli.model.fixed_point import FixedPoint, fixed_point, largest, product
from ebm_cli.model.rbm import FixedPointRBM
from ebm_cli.rng import stream
from ebm_cli.space import Binary

KEY = stream(0, "fixed point")
DIGITS = (2, 3)


def bits(rows, columns, seed=0):
    return (rng.uniform((rows, columns), stream(seed, "bits")) < 0.4).float()


def value(found: FixedPoint) -> torch.Tensor:
    total = torch.zeros(found.digits.shape[1:], dtype=torch.float64)
    for digit in found.digits.double():
        total = total * 256 + digit
    return total * found.scale.double()


@pytest.mark.parametrize("digits", DIGITS)
@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1.0, 1e4])
def test_an_entry_errs_by_half_a_unit_of_the_largest(scale, digits):
    matrix = rng.normal((40, 30), KEY) * scale
    matrix[0, :4] = torch.tensor([matrix.abs().max() * 1.5, -matrix.abs().max() * 1.5, 0.0, scale * 1e-9])
    found = fixed_point(matrix, digits)
    error = (value(found) - matrix.double()).abs().max()
    # Half a unit by rounding, and float32's own rounding of the quotient, at most half a unit at 2^23 units.
    unit = matrix.abs().max() / largest(digits)
    assert error <= unit * (0.51 if digits == 2 else 1.0)
    assert error > unit * 0.3, "a bound that nothing comes near shows nothing"
    assert found.digits.dtype == torch.int8
    assert len(found.digits) == digits


def test_a_bound_stands_for_the_largest_entry():
    matrix = rng.normal((4, 5), KEY)
    bound = matrix.abs().max()
    assert all(map(torch.equal, fixed_point(matrix, 2), fixed_point(matrix, 2, bound)))
    assert fixed_point(matrix, 2, 4 * bound).scale == 4 * fixed_point(matrix, 2).scale


def test_every_number_of_units_is_represented():
    """All carries between digits, at both signs: the digits of n are those of n, not of a neighbour."""
    edges = [d * 65536 + m * 256 + e for d in (-126, -1, 0, 1, 126) for m in (-128, -127, 0, 126, 127, 128)
             for e in (-128, -127, -1, 0, 1, 127, 128)]  # fmt: skip
    matrix = torch.tensor([[largest(3), -largest(3), *edges]], dtype=torch.float64)
    assert torch.equal(value(fixed_point(matrix, 3)), matrix)


def test_zeros_stay_zeros():
    assert not product(bits(3, 5), fixed_point(torch.zeros(5, 4), 3)).any()


@pytest.mark.parametrize(("rows", "inner", "columns"), [(1, 1, 1), (3, 5, 7), (100, 784, 500), (17, 1000, 33)])
def test_a_product_is_as_exact_as_in_float32(rows, inner, columns):
    """Against float64: each of `inner` terms errs by half a unit at most, and by far less together."""
    binary, matrix = bits(rows, inner), rng.normal((inner, columns), KEY)
    exact = binary.double() @ matrix.double()
    error = (product(binary, fixed_point(matrix, 3)).double() - exact).abs().max().item()
    assert error <= inner * matrix.abs().max().item() / largest(3) / 2 + exact.abs().max().item() * 2**-23
    theirs = (binary @ matrix).double().sub(exact).abs().max().item()
    assert error <= 4 * theirs + matrix.abs().max().item() / largest(3)


def test_sums_of_many_terms_do_not_overflow():
    """All entries at the largest digit, 10^5 of them: float32 would round, integers do not."""
    found = product(torch.ones(1, 100_000), fixed_point(torch.full((100_000, 2), 0.75), 3))
    assert found.flatten().tolist() == pytest.approx([75_000.0] * 2, rel=1e-6)


def test_the_transposed_matrix_is_the_same():
    matrix, binary = rng.normal((6, 9), KEY), bits(4, 9)
    assert torch.equal(product(binary, fixed_point(matrix, 3).transposed()), product(binary, fixed_point(matrix.T, 3)))


@pytest.mark.parametrize("digits", DIGITS)
def test_an_rbm_in_fixed_point_is_an_rbm_with_rounded_weights(digits):
    """Energies, conditionals and gradients are those of the RBM whose W is the fixed-point matrix."""
    model = small_model("rbm", Binary((2, 2))).float()
    fixed = model.in_fixed_point(digits, EAGER)
    assert isinstance(fixed, FixedPointRBM)
    rounded = small_model("rbm", Binary((2, 2))).float()
    with torch.no_grad():
        rounded.W.copy_(value(fixed.weights))
    assert not torch.equal(rounded.W, model.W)
    x = model.space.enumerate()
    close = {"rtol": 1e-5, "atol": 1e-5 if digits == 3 else 1e-3}  # the activities of the gradient are rounded too
    torch.testing.assert_close(fixed.energy(x), rounded.energy(x), **close)
    h = bits(20, model.hidden)
    torch.testing.assert_close(fixed.visible_logits(h), rounded.visible_logits(h), **close)
    weight = rng.normal((len(x),), KEY)
    with torch.no_grad():
        found, expected = (each.energy_vjp(x)[1](weight) for each in (fixed, rounded))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **close)


def test_the_view_has_no_weights_of_its_own():
    """So that a checkpoint and the optimizer see one model."""
    model = small_model("rbm", Binary((2, 2))).float()
    fixed = model.in_fixed_point(3, EAGER)
    assert all(a is b for a, b in zip(model.parameters(), fixed.parameters(), strict=True))
