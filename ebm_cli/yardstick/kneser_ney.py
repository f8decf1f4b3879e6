"""An n-gram model with interpolated Kneser-Ney smoothing: what a model of sequences is held against.

nltk 3.10.4 has one (`nltk.lm.KneserNeyInterpolated`), which goes through all n-grams for each probability that it is
asked for; the tests hold this one against it.
"""

from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Gram = tuple[int, ...]


class _Counts(NamedTuple):
    """How often each word is there after each context, the sum of that, and how many words there are."""

    of: Counter[Gram]
    total: Counter[Gram]
    kinds: Counter[Gram]
    discount: float


class KneserNey:
    """p(w | u) of the words 0 ... K - 1 after a context u of up to order - 1 words, by counts n of a training text.

    p(w | u) = [max(n(u w) - d, 0) + d |{w': n(u w') > 0}| p'(w | u without its first word)] / n(u), p' the same with n
    replaced by in how many contexts of one word more each n-gram was seen; words alone are interpolated with 1 / K. An
    unseen context gives way to the shorter one. d = n_1 / (n_1 + 2 n_2) for each length, n_1 and n_2 being how many
    n-grams were counted once and twice (Kneser & Ney 1995; Chen & Goodman 1999, sect. 2.7 and eq. 27).
    """

    def __init__(self, rows: NDArray[np.int64], order: int, values: int, discount: float | None = None) -> None:
        """From the n-grams at the beginning of rows (n, length >= order), K = `values`; `discount` in place of d."""
        self.order, self.values = order, values
        heads = [Counter(map(tuple, rows[:, :n].tolist())) for n in range(1, order + 1)]
        before = [Counter(gram[1:] for gram in head) for head in heads[1:]]
        self._raw = [_counted(head, discount) for head in heads]
        self._kinds_before = [_counted(head, discount) for head in before]

    def log_prob(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """log p of whole rows (n, length), each word after those of the row before it, order - 1 at most; (n,)."""
        cache: dict[Gram, float] = {}
        found = np.zeros(len(rows))
        for i, row in enumerate(rows.tolist()):
            for place in range(len(row)):
                gram = tuple(row[max(0, place + 1 - self.order) : place + 1])
                if gram not in cache:
                    cache[gram] = float(np.log(self.probability(gram)))
                found[i] += cache[gram]
        return found

    def probability(self, gram: Gram) -> float:
        """p of the last word after the others."""
        return self._interpolated(gram, self._raw[len(gram) - 1])

    def _interpolated(self, gram: Gram, counts: _Counts) -> float:
        context = gram[:-1]
        lower = 1 / self.values if not context else self._interpolated(gram[1:], self._kinds_before[len(context) - 1])
        total = counts.total[context]
        if not total:
            return lower
        own = max(counts.of[gram] - counts.discount, 0.0)
        return (own + counts.discount * counts.kinds[context] * lower) / total


def _counted(of: Counter[Gram], discount: float | None) -> _Counts:
    total: defaultdict[Gram, int] = defaultdict(int)
    kinds: Counter[Gram] = Counter()
    for gram, count in of.items():
        total[gram[:-1]] += count
        kinds[gram[:-1]] += 1
    once, twice = (sum(count == n for count in of.values()) for n in (1, 2))
    if discount is None:
        discount = once / (once + 2 * twice) if once else 0.5
    return _Counts(of, Counter(total), kinds, discount)
