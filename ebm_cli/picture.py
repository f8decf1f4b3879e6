"""Pictures of configurations, as uint8 arrays."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_cli.space import Space

_LEAST_SIDE = 400


def grid(space: Space, x: Tensor, columns: int | None = None) -> NDArray[np.uint8]:
    """x (n, *shape) as one picture (height, width) or (height, width, 3), small images enlarged to be seen."""
    from torchvision.utils import make_grid

    columns = columns or max(1, round(len(x) ** 0.5))
    tiles = space.pixels(x)
    tiled = make_grid(tiles.float(), nrow=columns, padding=1, pad_value=96).to(torch.uint8)
    picture = tiled.permute(1, 2, 0).numpy() if tiles.shape[1] == 3 else tiled[0].numpy()
    factor = max(1, -(-_LEAST_SIDE // max(picture.shape[:2])))
    return picture.repeat(factor, 0).repeat(factor, 1)


def beside(space: Space, x: Tensor, y: Tensor, pairs: int) -> NDArray[np.uint8]:
    """The first `pairs` rows of x, each with its row of y under it."""
    n = min(pairs, len(x))
    return grid(space, torch.cat([x[:n], y[:n]]), columns=n)
