"""log p(words of a document) under known topics, by particles: what the variational bound of LDA is a bound on."""

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.dataset.sparse import SparseRows
from ebm_cli.functional import end_to_end, log_mean_exp
from ebm_cli.rng import Key

_AT_ONCE = 2**24  # numbers: documents, particles and topics
_RESAMPLED = 0.5  # share of the particles that the effective number falls to before they are drawn anew


def log_evidence(documents: SparseRows, topics: Tensor, alpha: float, particles: int, key: Key) -> Tensor:
    """Estimates of log p(words | topics, alpha) of each document, (n,) float64 nats; that of its words in their order.

    p(w_1 ... w_N) = prod_t sum_k topics[k, w_t] (n_k + alpha) / (t - 1 + K alpha), averaged over the topics z_1 ...
    z_(t-1) that gave the words before, n_k of them k (left to right: Wallach et al. 2009, sec. 4.4; without their
    second pass over the words before each). `particles` of these are drawn one word after the other, z_t with the
    probability of its term, and drawn anew by their weights where few of them carry most. E[p_hat] = p, hence
    E[log p_hat] <= log p: a perplexity of these errs upwards. `topics` (K, words) has rows that sum to 1. Words come in
    a random order, which their probability does not depend on.
    """
    size = documents.of_rows()
    found = torch.zeros(len(documents), dtype=torch.float64)
    order = size.argsort(descending=True, stable=True)
    for number, part in enumerate(order.split(max(1, _AT_ONCE // (particles * len(topics))))):
        words = _shuffled(documents, part, key.fold("order", number))
        found[part] = _Particles(words, size[part], topics, alpha, particles, key.fold("draw", number)).run()
    return found


def _shuffled(documents: SparseRows, rows: Tensor, key: Key) -> Tensor:
    """The words of each of the rows in a random order, filled up with -1, (rows, words of the longest) int64."""
    first, last = documents.first[rows], documents.first[rows + 1]
    row, place = end_to_end(last - first)
    entry = first[row] + place
    times = documents.count[entry].long()
    word, owner = documents.column[entry].long().repeat_interleave(times), row.repeat_interleave(times)
    mixed = rng.permutation(len(word), key)
    mixed = mixed[owner[mixed].argsort(stable=True)]
    owner, rank = end_to_end(torch.bincount(owner, minlength=len(rows)))
    found = torch.full((len(rows), int(rank.max()) + 1 if len(rank) else 0), -1)
    found[owner, rank] = word[mixed]
    return found


class _Particles:
    """Documents, the longest first, with how many of the words so far each particle has given to each topic."""

    def __init__(self, words: Tensor, size: Tensor, topics: Tensor, alpha: float, particles: int, key: Key) -> None:
        self.words, self.size, self.key, self.alpha = words, size, key, alpha
        self.of_words = topics.T.contiguous()
        self.count = torch.zeros(len(words), particles, len(topics), dtype=topics.dtype)
        self.log_w = torch.zeros(len(words), particles, dtype=torch.float64)
        self.found = torch.zeros(len(words), dtype=torch.float64)

    def run(self) -> Tensor:
        """Through all words, (documents,)."""
        for t in range(self.words.shape[1]):
            self._word(t, int((self.size > t).sum()))
        return self.found + log_mean_exp(self.log_w)

    def _word(self, t: int, longer: int) -> None:
        """Word t, from 0, of the documents that have one."""
        count, particles, topics = self.count[:longer], self.count.shape[1], self.count.shape[2]
        share = (self.of_words[self.words[:longer, t], None] * (count + self.alpha)).cumsum(2)
        total = share[..., -1:]
        self.log_w[:longer] += (total.squeeze(2) / (t + topics * self.alpha)).log()
        u = rng.uniform((longer, particles), self.key.fold("topic", t), dtype=share.dtype)
        z = torch.searchsorted(share, u[..., None] * total, right=True).clamp_max(topics - 1)
        count.scatter_add_(2, z, torch.ones_like(total))
        self._renew(t, longer)

    def _renew(self, t: int, longer: int) -> None:
        """Particles of documents where few carry most, drawn by their weights, which are then alike."""
        w = self.log_w[:longer].softmax(1)
        poor = (1 / w.square().sum(1) < _RESAMPLED * w.shape[1]).nonzero().squeeze(1)
        if not len(poor):
            return
        self.found[poor] += log_mean_exp(self.log_w[poor])
        u = rng.uniform((len(poor), w.shape[1]), self.key.fold("renew", t), dtype=torch.float64)
        chosen = torch.searchsorted(w[poor].cumsum(1), u, right=True).clamp_max(w.shape[1] - 1)
        self.count[poor] = self.count[poor[:, None], chosen]
        self.log_w[poor] = 0.0
