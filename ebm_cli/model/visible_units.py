"""Visible bits, spins or categories of one layer: p(v) proportional to exp(v.f) given their fields f."""

import torch.nn.functional as F
from torch import Tensor

from ebm_cli import rng
from ebm_cli.functional import softplus
from ebm_cli.model.exponential_family import BernoulliProduct, CategoricalProduct
from ebm_cli.rng import AnyKey
from ebm_cli.space import Categorical, Discrete, Spin, TwoValued


def fields_of_mean(space: Discrete, mean: Tensor) -> Tensor:
    """With which units have this mean, of spins that of their bits, (*shape)."""
    if isinstance(space, Categorical):
        return mean.log()
    return mean.logit() / 2 if isinstance(space, Spin) else mean.logit()


def fields_of(base: BernoulliProduct | CategoricalProduct) -> Tensor:
    """Of independent units, (units,)."""
    return base.b.flatten() / width(base.space)


def width(space: Discrete) -> float:
    """How far the values of a site are apart."""
    return space.high - space.low if isinstance(space, TwoValued) else 1.0


def draw(space: Discrete, fields: Tensor, key: AnyKey) -> Tensor:
    """v, (batch, *shape), from the fields (batch, units)."""
    shape = (-1, *space.shape)
    if isinstance(space, Categorical):
        drawn = rng.categorical(space.table(fields), key)
        return F.one_hot(drawn, space.values).to(fields.dtype).reshape(shape)
    assert isinstance(space, TwoValued)
    return space.of_bits(rng.bernoulli(width(space) * fields, key)).reshape(shape)


def log_sum(space: Discrete, fields: Tensor) -> Tensor:
    """log sum_v exp(v.f), (batch,)."""
    if isinstance(space, Categorical):
        return space.table(fields).logsumexp(2).sum(1)
    assert isinstance(space, TwoValued)
    return (softplus(width(space) * fields) + space.low * fields).sum(1)
