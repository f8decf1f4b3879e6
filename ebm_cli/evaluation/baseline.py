"""Independent units fitted to the training rows: the yardstick beside every likelihood.

No pair of sites is coupled in them, so a model that is no better has learned the means of its data and nothing else.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ebm_cli.dataset.base import Data, Split
from ebm_cli.dataset.moments import Histogram, moments_of, some_rows
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.table import Numbers
from ebm_cli.model.base import Normalised
from ebm_cli.model.exponential_family import product
from ebm_cli.model.families import Family
from ebm_cli.space import Box, Counts, Discrete, Mixed, Words

_ROWS_AT_ONCE = 1000


def independent(subject: Subject, x: Tensor | Split) -> Tensor | None:
    """log p (rows,) float64 nats of rows x, (rows, *shape) or of a split, under independent units.

    They have the smoothed mean of the training rows (`Data.smoothed_mean`); of a word and of the words of a document
    the smoothed frequencies. Real numbers of the line are normal with the means and standard deviations of the
    training rows, those of a box have their histograms.

    None where nothing of the kind has the support of the model, or where its density is infinite.
    """
    data, space = subject.data, subject.model.space
    pieces = x.split(_ROWS_AT_ONCE) if isinstance(x, Tensor) else x.pieces(_ROWS_AT_ONCE)
    if isinstance(space, Words):
        log_of_words = data.smoothed_mean().double().log()
        return torch.cat([log_of_words[rows[:, -1].long()] for rows in pieces])
    if isinstance(space, Counts):
        log_of_words = data.smoothed_mean().double().log()
        return torch.cat([rows.double() @ log_of_words for rows in pieces])
    log_p = None if isinstance(subject.model, Family) else _fitted(data)
    return None if log_p is None else torch.cat([log_p(rows) for rows in pieces])


def _fitted(data: Data) -> Callable[[Tensor], Tensor] | None:
    """Of rows (rows, *shape) the log p (rows,), or None where a real number is the same in all training rows."""
    if isinstance(data.space, Discrete):
        return _normalised(product(data.space, data.smoothed_mean()))
    rows = some_rows(data.train)
    mean, std = moments_of(rows)
    if isinstance(data.space, Mixed):
        mean, std = data.smoothed_mean().cpu(), std[[*data.space.reals]]
    if not (std > 0).all():
        return None
    return (
        Histogram(rows, data.space).log_p
        if isinstance(data.space, Box)
        else _normalised(product(data.space, mean, std))
    )


def _normalised(units: Normalised) -> Callable[[Tensor], Tensor]:
    @torch.no_grad()
    def log_p(rows: Tensor) -> Tensor:
        return -units.double().to(rows.device).energy(rows.double()) - units.log_z()

    return log_p


def above_independent(name: str, subject: Subject, x: Tensor | Split, log_p: Tensor) -> dict[str, float]:
    """`<name>/above_independent`, the mean over rows x of log p (rows,) minus that of independent units, nats, and
    `<name>/above_independent_error`, its standard error; nothing where there are no such units.

    The rows are paired: what makes a row likely under both is not in the error.
    """
    beside = independent(subject, x)
    return {} if beside is None else compared(name, log_p, beside)


def compared(name: str, log_p: Tensor, beside: Tensor) -> dict[str, float]:
    """The same of log p of rows under a model and under independent units, (rows,) each."""
    difference = log_p.double() - beside
    found = {f"{name}/above_independent": difference.mean().item()}
    if len(difference) > 1:
        found[f"{name}/above_independent_error"] = difference.std().item() / len(difference) ** 0.5
    return found


def lines(values: Numbers, split: str) -> dict[str, str]:
    """Its line, beside the likelihoods; how far these are above it, the verdict says."""
    values.leave(*(key for key in values if key.endswith(("/above_independent", "/above_independent_error"))))
    key = "baseline/independent"
    return {f"independent units ({split})": f"{values[key]:.2f} nats"} if key in values else {}
