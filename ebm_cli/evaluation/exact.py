"""Log-likelihood by enumeration."""

import copy
import math
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli.dataset.base import Truth
from ebm_cli.evaluation.base import (
    Evaluation,
    Result,
    Subject,
    bits_of_levels,
    learned_log_z,
    likelihoods,
    standard_error,
)
from ebm_cli.evaluation.baseline import above_independent
from ebm_cli.evaluation.table import Numbers, plus_minus
from ebm_cli.log_z import enumeration
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.replicated_softmax import ReplicatedSoftmax
from ebm_cli.registry import register
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Counts, TwoValued

_ROWS_AT_ONCE = 1000


@register("evaluation", "exact")
class Exact(Evaluation):
    """log p(x) = -E(x) - log Z with log Z summed over all states in float64, for models small enough.

    Nats per example, the standard error of the mean over the split, and for binary data bits per dimension. Where the
    law of the data is known, KL(data || model) = sum_x p(x) (log p(x) - log p_model(x)) in nats too.

    Of documents log p is that of the words in their order, given how many there are, and
    `exact/perplexity` = exp(-mean of log p / D) of those with D > 0 words.
    """

    while_training: bool
    if_too_large: Literal["refuse", "skip"]

    of_counts = True

    standing = 10
    compared = ("exact/log_likelihood", "exact/perplexity")
    reports = likelihoods(
        "exact", "log_z", "learned_log_z", "learned_log_z_error", "kl", "bits_per_dimension", "perplexity"
    )

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The log-likelihood, and the perplexity of documents."""
        found = {}
        if "exact/log_likelihood" in values:
            found[f"log-likelihood ({split}), exact"] = f"{plus_minus(values, 'exact')} nats"
        if "exact/perplexity" in values:
            found[f"perplexity ({split}), exact"] = f"{values['exact/perplexity']:.1f}"
        return found

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """The size, if it is too large."""
        return enumeration.refusal(model)

    @property
    @override
    def required(self) -> bool:
        """`if_too_large: refuse`."""
        return self.if_too_large == "refuse"

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`exact/log_likelihood`, `exact/log_z` and more."""
        model = copy.deepcopy(subject.model).double()
        if isinstance(model.space, Counts):
            return _of_documents(model, subject)
        log_z = enumeration.log_z(model)
        log_p = -torch.cat([model.energy(x.double()) for x in subject.held_out.pieces(_ROWS_AT_ONCE)]) - log_z
        metrics = {
            "exact/log_likelihood": log_p.mean().item(),
            **standard_error("exact", log_p),
            **above_independent("exact", subject, subject.held_out, log_p),
            "exact/log_z": log_z.item(),
            **learned_log_z("exact", subject, log_z.item()),
            **_divergence(model, subject.data.truth, log_z.item()),
            **bits_of_levels("exact", subject.held_out, log_p.mean().item()),
        }
        return Result(metrics, by_row={"exact/log_likelihood": log_p})


def _of_documents(model: EnergyModel, subject: Subject) -> Result:
    """`exact/log_likelihood` and `exact/perplexity` of word counts."""
    assert isinstance(model, ReplicatedSoftmax)
    pieces = subject.held_out.pieces(_ROWS_AT_ONCE)
    energy, length = map(torch.cat, zip(*((model.energy(x.double()), x.double().sum(1)) for x in pieces), strict=True))
    lengths, which = length.unique(return_inverse=True)
    log_p = -energy - enumeration.log_z_of_lengths(model, lengths)[which]
    per_word = log_p[length > 0] / length[length > 0]
    metrics = {
        "exact/log_likelihood": log_p.mean().item(),
        **standard_error("exact", log_p),
        **above_independent("exact", subject, subject.held_out, log_p),
        "exact/perplexity": math.exp(-per_word.mean().item()),
    }
    return Result(metrics, by_row={"exact/log_likelihood": log_p})


def _divergence(model: EnergyModel, truth: Truth, log_z: float) -> dict[str, float]:
    """`exact/kl` over all states, where the law of the data is known."""
    space = model.space
    if truth.law is None or not isinstance(space, TwoValued):
        return {}
    law = truth.law

    def terms(x: Tensor) -> Tensor:
        log_p = law(space.bits(x))
        return log_p.exp() * (log_p + model.energy(x) + log_z)

    return {"exact/kl": enumeration.total(model, terms).item()}
