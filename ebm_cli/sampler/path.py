"""Paths of several moves, each of another site: where they lead, and what undoes them."""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from ebm_cli.model.quadratic import Changes
from ebm_cli.space import Categorical, Space, TwoValued


class Path(NamedTuple):
    """Moves that lead to new positions, those that undo them, (chains, flips) each, and what changes in x meanwhile."""

    forth: Tensor
    back: Tensor
    length: Tensor
    changes: Changes


def walked(space: Space, x: Tensor, moves: Tensor, length: Tensor) -> tuple[Tensor, Path]:
    """x after the first `length` moves, and the path there."""
    within = torch.arange(moves.shape[1], device=x.device) < length[:, None]
    flat = x.flatten(1)
    if isinstance(space, Categorical):
        site = moves // space.values
        old = site * space.values + _values_at(space.table(x), site)
        new = torch.where(within, moves, old)
        moved = flat.scatter(1, old, 0.0).scatter(1, new, 1.0)
        amounts = torch.ones_like(new, dtype=x.dtype)
        changes = Changes(torch.cat([new, old], 1), torch.cat([amounts, -amounts], 1))
        return moved.reshape(x.shape), Path(moves, old, length, changes)
    here = flat.gather(1, moves)
    there = torch.where(within, cast(TwoValued, space).flipped(here), here)
    return flat.scatter(1, moves, there).reshape(x.shape), Path(moves, moves, length, Changes(moves, there - here))


def _values_at(table: Tensor, site: Tensor) -> Tensor:
    """Numbers of the values at some sites of each chain, (chains, sites), of one-hot x (chains, D, K)."""
    return table.gather(1, site[:, :, None].expand(-1, -1, table.shape[2])).argmax(2)
