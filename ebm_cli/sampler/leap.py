"""Proposals that draw every site at once, each by its own probabilities, and the test that accepts them."""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm_cli import rng
from ebm_cli.functional import softplus
from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info
from ebm_cli.sampler.informed import InformedState, accept, informed
from ebm_cli.space import Categorical, Space, TwoValued

Logits = Callable[[EnergyModel, InformedState], Tensor]
"""Of a state: of two values the log-odds of each flip, (chains, D, 1), else log-probabilities, (chains, D, K), whose
sums need not be 1."""


class Leap(NamedTuple):
    """Proposals (chains, *shape), which sites have moved (chains, D), and log q of the way there (chains,)."""

    x: Tensor
    moved: Tensor
    log_q: Tensor

    @property
    def flips(self) -> Tensor:
        """How many sites moved, (chains,)."""
        return self.moved.sum(1).to(self.log_q.dtype)


def leapt(model: EnergyModel, state: InformedState, logits: Logits, key: AnyKey) -> tuple[InformedState, Info]:
    """One proposal per chain, taken with min(1, p(x') q(x | x') / (p(x) q(x' | x))); `acceptance` and `flips`."""
    leap = drawn(model.space, state.x, logits(model, state), key.fold("proposal"))
    proposal = informed(model, leap.x)
    back = log_probability(model.space, logits(model, proposal), state.x, leap.moved)
    log_ratio = state.energy - proposal.energy + back - leap.log_q
    state, accepted = accept(state, proposal, log_ratio, key.fold("accept"))
    return state, {"acceptance": accepted, "flips": leap.flips * accepted}


def drawn(space: Space, x: Tensor, logits: Tensor, key: AnyKey) -> Leap:
    """A draw from x (chains, *shape)."""
    if isinstance(space, Categorical):
        end = F.one_hot(rng.categorical(logits, key), space.values).to(logits.dtype)
        log_q = (logits.log_softmax(2) * end).sum((1, 2))
        return Leap(end.reshape(x.shape), (end != space.table(x)).any(2), log_q)
    moved = rng.bernoulli(logits.squeeze(2), key) > 0.5
    end = torch.where(moved.reshape(x.shape), cast(TwoValued, space).flipped(x), x)
    return Leap(end, moved, _log_flips(logits, moved))


def log_probability(space: Space, logits: Tensor, x: Tensor, moved: Tensor) -> Tensor:
    """log q of x (chains, *shape), which differs in the sites `moved` from where the logits are; (chains,)."""
    if isinstance(space, Categorical):
        return (logits.log_softmax(2) * space.table(x)).sum((1, 2))
    return _log_flips(logits, moved)


def unless_kept(space: Space, x: Tensor, log_g: Tensor, cost: Tensor | float) -> Tensor:
    """log_g (chains, D, moves of a site) less `cost`, a number or (D, 1), for every value but that of the site in x."""
    if isinstance(space, Categorical):
        return log_g - cost + space.table(x) * cost
    return log_g - cost


def _log_flips(logits: Tensor, moved: Tensor) -> Tensor:
    """log of the product of sigmoid(+-logit), + where a site has moved."""
    sign = torch.where(moved, -1.0, 1.0).to(logits.dtype)
    return -softplus(sign * logits.squeeze(2)).sum(1)
