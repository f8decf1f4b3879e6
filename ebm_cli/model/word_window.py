"""Energies of windows of words by vectors of the words: pairs at each distance, and hidden units over the window."""

from typing import Annotated, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel, ModelSpec, Pullback
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Categorical, Space


class WordWindow(EnergyModel):
    """E(x) = -sum_i b_i(x_i) - sum_{i<j} z_i.A_{j-i} z_j - o.silu(W z + c), z_i = V(x_i) the vector of the i-th word.

    V (K, dim) is the same at each place of the window, A (D - 1, dim, dim) depends on how far apart two words are, b
    (D, K) and W (hidden, D dim) see the places. It starts at A = 0 and o = 0, where E is that of independent words as
    frequent as in the data, normalised. Words are looked up, so that no work but that of dE/dx grows with K.
    """

    space: Categorical
    apart: Tensor

    def __init__(self, space: Categorical, log_p: Tensor, dim: int, hidden: int, key: Key) -> None:
        super().__init__()
        self.space = space
        self.b = nn.Parameter(log_p)
        self.V = nn.Parameter(rng.normal((space.values, dim), key.fold("V")) / dim**0.5)
        self.A = nn.Parameter(torch.zeros(space.sites - 1, dim, dim))
        self.units = nn.Linear(space.sites * dim, hidden)
        self.out = nn.Linear(hidden, 1, bias=False)
        place = torch.arange(space.sites)
        apart = place - place[:, None] - 1
        self.register_buffer("apart", torch.where(apart < 0, space.sites - 1, apart), persistent=False)
        with torch.no_grad():
            self.units.weight.copy_(rng.normal(self.units.weight.shape, key.fold("W")) / (space.sites * dim) ** 0.5)
            self.units.bias.zero_()
            self.out.weight.zero_()

    @override
    def energy(self, x: Tensor) -> Tensor:
        """Where no gradient is asked for, x is read as what it is."""
        if not torch.is_grad_enabled():
            return self._looked_up(self.space.numbers(x))
        table = self.space.table(x)
        return self._of_vectors(table @ self.V) - (table * self.b).sum((1, 2))

    def _looked_up(self, words: Tensor) -> Tensor:
        """E by the numbers of the words, (batch,)."""
        return self._of_vectors(F.embedding(words, self.V)) - self._alone(words)

    def _alone(self, words: Tensor) -> Tensor:
        """sum_i b_i(x_i), (batch,)."""
        return self.b.gather(1, words.T).sum(0)

    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """dE/dx_i = V dE/dz_i - b_i."""
        words = self.space.numbers(x)
        with torch.enable_grad():
            z = F.embedding(words, self.V.detach()).requires_grad_()
            energy = self._of_vectors(z)
            (slope,) = torch.autograd.grad(energy.sum(), z)
        with torch.no_grad():
            grad = (slope.flatten(0, 1) @ self.V.T).reshape(-1, *self.b.shape).sub_(self.b)
            return energy.detach() - self._alone(words), grad.reshape(x.shape)

    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """By looking up: what has no row in the batch is not touched but by zeros."""
        return self.differentiated(self._looked_up, self.space.numbers(x))

    def _of_vectors(self, z: Tensor) -> Tensor:
        """All but the b of E, (batch,), of vectors z (batch, D, dim)."""
        flat = z.flatten(1)
        pairs = (flat @ self._pairs() * flat).sum(1)
        return cast(Tensor, -pairs - self.out(F.silu(self.units(flat))).squeeze(1))

    def _pairs(self) -> Tensor:
        """A_{j-i} as block (i, j) where i < j, else zeros: (D dim, D dim), one product for all pairs."""
        sites, dim = self.space.sites, self.V.shape[1]
        blocks = torch.cat([self.A, self.A.new_zeros(1, dim, dim)])
        return blocks[self.apart].permute(0, 2, 1, 3).reshape(sites * dim, sites * dim)

    @override
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """`penultimate`: the hidden units."""
        z = F.embedding(self.space.numbers(x), self.V)
        return {"penultimate": F.silu(self.units(z.flatten(1)))}


@register("model", "word_window")
class WordWindowSpec(ModelSpec):
    """Windows of words: vectors of words, their pairs at each distance, hidden units over the window."""

    dim: Annotated[int, Field(ge=1)]
    hidden: Annotated[int, Field(ge=1)]

    builds = WordWindow
    spaces = (Categorical,)

    @override
    def parameters(self, space: Space) -> int:
        """Of words, pairs and hidden units."""
        values, inputs = cast(Categorical, space).values, space.sites * self.dim
        return values * (self.dim + space.sites) + (space.sites - 1) * self.dim**2 + (inputs + 2) * self.hidden

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> WordWindow:
        """Words as frequent as in the data at each place."""
        assert isinstance(space, Categorical)
        return WordWindow(space, mean.reshape(space.sites, space.values).log(), self.dim, self.hidden, key)
