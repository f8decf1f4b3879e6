"""Multilayer perceptrons as energies of bits, spins and categories."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import ModelSpec
from ebm_cli.model.mlp import MLP, Widths, size_of
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Binary, Categorical, Discrete, Space, Spin


class DiscreteMLP(MLP):
    """E(x) = -f(u) + E_base(x), f layers of `widths` with SiLU between them; it starts at f = 0.

    u are spins of bits (2 x - 1), spins as they are, categories one-hot. E_base is the energy of independent sites with
    the probabilities `mean` (*shape), fixed and normalised: -x.field - constant.
    """

    field: Tensor
    constant: Tensor

    def __init__(self, space: Discrete, widths: list[int], mean: Tensor, key: Key) -> None:
        super().__init__(space, widths, 2.0 if isinstance(space, Binary) else 1.0, None, mean, key)
        field, constant = _independent(space, mean.flatten())
        self.register_buffer("field", field)
        self.register_buffer("constant", constant)

    @override
    def _entered(self, v: Tensor) -> Tensor:
        return 2 * v - 1 if isinstance(self.space, Binary) else v

    @override
    def _beside(self, v: Tensor) -> Tensor:
        return -(v @ self.field) - self.constant

    @override
    def _slope_beside(self, v: Tensor) -> Tensor:
        return -self.field


def _independent(space: Discrete, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Field and constant of independent sites: log p(x) = x.field + constant."""
    if isinstance(space, Categorical):
        return mean.log(), mean.new_zeros(())
    bits = (1 - mean).log().sum()
    return (mean.logit(), bits) if isinstance(space, Binary) else (mean.logit() / 2, bits + mean.logit().sum() / 2)


@register("model", "mlp_discrete")
class DiscreteMLPSpec(ModelSpec):
    """Multilayer perceptron beside independent sites, at the data's means or uniform."""

    widths: Widths
    base: Literal["mean", "uniform"]
    clip: Annotated[float, Field(gt=0, lt=0.5)]

    builds = DiscreteMLP
    spaces = (Binary, Spin, Categorical)

    @override
    def parameters(self, space: Space) -> int:
        """Of the layers and their biases."""
        return size_of(space, self.widths)

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> DiscreteMLP:
        """Weights uniform within 1 / sqrt(inputs), those of the last layer 0."""
        assert isinstance(space, Discrete)
        kept = self.kept(space, mean) if self.base == "mean" else torch.full_like(mean, 1 / space.values)
        return DiscreteMLP(space, self.widths, kept, key)

    def kept(self, space: Discrete, mean: Tensor) -> Tensor:
        """The mean away from the bounds by `clip`."""
        if isinstance(space, Categorical):
            raised = mean.clamp_min(self.clip)
            return raised / raised.sum(-1, keepdim=True)
        return mean.clamp(self.clip, 1 - self.clip)
