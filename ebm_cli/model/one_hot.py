"""Products of one-hot rows v with matrices, by the places of their ones: sums of rows, a K-th of the usual work.

A place is a column of v: value k of site i, of K values each, stands at i K + k. Each sum is formed in one order,
whatever the number of threads.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override


def places(table: Tensor) -> Tensor:
    """Where the ones are, (rows, sites) int64, of one-hot v (rows, sites, K)."""
    _, sites, values = table.shape
    number = torch.arange(values, device=table.device)
    return (table @ number.to(table.dtype)).long() + values * torch.arange(sites, device=table.device)


def one_hot(places: Tensor, values: int, dtype: torch.dtype) -> Tensor:
    """v (rows, sites, K) with ones there."""
    return F.embedding(places % values, torch.eye(values, dtype=dtype, device=places.device))


def write(places: Tensor, table: Tensor) -> None:
    """The same into v (rows, sites, K)."""
    _, sites, values = table.shape
    number = places - values * torch.arange(sites, device=places.device)
    unit = torch.eye(values, dtype=table.dtype, device=table.device)
    torch.index_select(unit, 0, number.flatten(), out=table.view(-1, values))


def product(places: Tensor, matrix: Tensor) -> Tensor:
    """v M, (rows, C), for M (columns of v, C)."""
    rows, sites = places.shape
    begin = torch.arange(0, rows * sites, sites, device=places.device)
    return torch.embedding_bag(matrix, places.flatten(), begin, mode=0)[0]  # its wrapper takes as long as few rows do


def products(places: Tensor, matrices: Tensor) -> Tensor:
    """v M_s side by side, (rows, S, C), for M (S, columns of v, C); differentiable in M."""
    if torch.is_grad_enabled() and matrices.requires_grad:
        return _Products.apply(places, matrices)
    return _products(places, matrices)


def _products(places: Tensor, matrices: Tensor) -> Tensor:
    return torch.stack([product(places, matrix) for matrix in matrices.unbind()], 1)


class Grouped(NamedTuple):
    """Rows of v by the place of their ones: those of the first place, then of the second ...; and where each begins."""

    rows: Tensor
    offsets: Tensor

    def moments(self, u: Tensor) -> Tensor:
        """v^T u, (places, C), for u (rows, C): for each place the sum of its rows of u."""
        return F.embedding_bag(self.rows, u, self.offsets, mode="sum")


def grouped(places: Tensor, values: int) -> Grouped:
    """The rows of v with K values."""
    ordered, rows = places.T.sort(stable=True)
    offsets = torch.searchsorted(ordered.flatten(), torch.arange(values * len(ordered), device=places.device))
    return Grouped(rows.flatten(), offsets)


def pair_moments(places: Tensor, u: Tensor) -> Tensor:
    """sum_n v_ni u_nj^T of every pair i < j, (pairs, K, K), in the order (0, 1), (0, 2), (1, 2), (0, 3) ..."""
    rows, sites, values = u.shape
    every, by_site = grouped(places, values), u.transpose(0, 1).contiguous()
    found = [Grouped(every.rows[: j * rows], every.offsets[: j * values]).moments(by_site[j]) for j in range(1, sites)]
    return torch.cat(found).reshape(-1, values, values)


class _Products(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, places: Tensor, matrices: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.values = matrices.shape[1] // places.shape[1]
        return _products(places, matrices)

    @staticmethod
    @override
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        (places,) = ctx.saved_tensors
        every, by_matrix = grouped(places, ctx.values), grads[0].transpose(0, 1).contiguous()
        return None, torch.stack([every.moments(grad) for grad in by_matrix.unbind()])
