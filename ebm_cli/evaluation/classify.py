"""How well a classifier knows the classes, and how well it knows what it knows."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from ebm_cli.evaluation.base import Evaluation, Result, Subject
from ebm_cli.model.base import Classifier, EnergyModel
from ebm_cli.objective.jem import classified
from ebm_cli.record import picture
from ebm_cli.registry import register
from ebm_cli.sampler.base import Sampler

_ROWS_AT_ONCE = 1000
_BINS = 15  # as Guo et al. have it


@register("evaluation", "classify")
class Classify(Evaluation):
    """Of p(y | x) = softmax f(x) on the held-out rows that have a label, -1 being none.

    `accuracy`: the share of rows whose label is the most probable; `cross_entropy`: mean -log p(label | x) in nats;
    `calibration_error`: the expected one over 15 bins, see `calibration`.
    """

    while_training: bool

    reports = ("classify/accuracy", "classify/cross_entropy", "classify/calibration_error")

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        return None if isinstance(model, Classifier) else "this model gives no p(y | x), it is not classifying"

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`classify/...` and the reliability diagram; without labels nothing, and that is said."""
        model, labels = subject.model, subject.held_out.labels
        assert isinstance(model, Classifier)
        if labels is None or not (labels != -1).any():
            return Result({}, warnings=("these data have no labels to compare with",))
        known = (labels != -1).nonzero()[:, 0]
        labels = labels[known]
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= model.classes:
            said = f"labels go from {low} to {high}, the classes of the model from 0 to {model.classes - 1}"
            return Result({}, warnings=(said,))
        logits = torch.cat([model.logits(part) for part in subject.held_out.pieces(_ROWS_AT_ONCE)]).double()[known]
        numbers = {name: value.item() for name, value in classified(logits, labels).items()}
        confidence, guess = logits.softmax(1).max(1)
        bins = calibration(confidence, guess == labels)
        numbers["calibration_error"] = bins.error
        drawn = reliability(bins)
        return Result(
            {f"classify/{name}": value for name, value in numbers.items()},
            {"reliability": drawn},
            by_row={
                "classify/cross_entropy": -logits.log_softmax(1).gather(1, labels[:, None].long())[:, 0],
                "classify/accuracy": (logits.argmax(1) == labels).double(),
            },
            index=dict.fromkeys(("classify/cross_entropy", "classify/accuracy"), known),
        )


class Calibration(NamedTuple):
    """Bins ((m - 1) / M, m / M] of the confidence: share of the rows in each, their accuracy and mean confidence."""

    share: Tensor  # (bins,), each of these
    accuracy: Tensor  # 0 where a bin has no rows
    confidence: Tensor

    @property
    def error(self) -> float:
        """sum_m share_m |accuracy_m - confidence_m| (Guo et al. 2017, eq. 3)."""
        return (self.share * (self.accuracy - self.confidence).abs()).sum().item()


def calibration(confidence: Tensor, right: Tensor, bins: int = _BINS) -> Calibration:
    """Of guesses made with some confidence in (0, 1], (rows,), some of which are right (rows,) bool."""
    index = (confidence.double() * bins).ceil().long().clamp(1, bins) - 1
    count = torch.bincount(index, minlength=bins).double()
    sums = [torch.bincount(index, value.double(), bins) for value in (right, confidence)]
    accuracy, mean = (total / count.clamp_min(1) for total in sums)
    return Calibration(count / len(index), accuracy, mean)


def reliability(bins: Calibration) -> NDArray[np.uint8]:
    """Accuracy of each bin above its confidence, and how many rows it has (Guo et al. 2017, fig. 1)."""
    accuracy, share = bins.accuracy.cpu().numpy(), bins.share.cpu().numpy()
    n = len(share)
    middle = (np.arange(n) + 0.5) / n
    with picture.axes(1, 2) as drawing:
        left, right = drawing.at[0]
        left.bar(middle, np.where(share > 0, accuracy, 0), 0.9 / n, label="accuracy")
        left.plot([0, 1], [0, 1], "k--", linewidth=1, label="perfect calibration")
        left.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title=f"ECE {bins.error:.3f}")
        left.legend()
        right.bar(middle, share, 0.9 / n)
        right.set(xlabel="confidence", ylabel="share of rows", xlim=(0, 1), ylim=(0, 1))
    return drawing.pixels
