"""Sampling from a deep machine: Gibbs steps in its top RBM, then one pass downwards."""

from typing import Annotated, NamedTuple

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.deep import Deep
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.space import Binary


class UpDownState(NamedTuple):
    """Visible units (chains, *shape), and those of the top RBM's visible side that they were made from, if known."""

    x: Tensor
    top: Tensor | None


@register("sampler", "up_down")
class UpDown(Sampler[Deep, UpDownState]):
    """`sweeps` block Gibbs steps in the top RBM, then one pass downwards by p(x_i | x_{i+1}) (Hinton et al. 2006).

    Chains stay in the top RBM from one step to the next, so that x comes to be distributed as the network. Only where
    they begin, at given x, do they come up by recognition, which is no draw from the posterior: the kernel from x to x
    does not leave p invariant, and chains that begin anew at each step (clamped ones) only approximate it. The top of a
    deep Boltzmann machine has the visible units on its own visible side, so that nothing goes down.
    """

    sweeps: Annotated[int, Field(ge=1)]

    spaces = (Binary,)
    needs = (Deep,)

    @property
    @override
    def leaves_invariant(self) -> bool:
        """As a kernel from x to x it is not."""
        return False

    @override
    def init(self, model: Deep, x: Tensor) -> UpDownState:
        """Positions; the way up is drawn in the first step."""
        return UpDownState(x, None)

    @override
    def step(self, model: Deep, state: UpDownState, key: AnyKey) -> tuple[UpDownState, Info]:
        top = model.recognise(state.x, key.fold("recognise"))[-1] if state.top is None else state.top
        for i in range(self.sweeps):
            top = model.top.sweep(top, key.fold("sweep", i), backwards=False)
        return UpDownState(model.generate(top, key.fold("generate")), top), {}
