"""Diffusive classification with classes: a leveled model tells from which level of noise and which class a row is."""

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import Gradients
from ebm_cli.model.levels import Leveled, LeveledClassifier
from ebm_cli.objective.base import Batch, Metrics
from ebm_cli.objective.denoising import Noisy, off_noise
from ebm_cli.objective.diffusive_classification import DiffusiveClassification
from ebm_cli.objective.jem import classified
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.space import Real


@register("objective", "level_jem")
class LevelJEM(DiffusiveClassification):
    """-log p(k, y | x_k) at the levels of noise, and `denoising` times the loss of denoising with E(x, k, y).

    A row x_k of class y at a level k is to be told from all classes at `levels` - 1 other levels j, and from the others
    at its own, by p(k, y | x) = exp(-E(x, k, y)) / sum_j sum_c exp(-E(x, j, c)): log p(k | x), which is that of
    `objective=diffusive_classification`, and log p(y | x_k), the cross-entropy of JEM (Grathwohl et al. 2020, eq. 8) at
    every level. Least where E(x, k, y) = -log p_k(x, y) + c with one constant c. A row whose class is not known, -1,
    has p(k | x) alone, and the slope of E(x, k). `cross_entropy` and `class_accuracy` are of p(y | x_k).
    """

    spaces = (Real,)
    requires = (LeveledClassifier,)
    without_labels = "diffusive_classification"

    @property
    @override
    def labelled(self) -> bool:
        """For the classes."""
        return True

    @override
    def denoised(self, model: Leveled, batch: Batch, noisy: Noisy) -> Tensor:
        """mean |r s dE(x_k, k, y)/dx - z|^2 / D, with its graph."""
        assert isinstance(model, LeveledClassifier)
        _, slope = model.slope_of(noisy.x, noisy.level, among(batch.labels, model.classes))
        return off_noise(model, noisy, slope)

    @override
    def told_apart(self, model: Leveled, batch: Batch, noisy: Noisy, key: AnyKey) -> tuple[Metrics, Gradients]:
        """mean -log p(k, y | x_k), and the gradient: sum_jc (q(j, c) - p(j, c | x)) dE(x, j, c), q the row's own."""
        assert isinstance(model, LeveledClassifier)
        assert batch.labels is not None
        rows, level = self.compared(model, batch, noisy, key)
        n, count = level.shape
        joint, pull = model.joint_vjp_at(rows, level.flatten())
        log_p = (-joint.reshape(n, count * model.classes)).log_softmax(1).reshape(n, count, model.classes)
        known = log_p[:, 0].masked_fill(~among(batch.labels, model.classes), -torch.inf)
        own = F.pad(known.softmax(1)[:, None], (0, 0, 0, count - 1))
        of_class = classified(log_p[:, 0], batch.labels)
        metrics = {
            "classification_loss": -known.logsumexp(1).mean(),
            "accuracy": (log_p.logsumexp(2).argmax(1) == 0).to(log_p).mean(),
            "cross_entropy": of_class["cross_entropy"],
            "class_accuracy": of_class["accuracy"],
        }
        return metrics, pull(((own - log_p.exp()) / n).reshape(n * count, model.classes))


def among(labels: Tensor | None, classes: int) -> Tensor:
    """Which classes a row may be of, (batch, classes) bool: its own, or all where it is not known."""
    assert labels is not None
    return (labels[:, None] == torch.arange(classes, device=labels.device)) | (labels[:, None] < 0)
