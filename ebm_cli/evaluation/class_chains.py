"""Whether chains go from class to class: R-hat of what a classifier says of them, and how often that changes."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ebm_cli.evaluation.base import Subject
from ebm_cli.yardstick.classifier import RIGHT, judge, unsure

_ROWS_AT_ONCE = 10_000
_SURE = 0.8  # p of a class from which on a draw is recognised
_SPAN = 500  # steps over which a change of class is looked for


def of_classes(subject: Subject, places: NDArray[Any]) -> tuple[dict[str, float], list[str]]:
    """`of_probabilities` of places (numbers, chains, steps), and doubts of the classifier."""
    by = judge(subject.data, subject.held_out, subject.key.fold("judge"))
    _, chains, steps = places.shape
    rows = torch.from_numpy(places).permute(1, 2, 0).reshape(-1, *subject.model.space.shape).float()
    p = torch.cat([by.probabilities(part) for part in rows.split(_ROWS_AT_ONCE)]).cpu().numpy()
    found = of_probabilities(p.reshape(chains, steps, -1).transpose(2, 0, 1))
    return found, [unsure(by.accuracy)] if by.accuracy < RIGHT else []


def of_probabilities(trace: NDArray[Any]) -> dict[str, float]:
    """`chains/...` of p(class | x) along chains, (classes, chains, steps).

    `class_r_hat`: the largest rank-normalised split R-hat over classes; `class_changed`: the share of chains that are
    of another class 500 steps later, or half the steps if these are fewer, a mean over all pairs so far apart;
    `recognised`: the share of all draws of which a class has p > 0.8; `rarest_class`: that of the rarest among these.
    """
    from arviz_stats.base import array_stats

    likeliest, sure = trace.argmax(0), trace.max(0) > _SURE
    span = min(_SPAN, trace.shape[2] // 2)
    shares = np.bincount(likeliest[sure], minlength=len(trace)) / max(1, sure.sum())
    return {
        "chains/class_r_hat": max(float(array_stats.rhat(one, method="rank")) for one in trace),
        "chains/class_changed": float((likeliest[:, span:] != likeliest[:, :-span]).mean()),
        "chains/recognised": float(sure.mean()),
        "chains/rarest_class": float(shares.min()),
    }
