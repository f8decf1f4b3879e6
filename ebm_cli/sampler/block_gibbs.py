"""Block Gibbs sampling of bipartite models: all hidden units given the visible ones, then the reverse."""

from typing import NamedTuple

from torch import Tensor

from ebm_cli.model.base import Bipartite
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.space import Binary


class BlockGibbsState(NamedTuple):
    """Visible units; the hidden ones are drawn afresh in every step."""

    x: Tensor


@register("sampler", "block_gibbs")
class BlockGibbs(Sampler[Bipartite, BlockGibbsState]):
    """h ~ p(h | v), then v ~ p(v | h), every chain at once (Hinton 2002). Reversible as a kernel on v."""

    spaces = (Binary,)
    compiles = True
    needs = (Bipartite,)

    def init(self, model: Bipartite, x: Tensor) -> BlockGibbsState:
        """Positions only."""
        return BlockGibbsState(x)

    def step(self, model: Bipartite, state: BlockGibbsState, key: AnyKey) -> tuple[BlockGibbsState, Info]:
        """One sweep: both layers once."""
        h = model.sample_hidden(state.x, key.fold("hidden"))
        return BlockGibbsState(model.sample_visible(h, key.fold("visible"))), {}
