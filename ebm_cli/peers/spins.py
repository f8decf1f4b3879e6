"""Units that no model here has, written as ones that it has: spins as bits, and hidden Gaussians summed out."""

from typing import NamedTuple

import numpy as np

from ebm_cli.peers.foreign import Array


class Bits(NamedTuple):
    """An RBM of bits: W (visible, hidden), b (visible,), c (hidden,), E = -b.v - c.h - v.W h."""

    W: Array
    b: Array
    c: Array


class Pairs(NamedTuple):
    """Visible units alone: E = -sum_{i<j} x_i J_ij x_j - b.x, J (visible, visible) upper triangular."""

    J: Array
    b: Array


def of_spins(W: Array, a: Array, c: Array, *, visible: bool = True, hidden: bool = True) -> Bits:
    """The RBM of bits x, g that E = -a.s - c.t - s.W t is with s = 2 x - 1 and t = 2 g - 1, up to a constant.

    W' = 4 W, a' = 2 (a - sum_j W_ij), c' = 2 (c - sum_i W_ij); a side that is of bits already keeps its units.
    """
    W, a, c = (np.asarray(array, np.float64) for array in (W, a, c))
    of_v, of_h = (2.0 if visible else 1.0), (2.0 if hidden else 1.0)
    return Bits(of_v * of_h * W, of_v * (a - hidden * W.sum(1)), of_h * (c - visible * W.sum(0)))


def without_gaussians(W: Array, a: Array, c: Array, precision: Array) -> Pairs:
    """E(x) of E(x, h) = -a.x - c.h - x.W h + sum_j p_j h_j^2 / 2 with h summed out, but for a constant.

    E(x) = -a.x - sum_j (c_j + (x W)_j)^2 / (2 p_j), so J_ij = sum_k W_ik W_jk / p_k for i < j, and what is left of the
    square, (J_ii / 2) x_i^2 and (W (c / p))_i x_i, goes to the fields of bits, whose x_i^2 is x_i.
    """
    W, a, c = (np.asarray(array, np.float64) for array in (W, a, c))
    scaled = W / np.asarray(precision, np.float64)
    square = scaled @ W.T
    return Pairs(np.triu(square, 1), a + scaled @ c + square.diagonal() / 2)


def spins_without_gaussians(W: Array, a: Array, c: Array, precision: Array) -> Pairs:
    """The same of spins s = 2 x - 1, as pairs of bits x: s_i^2 is 1, J' = 4 J, b' = 2 (b - sum_j J_ij)."""
    J, field = without_gaussians(W, a, c, precision)
    scaled = np.asarray(W, np.float64) / np.asarray(precision, np.float64)
    field = field - (scaled * np.asarray(W, np.float64)).sum(1) / 2
    return Pairs(4 * J, 2 * (field - J.sum(0) - J.sum(1)))
