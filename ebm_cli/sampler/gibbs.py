"""Single-site Gibbs sampling (Geman & Geman 1984), vectorised over chains."""

from dataclasses import replace
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel, Site, Sites
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.space import Binary, Categorical, Space, Spin, Words


class GibbsState(NamedTuple):
    """Positions, and the same chains with their cached conditionals."""

    x: Tensor
    sites: Sites


@register("sampler", "gibbs")
class Gibbs(Sampler[EnergyModel, GibbsState]):
    """x_i ~ p(x_i | rest), one site after the other; one step is D site updates of every chain, or `updates` of them.

    `scan` systematic visits sites 0 ... D-1 (the step is not reversible: its reversal visits D-1 ... 0);
    random draws a site for each chain at each update (reversible); reverse is systematic backwards. Of the word that
    follows a context one step is an independent draw given that context.
    """

    scan: Literal["systematic", "random", "reverse"]
    updates: Annotated[int, Field(ge=1)] | None

    spaces = (Binary, Spin, Categorical, Words)

    @override
    def refusal(self, space: Space) -> str | None:
        """A part of a sweep leaves p invariant, but would visit the first sites alone."""
        if self.updates is not None and self.scan != "random":
            return f"sampler.updates = {self.updates}: fewer than a sweep only in random order; add sampler.scan=random"
        return None

    @override
    def init(self, model: EnergyModel, x: Tensor) -> GibbsState:
        """Caches what makes the model's conditionals cheap."""
        return GibbsState(x, model.sites(x))

    @override
    def step(self, model: EnergyModel, state: GibbsState, key: AnyKey) -> tuple[GibbsState, Info]:
        sites = state.sites
        shape = (len(state.x), self.updates or model.space.sites)
        u = rng.uniform(shape, key.fold("accept"), state.x.device, state.x.dtype)
        sites.sweep(self._order(model, state.x, key), u)
        return GibbsState(sites.x.reshape(state.x.shape).clone(), sites), {}

    def _order(self, model: EnergyModel, x: Tensor, key: AnyKey) -> list[Site]:
        n = model.space.sites
        if self.scan == "random":
            return list(rng.integers(n, (len(x), self.updates or n), key.fold("sites"), x.device).unbind(1))
        return list(range(n)) if self.scan == "systematic" else list(range(n - 1, -1, -1))

    @override
    def reversal(self) -> Self:
        """The opposite order of sites."""
        if self.scan == "random":
            return self
        return replace(self, scan="reverse" if self.scan == "systematic" else "systematic")
