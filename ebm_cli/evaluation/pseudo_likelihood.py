"""Pseudo-likelihood (Besag 1975): cheap, needs no partition function, and is not the likelihood."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.evaluation.base import Evaluation, Result, Subject, standard_error
from ebm_cli.evaluation.baseline import above_independent
from ebm_cli.evaluation.table import Numbers, plus_minus
from ebm_cli.model.base import CategoricalEnergySites, EnergyModel, EnergySites, TwoValuedSites
from ebm_cli.registry import register
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Discrete

_MANY, _FEW = 1000, 200


@register("evaluation", "pseudo_likelihood")
class PseudoLikelihood(Evaluation):
    """Mean of sum_i log p(x_i | x without i) over at most `points` rows, every site exactly; nats per example.

    `points` null: 1000, or 200 where every conditional takes energies of the model, as of networks. Which rows is a
    random choice, the same for every model and step; `rows` says how many, and `standard_error` is of the mean over
    them. Of independent units it is their log-likelihood.
    """

    while_training: bool
    points: Annotated[int, Field(ge=1)] | None

    standing = 40
    reports = (
        *("pseudo_likelihood/log_pseudo_likelihood", "pseudo_likelihood/standard_error", "pseudo_likelihood/rows"),
        *("pseudo_likelihood/above_independent", "pseudo_likelihood/above_independent_error"),
    )

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The log-pseudo-likelihood, and of how many rows."""
        if not values.has("pseudo_likelihood/log_pseudo_likelihood", "pseudo_likelihood/rows"):
            return {}
        found, rows = plus_minus(values, "pseudo_likelihood", "log_pseudo_likelihood"), values["pseudo_likelihood/rows"]
        return {f"log-pseudo-likelihood ({split})": f"{found} nats, {rows:.0f} rows"}

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Conditionals are known for sites of finitely many values."""
        return None if isinstance(model.space, Discrete) else f"conditionals of {model.space.name} sites are not known"

    @property
    @override
    def required(self) -> bool:
        """It says nothing that a real-valued model lacks elsewhere."""
        return False

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`pseudo_likelihood/log_pseudo_likelihood`, its standard error and the number of rows."""
        split, key = subject.held_out, rng.stream(0, "pseudo_likelihood")
        order = rng.permutation(len(split), key).to(split.stored.device)
        first = split.rows(order[:1], key.fold("binarize"))
        chosen = order[: self.points or _affordable(subject.model, first)]
        x = split.rows(chosen, key.fold("binarize"))
        found = log_pseudo_likelihood(subject.model, x)
        metrics = {
            "pseudo_likelihood/log_pseudo_likelihood": found.mean().item(),
            **standard_error("pseudo_likelihood", found),
            **above_independent("pseudo_likelihood", subject, x, found),
            "pseudo_likelihood/rows": float(len(x)),
        }
        name = "pseudo_likelihood/log_pseudo_likelihood"
        return Result(metrics, by_row={name: found}, index={name: chosen})


def _affordable(model: EnergyModel, x: Tensor) -> int:
    """How many rows, by what a conditional costs."""
    return _FEW if isinstance(model.sites(x), EnergySites | CategoricalEnergySites) else _MANY


def log_pseudo_likelihood(model: EnergyModel, x: Tensor) -> Tensor:
    """sum_i log p(x_i | x without i) of each row, (rows,) float64."""
    sites = model.sites(x)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for site in range(model.space.sites):
        total += sites.log_conditional(site)
    return total


def expected_log_pseudo_likelihood(model: EnergyModel, x: Tensor) -> Tensor:
    """sum_i x_i log p(1 | rest) + (1 - x_i) log p(0 | rest) of each row x (rows, sites) in [0, 1], (rows,) float64.

    Of bits the log-pseudo-likelihood; numbers between are probabilities of a 1, and the rest is taken as it is.
    """
    sites = model.sites(x)
    assert isinstance(sites, TwoValuedSites)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for site in range(model.space.sites):
        logit, one = sites.logit(site).double(), x[:, site].double()
        total += one * logsigmoid(logit) + (1 - one) * logsigmoid(-logit)
    return total
