"""Functions of tensors that torch has not, or evaluates slowly on a CPU, and rows of different lengths end to end."""

import math
from typing import Any

import torch
from torch import Tensor
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


def log_mean_exp(log_w: Tensor) -> Tensor:
    """log((1/n) sum_j e^log_w_j) over the last of (..., n)."""
    return log_w.logsumexp(-1) - math.log(log_w.shape[-1])


def end_to_end(size: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of `size` (rows,) int64 entries one after the other: the row of each entry, and its place in it from 0."""
    row = torch.arange(len(size), device=size.device).repeat_interleave(size)
    first = size.cumsum(0) - size
    return row, torch.arange(len(row), device=size.device) - first[row]
