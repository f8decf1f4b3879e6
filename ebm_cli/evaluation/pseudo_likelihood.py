"""Pseudo-likelihood (Besag 1975): cheap, needs no partition function, and is not the likelihood."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ebm_cli import rng
from ebm_cli.evaluation.base import Evaluation, Result, Subject
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Discrete


@register("evaluation", "pseudo_likelihood")
class PseudoLikelihood(Evaluation):
    """Mean of sum_i log p(x_i | x without i) over at most `points` rows, every site exactly; nats per example."""

    while_training: bool
    points: Annotated[int, Field(ge=1)]

    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Conditionals are known for sites of finitely many values."""
        return None if isinstance(model.space, Discrete) else f"conditionals of {model.space.name} sites are not known"

    @property
    def required(self) -> bool:
        """It says nothing that a real-valued model lacks elsewhere."""
        return False

    @torch.no_grad()
    def evaluate(self, subject: Subject) -> Result:
        """`pseudo_likelihood/log_pseudo_likelihood`."""
        split, key = subject.held_out, rng.stream(0, "pseudo_likelihood")
        chosen = rng.permutation(len(split), key)[: self.points].to(split.grey.device)
        x = split.rows(chosen, key.fold("binarize"))
        return Result({"pseudo_likelihood/log_pseudo_likelihood": log_pseudo_likelihood(subject.model, x)})


def log_pseudo_likelihood(model: EnergyModel, x: Tensor) -> float:
    """Mean over rows of sum_i log p(x_i | x without i)."""
    sites = model.sites(x)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for site in range(model.space.sites):
        total += sites.log_conditional(site)
    return total.mean().item()
