"""A classifier trained as an energy-based model of its inputs too (Grathwohl et al. 2020)."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import Classifier, EnergyModel
from ebm_cli.objective.base import Batch, Gradient, Objective
from ebm_cli.objective.likelihood import contrast, gap_bound
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.space import Binary, Box, Categorical, Real, Spin


@register("objective", "jem")
class JEMObjective(Objective):
    """loss = mean -log p(y | x) + w (mean E(x) - mean E(x_neg) + l (mean E(x)^2 + mean E(x_neg)^2)).

    log p(x, y) = log p(y | x) + log p(x) (Grathwohl et al. 2020, eq. 8), the second term by chains. w =
    `likelihood_weight` (1 there; 0: cross-entropy alone, and no chains), l = `energy_l2`. The hybrid of Larochelle &
    Bengio 2008 (sect. 3.3) with alpha of generative training is w = alpha / (1 + alpha). A row of label -1, whose class
    is not known, has the second term alone: with w = 1 the likelihood of what is known (their sect. 3.4). Means of the
    energies that differ by more than `max_gap` nats stop the run.
    """

    likelihood_weight: Annotated[float, Field(ge=0, le=1)]
    energy_l2: Annotated[float, Field(ge=0)]
    max_gap: Annotated[float, Field(gt=0)]

    spaces = (Binary, Spin, Categorical, Real, Box)
    requires = (Classifier,)

    @property
    @override
    def negatives(self) -> bool:
        """Chains, unless they weigh nothing."""
        return self.likelihood_weight > 0

    @property
    @override
    def bounds(self) -> dict[str, tuple[float, str]]:
        """The gap between the mean energies."""
        return gap_bound(self.max_gap) if self.negatives else {}

    @override
    def refusal(self) -> str | None:
        """The energy penalty is part of the likelihood's loss."""
        if self.energy_l2 and not self.likelihood_weight:
            return f"objective.energy_l2 = {self.energy_l2}: objective.likelihood_weight=0 has no chains; set it to 0"
        return None

    @property
    @override
    def labelled(self) -> bool:
        """For the cross-entropy."""
        return True

    @torch.no_grad()
    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """One pass over data and negatives together: dE/df_y = -p(y | x), d(-log p(y | x))/df = p(. | x) - 1_y."""
        assert isinstance(model, Classifier)
        assert batch.labels is not None
        x, n = batch.x, len(batch.x)
        logits, pull = model.logits_vjp(x if batch.x_neg is None else torch.cat([x, batch.x_neg]))
        metrics = classified(logits[:n], batch.labels)
        p, known = logits.softmax(1), (batch.labels >= 0).to(logits.dtype)
        loss = metrics["cross_entropy"] * known.mean()
        label = F.one_hot(batch.labels.clamp_min(0), logits.shape[1]).to(p.dtype)
        weight = (p[:n] - label) * known[:, None] / n
        if batch.x_neg is not None:
            energy = -logits.logsumexp(1)
            slope, found = contrast(energy[:n], energy[n:], self.energy_l2)
            loss = loss + self.likelihood_weight * found.pop("loss")
            of_chains = -self.likelihood_weight * slope[:, None] * p
            weight = torch.cat([weight + of_chains[:n], of_chains[n:]])
            metrics |= found
        return Gradient(pull(weight), {"loss": loss, **metrics}, {})


def classified(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """`cross_entropy`, mean -log softmax(logits)_y in nats; `accuracy`, the share of rows whose largest is y's.

    Both of the rows with a label, 0 if there are none.
    """
    known = (labels >= 0).to(logits.dtype)
    share = known / known.sum().clamp_min(1)
    of_label = F.cross_entropy(logits, labels.clamp_min(0), reduction="none")
    return {"cross_entropy": share @ of_label, "accuracy": share @ (logits.argmax(1) == labels).to(logits.dtype)}
