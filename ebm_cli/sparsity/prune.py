"""Couplings are dropped, those first without which the model changes least."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.registry import register
from ebm_cli.sparsity.base import Seen, Sparsity


@register("sparsity", "prune")
class Prune(Sparsity):
    """Each time that the target of `stop` is met, `share` of the couplings are dropped, by their `loss`.

    Training ends when the target is met with at most the share `density` of all possible ones. The scheme of edDCA
    (Barrat-Charlaix, Muntoni, Shimagaki, Weigt and Zamponi 2021, "Sparse generative modeling via parameter reduction of
    Boltzmann machines"; adabmDCA).
    """

    share: Annotated[float, Field(gt=0, lt=1)]
    density: Annotated[float, Field(gt=0, lt=1)]

    needs_stop = True

    @override
    def due(self, step: int) -> bool:
        """Only where the model fits."""
        return False

    @override
    def goes_on(self, density: float) -> bool:
        """While there are more couplings than are wanted."""
        return density > self.density

    @override
    def chosen(self, seen: Seen) -> Tensor:
        """Without those that lose least, one at least."""
        count = math.ceil(self.share * int(seen.active.sum()))
        losses = torch.where(seen.active, loss(seen.chains, seen.strength), math.inf)
        found = seen.active.clone()
        found.view(-1)[losses.flatten().topk(count, largest=False).indices] = False
        return found


def loss(p: Tensor, strength: Tensor) -> Tensor:
    """D = p J + log(e^-J p + 1 - p), nats: KL from the model to itself without the coupling J of an indicator.

    q(x) = p(x) e^(-J [x]) / (p e^-J + 1 - p) with p = E_p [x], so that E_p log p(x)/q(x) is D. Where the model has the
    indicator as often as the data, f = p, dropping the coupling lowers the mean log-likelihood by just as much.
    """
    return p * strength + torch.log1p(p * torch.expm1(-strength))
