"""Binary Markov chains."""

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.rng import Key


def draw(n: int, shape: tuple[int, ...], start: float, stay: float, key: Key) -> Tensor:
    """n times `chains` independent chains of length `length`, shape = (length, chains): x in {0, 1}, (n, *shape).

    p(x_1 = 1) = start, p(x_(t + 1) = x_t) = stay.
    """
    turns = torch.full((shape[0], 1), 1 - stay)
    turns[0] = start
    return (rng.uniform((n, *shape), key) < turns).float().cumsum(1) % 2
