"""Gibbs-with-Gradients (Grathwohl, Swersky, Hashemi, Duvenaud, Maddison 2021), and its paths of several flips."""

from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.sampler.informed import InformedState, accept, flip_gains, informed
from ebm_cli.space import Binary, Space, Spin, TwoValued


@register("sampler", "gwg")
class GibbsWithGradients(Sampler[EnergyModel, InformedState]):
    """Propose to flip site i with q(i | x) = softmax(d(x) / temperature)_i, d_i the first-order gain of f = -E.

    Accepted with min(1, exp(f(x') - f(x)) q(i | x') / q(i | x)), alg. 1. With `flips` > 1 a path of 1 to `flips` sites,
    its length uniform, is drawn one site after the other from the same d(x), those drawn left out; the way back is the
    path reversed, drawn from d(x'), and one test accepts the whole path (Sun, Dai, Xia, Ramamurthy 2022). A step costs
    one call of energy and gradient: those of x are kept.
    """

    temperature: Annotated[float, Field(gt=0)]
    flips: Annotated[int, Field(ge=1)]

    spaces = (Binary, Spin)
    compiles = True

    def misfit(self, space: Space) -> str | None:
        """A path has no more sites than there are."""
        if self.flips > space.sites:
            return f"sampler.flips = {self.flips}: the data have {space.sites} sites; give at most that"
        return None

    def init(self, model: EnergyModel, x: Tensor) -> InformedState:
        """Caches energies and gradients."""
        return informed(model, x)

    def step(self, model: EnergyModel, state: InformedState, key: AnyKey) -> tuple[InformedState, Info]:
        """One proposal per chain; `acceptance` is 0 or 1 for each."""
        length = 1 + rng.integers(self.flips, (len(state.x),), key.fold("length"), state.x.device)
        path, forth = self._draw(flip_gains(model, state), length, key.fold("path"))
        proposal = informed(model, _flipped(model, state.x, path, length))
        back = self._probability(flip_gains(model, proposal), path, length)
        log_ratio = state.energy - proposal.energy + back - forth
        state, accepted = accept(state, proposal, log_ratio, key.fold("accept"))
        return state, {"acceptance": accepted}

    def _draw(self, gains: Tensor, length: Tensor, key: AnyKey) -> tuple[Tensor, Tensor]:
        """Distinct sites in the order of the path, (chains, flips), and log q of the first `length` of them."""
        left, sites, log_q = gains / self.temperature, [], torch.zeros_like(gains[:, 0])
        for i in range(self.flips):
            site = rng.categorical(left, key.fold(i))[:, None]
            sites.append(site)
            log_q, left = _walked(left, site, log_q, i < length)
        return torch.cat(sites, 1), log_q

    def _probability(self, gains: Tensor, path: Tensor, length: Tensor) -> Tensor:
        """log q of the first `length` sites of the path in reverse order, (chains,)."""
        left, log_q = gains / self.temperature, torch.zeros_like(gains[:, 0])
        for i in range(self.flips):
            site = path.gather(1, (length - 1 - i).clamp_min(0)[:, None])
            log_q, left = _walked(left, site, log_q, i < length)
        return log_q


def _walked(left: Tensor, site: Tensor, log_q: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
    """log q after one more site, where the path is that long, and the logits without it."""
    step = (left.gather(1, site) - left.logsumexp(1, keepdim=True)).squeeze(1)
    return torch.where(within, log_q + step, log_q), left.scatter(1, site, -torch.inf)


def _flipped(model: EnergyModel, x: Tensor, path: Tensor, length: Tensor) -> Tensor:
    """x with the first `length` sites of the path at their other value."""
    flat, space = x.flatten(1), cast(TwoValued, model.space)
    old = flat.gather(1, path)
    within = torch.arange(path.shape[1], device=x.device) < length[:, None]
    return flat.scatter(1, path, torch.where(within, space.flipped(old), old)).reshape(x.shape)
