"""Block Gibbs sampling: sites that are independent given the rest are drawn together."""

from dataclasses import replace
from typing import NamedTuple, Self

from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import Blocked
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.space import Binary, Categorical, Counts, Mixed, Real, Spin


class BlockGibbsState(NamedTuple):
    """Positions; hidden units are drawn afresh in every step."""

    x: Tensor


@register("sampler", "block_gibbs")
class BlockGibbs(Sampler[Blocked, BlockGibbsState]):
    """Every block once given the others, every chain at once.

    Bipartite models: h ~ p(h | v), then v ~ p(v | h) (Hinton 2002), reversible as a kernel on v; documents keep their
    lengths. Graphs: one colour
    after the other (a lattice's checkerboard); `backwards` visits them in reverse, the time reversal of the step.
    """

    backwards: bool

    spaces = (Binary, Spin, Categorical, Real, Mixed, Counts)
    compiles = takes_sparse = True
    needs = (Blocked,)

    @override
    def init(self, model: Blocked, x: Tensor) -> BlockGibbsState:
        return BlockGibbsState(x)

    @override
    def step(self, model: Blocked, state: BlockGibbsState, key: AnyKey) -> tuple[BlockGibbsState, Info]:
        return BlockGibbsState(model.sweep(state.x, key, backwards=self.backwards)), {}

    @override
    def reversal(self) -> Self:
        """The opposite order of blocks."""
        return replace(self, backwards=not self.backwards)
