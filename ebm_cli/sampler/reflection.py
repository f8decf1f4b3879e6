"""Straight ways that walls turn back: how the kernels of real numbers move in a box."""

import torch
from torch import Tensor

from ebm_cli.space import Box, Space


def rebound(space: Space, x: Tensor, way: Tensor) -> tuple[Tensor, Tensor]:
    """Where straight ways to x (chains, *shape) end if each wall reflects them, and `way` as it points there.

    A coordinate of `way` changes its sign with every wall that its coordinate of x has met. (x, way) -> (x', way') is
    its own inverse once x' - way' is taken for the start, and it keeps volume: as a ball between walls flies. So a
    symmetric step stays symmetric, and a leapfrog step reversible. A space without walls leaves both as they are, and
    so does a box what is inside, to the bit.
    """
    if not isinstance(space, Box):
        return x, way
    inside = (x >= space.low) & (x <= space.high)
    turned = ~inside & (((x - space.low) / (space.high - space.low)).floor() % 2 != 0)
    end = torch.where(inside, x, space.nearest(space.reflected(x)))
    return end, torch.where(turned, -way, way)
