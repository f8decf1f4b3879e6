"""Documents found by documents: do hidden units know what these are about?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.dataset.base import Data, Split
from ebm_cli.evaluation.base import Result, Subject
from ebm_cli.evaluation.documents import BesideLDA, counts, hidden_logits
from ebm_cli.evaluation.table import Numbers
from ebm_cli.model.replicated_softmax import ReplicatedSoftmax
from ebm_cli.record import picture
from ebm_cli.registry import register
from ebm_cli.yardstick.lda import matrix

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Labels: TypeAlias = NDArray[np.int64]
Rows: TypeAlias = "NDArray[np.float64] | csr_matrix"  # (n, features)

_AT_ONCE = 2**22  # similarities
_RESOLUTION = 2**32  # smaller differences of similarities than 2^-32 may be rounding, and are ties


@register("evaluation", "retrieval")
class Retrieval(BesideLDA):
    """Held-out documents as queries for training documents, which are relevant where they have the query's label.

    They are ranked by the cosine between representations (Salakhutdinov & Hinton 2009, sect. 4.3): the hidden units'
    probabilities sigmoid(D c + v W), or with `features` logits D c + v W; LDA's proportions of topics (`lda_...`); and
    tf-idf vectors by scikit-learn (`tfidf_...`). Ties are in an order drawn once for all queries, of which there are
    at most `queries` (null: all held-out documents).

    `precision_at_10` is the share of relevant documents among the first ten, a mean over queries;
    `mean_average_precision` that of the mean over a query's relevant documents of the precision at their ranks;
    `by_chance` the precision of a blind order. retrieval.csv has the means of precision and recall of the first 1, 3,
    7, 15, ... documents.
    """

    while_training: bool
    queries: Annotated[int, Field(ge=1)] | None
    features: Literal["probabilities", "logits"]

    standing = 62
    compared = ("retrieval/precision_at_10",)

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The precision among ten, beside chance and other representations; the text has the rest."""
        values.leave("retrieval/")
        if "retrieval/precision_at_10" not in values:
            return {}
        others = (("lda", "LDA"), ("tfidf", "tf-idf"))
        keys = {said: f"retrieval/{other}_precision_at_10" for other, said in others}
        beside = "".join(f", {said} {values[key]:.2f}" for said, key in keys.items() if key in values)
        chance = f"{values['retrieval/by_chance']:.2f} by chance"
        return {"precision of ten retrieved": f"{values['retrieval/precision_at_10']:.2f} ({chance}{beside})"}

    @override
    def refusal_of_data(self, data: Data) -> str | None:
        splits = [split for split in (data.train, data.valid, data.test) if split is not None]
        labelled = all(split.labels is not None for split in splits)
        return None if labelled else "the documents have no labels, so none is known to be relevant; leave it out"

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`retrieval/precision_at_10` and the like, and precision over recall as a figure."""
        train, held_out, key = subject.data.train, subject.held_out, subject.key
        order = rng.permutation(len(train), key.fold("collection")).numpy()
        asked = rng.permutation(len(held_out), key.fold("queries")).numpy()[: self.queries]
        labels, wanted = _labels(train)[order], _labels(held_out)[asked]
        known = np.isin(wanted, labels)
        if not known.any():
            return Result({}, warnings=("no query has the label of a training document, so nothing is relevant",))
        pairs = self._representations(subject)
        found = {
            name: retrieved(of_queries[asked[known]], wanted[known], of_collection[order], labels)
            for name, (of_queries, of_collection) in pairs.items()
        }
        values, times = np.unique(labels, return_counts=True)
        chance = float(times[np.searchsorted(values, wanted[known])].mean() / len(labels))
        metrics = {
            f"{_PREFIX[name]}{key}": value for name, one in found.items() for key, value in one.numbers().items()
        }
        own = subject.split == "train"
        left_out = int((~known).sum())
        warnings = ["the queries are training documents, and each finds itself"] * own
        warnings += [f"{left_out} queries have labels that no training document has; they are left out"] * (
            left_out > 0
        )
        return Result(
            {f"retrieval/{name}": value for name, value in (metrics | {"by_chance": chance}).items()},
            {"retrieval": figure(found, chance)},
            tuple(warnings),
            {"retrieval.csv": listed(found)},
            tuple(table(found)),
        )

    def _representations(self, subject: Subject) -> dict[str, tuple[Rows, Rows]]:
        """Of all held-out documents and of all training documents, by name."""
        from sklearn.feature_extraction.text import TfidfTransformer  # slow to import

        model, lda = subject.model, self.lda(subject)
        assert isinstance(model, ReplicatedSoftmax)
        both = counts(subject.held_out), counts(subject.data.train)
        logits = [hidden_logits(model, documents) for documents in both]
        units = [(of if self.features == "logits" else of.sigmoid()).numpy() for of in logits]
        proportions = [] if lda is None else [("LDA", [lda.proportions(documents).numpy() for documents in both])]
        weights = TfidfTransformer().fit(matrix(both[1]))
        named = [("hidden units", units), *proportions, ("tf-idf", [weights.transform(matrix(of)) for of in both])]
        return {name: (queries, collection) for name, (queries, collection) in named}


_PREFIX = {"hidden units": "", "LDA": "lda_", "tf-idf": "tfidf_"}


def _labels(split: Split) -> Labels:
    """Of all its documents, (n,)."""
    assert split.labels is not None
    found: Labels = split.labels.cpu().numpy()
    return found


@dataclass(frozen=True)
class Retrieved:
    """Means over queries: precision and recall (levels,) of the first `number` documents, of ten, and of all ranks."""

    number: NDArray[np.int64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    at_10: float
    average: float

    def numbers(self) -> dict[str, float]:
        """By name."""
        return {"precision_at_10": self.at_10, "mean_average_precision": self.average}


def retrieved(queries: Rows, wanted: Labels, collection: Rows, labels: Labels) -> Retrieved:
    """Documents of a collection (n, features) with `labels` (n,) ranked for queries (m, features) that want some.

    Each query wants a label that is there. Of fewer than ten documents `at_10` is the precision of all.
    """
    from sklearn.preprocessing import normalize  # slow to import

    n, normal = len(labels), normalize(collection)
    number = np.unique(np.minimum(2 ** np.arange(1, n.bit_length() + 1) - 1, n))
    sums = np.zeros(2 * len(number) + 2)
    for part in np.array_split(np.arange(len(wanted)), -(-len(wanted) * n // _AT_ONCE)):
        hit = labels[ranked(normalize(queries[part]), normal)] == wanted[part, None]
        hits = hit.cumsum(1, dtype=np.int32)
        precision = hits / np.arange(1, n + 1)
        relevant = hits[:, -1]
        recall = hits[:, number - 1] / relevant[:, None]
        average = (precision * hit).sum(1) / relevant
        columns = (precision[:, number - 1], recall, precision[:, [min(10, n) - 1]], average[:, None])
        sums += np.concatenate(columns, 1).sum(0)
    precision, recall, (at_10, average) = np.split(sums / len(wanted), [len(number), 2 * len(number)])
    return Retrieved(number, precision, recall, float(at_10), float(average))


def ranked(queries: Rows, collection: Rows) -> NDArray[np.int64]:
    """Numbers of documents by their product with each query, largest first and ties by number, (queries, n).

    Similarity, in steps of 2^-32, and number are one integer, whose sorting takes a quarter of the time of a stable
    `argsort`.
    """
    product = queries @ collection.T
    similarity = product if isinstance(product, np.ndarray) else product.toarray()
    bits = len(similarity.T).bit_length()
    number = np.arange(len(similarity.T))
    packed = (np.rint(-similarity * _RESOLUTION).astype(np.int64) << bits) | number
    packed.sort(axis=1)
    return packed & (2**bits - 1)


def table(found: Mapping[str, Retrieved]) -> list[str]:
    """Lines for the screen."""
    head = f"{'retrieval by':<14} {'precision at 10':>15} {'mean average precision':>23}"
    return [head, *(f"  {name:<12} {one.at_10:15.3f} {one.average:23.3f}" for name, one in found.items())]


def listed(found: Mapping[str, Retrieved]) -> str:
    """Lines `representation,retrieved,precision,recall`."""
    lines = ["representation,retrieved,precision,recall"]
    for name, one in found.items():
        rows = zip(one.number, one.precision, one.recall, strict=True)
        lines += [f"{name},{number},{precision:.6g},{recall:.6g}" for number, precision, recall in rows]
    return "\n".join(lines) + "\n"


def figure(found: Mapping[str, Retrieved], chance: float) -> NDArray[np.uint8]:
    """Precision over recall, whose axis is logarithmic as in the paper's figure."""
    with picture.axes(1, 1) as drawing:
        axis = drawing.at[0][0]
        for name, one in found.items():
            axis.semilogx(100 * one.recall, 100 * one.precision, marker="o", markersize=3, label=name)
        axis.axhline(100 * chance, color="grey", linestyle=":", label="by chance")
        axis.set(xlabel="recall [%]", ylabel="precision [%]", ylim=(0, None))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.legend(fontsize=8)
    return drawing.pixels
