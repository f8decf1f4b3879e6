"""Conditional noise-contrastive estimation (Ceylan & Gutmann 2018): data against noise made from them."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from typing_extensions import override

from ebm_cli.model.base import EnergyModel
from ebm_cli.objective.base import Batch, Gradient, Objective
from ebm_cli.objective.copies import beside_copies
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.metropolis import proposed
from ebm_cli.space import Binary, Box, Categorical, Discrete, Real, Space, Spin


@register("objective", "conditional_nce")
class ConditionalNCE(Objective):
    """loss = 2 mean_ij log(1 + exp(-G_ij)), G_ij = log p(x_i) - log p(y_ij) = E(y_ij) - E(x_i).

    y_ij, j = 1 to `copies`, is noise made from x_i by the proposals of sampler=metropolis, whose density cancels in G
    as p(y | x) = p(x | y): real data + `noise_scale` * z, z standard normal, reflected at the walls of a box; of
    discrete data 1 to `flips` sites with another value. Where data and noise cannot be told apart the loss is 2 log 2;
    as the noise gets smaller the estimate becomes that of score matching (Ceylan & Gutmann 2018, sec. 3).
    """

    noise_scale: Annotated[float, Field(gt=0)]
    flips: Annotated[int, Field(ge=1)]
    copies: Annotated[int, Field(ge=1)]

    spaces = (Binary, Spin, Categorical, Real, Box)

    @property
    @override
    def places(self) -> int:
        return 1 + self.copies

    @override
    def refusal_of_space(self, space: Space) -> str | None:
        """There are no more sites to flip than there are."""
        if isinstance(space, Discrete) and self.flips > space.sites:
            return f"objective.flips = {self.flips}: the data have {space.sites} sites; give at most that"
        return None

    @torch.no_grad()
    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """One pass over data and noise; `accuracy` is the share of pairs whose datum has the lower energy."""
        key = key.after(batch.first).spread(self.copies).fold("noise")
        y = proposed(model.space, batch.x.repeat_interleave(self.copies, 0), key, self.flips, self.noise_scale)
        difference, pull, metrics = beside_copies(model, batch.x, y)
        metrics = {
            "loss": 2 * F.softplus(difference).mean(),
            "accuracy": (difference < 0).to(y.dtype).mean(),
            **metrics,
        }
        return Gradient(pull(2 * difference.sigmoid() / difference.numel()), metrics, {})
