"""Parallel tempering: replicas of every chain at higher temperatures, which exchange their configurations."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, PlainValidator
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.errors import UserError
from ebm_cli.model.base import Blocked, EnergyModel
from ebm_cli.model.scaled import Scaled, scaled
from ebm_cli.registry import Nested, register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.adaptation import adapts
from ebm_cli.sampler.base import Info, Sampler, shown
from ebm_cli.sampler.kernel import CHOOSE, below, nested
from ebm_cli.space import Binary, Box, Categorical, Real, Space, Spin


def _kernel(settings: Mapping[str, Any] | Sampler[Any, Any]) -> Sampler[Any, Any]:
    """The sampler of every replica. Raises UserError."""
    found = nested(settings)
    if not found.leaves_invariant:
        name = settings["name"] if isinstance(settings, Mapping) else type(found).__name__
        raise UserError(f"sampler.kernel = {name}: does not leave the model invariant; {CHOOSE}")
    return found


class TemperingState(NamedTuple):
    """Positions of all replicas, (chains, temperatures, *shape), from the hottest to that at beta = 1."""

    replicas: Tensor

    @property
    def x(self) -> Tensor:
        """Those at beta = 1, (chains, *shape)."""
        return self.replicas[:, -1]


@register("sampler", "parallel_tempering")
class ParallelTempering(Sampler[EnergyModel, TemperingState]):
    """Replicas x_1 ... x_R at beta_r = beta_min^((R - r) / (R - 1)), R = `temperatures`: beta_1 = beta_min, beta_R = 1.

    A step is one step of `kernel` for every replica on its p_r, proportional to exp(-E_r), and then two rounds of swaps
    of neighbours, of the pairs (1, 2), (3, 4) ... and of (2, 3), (4, 5) ..., each taken with probability
    min(1, exp(E_r(x_r) + E_r+1(x_r+1) - E_r(x_r+1) - E_r+1(x_r))) (Swendsen & Wang 1986; Geyer 1991). Each part leaves
    prod_r p_r(x_r) invariant, so its marginal x_R ~ p too, and x_R is what a chain shows. Info: `swap_r`, the share of
    swaps of r and r + 1 that were taken, and what the kernel says of the replica at beta = 1.

    E_r = beta_r E. Where the kernel is block Gibbs of a bipartite model the joint energy beta_r E(v, h) takes its
    place (Desjardins et al. 2010; Cho, Raiko, Ilin 2010; there the betas are evenly spaced), since its conditionals
    sample exactly. Hidden units are summed out of the swaps: E_r(v) = -beta_r b.v - sum_j softplus(beta_r a_j(v)).

    From one configuration all replicas start there. They are no draws from prod_r p_r then, even if x is one from p: as
    a kernel on x alone it is not `exact`, but approaches p as its replicas forget their start. Training therefore keeps
    the replicas in the store from one update to the next, and annealing, which needs an exact kernel of x, takes
    `kernel` itself.
    """

    kernel: Annotated[Sampler[Any, Any], PlainValidator(_kernel), Nested("sampler")]
    temperatures: Annotated[int, Field(ge=2)]
    beta_min: Annotated[float, Field(gt=0, lt=1)]

    spaces = (Binary, Spin, Categorical, Real, Box)

    @property
    @override
    def leaves_invariant(self) -> bool:
        return False

    @property
    @override
    def replicas(self) -> int:
        return self.temperatures

    @property
    @override
    def inner(self) -> Sampler[Any, Any]:
        return self.kernel

    @property
    @override
    def draws_given(self) -> bool:
        return self.kernel.draws_given

    @override
    def refusal(self, space: Space) -> str | None:
        """What the kernel says, and that replicas of different temperatures have no one best step size."""
        if adapts(self.kernel):
            return "sampler.kernel.adapt: replicas at several temperatures share one step_size; set it to null"
        found = self.kernel.refusal(space)
        return found and below(found)

    @override
    def init(self, model: EnergyModel, x: Tensor) -> TemperingState:
        """Replicas where they were, or all of a chain at its x."""
        return TemperingState(self.spread(x, model.space))

    @override
    def positions(self, state: TemperingState) -> Tensor:
        return state.replicas

    @override
    def spread(self, x: Tensor, space: Space) -> Tensor:
        """As many replicas of each chain as there are temperatures, (chains, temperatures, *shape)."""
        if x.shape[1:] == (self.temperatures, *space.shape):
            return x
        return torch.stack([shown(x, space)] * self.temperatures, 1)

    def betas(self, like: Tensor) -> Tensor:
        """beta_1 < ... < beta_R = 1, (temperatures,)."""
        return self.beta_min ** torch.linspace(1, 0, self.temperatures, device=like.device, dtype=like.dtype)

    @override
    def step(self, model: EnergyModel, state: TemperingState, key: AnyKey) -> tuple[TemperingState, Info]:
        """The kernel on all replicas together, rows chain by chain, and both rounds of swaps."""
        x, count = state.replicas, self.temperatures
        betas = self.betas(x)
        hot = scaled(model, betas.repeat(len(x)), blocks=any(issubclass(need, Blocked) for need in self.kernel.needs))
        inner, said = self.kernel.step(hot, self.kernel.init(hot, x.flatten(0, 1)), key.fold("kernel").spread(count))
        parts = [part.unflatten(0, (-1, count)) for part in (inner.x, *hot.statistics(inner.x))]
        info = {name: value.unflatten(0, (-1, count))[:, -1] for name, value in said.items()}
        swaps: Info = {}
        for first in (0, 1)[: count - 1]:
            taken = _taken(hot, parts[1:], betas, first, key.fold("swap", first))
            parts = [_swapped(part, taken, first) for part in parts]
            swaps |= {f"swap_{first + 2 * i + 1}": pair.to(x.dtype) for i, pair in enumerate(taken.unbind(1))}
        return TemperingState(parts[0]), info | {name: swaps[name] for name in sorted(swaps, key=_rung)}


def _rung(name: str) -> int:
    return int(name.removeprefix("swap_"))


def _taken(model: Scaled, statistics: list[Tensor], betas: Tensor, first: int, key: AnyKey) -> Tensor:
    """Which of the pairs (first, first + 1), (first + 2, first + 3) ... are swapped, (chains, pairs) bool.

    With D(x) = E_b(x) - E_a(x), a the hotter of the two: log ratio = D(x_b) - D(x_a).
    """
    pairs = (len(betas) - first) // 2
    hot, cold = (slice(first + side, first + side + 2 * pairs - 1, 2) for side in (0, 1))

    def difference(place: slice) -> Tensor:
        here = [part[:, place] for part in statistics]
        return model.at(here, betas[cold].expand_as(here[0])) - model.at(here, betas[hot].expand_as(here[0]))

    log_ratio = difference(cold) - difference(hot)
    return rng.uniform(log_ratio.shape, key, log_ratio.device, log_ratio.dtype) < log_ratio.exp()


def _swapped(part: Tensor, taken: Tensor, first: int) -> Tensor:
    """The tensor (chains, temperatures, ...) with those pairs exchanged."""
    last = first + 2 * taken.shape[1]
    hot, cold = part[:, first:last:2], part[:, first + 1 : last : 2]
    wide = taken.reshape(*taken.shape, *[1] * (part.dim() - 2))
    mixed = torch.stack([torch.where(wide, cold, hot), torch.where(wide, hot, cold)], 2).flatten(1, 2)
    return torch.cat([part[:, :first], mixed, part[:, last:]], 1)
