"""Hidden units that are the same for practically all rows."""

import torch
from torch import Tensor

from ebm_cli.model.base import EnergyModel

_OFF, _ON = 0.01, 0.99
_NEARLY_ALL = 0.999  # of the rows


@torch.no_grad()
def stuck_share(model: EnergyModel, rows: Tensor) -> float | None:
    """Which part of the hidden units of all layers is dead or saturated on these rows; None of a model without any."""
    layers = model.activities(rows)
    found = [torch.cat([*stuck(p)]).double().sum().item() for p in layers]
    return sum(found) / sum(p.shape[1] for p in layers) if layers else None


def stuck(p: Tensor) -> tuple[Tensor, Tensor]:
    """Which units of p (rows, units) are dead, and which saturated, (units,) bool each."""
    return (p < _OFF).double().mean(0) >= _NEARLY_ALL, (p > _ON).double().mean(0) >= _NEARLY_ALL
