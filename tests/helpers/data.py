"""Small data of every space."""

import dataclasses

import torch

from ebm_cli import rng
from ebm_cli.dataset.base import Data, Split
from ebm_cli.rng import stream
from ebm_cli.space import Box, Categorical, Space, TwoValued


def small_data(space: Space, n: int = 40, seed: int = 5) -> Data:
    """n rows of the space; all of them training and test rows, the first half validation rows."""
    x = space.noise(n, stream(seed, "data"))
    if isinstance(space, Categorical):
        x = space.decode(x).byte()
    elif isinstance(space, TwoValued):
        x = space.bits(x)
        x = (x * rng.bernoulli(torch.linspace(0, 2, n * space.sites).reshape(x.shape), stream(seed, "mask"))).byte()
    elif isinstance(space, Box):
        x = space.brightness(x)
    split = Split(space, x, 1.0, stochastic=False, labels=None)
    return Data(space, split, dataclasses.replace(split, stored=x[: n // 2]), split)
