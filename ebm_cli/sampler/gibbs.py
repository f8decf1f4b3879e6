"""Single-site Gibbs sampling (Geman & Geman 1984), vectorised over chains."""

from dataclasses import replace
from typing import Literal, NamedTuple, Self

from torch import Tensor

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel, Site, Sites
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.space import Binary


class GibbsState(NamedTuple):
    """Positions, and the same chains with their cached conditionals."""

    x: Tensor
    sites: Sites


@register("sampler", "gibbs")
class Gibbs(Sampler[EnergyModel, GibbsState]):
    """x_i ~ p(x_i | rest), one site after the other; one step is D site updates of every chain.

    `scan` systematic visits sites 0 ... D-1 (the step is not reversible: its reversal visits D-1 ... 0);
    random draws a site for each chain at each update (reversible); reverse is systematic backwards.
    """

    scan: Literal["systematic", "random", "reverse"]

    spaces = (Binary,)

    def init(self, model: EnergyModel, x: Tensor) -> GibbsState:
        """Caches what makes the model's conditionals cheap."""
        return GibbsState(x, model.sites(x))

    def step(self, model: EnergyModel, state: GibbsState, key: Key) -> tuple[GibbsState, Info]:
        """One sweep."""
        sites = state.sites
        u = rng.uniform((model.space.sites, len(state.x)), key.fold("accept"), state.x.device, state.x.dtype)
        for site, threshold in zip(self._order(state.x, key), u, strict=True):
            sites.assign(site, (threshold < sites.logit(site).sigmoid()).to(u.dtype))
        return GibbsState(sites.x.reshape(state.x.shape).clone(), sites), {}

    def _order(self, x: Tensor, key: Key) -> list[Site]:
        n = x[0].numel()
        if self.scan == "random":
            return list(rng.integers(n, (n, len(x)), key.fold("sites"), x.device))
        return list(range(n)) if self.scan == "systematic" else list(range(n - 1, -1, -1))

    def reversal(self) -> Self:
        """The opposite order of sites."""
        if self.scan == "random":
            return self
        return replace(self, scan="reverse" if self.scan == "systematic" else "systematic")
