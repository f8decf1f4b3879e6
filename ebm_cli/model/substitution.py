"""Energies of configurations that differ from one in few sites, of models of categories."""

from typing import cast

import torch
from torch import Tensor

from ebm_cli.model.base import EnergyModel
from ebm_cli.model.potts import Potts
from ebm_cli.space import Categorical

_STATES = 2**12  # configurations whose conditionals are had at once
ROWS_AT_ONCE = 1000


@torch.no_grad()
def substitutions(model: EnergyModel, values: Tensor) -> Tensor:
    """E(x with x_i = k) - E(x) of every site and value, (D, K), x being the configuration of `values` (D,).

    Of a Potts model -[g_i(k) - g_i(x_i)] with the local fields g of x; of others by their conditionals, which have the
    logits -E(x with x_i = k) up to a constant of each site.
    """
    logits = local_fields(model, values) if isinstance(model, Potts) else _logits(model, values)
    return logits.gather(1, values[:, None]) - logits


def local_fields(model: Potts, values: Tensor) -> Tensor:
    """g_i(k) = h_i(k) + sum_j J_ij(k, x_j), (D, K), from one row or column of each J_ij."""
    (first, second), edge = model.edges.unbind(1), torch.arange(len(model.edges), device=values.device)
    onto_first = model.J[edge, :, values[second]]
    return model.h.index_add(0, first, onto_first).index_add(0, second, model.J[edge, values[first]])


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
