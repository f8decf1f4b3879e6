"""Path auxiliary proposals (Sun, Dai, Xia, Ramamurthy 2022), the fast form of them in DISCS (Goshvadi et al. 2023)."""

import math
from typing import Annotated, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info
from ebm_cli.sampler.informed import Balance, Informed, InformedState, accept, gains, informed, log_balanced
from ebm_cli.sampler.path import walked
from ebm_cli.space import Binary, Categorical, Spin


class Weights(NamedTuple):
    """log g of the moves of each site, (chains, D, moves of a site), and their log-sum over a site's, (chains, D)."""

    moves: Tensor
    sites: Tensor


@register("sampler", "pafs")
class PathAuxiliary(Informed):
    """Several distinct sites, drawn one after the other in proportion to g(e^d_i), d_i the first-order gain of f = -E.

    Their number is floor(1 + (2 radius - 1) u), u uniform on [0, 1): of a whole radius each of 1, ..., 2 radius - 1
    equally likely, at most all sites. All draws are from the d(x) of where the path begins; the way back is the path
    reversed, drawn from d(x'); one test accepts with min(1, p(x') q(back | x') / (p(x) q(path | x))). A radius of 1 is
    `gwg`. A fixed number of sites would keep the parity of sum_i x_i where it is even.

    The sites with the largest log g + Gumbel noise, in their order, are such draws, so that a path of any length costs
    one call of energy and gradient and one look at all sites. Sites of K values: a move is a site and another value.
    """

    radius: Annotated[float, Field(ge=1)]
    balance: Balance
    adapt: Annotated[float, Field(gt=0, lt=1)] | None

    spaces = (Binary, Spin, Categorical)
    compiles = True
    rejects = True
    scale = "radius"

    @override
    def resized(self, size: float) -> Self:
        """A path has a site."""
        return super().resized(max(1.0, size))

    @override
    def step(self, model: EnergyModel, state: InformedState, key: AnyKey) -> tuple[InformedState, Info]:
        """One proposal per chain; `acceptance` is 0 or 1 for each, `flips` how many sites moved."""
        u = rng.uniform((len(state.x),), key.fold("length"), state.x.device, torch.float64)
        length = (1 + (2 * self.radius - 1) * u).long().clamp_max(model.space.sites)
        weights = self._weights(model, state)
        moves = self._drawn(weights, key)
        x, path = walked(model.space, state.x, moves, length)
        proposal = informed(model, x)
        back = _log_q(self._weights(model, proposal), path.back, length, backwards=True)
        forth = _log_q(weights, path.forth, length, backwards=False)
        log_ratio = state.energy - proposal.energy + back - forth
        state, accepted = accept(state, proposal, log_ratio, key.fold("accept"))
        return state, {"acceptance": accepted, "flips": length * accepted}

    def _weights(self, model: EnergyModel, state: InformedState) -> Weights:
        log_g = log_balanced(gains(model, state) / 2, self.balance)
        if not isinstance(model.space, Categorical):
            return Weights(log_g, log_g.squeeze(2))
        log_g = log_g.masked_fill(model.space.table(state.x) > 0, -torch.inf)
        return Weights(log_g, log_g.logsumexp(2))

    def _drawn(self, weights: Weights, key: AnyKey) -> Tensor:
        """Moves of distinct sites in the order in which they are drawn, (chains, longest)."""
        u = rng.uniform(weights.sites.shape, key.fold("sites"), weights.sites.device, weights.sites.dtype)
        longest = min(math.ceil(2 * self.radius - 1), weights.sites.shape[1])
        sites = (weights.sites - (-u.log()).log()).topk(longest, dim=1).indices
        values = weights.moves.shape[2]
        if values == 1:
            return sites
        of_site = weights.moves.gather(1, sites[:, :, None].expand(-1, -1, values))
        return sites * values + rng.categorical(of_site, key.fold("values"))


def _log_q(weights: Weights, moves: Tensor, length: Tensor, backwards: bool) -> Tensor:
    """log q of the first `length` of moves (chains, longest) in their order, or `backwards` in the reverse one.

    Of each the log of its weight over that of the sites that are not drawn yet: what no draw takes and what later ones
    do are summed, since what is left of a difference may be rounding alone.
    """
    within = torch.arange(moves.shape[1], device=moves.device) < length[:, None]
    site = moves // weights.moves.shape[2]
    of_site = weights.sites.gather(1, site)
    rest = weights.sites.scatter(1, site, torch.where(within, -torch.inf, of_site)).logsumexp(1, keepdim=True)
    drawn = torch.where(within, of_site, -torch.inf)
    later = drawn.logcumsumexp(1) if backwards else drawn.flip(1).logcumsumexp(1).flip(1)
    log_share = weights.moves.flatten(1).gather(1, moves) - torch.logaddexp(rest, later)
    return torch.where(within, log_share, 0.0).sum(1)
