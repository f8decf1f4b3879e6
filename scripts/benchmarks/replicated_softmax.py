"""Updates by CD-1 of a replicated softmax on documents as long as those of 20 Newsgroups."""

import time
from collections.abc import Callable, Mapping

import numpy as np
from _case import Case, Maker, times_faster
from _ours import DEVICE, configuration, device, updates
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ebm_cli import registry
from ebm_cli.dataset.base import Data, Split
from ebm_cli.dataset.sparse import SparseRows
from ebm_cli.space import Counts

Array = NDArray[np.float64]
WORDS, HIDDEN, BATCH, RATE = 2000, 50, 100, 1e-3
OURS, LARGE = "ours", "ours, batches of 500"
PARTLY = "NumPy, products of the batch, loop over its multinomials"
LOOP, ONLINE = "NumPy, loop over documents", "NumPy, loop over documents, an update with momentum after each"


def counts() -> NDArray[np.int32]:
    """3000 documents of 90 words on average, most shorter and some of thousands; words by Zipf's law, in no order."""
    draws = np.random.default_rng(0)
    lengths = np.exp(draws.normal(3.9, 1.0, 3000)).astype(np.int64) + 1
    share = draws.permutation(1 / np.arange(10, WORDS + 10))
    return draws.multinomial(lengths, share / share.sum()).astype(np.int32)


def ours(batch: int = BATCH) -> Callable[[], None]:
    """The recipe rsm_20news with SGD, drawing the batch and reporting included."""
    registry.load_components()
    config = {
        "dataset": configuration("dataset", "bag_of_words"),
        "model": configuration("model", "replicated_softmax", hidden=HIDDEN),
        "sampler": configuration("sampler", "block_gibbs"),
        "chains": configuration("chains", "data"),
        "noise": configuration("noise", "fitted"),
        "objective": configuration("objective", "cd"),
        "optimizer": configuration("optimizer", "sgd", lr=RATE),
    }
    rows = SparseRows.of(csr_matrix(counts()))
    space = Counts((WORDS,), 50)
    split = Split(space, rows, scale=1.0, stochastic=False, labels=None)
    return updates(config, Data(space, split, None, split).to(DEVICE), batch, device("fp32", compiled=False))


def large() -> Callable[[], float]:
    """The same with batches of 500: seconds for each hundred of them."""
    update = ours(500)

    def timed() -> float:
        begin = time.perf_counter()
        update()
        return (time.perf_counter() - begin) * BATCH / 500

    return timed


class Machine:
    """Weights and a batch at a time in float64, as NumPy has them unless told otherwise."""

    def __init__(self) -> None:
        self.draws, self.rows, self.first = np.random.default_rng(1), counts().astype(np.float64), 0
        self.W = 0.01 * self.draws.normal(size=(WORDS, HIDDEN))
        self.b, self.c = np.zeros(WORDS), np.zeros(HIDDEN)

    def batch(self) -> Array:
        """The next one, (BATCH, WORDS)."""
        self.first = (self.first + BATCH) % (len(self.rows) - BATCH)
        return self.rows[self.first : self.first + BATCH]

    def activity(self, v: Array) -> Array:
        """p(h = 1 | v) of one document or of several."""
        return 1 / (1 + np.exp(-(v @ self.W + v.sum(-1, keepdims=True) * self.c)))

    def words(self, h: NDArray[np.bool_]) -> Array:
        """p(word | h) of one document or of several."""
        logits = h @ self.W.T + self.b
        share = np.exp(logits - logits.max(-1, keepdims=True))
        return share / share.sum(-1, keepdims=True)

    def chain(self, v: Array) -> tuple[Array, Array, Array]:
        """Of one document its activity, its chain after a transition, and the chain's activity."""
        h = self.activity(v)
        p = self.words(self.draws.random(HIDDEN) < h)
        v_neg = self.draws.multinomial(int(v.sum()), p).astype(np.float64)
        return h, v_neg, self.activity(v_neg)

    def step(self, W: Array, b: Array, c: Array) -> None:
        """Along the sums of a gradient over documents."""
        self.W += RATE / BATCH * W
        self.b += RATE / BATCH * b
        self.c += RATE / BATCH * c

    def update(self, v: Array, v_neg: Array) -> None:
        """By the statistics of documents (n, WORDS) and of their chains."""
        h, h_neg = self.activity(v), self.activity(v_neg)
        self.step(v.T @ h - v_neg.T @ h_neg, (v - v_neg).sum(0), (h - h_neg).sum(0))


def online() -> Callable[[], None]:
    """The same with batches of one document, which public implementations have by default."""
    machine, momentum = Machine(), 0.9
    W, b, c = np.zeros_like(machine.W), np.zeros_like(machine.b), np.zeros_like(machine.c)

    def update() -> None:
        nonlocal W, b, c
        for v in machine.batch():
            h, v_neg, h_neg = machine.chain(v)
            W = momentum * W + np.outer(v, h) - np.outer(v_neg, h_neg)
            b = momentum * b + v - v_neg
            c = momentum * c + h - h_neg
            machine.step(W, b, c)

    return update


def loop() -> Callable[[], None]:
    """One document after the other, the update of a batch after its documents."""
    machine = Machine()

    def update() -> None:
        W, b, c = np.zeros_like(machine.W), np.zeros_like(machine.b), np.zeros_like(machine.c)
        for v in machine.batch():
            h, v_neg, h_neg = machine.chain(v)
            W += np.outer(v, h) - np.outer(v_neg, h_neg)
            b += v - v_neg
            c += h - h_neg
        machine.step(W, b, c)

    return update


def partly() -> Callable[[], None]:
    """Products of the whole batch, one multinomial for each document."""
    machine = Machine()

    def update() -> None:
        v = machine.batch()
        p = machine.words(machine.draws.random((BATCH, HIDDEN)) < machine.activity(v))
        drawn = [machine.draws.multinomial(int(n), row) for n, row in zip(v.sum(1), p, strict=True)]
        machine.update(v, np.array(drawn, np.float64))

    return update


def makers(quick: bool) -> Mapping[str, Maker]:
    """All documents of a batch at once against one after the other."""
    return {OURS: ours, LARGE: large, PARTLY: partly, LOOP: loop, ONLINE: online}


TITLE = f"CD-1 of a replicated softmax with {HIDDEN} hidden units, {WORDS} words known: time for {BATCH} documents."
CASES = (
    Case(
        "replicated_softmax",
        TITLE,
        makers,
        (times_faster(LOOP, LARGE, 10.0), times_faster(LOOP, OURS, 10.0), times_faster(ONLINE, OURS, 10.0)),
        OURS,
        turn=20,
        rounds=12,
    ),
)
