"""Annealing of a replicated softmax in the length of its documents: log Z of every length from one run."""

import copy
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.device.engine import EAGER, Engine
from ebm_cli.model.replicated_softmax import ReplicatedSoftmax
from ebm_cli.rng import Key

_SCALE = 20.0  # words: below it about even steps, above it even factors
_RANGE = 300.0  # nats that a word's weight may move by before it is summed anew: float64 loses nothing within 700


class HiddenState(NamedTuple):
    """Hidden units h (chains, hidden), and the words given them, summed out.

    `weight` (chains, K) is proportional to exp(b + W h) in each row, `total` (chains,) its sum; s is s(h), (chains,).
    """

    h: Tensor
    weight: Tensor
    total: Tensor
    s: Tensor


class LengthPath:
    """p_D(h) = exp(D s(h)) / Z_D for any real D >= 0, with s(h) = c.h + log sum_k exp(b_k + (W h)_k).

    At D words that is the marginal of a replicated softmax with its words summed out; at 0 the hidden units are fair
    coins and log Z_0 = hidden log 2. All is computed in float64.
    """

    def __init__(self, model: ReplicatedSoftmax) -> None:
        self.model = copy.deepcopy(model).double()
        up = self.model.W.detach().T
        self.factors = torch.stack([up, -up], 1).exp()  # (hidden, 2, K): of the words' weights, a unit turned on or off
        self.blocks = list(_blocks(self.model.W.detach().abs()))

    @property
    def log_z_base(self) -> float:
        """log Z_0 in nats."""
        return self.model.hidden * math.log(2)

    def start(self, chains: int, key: Key) -> HiddenState:
        """Fair coins."""
        return self.observe(rng.bernoulli(self.model.c.new_zeros(chains, self.model.hidden), key))

    def observe(self, h: Tensor) -> HiddenState:
        """The words given h (chains, hidden) float64."""
        logits = self.model.word_logits(h)
        top = logits.amax(1, keepdim=True)
        weight = (logits - top).exp_()
        total = weight.sum(1)
        return HiddenState(h, weight, total, h @ self.model.c + top.squeeze(1) + total.log())

    def move(self, state: HiddenState, length: float, key: Key, *, backwards: bool = False) -> HiddenState:
        """Each hidden unit in turn given all the others, from p_D; `backwards` in the opposite order.

        log p(h_j = 1 | others) / p(h_j = 0 | others) = D (s(h with h_j = 1) - s(h with h_j = 0)). It leaves p_D
        invariant, and the two orders are each other's reversal: p_D(h) T(h -> h') = p_D(h') T~(h' -> h).
        """
        u = rng.uniform(state.h.shape, key, state.h.device, torch.float64).T
        h = state.h.T.clone(memory_format=torch.contiguous_format)
        for n, block in enumerate(self.blocks[::-1] if backwards else self.blocks):
            state = state if n == 0 else self.observe(h.T)
            weight, total = state.weight.clone(), state.total
            for j in reversed(block) if backwards else block:
                with_it, without = (weight @ self.factors[j].T).unbind(1)
                on = h[j] > 0
                other = torch.where(on, without, with_it)
                gain = length * (self.model.c[j] * (1 - 2 * h[j]) + (other / total).log())
                flipped = u[j] < gain.sigmoid()
                rows = flipped.nonzero().squeeze(1)
                weight[rows] *= self.factors[j][on[rows].long()]
                total = torch.where(flipped, other, total)
                h[j] = torch.where(flipped, 1 - h[j], h[j])
        return self.observe(h.T.contiguous())


def _blocks(size: Tensor) -> Iterator[range]:
    """Hidden units in a row whose weights |W| (K, hidden) add up to at most `_RANGE` at any word, one at least."""
    first, moved = 0, torch.zeros_like(size[:, 0])
    for j, of in enumerate(size.unbind(1)):
        if j > first and (moved + of).max() > _RANGE:
            yield range(first, j)
            first, moved = j, torch.zeros_like(of)
        moved = moved + of
    yield range(first, size.shape[1])


def ladder(lengths: Tensor, steps: int) -> Tensor:
    """0 = D_0 < D_1 < ... that have all of `lengths` among them, and `steps` others evenly in log(1 + D / 20)."""
    top = lengths.max().double()
    even = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=lengths.device)
    grid = _SCALE * torch.expm1(even * torch.log1p(top / _SCALE))
    return torch.cat([grid[:-1], lengths.double()]).unique()


class Risen(NamedTuple):
    """Log w (lengths, chains) of chains that went up, where they ended, (chains, hidden), and the highest s(h) met."""

    log_w: Tensor
    h: Tensor
    best: float

    def ends(self, key: Key) -> Tensor:
        """As many draws of the ends in proportion to the last w: about p_D of the longest documents."""
        last = self.log_w[-1]
        return self.h[rng.categorical(last.expand(len(last), -1), key)]


