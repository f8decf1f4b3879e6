"""Functions of tensors that torch has not, or evaluates slowly on a CPU; rows of different lengths, and sparse ones."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag
from typing_extensions import override


class _Softplus(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _value(x)

    @staticmethod
    @override
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * x.sigmoid()


class _SoftplusSum(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _sum(x)

    @staticmethod
    @override
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0].unsqueeze(-1) * x.sigmoid()


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), in the shape of x; any order of derivative.

    torch's softplus goes through log1p, which its builds for CUDA do not vectorise on the CPU (2.14.1): three to five
    times slower; its build for the CPU (2.13.0) does. With log the result errs by at most half a unit in the last place
    of 1, which a sum over hidden units does not notice.
    """
    return _Softplus.apply(x) if torch.is_grad_enabled() and x.requires_grad else _value(x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x) from the e^-|x| of `softplus`, which a compiled region then computes once for both."""
    e = x.abs().neg().exp()
    return torch.where(x < 0, e, 1.0) / (1 + e)


def _value(x: Tensor) -> Tensor:
    return x.abs().neg_().exp_().add_(1).log_().add_(x.relu())


def softplus_sum(x: Tensor) -> Tensor:
    """sum_j log(1 + e^x_j) over the last of (..., n); any order of derivative.

    As sum_j max(x_j, 0) + log prod_j (1 + e^-|x_j|): one logarithm for as many factors as cannot overflow, which are at
    most 2 each.
    """
    return _SoftplusSum.apply(x) if torch.is_grad_enabled() and x.requires_grad else _sum(x)


def _sum(x: Tensor) -> Tensor:
    factors, most = x.abs().neg_().exp_().add_(1), math.frexp(torch.finfo(x.dtype).max)[1] - 1
    parts = factors.chunk(max(1, math.ceil(x.shape[-1] / most)), -1)
    return torch.stack([part.prod(-1) for part in parts]).log_().sum(0).add_(x.relu().sum(-1))


def log_mean_exp(log_w: Tensor) -> Tensor:
    """log((1/n) sum_j e^log_w_j) over the last of (..., n)."""
    return log_w.logsumexp(-1) - math.log(log_w.shape[-1])


def effective_count(log_w: Tensor) -> Tensor:
    """How many weights e^log_w_j, over the last of (..., n), are worth: (sum_j w_j)^2 / sum_j w_j^2."""
    return (2 * log_w.logsumexp(-1) - (2 * log_w).logsumexp(-1)).exp()


def end_to_end(size: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of `size` (rows,) int64 entries one after the other: the row of each entry, and its place in it from 0."""
    row = torch.arange(len(size), device=size.device).repeat_interleave(size)
    first = size.cumsum(0) - size
    return row, torch.arange(len(row), device=size.device) - first[row]


def sparse_rows(row: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    """Rows (n, K) of which most numbers are 0, as a coalesced sparse tensor: of counts of words, on a CPU.

    Entries ascend by row, then by column, and none comes twice. What follows takes dense rows as well.
    """
    places = torch.stack([row, column])
    return torch.sparse_coo_tensor(places, value, shape, is_coalesced=True, check_invariants=False)


def counted(place: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """How often each place n K + k is among these, which ascend, as sparse rows."""
    found, count = place.unique_consecutive(return_counts=True)
    row = found // shape[1]
    return sparse_rows(row, found - row * shape[1], count.to(dtype), shape)


def joined(x: Tensor, others: Tensor) -> Tensor:
    """Rows (n, ...) and others (m, ...) of their kind below them."""
    if not x.is_sparse:
        return torch.cat([x, others])
    (row, column), (row_below, column_below) = x.indices(), others.indices()
    rows, columns = torch.cat([row, row_below + len(x)]), torch.cat([column, column_below])
    return sparse_rows(rows, columns, torch.cat([x.values(), others.values()]), (len(x) + len(others), x.shape[1]))


def totals(x: Tensor) -> Tensor:
    """sum_k x_nk, (n,)."""
    if not x.is_sparse:
        return x.sum(1)
    value = x.values()
    return value.new_zeros(len(x)).index_add_(0, x.indices()[0], value)


def product(x: Tensor, table: Tensor) -> Tensor:
    """x T, (n, J) for T (K, J): sums of the rows of T whose numbers in x are not 0."""
    if not x.is_sparse:
        return x @ table
    row, column = x.indices()
    return _sums(row, len(x), column, x.values(), table)


def transposed_product(x: Tensor, y: Tensor) -> Tensor:
    """x^T y, (K, J) for y (n, J)."""
    if not x.is_sparse:
        return x.T @ y
    row, column = x.indices()
    narrow = column.numpy().astype(np.uint16 if x.shape[1] < 2**16 else np.int32)  # of 16 bits, which sort in one pass
    order = torch.from_numpy(narrow.argsort(kind="stable"))
    return _sums(column[order], x.shape[1], row[order], x.values()[order], y)


def _sums(of: Tensor, count: int, place: Tensor, weight: Tensor, table: Tensor) -> Tensor:
    """Sum number i < count is that of w_e T[place_e] over the entries e of i; `of`, their i, ascends."""
    first = torch.searchsorted(of, torch.arange(count))
    return embedding_bag(place, table, first, mode="sum", per_sample_weights=weight)
