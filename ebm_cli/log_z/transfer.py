"""log Z of an Ising model on a two-dimensional lattice by transfer matrices (Kramers & Wannier 1941)."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from ebm_cli.model.base import EnergyModel
from ebm_cli.model.ising import Ising
from ebm_cli.space import Spin

_AT_ONCE = 2**24  # numbers in the sums of logarithms


def lattice(model: EnergyModel) -> Ising | None:
    """The model, if it is an Ising model on a two-dimensional lattice."""
    found = isinstance(model, Ising) and model.periodic is not None and len(model.space.shape) == 2
    return cast(Ising, model) if found else None


def narrow_side(model: EnergyModel) -> int | None:
    """Length of the shorter side of the lattice, or None if there is none."""
    found = lattice(model)
    return None if found is None else min(found.space.shape)


def log_z(model: Ising) -> Tensor:
    """log sum_s exp(-E(s)), a scalar in nats, differentiable; matrices of 4^side entries, `side` the shorter one.

    T_r(s, s') = exp(sum_j V_rj s_j s'_j + R_(r + 1)(s')) leads from row r to the next, R_r what couplings and fields
    within row r give; Z is the trace of their product if the rows close, else the sum of exp(R_0) T_0 T_1 ....
    """
    down, along, bias = _by_axis(model)
    if bias.shape[0] < bias.shape[1]:
        down, along, bias = along.T, down.T, bias.T
    rows, side = bias.shape
    s = Spin((side,)).enumerate().to(bias)
    within = [_within(s, along[r], bias[r]) for r in range(rows)]
    closed = len(down) == rows and rows > 2
    logs = [(s * down[r]) @ s.T + within[(r + 1) % rows] for r in range(len(down))]
    product = logs.pop(0) if closed else within[0][None]
    for step in logs:
        product = _log_matmul(product, step)
    return (product.diagonal() if closed else product.flatten()).logsumexp(0)


def _by_axis(model: Ising) -> tuple[Tensor, Tensor, Tensor]:
    """Couplings down (between rows), along (within rows), and fields, each as a matrix in the shape of the lattice."""
    rows, columns = model.space.shape
    wraps = (bool(model.periodic) and rows > 2, bool(model.periodic) and columns > 2)
    shape_down, shape_along = (rows - (not wraps[0]), columns), (rows, columns - (not wraps[1]))
    down, along = model.J.split([shape_down[0] * columns, rows * shape_along[1]])
    return down.reshape(shape_down), along.reshape(shape_along), model.b.reshape(rows, columns)


def _within(s: Tensor, along: Tensor, bias: Tensor) -> Tensor:
    """sum_j along_j s_j s_(j+1) + bias_j s_j of every state of a row, (states,)."""
    return (s[:, : len(along)] * s.roll(-1, 1)[:, : len(along)]) @ along + s @ bias


def _log_matmul(a: Tensor, b: Tensor) -> Tensor:
    """log sum_j exp(a_ij + b_jk), (n, m), differentiable.

    A product of exp(a), each row divided by its largest, and exp(b), each column likewise. Where all that it adds up
    is too small for that, as strong couplings of both signs make it, the sum is one of logarithms.
    """
    top, above = a.amax(1, keepdim=True).detach(), b.amax(0, keepdim=True).detach()
    product = (a - top).exp() @ (b - above).exp()
    lost = product < len(b) * torch.finfo(product.dtype).tiny / torch.finfo(product.dtype).eps
    found = torch.where(lost, 1.0, product).log() + top + above
    if not lost.any():
        return found
    parts = [(a[i] + b.T[k]).logsumexp(1) for i, k in _pairs(lost, max(1, _AT_ONCE // len(b)))]
    return found.index_put(lost.nonzero().unbind(1), torch.cat(parts))


def _pairs(where: Tensor, at_once: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and columns of the entries that are true, so many at a time."""
    for part in where.nonzero().split(at_once):
        yield part[:, 0], part[:, 1]
