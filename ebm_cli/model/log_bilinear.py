"""Log-bilinear language model (Mnih & Hinton 2007): the word that follows a context, over a large vocabulary."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import Conditional, Gradients, ModelSpec, Pullback
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Space, Words


class LogBilinear(Conditional):
    """E(w | context) = -(r.q_w + b_w), r = sum_i C_i q'_{w_i} over the words w_i of the context (Mnih & Teh 2012).

    Their eq. 2 and 3, with the vector of w the target's. q are rows of Q and q' of R, (V, dim); without R both are rows
    of Q. C holds a vector for each position, (words, dim), which stands for a diagonal C_i, or matrices (words, dim,
    dim). With `sparse`, gradients of Q, R and b are sparse tensors of the rows that the batch touches, so that what
    they cost does not depend on V.
    """

    def __init__(self, space: Words, dim: int, *, full: bool, separate: bool, sparse: bool) -> None:
        super().__init__()
        self.space, self.sparse = space, sparse
        words = space.shape[0] - 1
        self.Q = nn.Parameter(torch.empty(space.values, dim))
        self.R = nn.Parameter(torch.empty(space.values, dim)) if separate else None
        self.b = nn.Parameter(torch.empty(space.values))
        self.C = nn.Parameter(torch.empty((words, dim, dim) if full else (words, dim)))

    @override
    def energy(self, x: Tensor) -> Tensor:
        """-(r.q_w + b_w), (batch,)."""
        context, word = x[:, :-1].long(), x[:, -1].long()
        return -((self._predicted(self._vectors(context)) * self.Q[word]).sum(1) + self.b[word])

    @override
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """`predicted`: r, the vector that the context predicts for the word after it."""
        return {"predicted": self._predicted(self._vectors(x[:, :-1].long()))}

    @override
    def scores(self, context: Tensor) -> Tensor:
        """r.q_w + b_w for every word w, (batch, V)."""
        return self._predicted(self._vectors(context.long())) @ self.Q.T + self.b

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """In closed form, by dE/dr = -q_w and dE/dq_w = -r; r is found once for rows of the same context."""
        context, row = _distinct(x[:, :-1].long(), self.space.values)
        word, vectors = x[:, -1].long(), self._vectors(context)
        predicted = self._predicted(vectors)
        r, q = predicted[row], self.Q[word]

        def pull(weight: Tensor) -> Gradients:
            factor = -weight[:, None]
            of_r = torch.zeros_like(predicted).index_add_(0, row, factor * q)
            of_vectors, of_C = self._back(vectors, of_r)
            of_words, of_contexts = self._rows(self.Q, word, factor * r), self._rows(self.Q, context, of_vectors)
            tables = {"Q": of_words + of_contexts} if self.R is None else {"Q": of_words, "R": of_contexts}
            return {**tables, "b": self._rows(self.b, word, -weight), "C": of_C}

        return -((r * q).sum(1) + self.b[word]), pull

    def _vectors(self, context: Tensor) -> Tensor:
        """q' of each word of the context, (batch, words, dim)."""
        return (self.Q if self.R is None else self.R)[context]

    def _predicted(self, vectors: Tensor) -> Tensor:
        """r, (batch, dim)."""
        if self.C.dim() == 2:
            return (vectors * self.C).sum(1)
        return torch.einsum("bwd,wed->be", vectors, self.C)

    def _back(self, vectors: Tensor, of_r: Tensor) -> tuple[Tensor, Tensor]:
        """What a gradient with respect to r, (batch, dim), is with respect to the vectors, and to C."""
        if self.C.dim() == 2:
            return of_r[:, None] * self.C, (vectors * of_r[:, None]).sum(0)
        return torch.einsum("be,wed->bwd", of_r, self.C), torch.einsum("be,bwd->wed", of_r, vectors)

    def _rows(self, table: Tensor, numbers: Tensor, values: Tensor) -> Tensor:
        """The gradient with respect to a table, from those of its rows of these numbers; they add up."""
        flat, values = numbers.flatten(), values.reshape(-1, *table.shape[1:])
        if self.sparse:
            return torch.sparse_coo_tensor(flat[None], values, table.shape, check_invariants=False).coalesce()
        return torch.zeros_like(table).index_add_(0, flat, values)

    def nearest(self, words: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Cosines and numbers of the `count` words nearest to each, itself left out: (words, count), by rows of Q."""
        rows = nn.functional.normalize(self.Q, dim=1)
        cosine = (rows[words] @ rows.T).scatter(1, words[:, None], -torch.inf)
        found = cosine.topk(min(count, self.space.values - 1))
        return found.values, found.indices


def _distinct(context: Tensor, values: int) -> tuple[Tensor, Tensor]:
    """Contexts without repetition, (distinct, words), and which of them each row has, (batch,)."""
    row = torch.zeros(len(context), dtype=torch.int64, device=context.device)
    for column in context.unbind(1):
        row = torch.unique(row * values + column, return_inverse=True)[1]  # below the number of rows: no overflow
    one = row.new_empty(int(row.max()) + 1).scatter_(0, row, torch.arange(len(row), device=row.device))
    return context[one], row


@register("model", "log_bilinear")
class LogBilinearSpec(ModelSpec):
    """Log-bilinear model of the word that follows a context, p(w | context) = exp(-E) / Z(context).

    It starts at the frequencies of the words: b = log p(w), so that Z is near 1, and normal vectors of standard
    deviation `weight_std` with C_i = 1.
    """

    dim: Annotated[int, Field(ge=1)]
    context_weights: Literal["diagonal", "full"]
    vectors: Literal["separate", "shared"]
    weight_std: Annotated[float, Field(gt=0)]
    sparse: bool

    builds = LogBilinear
    spaces = (Words,)

    @property
    @override
    def sparse_gradients(self) -> bool:
        return self.sparse

    @override
    def parameters(self, space: Space) -> int:
        """Of the vectors, biases and weights of the positions."""
        assert isinstance(space, Words)
        tables = 2 if self.vectors == "separate" else 1
        each = self.dim**2 if self.context_weights == "full" else self.dim
        return space.values * (tables * self.dim + 1) + (space.shape[0] - 1) * each

    @torch.no_grad()
    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> LogBilinear:
        """`mean` (V,) is the frequency of each word."""
        assert isinstance(space, Words)
        full, separate = self.context_weights == "full", self.vectors == "separate"
        model = LogBilinear(space, self.dim, full=full, separate=separate, sparse=self.sparse)
        for name, table in (("Q", model.Q), ("R", model.R)):
            if table is not None:
                table.copy_(self.weight_std * rng.normal(table.shape, key.fold(name)))
        model.b.copy_(mean.log())
        model.C.copy_(torch.eye(self.dim).expand_as(model.C) if full else torch.ones_like(model.C))
        return model
