"""Maximum pseudo-likelihood (Besag 1975): conditionals of single sites, so neither chains nor a partition function."""

from typing import Annotated

import torch
from pydantic import Field
from typing_extensions import override

from ebm_cli.model.base import EnergyModel, Gradients
from ebm_cli.objective.base import Batch, Gradient, Objective, penalised, refusal_of_penalties, slopes, some_sites
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.space import Binary, Categorical, Spin, Words


@register("objective", "pseudo_likelihood")
class MaximumPseudoLikelihood(Objective):
    """loss = -mean over rows of sum_i log p(x_i | x without i): consistent, yet not the likelihood.

    Of the word that follows a context it is the likelihood: that word is the only site, and the sum in its
    probability is over the vocabulary (the full softmax).

    `sites`: the sum is over so many sites drawn anew for each update, times D / sites; null: over all. Needed for
    networks, whose conditionals are one energy for each value of each site. `coupling_l1` and `coupling_l2` add
    coupling_l1 * sum |J| and coupling_l2 * sum J^2 over the couplings of models that have some.
    """

    sites: Annotated[int, Field(ge=1)] | None
    coupling_l1: Annotated[float, Field(ge=0)]
    coupling_l2: Annotated[float, Field(ge=0)]

    spaces = (Binary, Spin, Categorical, Words)

    @property
    @override
    def differentiates(self) -> bool:
        return True

    @override
    def refusal_of_model(self, model: type[EnergyModel]) -> str | None:
        """A penalty on couplings needs some."""
        return refusal_of_penalties(model, coupling_l1=self.coupling_l1, coupling_l2=self.coupling_l2)

    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """By automatic differentiation."""
        count = model.space.sites
        chosen = some_sites(model.space, self.sites, key, batch.x.device)
        parameters = dict(model.named_parameters())
        with torch.enable_grad():
            loss = -model.log_conditionals(batch.x, chosen).sum(1).mean() * (count / len(chosen))
            found = slopes(loss, parameters)
        loss = loss.detach()
        return Gradient(found, {"loss": loss}, {})

    @torch.no_grad()
    @override
    def finish(self, model: EnergyModel, gradient: Gradient) -> Gradients:
        return penalised(model, gradient.parameters, self.coupling_l1, self.coupling_l2)
