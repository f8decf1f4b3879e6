"""Replicated softmax: a family of restricted Boltzmann machines, one for each length of a document."""

import math
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.functional import product, sigmoid, softplus_sum, totals, transposed_product
from ebm_cli.model.base import Blocked, Gradients, ModelSpec, Pullback, WithHidden
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Counts, Space

BiasGradient = Literal["exact", "without_length"]


class ReplicatedSoftmax(WithHidden):
    """E(v, h) = -b.v - D c.h - v.W h of word counts v (K,), D = sum_k v_k, and binary hidden units h.

    Free energy E(v) = -b.v - sum_j softplus(D c_j + (v W)_j): Salakhutdinov & Hinton 2009, eq. 5, with the hidden units
    summed out. W (K, hidden), b (K,), c (hidden,), their a. Given h the D words are independent, each from the softmax
    of b + W h (their eq. 3); given v the hidden units are, p(h_j = 1 | v) = sigmoid(D c_j + (v W)_j) (their eq. 4).

    With `bias_gradient` without_length dE/dc leaves out its factor D, as public implementations of the paper do: then
    what `energy_vjp` gives is the gradient of no function.
    """

    called = "replicated softmax"
    tempers = False
    takes_sparse = True

    def __init__(
        self, space: Counts, hidden: int, weight_std: float, mean: Tensor, key: Key, bias_gradient: BiasGradient
    ) -> None:
        super().__init__()
        self.space: Counts = space
        self.hidden, self.bias_gradient = hidden, bias_gradient
        self.W = nn.Parameter(weight_std * rng.normal((space.sites, hidden), key))
        self.b = nn.Parameter(mean.log())
        self.c = nn.Parameter(torch.zeros(hidden))

    def hidden_logits(self, v: Tensor) -> Tensor:
        """D c + v W, (batch, hidden)."""
        return self._hidden_logits(v, product(v, self.W))

    def _hidden_logits(self, v: Tensor, without_bias: Tensor) -> Tensor:
        return without_bias.addcmul(totals(v)[:, None], self.c)

    @override
    def activities(self, x: Tensor) -> list[Tensor]:
        """sigmoid of the hidden logits."""
        return [self.hidden_logits(x).sigmoid()]

    @override
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """`topic`: p(h_j = 1 | v) of each topic j."""
        return {"topic": self.activities(x)[0]}

    @property
    @override
    def drawn(self) -> int:
        return self.space.sites

    def word_logits(self, h: Tensor) -> Tensor:
        """b + W h, of which each word is a draw from the softmax; (batch, K) for h (batch, hidden)."""
        return torch.addmm(self.b, h, self.W.T)

    @override
    def energy(self, x: Tensor) -> Tensor:
        """The free energy, (batch,)."""
        return self._seen(x)[0]

    def _seen(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """-b.v - sum_j softplus(a_j), (batch,), and a = `hidden_logits(v)`, by one product with the parameters."""
        found = product(v, torch.cat([self.W, self.b[:, None]], 1))
        logits = self._hidden_logits(v, found[:, :-1])
        return -found[:, -1] - softplus_sum(logits), logits

    @override
    def log_marginal(self, h: Tensor) -> Tensor:
        """s(h) = c.h + log sum_k exp(b_k + (W h)_k), (batch,).

        The sum over all sequences of D words is sum_v exp(-E(v, h)) = exp(D s(h)), so that Z_D = sum_h exp(D s(h)).
        """
        return h @ self.c + self.word_logits(h).logsumexp(1)

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The free energy, and its gradient from the same hidden logits."""
        energy, logits = self._seen(x)
        return energy, partial(self.pull, x, logits)

    def pull(self, v: Tensor, hidden_logits: Tensor, weight: Tensor) -> Gradients:
        """sum_n w_n dE(v_n)/dtheta: dE/dW = -v sigmoid(a)^T, dE/db = -v, dE/dc = -D sigmoid(a)."""
        activity = sigmoid(hidden_logits) * -weight[:, None]
        length = totals(v) if self.bias_gradient == "exact" else torch.ones_like(weight)
        found = transposed_product(v, torch.cat([activity, -weight[:, None]], 1))
        return {"W": found[:, :-1], "b": found[:, -1], "c": length @ activity}

    @override
    def sweep(self, x: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """h ~ p(h | v), then D words ~ p(. | h), reversible as a kernel on v; every document keeps its length."""
        h = rng.bernoulli(self.hidden_logits(x), key.fold("hidden"))
        draw = rng.sparse_multinomial if x.is_sparse else rng.multinomial
        return draw(totals(x), self.word_logits(h), key.fold("visible"))

    def log_next_word(self, x: Tensor) -> Tensor:
        """log p(the word of one place | the words x of all others), (batch, K) for x (batch, K).

        Proportional to exp(-E(v + e_k)): b_k + sum_j softplus(a_j + c_j + W_kj), with a the logits of x.
        """
        on = self.hidden_logits(x) + self.c
        scores = [self.b + softplus_sum(row + self.W) for row in on]
        return torch.stack(scores).log_softmax(1)


class GivenWords(Blocked):
    """The other words x (K,) of documents that have `given` words already: p(x | g) is proportional to exp(-E(x + g)).

    E is the energy of the whole document, whose length is that of x and g together; the words of x are the ones of
    their own places, so their number is that of the sequences of these. A sweep draws h ~ p(h | x + g) and each word
    of x from the softmax of b + W h: block Gibbs in which the given words stay.
    """

    called = "replicated softmax with words given"
    tempers = False

    def __init__(self, model: ReplicatedSoftmax, given: Tensor, length: int) -> None:
        """`given` (K,) are counts; `length` is that of x where none is given."""
        super().__init__()
        self.model, self.given = model, given
        self.space: Counts = replace(model.space, length=length)

    @override
    def energy(self, x: Tensor) -> Tensor:
        """Of the whole document, (batch,)."""
        return self.model.energy(x + self.given)

    @override
    def sweep(self, x: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """h ~ p(h | x + g), then the words of x ~ p(. | h), reversible as a kernel on x."""
        h = rng.bernoulli(self.model.hidden_logits(x + self.given), key.fold("hidden"))
        return rng.multinomial(x.sum(1), self.model.word_logits(h), key.fold("visible"))


@register("model", "replicated_softmax")
class ReplicatedSoftmaxSpec(ModelSpec):
    """Replicated softmax of word counts, a topic model; the words' bias starts at their frequencies."""

    hidden: Annotated[int, Field(ge=1)]
    weight_std: Annotated[float, Field(ge=0)]
    bias_gradient: BiasGradient

    builds = ReplicatedSoftmax
    spaces = (Counts,)

    @property
    @override
    def inexact(self) -> str | None:
        return None if self.bias_gradient == "exact" else f"model.bias_gradient = {self.bias_gradient}"

    @override
    def parameters(self, space: Space) -> int:
        return math.prod(space.shape) * (self.hidden + 1) + self.hidden

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> ReplicatedSoftmax:
        """W ~ N(0, weight_std^2), b = log of the words' shares `mean`, c = 0."""
        assert isinstance(space, Counts)
        return ReplicatedSoftmax(space, self.hidden, self.weight_std, mean, key, self.bias_gradient)
