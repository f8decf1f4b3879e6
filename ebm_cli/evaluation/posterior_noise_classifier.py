"""How well what was trained against noise tells data from it, and how well it knows how well."""

from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.evaluation.base import Evaluation, Result, Subject
from ebm_cli.evaluation.classify import calibration, reliability
from ebm_cli.evaluation.ood import auroc
from ebm_cli.objective.nce import Contrast
from ebm_cli.registry import register


@register("evaluation", "posterior_noise_classifier")
class PosteriorNoiseClassifier(Evaluation):
    """p(datum | x) = sigmoid(G(x)), G(x) = -E(x) - c - log q(x) - log k, on held-out rows and k times as many of noise.

    q, c and k are those of the objective that told data from noise (nce, negative_sampling and what is made like them).
    `accuracy`: the share of rows on the right side of one half, beside that of always saying noise;
    `cross_entropy`: mean -log p of what a row is, nats; `auroc`: P(G of a held-out row > G of noise);
    `calibration_error`: the expected one, as in classify. Where the model has come to be the density of the data, p
    is calibrated.
    """

    while_training: bool
    rows: Annotated[int, Field(ge=1)]

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`posterior_noise_classifier/...` and the reliability diagram; without a noise nothing, and that is said."""
        contrast = subject.auxiliary
        if not isinstance(contrast, Contrast):
            return Result({}, warnings=("this run was not trained against noise (objective=nce and the like)",))
        x = subject.some_rows(self.rows)
        noise = contrast.noise.beside(x, contrast.ratio, subject.key.fold("noise")).to(x.dtype)
        logits = [contrast.logits(subject.model.energy(part), part).double() for part in (x, noise)]
        numbers = {**told(*logits), "accuracy_by_chance": contrast.ratio / (1 + contrast.ratio)}
        right = torch.cat([logits[0] > 0, logits[1] <= 0])
        bins = calibration(torch.cat(logits).abs().sigmoid(), right)
        numbers["calibration_error"] = bins.error
        metrics = {f"posterior_noise_classifier/{name}": value for name, value in numbers.items()}
        return Result(metrics, {"posterior_noise_classifier": reliability(bins)})


def told(data: Tensor, noise: Tensor) -> dict[str, float]:
    """`accuracy`, `cross_entropy` and `auroc` of the log-odds of data and of noise."""
    right = np.mean(torch.cat([data > 0, noise <= 0]).cpu().numpy())
    loss = -torch.cat([F.logsigmoid(data), F.logsigmoid(-noise)]).mean().item()
    return {"accuracy": float(right), "cross_entropy": loss, "auroc": auroc(data, noise)}
