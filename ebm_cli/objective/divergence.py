"""Derivatives of vector fields along directions, and their trace; which data integration by parts is for."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.dataset.base import Data
from ebm_cli.dataset.sparse import SparseRows
from ebm_cli.dataset.stored import parts
from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import AnyKey


def slope(model: EnergyModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """x as a leaf, and dE/dx there with its graph, (batch, D)."""
    x = x.detach().requires_grad_()
    (found,) = torch.autograd.grad(model.energy(x).sum(), x, create_graph=True)
    return x, found.flatten(1)


def axes(like: Tensor) -> Iterator[Tensor]:
    """The D axes one after the other, (1, D) each, of `like` (batch, D)."""
    yield from torch.eye(like.shape[1], dtype=like.dtype, device=like.device).split(1)


def random_directions(like: Tensor, count: int, law: Literal["rademacher", "normal"], key: AnyKey) -> Iterator[Tensor]:
    """`count` times v of E[v v^T] = 1 for every row of `like`, (batch, D) each: fair signs, or normal."""
    n, sites = like.shape
    shape = (n, count, sites)
    if law == "normal":
        yield from rng.normal(shape, key, like.device, like.dtype).unbind(1)
    else:
        fair = rng.uniform(shape, key, like.device) < 0.5
        yield from (2 * fair.to(like.dtype) - 1).unbind(1)


def along(field: Tensor, x: Tensor, v: Tensor) -> Tensor:
    """v.(d field/dx) v, (batch,), with its graph, of a field (batch, D) of x (batch, *shape)."""
    (bend,) = torch.autograd.grad((field * v).sum(), x, create_graph=True, materialize_grads=True)
    return (bend.flatten(1) * v).sum(1)


def refusal_by_parts(data: Data, key: str, instead: str) -> str | None:
    """Why integrals over these rows have ends, or no density to integrate, in one sentence, or None.

    `key` is what asks for it, `instead` what else there is.
    """
    if data.shaded:
        return f"{key}: is for data without walls, shades of grey end at black and white; {instead}"
    assert not isinstance(data.train.stored, SparseRows)
    ends = [part.flatten(1).aminmax(dim=0) for part in parts(data.train.stored)]
    low, high = torch.stack([end.min for end in ends]).amin(0), torch.stack([end.max for end in ends]).amax(0)
    still = (low == high).nonzero().flatten().tolist()
    if still:
        return (
            f"{key}: needs a density, {len(still)} of {data.space.sites} columns are "
            f"the same in every training row, the first of them column {still[0]}; leave these out, or {instead}"
        )
    return None
