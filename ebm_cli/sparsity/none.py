"""The couplings are those of the model's graph."""

from torch import Tensor
from typing_extensions import override

from ebm_cli.registry import register
from ebm_cli.sparsity.base import Seen, Sparsity


@register("sparsity", "none")
class NoSparsity(Sparsity):
    """All couplings of the model's graph."""

    changes = False

    @override
    def due(self, step: int) -> bool:
        """Never."""
        return False

    @override
    def chosen(self, seen: Seen) -> Tensor:
        """Those that there are."""
        return seen.active
