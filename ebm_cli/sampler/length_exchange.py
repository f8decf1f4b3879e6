"""Block Gibbs sampling of documents that exchange their hidden units with documents of other lengths."""

from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.replicated_softmax import ReplicatedSoftmax
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.space import Counts


class LengthExchangeState(NamedTuple):
    """Documents; hidden units are drawn afresh in every step."""

    x: Tensor


@register("sampler", "length_exchange")
class LengthExchange(Sampler[ReplicatedSoftmax, LengthExchangeState]):
    """h ~ p(h | v) of every document, `exchanges` of them between documents of neighbouring lengths, v ~ p(v | h).

    With the words summed out hidden units have p_D(h) proportional to exp(D s(h)), `log_marginal`: lengths are
    inverse temperatures, and chains of different lengths are the replicas of parallel tempering (Swendsen & Wang 1986).
    Documents of lengths D and D' swap h and h' with probability min(1, exp((D - D') (s(h') - s(h)))), which leaves
    the product of their distributions invariant, and long documents, which hardly move by themselves, receive states
    of shorter ones. Each exchange tries the neighbours by length in pairs from the first, then from the second on.
    `exchange_rate` is 1 for a chain that has swapped in all of its pairs. Chains in flight apart from each other for
    want of memory, and those of other processes, exchange nothing.
    """

    exchanges: Annotated[int, Field(ge=1)]

    spaces = (Counts,)
    needs = (ReplicatedSoftmax,)

    @override
    def init(self, model: ReplicatedSoftmax, x: Tensor) -> LengthExchangeState:
        return LengthExchangeState(x)

    @override
    def step(
        self, model: ReplicatedSoftmax, state: LengthExchangeState, key: AnyKey
    ) -> tuple[LengthExchangeState, Info]:
        """One sweep of every document with the exchanges in its middle."""
        length = state.x.sum(1)
        h = rng.bernoulli(model.hidden_logits(state.x), key.fold("hidden"))
        logits = model.word_logits(h)
        s = h @ model.c + logits.logsumexp(1)
        owner = torch.arange(len(h), device=h.device)  # whose hidden units each document has come to have
        rates = []
        for i in range(self.exchanges):
            for first in (0, 1):
                owner, rate = exchanged(owner, length, s, first, key.fold("exchange", i, first))
                rates.append(rate)
        x = rng.multinomial(length, logits[owner], key.fold("visible"))
        return LengthExchangeState(x), {"exchange_rate": torch.stack(rates).mean(0)}


def exchanged(owner: Tensor, length: Tensor, s: Tensor, first: int, key: AnyKey) -> tuple[Tensor, Tensor]:
    """Who has whose state after pairs (first, first + 1), (first + 2, ...), ... by length were tried; who swapped.

    `s` (chains,) is of the states as they were numbered, `owner` says which of them each chain has.
    """
    order = length.argsort(stable=True)
    last = first + (len(order) - first) // 2 * 2
    low, high = order[first:last:2], order[first + 1 : last : 2]
    log_ratio = (length[high] - length[low]) * (s[owner[low]] - s[owner[high]])
    swap = rng.uniform(length.shape, key, length.device)[low] < log_ratio.exp()
    moved, rate = owner.clone(), torch.zeros_like(s)
    moved[low], moved[high] = torch.where(swap, owner[high], owner[low]), torch.where(swap, owner[low], owner[high])
    rate[low] = rate[high] = swap.to(s.dtype)
    return moved, rate
