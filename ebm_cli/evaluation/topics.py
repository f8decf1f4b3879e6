"""What the hidden units of a topic model stand for: their top words, how coherent these are, and how distinct."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.dataset.base import Data, Split
from ebm_cli.evaluation.base import Result, Subject
from ebm_cli.evaluation.documents import BesideLDA, counts, hidden_logits
from ebm_cli.evaluation.table import Numbers
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.replicated_softmax import ReplicatedSoftmax
from ebm_cli.record import picture
from ebm_cli.registry import register
from ebm_cli.sampler.base import Sampler
from ebm_cli.yardstick import coherence
from ebm_cli.yardstick.lda import LDA, matrix

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

SCORES = ("weight", "probability", "lift", "activity")
_SHOWN = 8  # topics, in the figure and on the screen
_SHARED = 0.3  # fewer distinct words than this share of what could be, and topics are the same
_DEAD, _ALWAYS = 0.01, 0.99


@register("evaluation", "topics")
class TopicWords(BesideLDA):
    """Top words of each hidden unit j by four scores of word k; `npmi` and `distinct` are of those by `score`.

    weight: W_kj. probability: p(k | h) = softmax(b + W h)_k with unit j alone on. lift: its log less that of the word's
    share of all training words. activity: the correlation over training documents n of whether k is in n with
    pi_nj = s_nj / sum_i s_ni, s_nj = p(h_j = 1 | v_n), the unit's share of all that is on there: long documents turn
    on many units, and the shares are what the proportions of topics are in LDA. LDA has its proportions for pi, p(k |
    topic) for probability and its log for weight.

    `npmi` is the mean over topics of that of their words in the documents `reference`, `distinct` the share of distinct
    words (see `coherence.py`); `lda_npmi` and `lda_distinct` are LDA's. `on` is the mean of s_nj, the share of the
    documents that a unit is on in; `dead` and `always_on` count the units on in less than 1 % and more than 99 %. Units
    come in the order of the variance of s_nj, topics of LDA in that of their proportions'.
    """

    while_training: bool
    words: Annotated[int, Field(ge=2)]
    score: Literal["weight", "probability", "lift", "activity"]
    reference: Literal["train", "valid", "test"]

    standing = 61
    compared = ("topics/npmi", "topics/distinct")

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """Coherence and distinctness, beside LDA's; the text has the words."""
        values.leave("topics/npmi", "topics/distinct", "topics/lda_")
        found = {}
        for name, what in (("npmi", "coherence of topics, NPMI"), ("distinct", "share of distinct top words")):
            if f"topics/{name}" in values:
                beside = f" (LDA {values[f'topics/lda_{name}']:.2f})" if f"topics/lda_{name}" in values else ""
                found[what] = f"{values[f'topics/{name}']:.2f}{beside}"
        return found

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Hidden units of documents, and a vocabulary large enough."""
        size = model.space.shape[0]
        few = f"evaluation.topics.words = {self.words}: the vocabulary has {size} words; take so many at most"
        return super().refusal(model, sampler) or (few if self.words > size else None)

    @override
    def refusal_of_data(self, data: Data) -> str | None:
        """The documents to look for words in."""
        none = "reference = valid: no documents were kept back for validation; take train or test"
        return none if self.reference == "valid" and data.valid is None else None

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`topics/npmi` and the like, topics.txt and the bars of the most coherent topics."""
        model, data, lda = subject.model, subject.data, self.lda(subject)
        assert isinstance(model, ReplicatedSoftmax)
        split: Split | None = getattr(data, self.reference)
        assert split is not None
        reference = matrix(counts(split))
        units = described("unit", *of_units(model, data), self.words, reference)
        others = [] if lda is None else [described("LDA topic", *of_lda(lda, data), self.words, reference)]
        metrics = {
            **self._coherence(units, ""),
            **{key: value for other in others for key, value in self._coherence(other, "lda_").items()},
            "on": units.on.mean().item(),
            "dead": float((units.on < _DEAD).sum()),
            "always_on": float((units.on > _ALWAYS).sum()),
        }
        table = [line for each in (units, *others) for line in each.table()]
        text = "\n\n".join(["\n".join(table), *(each.text(data.words, self.score) for each in (units, *others))])
        return Result(
            {f"topics/{name}": value for name, value in metrics.items()},
            {"topics": bars(units, self.score, data.words)},
            tuple(self._warnings(units, len(data.words))),
            {"topics.txt": f"{text}\n"},
            (*table, *(units.line(at, data.words, self.score) for at in units.best(self.score))),
        )

    def _coherence(self, topics: "Described", prefix: str) -> dict[str, float]:
        top = topics.top[self.score]
        return {
            f"{prefix}npmi": topics.npmi[self.score].mean().item(),
            f"{prefix}distinct": coherence.distinct(top),
        }

    def _warnings(self, units: "Described", vocabulary: int) -> list[str]:
        top, idle = units.top[self.score], int(((units.on < _DEAD) | (units.on > _ALWAYS)).sum())
        found, most = coherence.distinct(top), min(1, vocabulary / units.top[self.score].size)
        way = "; score=activity looks past those that are frequent in all documents" * (self.score == "probability")
        shared = f"units share their words: {found:.0%} of the top ones by {self.score} are distinct{way}"
        same = (
            f"{idle} of {len(units.on)} units are off in nearly all documents or on in nearly all, so they say nothing"
        )
        return [shared] * (found < _SHARED * most) + [same] * (idle > len(units.on) / 2)


