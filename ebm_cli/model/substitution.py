"""Energies of configurations that differ from one in few sites, of models of categories."""

import math
from typing import cast

import torch
from torch import Tensor

from ebm_cli.functional import sigmoid
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.potts import Potts
from ebm_cli.model.rbm import CategoricalRBM
from ebm_cli.space import Categorical

_STATES = 2**12  # configurations whose conditionals are had at once
_FACTORS = 2**20  # of hidden units, formed at once
ROWS_AT_ONCE = 1000


@torch.no_grad()
def substitutions(model: EnergyModel, values: Tensor) -> Tensor:
    """E(x with x_i = k) - E(x) of every site and value, (D, K), x being the configuration of `values` (D,).

    Of a Potts model -[g_i(k) - g_i(x_i)] with the local fields g of x; of an RBM from its hidden logits; of others by
    their conditionals, which have the logits -E(x with x_i = k) up to a constant of each site.
    """
    if isinstance(model, Potts):
        logits = local_fields(model, values)
    elif isinstance(model, CategoricalRBM) and (held := _held(model.W)):
        logits = _of_hidden_units(model, values, held)
    else:
        logits = _logits(model, values)
    return logits.gather(1, values[:, None]) - logits


def local_fields(model: Potts, values: Tensor) -> Tensor:
    """g_i(k) = h_i(k) + sum_j J_ij(k, x_j), (D, K), from one row or column of each J_ij."""
    (first, second), edge = model.edges.unbind(1), torch.arange(len(model.edges), device=values.device)
    onto_first = model.J[edge, :, values[second]]
    return model.h.index_add(0, first, onto_first).index_add(0, second, model.J[edge, values[first]])


def _held(weights: Tensor) -> int:
    """Of how many hidden units the product of the factors is sure to be a float64, whichever values change.

    0 also where exp of a weight, or of a difference of two, may be no number of their own kind.
    """
    low, high = (end.item() for end in weights.aminmax())
    if max(-low, high, high - low) > 0.8 * math.log(torch.finfo(weights.dtype).max):
        return 0
    return int(0.8 * math.log(torch.finfo(torch.float64).max) / max(1e-3, high - low))


def _of_hidden_units(model: CategoricalRBM, values: Tensor, held: int) -> Tensor:
    """b_i(k) + sum_j log[sigmoid(-a_j) + sigmoid(a_j) exp(W_ij(k) - W_ij(x_i))], (D, K), with the hidden logits a of x.

    A term is softplus(a_j + the change) - softplus(a_j). Both of its parts are positive, so nothing cancels, and one
    logarithm serves as many hidden units as their product can hold, `held`.
    """
    weights = model.W.reshape(len(values), model.space.values, -1)
    sites = torch.arange(len(values), device=values.device)
    logits = model.c + weights[sites, values].sum(0)
    off, on = sigmoid(-logits), sigmoid(logits)
    at_once = max(1, _FACTORS // weights[0].numel())
    room = torch.empty_like(weights[:at_once])
    products = weights.new_empty(-(-weights.shape[2] // held), *weights.shape[:2], dtype=torch.float64)
    pieces = zip(weights.split(at_once), values.split(at_once), products.split(at_once, 1), strict=True)
    for some, there, into in pieces:
        factors = torch.exp(some, out=room[: len(some)])
        own = factors[sites[: len(some)], there]
        torch.addcmul(off, (on / own)[:, None], factors, out=factors)
        for part, product in zip(factors.split(held, 2), into, strict=True):
            torch.prod(part, 2, dtype=torch.float64, out=product)
    return model.b.reshape(weights.shape[:2]) + products.log_().sum(0).to(weights.dtype)


def _logits(model: EnergyModel, values: Tensor) -> Tensor:
    """-E(x with x_i = k) up to a constant of each site: a chain for each of some sites, which stands at x."""
    space = cast(Categorical, model.space)
    x = _encoded(model, values[None])
    parts = torch.arange(space.sites, device=values.device).split(max(1, _STATES // space.values))
    found = [model.sites(x.expand(len(part), *space.shape)).logits(part) for part in parts]  # type: ignore[attr-defined]
    return torch.cat(found)


@torch.no_grad()
def energies(model: EnergyModel, values: Tensor) -> Tensor:
    """E of configurations by their values (n, D), (n,)."""
    found = [model.energy(_encoded(model, part)) for part in values.split(ROWS_AT_ONCE)]
    return torch.cat(found)


def _encoded(model: EnergyModel, values: Tensor) -> Tensor:
    """Rows of the space by the numbers of their values (n, D), in the numbers of the model."""
    space = cast(Categorical, model.space)
    return space.encode(values.reshape(-1, *space.site_shape)).to(next(model.parameters()).dtype)
