"""Energies of degree two after a change of few numbers, from few rows of the matrix of their couplings."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Changes(NamedTuple):
    """Of each chain some numbers of x, by their places in its flat x (chains, n) int64, and what is added to each."""

    places: Tensor
    amounts: Tensor


def changed(energy: Tensor, grad: Tensor, coupling: Tensor, changes: Changes) -> tuple[Tensor, Tensor]:
    """E and dE/dx after the changes d, given those before: dE/dx - J d, and E + d.(dE/dx before + after) / 2.

    Rows of J, one for each change, in the place of a product with it. With each call dE/dx errs by one more rounding.
    """
    places, amounts = changes
    fields = F.embedding_bag(places, coupling, mode="sum", per_sample_weights=amounts)
    before = grad.flatten(1)
    after = before - fields
    slope = (before.gather(1, places) + after.gather(1, places)) / 2
    return energy + (amounts * slope).sum(1), after.reshape(grad.shape)
