"""Means and standard deviations of rows of real numbers."""

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.dataset.base import Split

_ROWS = 10_000


def moments(split: Split) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each coordinate, (sites,) float64 on the CPU, over at most 10 000 rows."""
    index = torch.arange(min(_ROWS, len(split)), device=split.grey.device)
    rows = split.rows(index, rng.stream(0, "noise")).flatten(1).double().cpu()
    return rows.mean(0), rows.std(0, correction=0)
