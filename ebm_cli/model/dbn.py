"""Deep belief network: restricted Boltzmann machines, one on top of the other (Hinton, Osindero, Teh 2006)."""

import itertools
import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli.functional import softplus_sum
from ebm_cli.model.base import ModelSpec
from ebm_cli.model.deep import Deep
from ebm_cli.model.rbm import RBM
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Binary, Space

_SUMMED = 10  # hidden units of a layer whose states are summed over, at most
_SURE = 0.01  # a unit's mean is kept so far from 0 and 1 where a bias is made of it


class DBN(Deep):
    """p(x_0, ..., x_D) = p(x_0 | x_1) ... p(x_{D-2} | x_{D-1}) p_top(x_{D-1}, x_D), x_0 = v and the others hidden.

    `layers[i]` is an RBM between x_i and x_{i+1}. The first D = `depth` of them are the network: the last of these, the
    top, is undirected; those below are directed downwards, p(x_i | x_{i+1}) the RBM's own, and recognise upwards by its
    other conditional, q(x_{i+1} | x_i). Of a network of depth 1, an RBM, this is the posterior; of others it is not.
    p(v), a sum over all hidden layers, can be computed for tiny ones alone (`log_likelihood`).

    Buffers: `stacked`, the depth; `updates`, how often its weights have been updated. Both are whole numbers.
    """

    called = "deep belief"
    stacked: Tensor
    updates: Tensor

    def __init__(self, space: Space, layers: list[int], weight_std: float, mean: Tensor, key: Key) -> None:
        super().__init__()
        self.space, self.hidden = space, sum(layers)
        spaces = [space, *(Binary((units,)) for units in layers)]
        means = [mean, *(torch.full((units,), 0.5) for units in layers)]
        self.layers = nn.ModuleList(
            RBM(spaces[i], units, weight_std, means[i], key.fold(i)) for i, units in enumerate(layers)
        )
        # Checkpoints hold whole numbers that change as floating-point ones; float64 counts to 2^53.
        self.register_buffer("stacked", torch.ones((), dtype=torch.float64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.float64))

    @property
    @override
    def drawn(self) -> int:
        """Sites, and the hidden units of all layers."""
        return self.space.sites + self.hidden

    @property
    def depth(self) -> int:
        """How many RBMs are stacked so far."""
        return int(self.stacked.item())

    def rbm(self, number: int) -> RBM:
        """One of the layers, from 0."""
        found = self.layers[number]
        assert isinstance(found, RBM)
        return found

    @property
    @override
    def top(self) -> RBM:
        return self.rbm(self.depth - 1)

    @torch.no_grad()
    def stack(self, *, warm: bool) -> None:
        """One RBM more on top, which begins from the one below.

        `warm`, where it has at least as many hidden units as the one below has visible ones: its weights are those of
        the one below, transposed, and biases are exchanged, so that p(x_i) of its visible units is what that of the
        hidden ones below was: the network of depth D + 1 is that of depth D, and the bound on its likelihood tight for
        D = 1 (Hinton et al. 2006, section 4). Hidden units beyond these keep their random weights; as much of their
        influence as is linear in them is taken out of the visible biases: log(1 + exp(a)) = log 2 + a / 2 + O(a^2).
        Otherwise weights are random, and visible units have the mean that recognition gave them.
        """
        below, above = self.top, self.rbm(self.depth)
        mean, units = below.hidden_offset.clamp(_SURE, 1 - _SURE), len(below.b)
        above.visible_offset.copy_(mean)
        if warm and above.hidden >= units:
            above.W[:, :units] = below.W.T
            above.c[:units] = below.b
            above.b.copy_(below.c - above.W[:, units:].sum(1) / 2)
            above.hidden_offset[:units] = below.visible_offset
        else:
            above.b.copy_(mean.logit())
        self.stacked += 1

    @override
    def recognise(self, v: Tensor, key: AnyKey) -> list[Tensor]:
        """x_0 = v, x_1 ~ q(x_1 | v), ... up to the visible units of the top, `depth` of them."""
        found = [v]
        for i in range(self.depth - 1):
            found.append(self.rbm(i).sample_hidden(found[-1], key.fold("up", i)))
        return found

    @override
    def activities(self, x: Tensor) -> list[Tensor]:
        """Of each layer stacked so far, given the probabilities of the one below in place of draws."""
        found = [x]
        for i in range(self.depth):
            found.append(self.rbm(i).hidden_logits(found[-1]).sigmoid())
        return found[1:]

    @override
    def generate(self, x: Tensor, key: AnyKey) -> Tensor:
        """v, layer by layer from the visible units of the top, (batch, *shape)."""
        for i in reversed(range(self.depth - 1)):
            x = self.rbm(i).sample_visible(x, key.fold("down", i))
        return x

    def log_weight(self, v: Tensor, key: AnyKey) -> Tensor:
        """log p(x) Z_top - log q(x_1, ..., x_{D-1} | v) of one draw from q, (batch,).

        Its mean is at most log p(v) + log Z_top (Hinton et al. 2006, eq. 8 and 9); with q the posterior each draw
        equals that.
        """
        x = self.recognise(v, key)
        found = -self.top.energy(x[-1])
        for i, (lower, upper) in enumerate(itertools.pairwise(x)):
            rbm = self.rbm(i)
            up, down = rbm.hidden_logits(lower), rbm.visible_logits(upper)
            found = found + _log_prob(down, lower.flatten(1)) - _log_prob(up, upper)
        return found

    def refusal(self) -> str | None:
        """Why p(v) cannot be summed over the hidden layers, or None."""
        units = max((len(self.rbm(i).b) for i in range(1, self.depth)), default=0)
        return f"{units} units in a hidden layer, sums go to {_SUMMED}" if units > _SUMMED else None

    def log_likelihood(self, v: Tensor, log_z: Tensor) -> Tensor:
        """log p(v), (batch,), by sums over all states of one hidden layer after the other, given log Z of the top.

        Raises ValueError where `refusal` says why.
        """
        why = self.refusal()
        if why:
            raise ValueError(why)
        if self.depth == 1:
            return -self.top.energy(v) - log_z
        states = [Binary((len(self.rbm(i).b),)).enumerate().to(v) for i in range(1, self.depth)]
        log_p = -self.top.energy(states[-1]) - log_z
        for i in reversed(range(self.depth - 1)):
            lower, logits = (states[i - 1] if i else v.flatten(1)), self.rbm(i).visible_logits(states[i])
            log_p = (lower @ logits.T - softplus_sum(logits) + log_p).logsumexp(1)
        return log_p


def _log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """log p(x) of independent binary units with these logits, (batch,)."""
    return (x * logits).sum(1) - softplus_sum(logits)


@register("model", "dbn")
class DBNSpec(ModelSpec):
    """Deep belief network on binary data; a single RBM to begin with, stacked on by objective=greedy."""

    layers: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    weight_std: Annotated[float, Field(ge=0)]

    builds = DBN
    spaces = (Binary,)

    @override
    def parameters(self, space: Space) -> int:
        """Of every layer's W, b and c."""
        units = [math.prod(space.shape), *self.layers]
        return sum(below * above + below + above for below, above in itertools.pairwise(units))

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> DBN:
        """W ~ N(0, weight_std^2); the visible bias of the first is logit(mean), other biases are 0."""
        return DBN(space, self.layers, self.weight_std, mean, key)
