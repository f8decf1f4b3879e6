"""Couplings are added, those first by which the likelihood gains most."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.registry import register
from ebm_cli.sparsity.base import Seen, Sparsity


@register("sparsity", "activate")
class Activate(Sparsity):
    """Begins without couplings; every `every` steps `share` of the missing ones are added, by their `gain`.

    The scheme of eaDCA (Calvanese et al. 2024, "Towards parsimonious generative modeling of RNA families"; adabmDCA).
    """

    share: Annotated[float, Field(gt=0, le=1)]
    every: Annotated[int, Field(ge=1)]

    dense = False

    @override
    def due(self, step: int) -> bool:
        """Every so many steps."""
        return step % self.every == 0

    @override
    def chosen(self, seen: Seen) -> Tensor:
        """With those of the missing ones that gain most, one at least."""
        missing = seen.possible & ~seen.active
        count = min(int(missing.sum()), math.ceil(self.share * int(missing.sum())))
        gains = torch.where(missing, gain(seen.data, seen.chains), -math.inf)
        found = seen.active.clone()
        found.view(-1)[gains.flatten().topk(count).indices] = True
        return found


def gain(f: Tensor, p: Tensor) -> Tensor:
    """D = f log(f/p) + (1 - f) log((1 - f)/(1 - p)), nats for each row: by so much a coupling raises the likelihood.

    With a coupling J of an indicator that is 1 with probability p in the model, mean log p(x) changes by
    f J - log(1 + p (e^J - 1)), f its share in the data. Its maximum, at e^J = f (1 - p) / (p (1 - f)), is D >= 0.
    """
    return torch.special.xlogy(f, f / p) + torch.special.xlogy(1 - f, (1 - f) / (1 - p))
