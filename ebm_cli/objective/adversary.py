"""Distributions that learn against a model: independent units of discrete values, normalising flows of real ones."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ebm_cli import rng
from ebm_cli.model.base import Normalised
from ebm_cli.model.exponential_family import GaussianProduct, product
from ebm_cli.model.flow import Flow, FlowSpec
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Discrete, Space, TwoValued

_LEAST = 0.01  # probability of a value as a discrete adversary begins


class Drawn(NamedTuple):
    """Draws, and their log-density with the graph of the parameters; of real values the draws have one too."""

    x: Tensor  # (n, *shape)
    log_q: Tensor  # (n,)


def independent(space: Space, rows: Tensor) -> Normalised:
    """Independent units with the means of these rows, of real sites with their variances too."""
    mean = rows.mean(0).cpu()
    if isinstance(space, Discrete):
        mean = space.bits(mean) if isinstance(space, TwoValued) else mean
        return product(space, mean.clamp(_LEAST, 1 - _LEAST))
    law = GaussianProduct(space, mean)
    law.r.data.copy_(-rows.flatten(1).var(0).cpu().log())
    return law


def flow(space: Space, rows: Tensor, key: Key) -> Flow:
    """A flow that begins as a normal law of the mean and the largest standard deviation of these rows."""
    spread = rows.flatten(1).std(0).max().item()
    spec = FlowSpec(kind="nsf", transforms=3, hidden=64, bins=8, spread=spread)
    return spec.build(space, rows.mean(0).cpu(), key)


def drawn(law: Normalised, n: int, key: AnyKey) -> Drawn:
    """n draws, differentiable where they are real."""
    if isinstance(law, Flow):
        return Drawn(*law.push_with_log_prob(_normal(law, n, key)))
    if isinstance(law, GaussianProduct):
        x = law.push(_normal(law, n, key))
    else:
        with torch.no_grad():
            x = law.sample(n, key)
    return Drawn(x, -law.energy(x) - law.log_z())


def _normal(law: Normalised, n: int, key: AnyKey) -> Tensor:
    parameter = next(law.parameters())
    return rng.normal((n, law.space.sites), key, parameter.device, parameter.dtype)


def reinforced(reward: Tensor, log_q: Tensor) -> Tensor:
    """A number whose gradient is an estimate of that of E_q[reward], by the draws' log_q (n,), n > 1.

    mean (r - b) log q, b the mean reward of the other draws (Williams 1992; Kool, van Hoof, Welling 2019): unbiased,
    since b does not depend on the draw, and E[d log q] = 0.
    """
    others = (reward.sum() - reward) / (len(reward) - 1)
    return ((reward - others).detach() * log_q).mean()


def frozen(function: nn.Module, x: Tensor) -> Tensor:
    """The energy of a model or the log-density of a noise at x, (batch,), differentiable in x alone."""
    held = {name: p.detach() for name, p in function.named_parameters()}
    found: Tensor = torch.func.functional_call(function, held, (x,))
    return found
