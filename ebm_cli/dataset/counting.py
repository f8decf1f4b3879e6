"""Documents as counts of the words of a vocabulary, which comes from those for training alone."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ebm_cli import rng
from ebm_cli.dataset.base import Arrays, Binarize, Dataset, Raw, Values
from ebm_cli.dataset.sparse import SparseRows
from ebm_cli.errors import UserError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

LONGEST = 2**24
"""Words of a document; float32 counts no further."""

SPLITS = ("train", "valid", "test")
_WORD = re.compile(r"([^\W\d_]+)(?:['’](s|t|d|m|ll|re|ve)(?![^\W_]))?", re.IGNORECASE)
_NAMED = 3  # documents named in a remark


class Document(NamedTuple):
    """One text; `name` is for messages."""

    name: str
    text: str
    label: str | None = None


@dataclass(frozen=True)
class Counted:
    """Counts (n, K) of the words of n documents, which `names` tell apart in messages, and integer labels (n,)."""

    counts: "csr_matrix"
    names: Sequence[str]
    labels: NDArray[np.int64] | None = None

    def rows(self, index: NDArray[np.int64]) -> "Counted":
        """Some of the documents."""
        labels = None if self.labels is None else self.labels[index]
        return Counted(self.counts[index], [self.names[i] for i in index.tolist()], labels)

    def lengths(self) -> NDArray[np.int64]:
        """Words of each document, (n,)."""
        return np.asarray(self.counts.sum(1)).ravel()


@dataclass(frozen=True, kw_only=True)
class CountedTexts(Dataset):
    """Counts of words by scikit-learn's CountVectorizer.

    A word is a run of two letters at least; English endings after an apostrophe ('s, 'll, ...) are cut off. With
    `stop_words` english those of scikit-learn's list and negations (don't) are left out. The vocabulary, in
    alphabetical order, are words of the training documents: those in `min_documents` of them at least and in the share
    `max_documents` of them at most, so many of the most frequent that there are `vocabulary` at most. The share
    `held_out` of the documents, the same choice every time, is held out for testing, then that share of the rest for
    validation. Documents without any word of the vocabulary are left out.
    """

    lower: bool
    stop_words: Literal["english", "none"]
    min_documents: Annotated[int, Field(ge=1)]
    max_documents: Annotated[float, Field(gt=0, le=1)]
    vocabulary: Annotated[int, Field(ge=2, le=2**24)]
    held_out: Annotated[float, Field(gt=0, le=0.5)]
    binarize: Binarize
    values: ClassVar[Values | None] = "counts"

    def counted(self, documents: Sequence[Document], said: str) -> Raw:
        """The counts of texts. Raises UserError, beginning with `said`, if they give no vocabulary or are too few."""
        from sklearn.feature_extraction.text import CountVectorizer

        _check_enough(len(documents), 1, said)
        vectorizer = CountVectorizer(analyzer=self._words, dtype=np.int64)
        try:
            counts = vectorizer.fit_transform(document.text for document in documents)
        except ValueError:  # it found no word
            raise UserError(self._no_word(documents, said)) from None
        labels = numbered([document.label for document in documents])
        whole = Counted(counts, [document.name for document in documents], labels)
        splits, empty = with_held_out({"train": whole}, self.held_out, said)
        every = vectorizer.get_feature_names_out()
        chosen = self._vocabulary(splits["train"].counts, every, said)
        splits = {name: replace(part, counts=part.counts[:, chosen]) for name, part in splits.items()}
        return raw(splits, [str(word) for word in every[chosen]], empty, said)

    def _words(self, text: str) -> list[str]:
        """The words of a text that are counted, in their order."""
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        found = _WORD.findall(text.lower() if self.lower else text)
        if self.stop_words == "none":
            return [word for word, _ in found if len(word) > 1]
        return [
            word
            for word, ending in found
            if len(word) > 1 and ending.lower() != "t" and word.lower() not in ENGLISH_STOP_WORDS
        ]

    def _no_word(self, documents: Sequence[Document], said: str) -> str:
        """Why there is no vocabulary at all."""
        if any(replace(self, stop_words="none")._words(document.text) for document in documents):
            return f"dataset.stop_words = {self.stop_words}: {said} holds stop words only; set dataset.stop_words=none"
        return f"{said}: its {len(documents)} documents hold no word (two letters at least); give texts"

    def _vocabulary(self, train: "csr_matrix", words: NDArray[np.str_], said: str) -> NDArray[np.int64]:
        """Columns of the words that are counted. Raises UserError where fewer than two are left."""
        rows = train.shape[0]
        spread = np.bincount(train.indices, minlength=len(words))
        total = np.bincount(train.indices, train.data, len(words))
        kept = np.flatnonzero((spread >= self.min_documents) & (spread <= self.max_documents * rows))
        if len(kept) < 2:
            there = words[np.flatnonzero(spread)]
            if len(there) < 2:
                have = f"hold one word only, {str(there[0])!r}" if len(there) else "hold no word that is counted"
                raise UserError(f"{said}: the {rows} training documents {have}; give more text")
            left = f"leave one word only, {str(words[kept[0]])!r}," if len(kept) else "leave no word"
            key, way = self._at_fault(spread, rows)
            raise UserError(
                f"{key}: {left} of the {len(there)} in the {rows} training documents of {said} (the most widespread is "
                f"in {spread.max()} of them); {way}"
            )
        return np.sort(kept[np.argsort(-total[kept], kind="stable")][: self.vocabulary])

    def _at_fault(self, spread: NDArray[np.int64], rows: int) -> tuple[str, str]:
        """Which of the two bounds on how widespread words are leaves too few, as key = value, and the way out."""
        low = f"dataset.min_documents = {self.min_documents}"
        high = f"dataset.max_documents = {self.max_documents:g}"
        if (spread >= self.min_documents).sum() < 2:
            return low, "lower it, or give more text"
        if ((spread > 0) & (spread <= self.max_documents * rows)).sum() < 2:
            return high, "raise it (1: words of all documents too)"
        return f"{low} and {high}", "lower the first, raise the second, or give more text"


def numbered(labels: Sequence[str | None]) -> NDArray[np.int64] | None:
    """Each label as its place among the sorted ones; None where there are none."""
    names = sorted({label for label in labels if label is not None})
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[label] for label in labels if label is not None], np.int64) if names else None


def with_held_out(splits: Mapping[str, Counted], share: float, said: str) -> tuple[dict[str, Counted], list[str]]:
    """The splits, a test and a validation split that are missing taken from train, always the same rows.

    Each is max(1, round(share n)) of the n rows that are left. Documents without any word are left out before, and
    named beside the splits. Raises UserError if the others are too few.
    """
    found, empty = _with_words(splits)
    _check_enough(len(found["train"].names), len(found), said)
    for name in ("test", "valid"):
        if name not in found:
            rows = len(found["train"].names)
            count = max(1, round(share * rows))
            order = rng.permutation(rows, rng.stream(0, "bag_of_words", name)).numpy()
            found[name] = found["train"].rows(np.sort(order[:count]))
            found["train"] = found["train"].rows(np.sort(order[count:]))
    return found, empty


def _with_words(splits: Mapping[str, Counted]) -> tuple[dict[str, Counted], list[str]]:
    """The documents that have words, and the names of the others."""
    found, empty = {}, []
    for split, part in splits.items():
        length = part.lengths()
        empty += [part.names[i] for i in np.flatnonzero(length == 0).tolist()]
        found[split] = part.rows(np.flatnonzero(length))
    return found, empty


def _check_enough(documents: int, splits: int, said: str) -> None:
    """Raise UserError unless those for training are enough for the splits that are not there."""
    if documents + splits - 1 < len(SPLITS):
        raise UserError(
            f"{said}: too few documents with words ({documents}); training, validation and testing need one each at "
            "least"
        )


def raw(splits: Mapping[str, Counted], words: Sequence[str], empty: Sequence[str], said: str) -> Raw:
    """What a dataset of counts reads: without documents that have none of the words; a remark names them and `empty`.

    Raises UserError for fewer than two words, a split of which nothing is left, or a document longer than LONGEST.
    """
    if len(words) < 2:
        raise UserError(f"{said}: the vocabulary is {len(words)} word; counts need two at least")
    found, more = _with_words(splits)
    names = [*empty, *more]
    for split, part in found.items():
        if not part.names:
            raise UserError(
                f"{said}: no document of the {split} split has a word of the vocabulary; give more documents"
            )
        length = part.lengths()
        if length.max() > LONGEST:
            name = part.names[int(length.argmax())]
            raise UserError(f"{said}: {name} has {length.max()} words, {LONGEST} at most are counted; cut it")
    train, valid, test = (Arrays(SparseRows.of(found[split].counts), found[split].labels) for split in SPLITS)
    total = len(names) + sum(len(part.names) for part in found.values())
    why = "; dataset.min_documents, max_documents and vocabulary decide on its words" if more else ""
    remarks = (f"{left_out(names, total)}{why}",) if names else ()
    return Raw("counts", train, valid, test, words=tuple(words), remarks=remarks)


def left_out(names: Sequence[str], total: int) -> str:
    """A sentence on documents without words of the vocabulary."""
    few = "1 document of" if len(names) == 1 else f"{len(names)} documents of"
    more = ", ..." if len(names) > _NAMED else ""
    return f"{few} {total} without any word of the vocabulary left out: {', '.join(names[:_NAMED])}{more}"


def checked_words(words: Iterable[str], said: str) -> tuple[str, ...]:
    """A vocabulary read from a file. Raises UserError, beginning with `said`, unless its words are plain and differ."""
    seen: dict[str, int] = {}
    for number, word in enumerate(words, 1):
        if not word or not word.isprintable():
            raise UserError(
                f"{said}: its word number {number} is {word!r}; it must be a word, of one line, without control codes"
            )
        if word in seen:
            raise UserError(f"{said}: words number {seen[word]} and {number} are both {word!r}; they must differ")
        seen[word] = number
    return tuple(seen)
