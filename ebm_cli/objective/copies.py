"""Data beside disturbed copies of themselves: energies of both in one pass."""

from collections.abc import Callable

import torch
from torch import Tensor

from ebm_cli.model.base import EnergyModel, Gradients
from ebm_cli.objective.base import Metrics

Differences = Callable[[Tensor], Gradients]


def beside_copies(model: EnergyModel, x: Tensor, copies: Tensor) -> tuple[Tensor, Differences, Metrics]:
    """d_ij = E(x_i) - E(x_ij), (batch, M), of x (batch, *shape) and copies (batch * M, *shape), row after row.

    With it the map from dloss/dd (batch, M) to the gradients of the parameters, and the mean energies.
    """
    energy, pull = model.energy_vjp(torch.cat([x, copies]))
    of_data, of_copies = energy[: len(x)], energy[len(x) :].reshape(len(x), -1)

    def pull_differences(weight: Tensor) -> Gradients:
        return pull(torch.cat([weight.sum(1), -weight.flatten()]))

    metrics = {"energy_data": of_data.mean(), "energy_copies": of_copies.mean()}
    return of_data[:, None] - of_copies, pull_differences, metrics
