"""Deep Boltzmann machine of two hidden layers (Salakhutdinov & Hinton 2009)."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import ModelSpec
from ebm_cli.model.deep import Deep
from ebm_cli.model.rbm import RBM
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Binary, Space

_SUMMED = 10  # units of the second layer whose states are summed over, at most
_SURE = 0.01  # a unit's mean is kept so far from 0 and 1 where it is drawn by
_SWEEPS = 10  # of mean field, for activities


class DBM(Deep):
    """E(v, h, g) = -b.v - c.h - a.g - v.W h - g.J h, all of them bits: an RBM with sides x = (v, g) and h.

    `rbm` is that machine, of weights (W; J) and biases (b, a) and c, with h summed out of its energy E(x). p(v) is a
    sum over g (`log_likelihood` of small ones). For any q(g) = prod_i q_i^g_i (1 - q_i)^(1 - g_i)

    log p(v) >= -E(v, q) + H(q) - log Z,

    the bound of a factorised q of both layers (their eq. 7 to 9) with the best one of h for this q of g, sigmoid of its
    logits: E_q[c.h + v.W h + q.J h] + H is softplus(c + v W + q J) there, which is what E(x) has.
    """

    called = "deep Boltzmann"

    def __init__(self, space: Space, layers: tuple[int, int], weight_std: float, mean: Tensor, key: Key) -> None:
        super().__init__()
        first, second = layers
        self.space, self.hidden = space, first + second
        both = torch.cat([mean.flatten(), torch.full((second,), 0.5)])
        self.rbm = RBM(Binary((len(both),)), first, weight_std, both, key)

    @property
    @override
    def drawn(self) -> int:
        """Sites, and the hidden units of both layers."""
        return self.space.sites + self.hidden

    @property
    @override
    def top(self) -> RBM:
        return self.rbm

    @property
    def first(self) -> RBM:
        """The RBM of v and h alone, with the weights that they have here: the machine if J = 0."""
        return _First(self)

    @property
    def second(self) -> int:
        """Units g."""
        return len(self.rbm.b) - self.space.sites

    def beside(self, v: Tensor, g: Tensor) -> Tensor:
        """x = (v, g), (batch, sites + second)."""
        return torch.cat([v.flatten(1), g.to(v.dtype)], 1)

    def mean_field(self, v: Tensor, sweeps: int) -> Tensor:
        """(v, q), q (batch, second) after so many sweeps of both layers from the mean of g on the data (their eq. 10).

        Each brings -E(v, q) + H(q) up, or leaves it.
        """
        sites = self.space.sites
        W, J = self.rbm.W.split([sites, self.second])
        of_data, q = torch.addmm(self.rbm.c, v.flatten(1), W), self.rbm.visible_offset[sites:]
        for _ in range(sweeps):
            q = torch.addmm(self.rbm.b[sites:], (of_data + q @ J).sigmoid(), J.T).sigmoid()
        return self.beside(v, q)

    def drawn_given(self, v: Tensor, sweeps: int, key: AnyKey) -> Tensor:
        """(v, g), g after so many block Gibbs sweeps of both layers given v, from a draw by its mean on the data."""
        mean = self.rbm.visible_offset[self.space.sites :].clamp(_SURE, 1 - _SURE)
        x = self.beside(v, rng.bernoulli(mean.logit().expand(len(v), -1), key.fold("start")))
        free = (torch.arange(x.shape[1], device=x.device) >= self.space.sites).expand(len(x), -1)
        for i in range(sweeps):
            x = self.rbm.sweep_given(x, free, key.fold(i), backwards=False)
        return x

    def bound(self, x: Tensor) -> Tensor:
        """-E(v, q) + H(q) of x = (v, q), which is at most log p(v) + log Z, (batch,)."""
        q = x[:, self.space.sites :]
        return -self.rbm.energy(x) + (torch.special.entr(q) + torch.special.entr(1 - q)).sum(1)

    @override
    def recognise(self, v: Tensor, key: AnyKey) -> list[Tensor]:
        """Of a chain that begins at v: g by one sweep from its mean on the data."""
        return [v, self.drawn_given(v, 1, key)]

    @override
    def generate(self, x: Tensor, key: AnyKey) -> Tensor:
        """The visible units that are part of x."""
        return x[:, : self.space.sites].reshape(-1, *self.space.shape)

    @override
    def activities(self, x: Tensor) -> list[Tensor]:
        """Of both layers, by mean field."""
        both = self.mean_field(x, _SWEEPS)
        return [self.rbm.hidden_logits(both).sigmoid(), both[:, self.space.sites :]]

    def refusal(self) -> str | None:
        """Why p(v) cannot be summed over the second layer, or None."""
        return f"{self.second} units in the second layer, sums go to {_SUMMED}" if self.second > _SUMMED else None

    def log_likelihood(self, v: Tensor, log_z: Tensor) -> Tensor:
        """log p(v), (batch,), by the sum over all states of g. Raises ValueError where `refusal` says why."""
        why = self.refusal()
        if why:
            raise ValueError(why)
        states = Binary((self.second,)).enumerate().to(v)
        each = [-self.rbm.energy(self.beside(v, g.expand(len(v), -1))) for g in states]
        return torch.stack(each, 1).logsumexp(1) - log_z


class _First(RBM):
    """E(v, h) = -b.v - c.h - v.W h with slices of the parameters of a deep machine, v flat."""

    def __init__(self, model: DBM) -> None:
        nn.Module.__init__(self)
        whole, sites = model.top, model.space.sites
        self.space, self.hidden = Binary((sites,)), whole.hidden
        self.W, self.b, self.c = (nn.Parameter(part.detach()) for part in (whole.W[:sites], whole.b[:sites], whole.c))
        self.visible_offset, self.hidden_offset = whole.visible_offset[:sites], whole.hidden_offset


@register("model", "dbm")
class DBMSpec(ModelSpec):
    """Deep Boltzmann machine of two hidden layers on binary data, both trained at once."""

    layers: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    weight_std: Annotated[float, Field(ge=0)]

    builds = DBM
    spaces = (Binary,)

    @override
    def parameters(self, space: Space) -> int:
        """Of W, J and the biases."""
        first, second = self.layers
        return (math.prod(space.shape) + second) * (first + 1) + first

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> DBM:
        """W, J ~ N(0, weight_std^2), b = logit(mean), other biases 0."""
        return DBM(space, self.layers, self.weight_std, mean, key)