def forward(path: LengthPath, rungs: Tensor, lengths: Tensor, chains: int, key: Key, engine: Engine = EAGER) -> Risen:
    """E[w] = Z_D / Z_0 for each D of `lengths`, which rise, float64.

    h_0 ~ p_0; for t = 1, 2, ...: log w += (D_t - D_(t-1)) s(h_(t-1)), h_t ~ T_t(. | h_(t-1)): AIS (Neal 2001) along
    the `rungs`, which hold all of `lengths`, read where it passes them.
    """
    wanted, found, best = set(lengths.tolist()), [], []
    for part in engine.slices(chains):
        state = path.start(part.stop - part.start, key.fold("start").after(part.start))
        log_w, each = torch.zeros_like(state.s), []
        for t, (below, length) in enumerate(itertools.pairwise(rungs.tolist())):
            log_w = log_w + (length - below) * state.s
            if length in wanted:
                each.append(log_w)
            state = path.move(state, length, key.fold(t).after(part.start))
            best.append(state.s.max())
        found.append((torch.stack(each), state.h))
    log_w, h = (torch.cat(column, dim) for column, dim in zip(zip(*found, strict=True), (1, 0), strict=True))
    return Risen(log_w, h, torch.stack(best).max().item())


def backward(path: LengthPath, rungs: Tensor, lengths: Tensor, h: Tensor, key: Key, engine: Engine = EAGER) -> Tensor:
    """Log w (lengths, chains) with E[1 / w] = Z_0 / Z_D where the chains from h (chains, hidden) are at D draws of p_D.

    h_T = h; for t = T, ..., 1: h_(t-1) from the reversal of T_t; log w sums (D_t - D_(t-1)) s(h_(t-1)) of all D_t <= D.
    -log mean 1 / w is on average above log Z_D / Z_0, given draws of p_D at the top; below it chains that lag behind
    have s still as high as for longer documents.
    """
    steps, found = rungs.tolist(), []
    wanted = torch.isin(rungs[1:], lengths.to(rungs))
    for part in engine.slices(len(h)):
        state, each = path.observe(h[part]), []
        for t in range(len(steps) - 1, 0, -1):
            state = path.move(state, steps[t], key.fold(t).after(part.start), backwards=True)
            each.append((steps[t] - steps[t - 1]) * state.s)
        found.append(torch.stack(each[::-1]).cumsum(0)[wanted])
    return torch.cat(found, 1)


def reverse_log_p(path: LengthPath, rungs: Tensor, x: Tensor, chains: int, key: Key, engine: Engine = EAGER) -> Tensor:
    """Lower bound (documents,) float64 on log p_annealed(x), in expectation: log of the mean weight of `chains` chains.

    The annealed model: h_0, ..., h_T as in `forward` up to the length D_T of the document x (K,), then its words given
    h_T. In reverse (Burda, Grosse, Salakhutdinov 2015) h_T ~ p(h | x), and for t = T, ..., 1 h_(t-1) is drawn from the
    reversal of T_t. As T_t(h -> h') / T~_t(h' -> h) = exp(D_t (s(h') - s(h))), the ratio of the two laws is
    w = exp(-E(x) - sum_t (D_t - D_(t-1)) s(h_(t-1))) / Z_0, and E[w] = p_annealed(x).
    """
    length, order = x.sum(1).double().sort(descending=True, stable=True)
    rows = x[order].double()
    log_f = -path.model.energy(rows)
    rows, length = rows.repeat_interleave(chains, 0), length.repeat_interleave(chains)
    weights = [_down(path, rungs, rows[part], length[part], key.after(part.start)) for part in engine.slices(len(rows))]
    log_w = torch.cat(weights).reshape(len(x), chains).logsumexp(1) - math.log(chains)
    return torch.empty_like(log_f).scatter(0, order, log_f - path.log_z_base + log_w)


def _down(path: LengthPath, rungs: Tensor, x: Tensor, length: Tensor, key: Key) -> Tensor:
    """-sum_t (D_t - D_(t-1)) s(h_(t-1)) of a chain for each document x, longest first; each joins at its length."""
    h = rng.bernoulli(path.model.hidden_logits(x), key.fold("hidden"))
    log_w, state = torch.zeros_like(length), path.observe(h[:0])
    steps = rungs.tolist()
    for t in range(len(steps) - 1, 0, -1):
        count = int((length >= steps[t]).sum())
        if count > len(state.h):
            state = path.observe(torch.cat([state.h, h[len(state.h) : count]]))
        if count:
            state = path.move(state, steps[t], key.fold(t), backwards=True)
            log_w[:count] -= (steps[t] - steps[t - 1]) * state.s
    return log_w
