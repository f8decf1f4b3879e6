"""Draws of a policy that was trained beside a model."""

from typing import NamedTuple

from torch import Tensor
from typing_extensions import override

from ebm_cli.model.policy import PolicyModel
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.space import Binary, Categorical, Spin


class Drawn(NamedTuple):
    """Positions (chains, *shape)."""

    x: Tensor


@register("sampler", "gflownet")
class PolicyDraws(Sampler[PolicyModel, Drawn]):
    """Independent draws of the policy of a run of objective=gflownet: sites filled one by one from nothing.

    They have the law of the policy, which comes to be that of the model as trajectory balance comes to 0.
    """

    spaces = (Binary, Spin, Categorical)
    needs = (PolicyModel,)

    @override
    def init(self, model: PolicyModel, x: Tensor) -> Drawn:
        return Drawn(x)

    @override
    def step(self, model: PolicyModel, state: Drawn, key: AnyKey) -> tuple[Drawn, Info]:
        return Drawn(model.sample(len(state.x), key).to(state.x)), {}
