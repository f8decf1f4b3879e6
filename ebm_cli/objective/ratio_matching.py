"""Ratio matching (Hyvarinen 2007): score matching's counterpart for bits, without chains or a partition function."""

from typing import Annotated

import torch
from pydantic import Field
from typing_extensions import override

from ebm_cli.model.base import EnergyModel
from ebm_cli.objective.base import Batch, Gradient, Objective, slopes, some_sites
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.space import Binary, Spin


@register("objective", "ratio_matching")
class RatioMatching(Objective):
    """loss = mean over rows of sum_i g(p(x) / p(x with i flipped))^2, g(u) = 1 / (1 + u) (Hyvarinen 2007, eq. 17).

    Since g(p(x) / p(x with i flipped)) = 1 - p(x_i | x without i), that is the squared error of the conditionals, where
    pseudo-likelihood has their logarithm. `sites`: the sum is over so many sites drawn anew for each update, times
    D / sites; null: over all. Needed for networks, whose conditionals are one energy for each value of each site.
    """

    sites: Annotated[int, Field(ge=1)] | None

    spaces = (Binary, Spin)

    @property
    @override
    def differentiates(self) -> bool:
        return True

    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """By automatic differentiation; `conditional` is the mean of p(x_i | x without i)."""
        count = model.space.sites
        chosen = some_sites(model.space, self.sites, key, batch.x.device)
        parameters = dict(model.named_parameters())
        with torch.enable_grad():
            wrong = -model.log_conditionals(batch.x, chosen).expm1()
            loss = wrong.square().sum(1).mean() * (count / len(chosen))
            found = slopes(loss, parameters)
        metrics = {"loss": loss.detach(), "conditional": 1 - wrong.detach().mean()}
        return Gradient(found, metrics, {})
