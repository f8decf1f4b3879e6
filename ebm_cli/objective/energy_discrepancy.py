"""Energy discrepancy (Schroeder et al. 2023): data against copies disturbed there and back; no chains, no scores."""

from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.objective.base import Batch, Gradient, Objective
from ebm_cli.objective.copies import beside_copies
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.space import Binary, Box, Categorical, Discrete, Real, Space, Spin

_KINDS: dict[str, tuple[type[Space], ...]] = {
    "gaussian": (Real, Box),
    "bernoulli": (Binary, Spin),
    "uniform": (Categorical,),
    "grid": (Categorical,),
}  # the first that fits is what `auto` takes


@register("objective", "energy_discrepancy")
class EnergyDiscrepancy(Objective):
    """loss = mean_i log(w / M + 1 / M sum_j exp(E(x_i) - E(x_ij))), M = `copies` (Schroeder et al. 2023, sec. 4).

    x_ij is x_i disturbed to y_i, which its M copies share, and y_i disturbed once more. With q(y | x) the law of one
    disturbance, which must be symmetric, many copies and w = 0 that is an estimate of E_data[E(x)] +
    E_data E_q[log sum_x' q(y | x') exp(-E(x'))], which no other density makes smaller than that of the data, where q
    leads from each state to any other. With few copies it is biased, which w = `stabilise` (1 there) keeps bounded.

    `kind`, by the space of the data (auto: the first): gaussian of variance `t` (real; reflected at the walls of a box,
    where q stays symmetric); bernoulli: each site flips with probability `epsilon` (bits, Schroeder et al. 2023b);
    uniform: each site takes, with probability `epsilon`, one of its other values, or grid: the next or the one before,
    the last being next to the first (categories, Schroeder et al. 2024).
    """

    kind: Literal["auto", "gaussian", "bernoulli", "uniform", "grid"]
    t: Annotated[float, Field(gt=0)]
    epsilon: Annotated[float, Field(gt=0, lt=1)]
    copies: Annotated[int, Field(ge=1)]
    stabilise: Annotated[float, Field(ge=0)]

    spaces = (Binary, Spin, Categorical, Real, Box)

    @property
    @override
    def places(self) -> int:
        return 1 + self.copies

    @override
    def refusal_of_space(self, space: Space) -> str | None:
        """Each kind is for some spaces."""
        if self.kind == "auto" or isinstance(space, _KINDS[self.kind]):
            return None
        fits = " or ".join(kind for kind, spaces in _KINDS.items() if isinstance(space, spaces))
        return f"objective.kind = {self.kind}: is not for {space.name} data; set objective.kind={fits} or auto"

    @torch.no_grad()
    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """One pass over data and copies: dloss/dd_ij = exp(d_ij) / (w + sum_k exp(d_ik)), d_ij = E(x_i) - E(x_ij)."""
        n, m, key = len(batch.x), self.copies, key.after(batch.first)
        there = self.disturbed(model.space, batch.x, key.fold("there"))
        back = self.disturbed(model.space, there.repeat_interleave(m, 0), key.spread(m).fold("back"))
        difference, pull, metrics = beside_copies(model, batch.x, back)
        constant = torch.full_like(difference[:, :1], self.stabilise).log()
        log_sum = torch.cat([difference, constant], 1).logsumexp(1, keepdim=True)
        weight = (difference - log_sum).exp()
        loss = (log_sum - torch.full_like(log_sum, m).log()).mean()
        return Gradient(pull(weight / n), {"loss": loss, **metrics}, {})

    def disturbed(self, space: Space, x: Tensor, key: AnyKey) -> Tensor:
        """A draw of q(. | x) for each row of x, same shape and type."""
        if isinstance(space, Real):
            return space.reflected(x + self.t**0.5 * rng.normal(x.shape, key, x.device, x.dtype))
        discrete = cast(Discrete, space)
        values, k = discrete.decode(x), discrete.values
        u = rng.uniform(values.shape, key, x.device) / self.epsilon
        shift = torch.where(u < 0.5, 1, k - 1) if self.kind == "grid" else 1 + (u * (k - 1)).long()
        moved = torch.where(u < 1, (values + shift) % k, values)
        return discrete.encode(moved).to(x.dtype)
