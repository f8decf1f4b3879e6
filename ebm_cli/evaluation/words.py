"""How well a model predicts the words of held-out text, how far it is from normalised, and what words are near."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.dataset.base import Data
from ebm_cli.dataset.text import START, UNKNOWN
from ebm_cli.evaluation.base import Evaluation, Result, Subject, likelihoods, standard_error
from ebm_cli.evaluation.baseline import compared
from ebm_cli.model.base import Conditional, EnergyModel
from ebm_cli.model.log_bilinear import LogBilinear
from ebm_cli.registry import register
from ebm_cli.sampler.base import Sampler

_AT_ONCE = 2**24  # scores
_COMMON = 100  # words so frequent that they stand beside any other


@register("evaluation", "words")
class WordPrediction(Evaluation):
    """Of the held-out words given their contexts: perplexity exp(-mean log p(w | context)), by the full softmax.

    Beside it that of the unigram model, the smoothed frequencies of the training words. `log_z` and `log_z_std` are
    mean and standard deviation of log Z(context) = log sum_w exp(-E), 0 and 0 for a model that normalises itself;
    `unnormalised_perplexity` is exp(mean E), what such a model needs no sum over the vocabulary for.

    `near` words of the vocabulary nearest to each of `words` (null: twelve frequent ones) by the cosine of their
    vectors go to words.txt, where the model has vectors. At most `rows` held-out words are measured (null: all).
    """

    while_training: bool
    rows: Annotated[int, Field(ge=1)] | None
    words: list[str] | None
    near: Annotated[int, Field(ge=1)]

    of_words: ClassVar[bool] = True

    compared = ("words/perplexity",)
    reports = likelihoods("words", "perplexity", "unigram_perplexity", "unnormalised_perplexity", "log_z", "log_z_std")

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """There must be words to predict."""
        fits = isinstance(model, Conditional)
        return None if fits else "this model gives no word its probability; a model that does is log_bilinear"

    @override
    def refusal_of_data(self, data: Data) -> str | None:
        """Words to find others near to must be in the vocabulary."""
        missing = [word for word in self.words or () if word not in data.words]
        return f"words has {missing[0]}, which the vocabulary lacks; name others, or null" if missing else None

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`words/perplexity` and the like, and words.txt."""
        model, data = subject.model, subject.data
        assert isinstance(model, Conditional)
        x = subject.held_out.all() if self.rows is None else subject.some_rows(self.rows)
        found = [_measured(model, part) for part in x.split(max(1, _AT_ONCE // model.space.values))]
        log_p, log_z = (torch.cat(column) for column in zip(*found, strict=True))
        unigram = data.smoothed_mean().double().log()[x[:, -1].long()]
        metrics = {
            "log_likelihood": log_p.mean().item(),
            "perplexity": math.exp(-log_p.mean().item()),
            "unigram_perplexity": math.exp(-unigram.mean().item()),
            "unnormalised_perplexity": math.exp(min(-(log_p + log_z).mean().item(), 700)),
            "log_z": log_z.mean().item(),
            "log_z_std": log_z.std(correction=0).item(),
        }
        lines = self._near(model, data.words) if isinstance(model, LogBilinear) else []
        return Result(
            {f"words/{name}": value for name, value in metrics.items()}
            | standard_error("words", log_p)
            | compared("words", log_p, unigram),
            files={"words.txt": "".join(f"{line}\n" for line in lines)} if lines else {},
            said=tuple(lines),
            by_row={"words/log_likelihood": log_p},
            index={} if self.rows is None else {"words/log_likelihood": subject.which_rows(self.rows)},
        )

    def _near(self, model: LogBilinear, vocabulary: Sequence[str]) -> list[str]:
        """A line for each word: those nearest to it, with their cosines."""
        number = {word: i for i, word in enumerate(vocabulary)}
        chosen = _frequent(vocabulary) if self.words is None else self.words
        if not chosen:
            return []
        numbers = torch.tensor([number[word] for word in chosen], device=model.Q.device)
        cosines, others = (t.tolist() for t in model.nearest(numbers, self.near))
        pairs = [
            " ".join(f"{vocabulary[i]} {cosine:.2f}" for i, cosine in zip(*row, strict=True))
            for row in zip(others, cosines, strict=True)
        ]
        return [f"{word}: {near}" for word, near in zip(chosen, pairs, strict=True)]


def _frequent(vocabulary: Sequence[str]) -> list[str]:
    """Twelve of the most frequent words that say something, every fifth; fewer of a small vocabulary."""
    known = [word for word in vocabulary if word not in (START, UNKNOWN)]
    return (known[_COMMON:] or known)[:60:5]


def _measured(model: Conditional, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(w | context) and log Z(context) of each row, (batch,) each in float64."""
    scores = model.scores(x[:, :-1]).double()
    log_z = scores.logsumexp(1)
    return scores.gather(1, x[:, -1:].long()).squeeze(1) - log_z, log_z
