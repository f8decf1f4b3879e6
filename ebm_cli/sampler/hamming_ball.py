"""The Hamming ball sampler (Titsias & Yau 2017): exact draws from all configurations near a random one."""

import itertools
import math
from typing import Annotated, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.space import Binary, Space, Spin, TwoValued

_LARGEST = 2**16  # configurations of one ball
_AT_ONCE = 2**24  # numbers of the candidates evaluated together


class HammingBallState(NamedTuple):
    """Positions; energies are those of the candidates of one step."""

    x: Tensor


@register("sampler", "hamming_ball")
class HammingBall(Sampler[EnergyModel, HammingBallState]):
    """Of `block` sites, drawn afresh for each chain, every configuration within `radius` flips of a random one.

    With B(x) the configurations that differ from x in at most `radius` sites of the block and nowhere else:
    u ~ uniform on B(x), then x' ~ p restricted to B(u). All balls are of one size, so p(x | u), proportional to
    p(x) p(u | x), is p restricted to B(u): the second draw takes it exactly, nothing is rejected, and the step is
    reversible. Up to 2 `radius` sites change. A step costs an energy for each configuration of a ball, the sum of
    block! / (k! (block - k)!) over k = 0 ... `radius`. The paper has a matrix and a ball in each of its columns; here
    there is one column, a random block of the sites.
    """

    block: Annotated[int, Field(ge=1)]
    radius: Annotated[int, Field(ge=1)]

    spaces = (Binary, Spin)
    compiles = True

    @property
    def ball(self) -> int:
        """Configurations of a ball."""
        return sum(math.comb(self.block, number) for number in range(self.radius + 1))

    @override
    def refusal(self, space: Space) -> str | None:
        """A block has no more sites than there are, a radius no more than the block; a ball can be gone through."""
        if self.block > space.sites:
            return f"sampler.block = {self.block}: the data have {space.sites} sites; give at most that"
        if self.radius > self.block:
            return f"sampler.radius = {self.radius}: a block has {self.block} sites (sampler.block); give at most that"
        if self.ball > _LARGEST:
            return (
                f"sampler.radius = {self.radius}: a ball in {self.block} sites has {self.ball} configurations, each of "
                f"which costs an energy; take a smaller radius or sampler.block (up to {_LARGEST} configurations)"
            )
        return None

    @override
    def init(self, model: EnergyModel, x: Tensor) -> HammingBallState:
        return HammingBallState(x)

    @override
    def step(self, model: EnergyModel, state: HammingBallState, key: AnyKey) -> tuple[HammingBallState, Info]:
        """One draw from a ball for every chain; `flips` is how many sites changed."""
        flat, space = state.x.flatten(1), cast(TwoValued, model.space)
        sites = rng.uniform(flat.shape, key.fold("block"), flat.device).topk(self.block, dim=1).indices
        patterns = self._patterns(flat.device)
        drawn = rng.integers(len(patterns), (len(flat),), key.fold("centre"), flat.device)
        old = flat.gather(1, sites)
        # Flips of x: to the centre, and from there to anywhere in its ball.
        candidates = patterns ^ patterns[drawn][:, None]
        values = torch.where(candidates, space.flipped(old)[:, None], old[:, None])
        chosen = rng.categorical(-self._energies(model, state.x, sites, values), key.fold("draw"))
        new = values[torch.arange(len(flat), device=flat.device), chosen]
        moved = (new != old).sum(1).to(flat.dtype)
        return HammingBallState(flat.scatter(1, sites, new).reshape(state.x.shape)), {"flips": moved}

    def _patterns(self, device: torch.device) -> Tensor:
        """Which sites of the block flip, for each configuration of a ball, (ball, block) bool."""
        numbers = range(self.radius + 1)
        sets = itertools.chain.from_iterable(itertools.combinations(range(self.block), n) for n in numbers)
        return torch.tensor([[site in chosen for site in range(self.block)] for chosen in sets], device=device)

    def _energies(self, model: EnergyModel, x: Tensor, sites: Tensor, values: Tensor) -> Tensor:
        """E(x with these values (chains, ball, block) at these sites (chains, block)), (chains, ball)."""
        together = max(1, _AT_ONCE // (self.ball * model.space.sites))
        parts = zip(x.split(together), sites.split(together), values.split(together), strict=True)
        found = []
        for number, (start, where, value) in enumerate(parts):
            of_these = model.of_rows(slice(number * together, number * together + len(start)))
            balls = start.flatten(1)[:, None].expand(-1, self.ball, -1)
            filled = balls.scatter(2, where[:, None].expand(-1, self.ball, -1), value)
            energies = of_these.energy(filled.reshape(-1, *model.space.shape))
            found.append(energies.reshape(len(start), self.ball))
        return torch.cat(found)
