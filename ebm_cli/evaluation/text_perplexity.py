"""Perplexity of windows of text, by the bracket of their likelihood, beside word frequencies and an n-gram model."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.dataset.base import Data, Split
from ebm_cli.evaluation.base import Result, Subject
from ebm_cli.evaluation.log_likelihood import LogLikelihood
from ebm_cli.evaluation.table import Numbers
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Categorical
from ebm_cli.yardstick.kneser_ney import KneserNey

_OURS, _THEIRS = "text_perplexity/", "log_likelihood/"


@register("evaluation", "text_perplexity")
class TextPerplexity(LogLikelihood):
    """exp(-mean log p(x) / D) of held-out windows x of D words, between the ends of the bracket of log Z.

    log p and the bracket are those of `evaluation=log_likelihood`, with its keys. Beside it, on the same rows,
    `unigram`: words independent, as frequent as in the training rows, smoothed; and `n_gram`: each word after those of
    the window before it, `order` - 1 at most, by interpolated Kneser-Ney smoothing (`yardstick/kneser_ney.py`).
    `beside_n_gram` is log(perplexity / n-gram's), nats per word: above 0 the n-gram model is better.
    """

    order: Annotated[int, Field(ge=2)]

    standing = 5
    compared = ("text_perplexity/perplexity", "text_perplexity/width")
    reports = (
        *(name.replace(_THEIRS, _OURS) for name in LogLikelihood.reports),
        *(f"{_OURS}{name}" for name in ("perplexity", "perplexity_low", "perplexity_high", "unigram_perplexity")),
        *(f"{_OURS}{name}" for name in ("n_gram_perplexity", "beside_n_gram")),
    )

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """All three in one line."""
        names = ("perplexity", "perplexity_low", "perplexity_high", "unigram_perplexity", "n_gram_perplexity")
        if not values.has(*(f"{_OURS}{name}" for name in names)):
            return {}
        middle, low, high, unigram, n_gram = (values[f"{_OURS}{name}"] for name in names)
        said = f"{middle:.1f} a word, bracket [{low:.1f}, {high:.1f}]; unigram {unigram:.1f}, n-gram {n_gram:.1f}"
        return {f"perplexity ({split})": said}

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Words in a row are numbers of one alphabet."""
        space = model.space
        if not isinstance(space, Categorical) or len(space.site_shape) != 1:
            return "is of windows of text or other sequences of categories; see dataset=text_windows"
        return super().refusal(model, sampler)

    @override
    def refusal_of_data(self, data: Data) -> str | None:
        """Rows hold whole n-grams."""
        if self.order > data.space.sites:
            return f"order = {self.order}: the windows have {data.space.sites} words; give at most that"
        return None

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`text_perplexity/...`."""
        found = _renamed(super().evaluate(subject))
        if f"{_OURS}log_likelihood" not in found.metrics:
            return found
        words = subject.data.space.sites
        unigram, n_gram = self._beside(subject.data, numbers_of(subject.held_out))
        log_p = found.metrics[f"{_OURS}log_likelihood"]
        others = {
            **_perplexities(found.metrics, words),
            "unigram_perplexity": math.exp(-unigram / words),
            "n_gram_perplexity": math.exp(-n_gram / words),
            "beside_n_gram": (n_gram - log_p) / words,
        }
        return replace(found, metrics={**found.metrics, **{f"{_OURS}{name}": value for name, value in others.items()}})

    def _beside(self, data: Data, rows: NDArray[np.int64]) -> tuple[float, float]:
        """Mean log p of rows by frequencies of words, and by n-grams, of the training rows."""
        space = data.space
        assert isinstance(space, Categorical)
        train = numbers_of(data.train)
        count = np.bincount(train.flatten(), minlength=space.values) + 1.0
        unigram = np.log(count / count.sum())[rows].sum(1).mean()
        return float(unigram), float(KneserNey(train, self.order, space.values).log_prob(rows).mean())


def numbers_of(split: Split) -> NDArray[np.int64]:
    """The rows of a split of categories as they are stored, (n, D)."""
    stored = split.stored
    assert isinstance(stored, Tensor)
    found = stored.flatten(1).cpu().numpy().astype(np.int64)
    return found


def _perplexities(metrics: Mapping[str, float], words: int) -> dict[str, float]:
    """By the estimate of log Z, and by the ends of its bracket."""
    log_p, log_z = metrics[f"{_OURS}log_likelihood"], metrics[f"{_OURS}log_z"]
    ends = {"": log_z, "_low": metrics[f"{_OURS}log_z_low"], "_high": metrics[f"{_OURS}log_z_high"]}
    return {f"perplexity{end}": math.exp((at - log_z - log_p) / words) for end, at in ends.items()}


def _renamed(found: Result) -> Result:
    """What the parent found and said, as found and said by this evaluation."""
    name, own = _THEIRS.strip("/"), _OURS.strip("/")
    return replace(
        found,
        metrics={key.replace(_THEIRS, _OURS, 1): value for key, value in found.metrics.items()},
        by_row={key.replace(_THEIRS, _OURS, 1): value for key, value in found.by_row.items()},
        warnings=tuple(line.replace(f"evaluation.{name}", f"evaluation.{own}") for line in found.warnings),
        said=tuple(line.replace(f"{name}:", f"{own}:", 1) for line in found.said),
    )
