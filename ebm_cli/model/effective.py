"""Couplings between visible sites that a model has in effect: of pairs and triples, its hidden units summed out."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_cli.functional import softplus
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.boltzmann import Boltzmann
from ebm_cli.model.expected_softplus import Interpolation, cumulants, expected, interpolation
from ebm_cli.model.harmonium import DiscreteHarmonium
from ebm_cli.model.ising import Ising
from ebm_cli.model.potts import Potts
from ebm_cli.model.rbm import RBM
from ebm_cli.space import Categorical, Spin

_AT_ONCE = 2**20  # numbers that are formed at once
_GRID = 201  # inputs at which the deviations of hidden units are looked at
_TwoLayer = RBM | DiscreteHarmonium


class Couplings(NamedTuple):
    """Pairs of sites (pairs, 2) and their couplings J_ij (pairs, K, K) in the zero-sum gauge."""

    pairs: Tensor
    J: Tensor


def couples_spins(model: EnergyModel) -> bool:
    """Whether `spin_couplings` takes it."""
    return isinstance(model, Ising | Boltzmann | _TwoLayer) and not isinstance(model.space, Categorical)


def couples_categories(model: EnergyModel) -> bool:
    """Whether `zero_sum_couplings` takes it."""
    return isinstance(model, Potts | _TwoLayer) and isinstance(model.space, Categorical)


def spin_couplings(model: EnergyModel) -> Tensor:
    """J_ij of log p(s) = sum_{i<j} J_ij s_i s_j + ... with spins s = +-1, symmetric (sites, sites), zero diagonal.

    Bits are v = (1 + s) / 2, so that J is a quarter of a Boltzmann machine's. Of an RBM those of pairs in the expansion
    of its free energy into products of spins, to the error of `pairs_of`; it has those of more sites beside them.
    """
    if isinstance(model, Ising):
        return model.coupling()
    if isinstance(model, Boltzmann):
        return model.coupling() / 4
    assert isinstance(model, _TwoLayer)
    pairs, J = pairs_of(_levels(model), _units(model))
    found = J.new_zeros(model.space.sites, model.space.sites)
    found[pairs[:, 0], pairs[:, 1]] = found[pairs[:, 1], pairs[:, 0]] = J[:, 1, 1]
    return found


def zero_sum_couplings(model: EnergyModel) -> Couplings:
    """Of a Potts model its own, of an RBM with categorical sites those of pairs in effect."""
    if isinstance(model, Potts):
        return Couplings(model.edges, model.zero_sum()[0])
    assert isinstance(model, _TwoLayer)
    return pairs_of(_levels(model), _units(model))


def spin_triples(model: EnergyModel, triples: Tensor) -> Tensor | None:
    """J_ijk of log p(s) = ... + J_ijk s_i s_j s_k for triples (n, 3), (n,); None of models that have pairs alone."""
    if not isinstance(model, _TwoLayer) or isinstance(model.space, Categorical):
        return None
    return _interactions(_levels(model), _units(model), triples)[:, 1, 1, 1]


class Units(NamedTuple):
    """Hidden units: their biases c (hidden,), their free energy, and how near to the real line it is singular."""

    c: Tensor
    gamma: Callable[[Tensor], Tensor]
    strip: float


def pairs_of(levels: Tensor, units: Units) -> Couplings:
    """Couplings of all pairs of sites i < j of an RBM, whose site i adds `levels` (D, K, hidden) to the hidden inputs.

    J_ij(a, b) = sum_m E gamma_m(c_m + w_im(a) + w_jm(b) + X_m), gamma = softplus of hidden bits, centred in a and in b,
    where X_m is what the other sites add when every value of theirs is equally likely: the zero-sum gauge, which of
    bits is that of spins (arXiv:2309.02292 and 2501.06108 expand the same free energy). The law of X_m is known by its
    first four moments, which errs the less the more sites add alike.
    """
    pairs = torch.triu_indices(len(levels), len(levels), 1, device=levels.device).T
    return Couplings(pairs, _interactions(levels, units, pairs))


def _levels(model: _TwoLayer) -> Tensor:
    """What each value of each site adds to the hidden inputs, (D, K, hidden)."""
    if isinstance(model.space, Categorical):
        return model.W.reshape(model.space.sites, model.space.values, -1)
    return torch.stack([-model.W if isinstance(model.space, Spin) else torch.zeros_like(model.W), model.W], 1)


@torch.no_grad()
def _units(model: _TwoLayer) -> Units:
    """exp(gamma(a + i b)) is exp(gamma(a)) E exp(i b h), not 0 while |b| < pi / (2 s) for a unit of deviation s."""
    if isinstance(model, RBM):
        return Units(model.c, softplus, math.pi)
    law, potential = model.units, {name: value.double() for name, value in model.potential.items()}
    reach = _levels(model).double().abs().amax(1).sum(0) + model.c.double().abs()
    a = torch.linspace(-1, 1, _GRID, dtype=torch.float64, device=reach.device)[:, None] * reach
    variance = law.square(a, potential) - law.mean(a, potential).square()
    strip = math.pi / (2 * variance.max().item() ** 0.5)
    return Units(model.c, partial(law.log_sum, shape=potential), strip)


@torch.no_grad()
def _interactions(levels: Tensor, units: Units, groups: Tensor) -> Tensor:
    """Of groups (n, sites) of two or three sites, (n, K, K) or (n, K, K, K), in the precision of the model."""
    levels, order = levels.double(), groups.shape[1]
    mean = levels.mean(1)
    levels, inputs = levels - mean[:, None], units.c.double() + mean.sum(0)
    of_site, between = cumulants(levels), interpolation(levels, inputs, units.strip) if order == 2 else None
    size = levels.shape[2] * (levels.shape[1] ** order if between is None else between.size)
    found = []
    for part in groups.split(max(1, _AT_ONCE // size)):
        others = of_site.sum(1, keepdim=True) - of_site[:, part].sum(2)
        mean_of = partial(expected, others=others, gamma=units.gamma)
        found.append(_centred(_tables(levels, inputs, part, mean_of, between)))
    return torch.cat(found).to(units.c)


def _tables(
    levels: Tensor,
    inputs: Tensor,
    groups: Tensor,
    mean_of: Callable[[Tensor], Tensor],
    between: Interpolation | None,
) -> Tensor:
    """sum_m E gamma_m of all values of the sites of each group, the means over the others being `mean_of`."""
    if between is not None:
        return between.of_pairs(groups, mean_of(between.inputs.expand(len(groups), -1, -1)))
    return mean_of(inputs + _sums(levels, groups)).sum(-1)


def _sums(levels: Tensor, groups: Tensor) -> Tensor:
    """What all values of the sites of a group add together, (n, K, ..., hidden)."""
    order, found = groups.shape[1], torch.zeros((), dtype=levels.dtype, device=levels.device)
    for place in range(order):
        shape = [len(groups), *(levels.shape[1] if other == place else 1 for other in range(order)), levels.shape[2]]
        found = found + levels[groups[:, place]].reshape(shape)
    return found


def _centred(table: Tensor) -> Tensor:
    """Less its means over each of its axes but the first."""
    for axis in range(1, table.dim()):
        table = table - table.mean(axis, keepdim=True)
    return table
