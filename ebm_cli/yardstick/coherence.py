"""How well the top words of topics go together, and how much topics differ: statistics of words in documents."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix, csr_matrix


def npmi(topics: NDArray[np.int64], documents: "csr_matrix") -> NDArray[np.float64]:
    """Mean normalised pointwise mutual information of all pairs i < j of each topic's words, (topics,), in [-1, 1].

    `topics` (topics, words) are numbers of words, `documents` (n, K) their counts. Of a pair it is log(p_ij / (p_i
    p_j)) / -log p_ij, where p_ij is the share of the documents that have both words and p_i of those that have i
    (Bouma 2009, sect. 2.2; of topics' top words Lau et al. 2014, over whole documents in place of windows): 1 where one
    word never comes without the other, 0 where they are independent, and -1, the limit, where no document has both.
    Both in all documents are 1, the limit of p_ij = p_i = p_j.
    """
    present = _present(documents)
    return np.array([_mean_npmi(present[:, words]) for words in topics])


def _present(documents: "csr_matrix") -> "csc_matrix":
    """1 where a word is in a document, by columns."""
    from scipy.sparse import csc_matrix  # slow to import

    return csc_matrix(documents > 0, dtype=np.float64)


def _mean_npmi(present: "csc_matrix") -> float:
    """Of the pairs of columns, documents being 0 or 1."""
    both = (present.T @ present).toarray() / present.shape[0]
    one, (i, j) = both.diagonal(), np.triu_indices(len(both), 1)
    joint, apart = both[i, j], one[i] * one[j]
    found = np.where(joint > 0, 1.0, -1.0)
    some = (joint > 0) & (joint < 1)
    found[some] = np.log(joint[some] / apart[some]) / -np.log(joint[some])
    return float(found.mean())


def distinct(topics: NDArray[np.int64]) -> float:
    """Share of distinct words among the words (topics, words) of all topics: topic diversity (Dieng et al. 2020).

    From 1 / topics, where all have the same words, to 1, where none has a word of another.
    """
    return len(np.unique(topics)) / topics.size


def correlation(documents: "csr_matrix", activity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's, over n documents, of whether word k is there with the activity of topic j, (K, topics).

    `documents` (n, K) are counts, `activity` (n, topics). Words in all documents and topics that are the same in all of
    them go with nothing: 0.
    """
    present = _present(documents)
    share = present.getnnz(0) / len(activity)
    apart = activity - activity.mean(0)
    spread = np.sqrt(share * (1 - share))[:, None] * activity.std(0)
    together = present.T @ apart / len(activity)
    return np.divide(together, spread, out=np.zeros_like(together), where=spread > _CONSTANT)


_CONSTANT = 1e-9  # a product of standard deviations that is rounding of 0