@dataclass(frozen=True)
class Described:
    """Topics in their order: their numbers, how far they are on, and for each score their top words.

    `number` and `on` (topics,), `top` and `value` (topics, words), the numbers of words and their scores, `npmi`
    (topics,).
    """

    kind: str
    number: NDArray[np.int64]
    on: NDArray[np.float64]
    top: dict[str, NDArray[np.int64]]
    value: dict[str, NDArray[np.float64]]
    npmi: dict[str, NDArray[np.float64]]

    def best(self, score: str) -> list[int]:
        """Places of the most coherent ones, best first, without those that share half their words with a better one."""
        found: list[int] = []
        for at in np.argsort(-self.npmi[score], kind="stable"):
            shared = [len(np.intersect1d(self.top[score][at], self.top[score][other])) for other in found]
            if 2 * max(shared, default=0) < self.top[score].shape[1]:
                found.append(int(at))
        return found[:_SHOWN]

    def table(self) -> list[str]:
        """Coherence and distinctness by each score."""
        head = f"{f'{self.kind}s by':<20} {'NPMI':>7} {'distinct':>9}"
        rows = [
            f"  {name:<18} {self.npmi[name].mean():7.3f} {coherence.distinct(self.top[name]):9.3f}" for name in SCORES
        ]
        return [head, *rows]

    def line(self, at: int, vocabulary: tuple[str, ...], score: str) -> str:
        """One topic in a line."""
        return f"{self._head(at, score)}: {self._words(at, vocabulary, score)}"

    def text(self, vocabulary: tuple[str, ...], score: str) -> str:
        """All topics, each with its top words by every score."""
        blocks = [
            "\n".join(
                [self._head(at, score), *(f"  {name:<12} {self._words(at, vocabulary, name)}" for name in SCORES)]
            )
            for at in range(len(self.on))
        ]
        return "\n\n".join(blocks)

    def _head(self, at: int, score: str) -> str:
        return f"{self.kind} {self.number[at]} (on {self.on[at]:.1%}, NPMI {self.npmi[score][at]:.2f})"

    def _words(self, at: int, vocabulary: tuple[str, ...], score: str) -> str:
        return " ".join(vocabulary[word] for word in self.top[score][at])


def described(
    kind: str, scores: dict[str, NDArray[np.float64]], activity: Tensor, words: int, reference: "csr_matrix"
) -> Described:
    """Topics of `scores` (K, topics) and activities (n, topics), those whose activity varies most first."""
    order = activity.var(0, correction=0).argsort(descending=True, stable=True).numpy()
    columns = {name: score[:, order].T for name, score in scores.items()}
    top = {name: np.argsort(-score, axis=1, kind="stable")[:, :words] for name, score in columns.items()}
    value = {name: np.take_along_axis(columns[name], top[name], 1) for name in top}
    npmi = {name: coherence.npmi(numbers, reference) for name, numbers in top.items()}
    return Described(kind, order, activity.mean(0).numpy()[order], top, value, npmi)


def of_units(model: ReplicatedSoftmax, data: Data) -> tuple[dict[str, NDArray[np.float64]], Tensor]:
    """Scores by name, (K, hidden) each, and p(h_j = 1 | v_n) of the training documents, (n, hidden)."""
    documents = counts(data.train)
    log_on = torch.nn.functional.logsigmoid(hidden_logits(model, documents))
    W, b = model.W.double().cpu(), model.b.double().cpu()
    scores = _by_words((b[:, None] + W).log_softmax(0), data) | {"weight": W.numpy()}
    return scores | {"activity": coherence.correlation(matrix(documents), log_on.softmax(1).numpy())}, log_on.exp()


def of_lda(lda: LDA, data: Data) -> tuple[dict[str, NDArray[np.float64]], Tensor]:
    """Scores by name, (K, topics) each, and the proportions of topics in the training documents, (n, topics)."""
    documents, log_p = counts(data.train), torch.from_numpy(lda.topics.T).log()
    proportions = lda.proportions(documents)
    scores = _by_words(log_p, data) | {"weight": log_p.numpy()}
    return scores | {"activity": coherence.correlation(matrix(documents), proportions.numpy())}, proportions


def _by_words(log_p: Tensor, data: Data) -> dict[str, NDArray[np.float64]]:
    """Probability and lift of log p(k | topic), (K, topics)."""
    unigram = data.smoothed_mean().double().cpu().log()
    return {"probability": log_p.exp().numpy(), "lift": (log_p - unigram[:, None]).numpy()}


def bars(topics: Described, score: str, vocabulary: tuple[str, ...]) -> NDArray[np.uint8]:
    """Scores of the top words of the most coherent topics."""
    best = topics.best(score)
    columns = min(4, len(best))
    with picture.axes(math.ceil(len(best) / columns), columns) as drawing:
        every = [axis for row in drawing.at for axis in row]
        for axis, at in zip(every, best, strict=False):
            names = [vocabulary[word] for word in topics.top[score][at]]
            axis.barh(range(len(names)), topics.value[score][at])
            axis.set_yticks(range(len(names)), names)
            axis.invert_yaxis()
            axis.set(title=f"{topics.kind} {topics.number[at]}, NPMI {topics.npmi[score][at]:.2f}", xlabel=score)
        for axis in every[len(best) :]:
            axis.set_axis_off()
    return drawing.pixels
