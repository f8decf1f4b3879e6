"""Models at other temperatures: p_beta(x) proportional to exp(-beta E(x)), with a beta of its own for each row.

Every model here can say what of x its energy needs (`statistics`), and the energy at any beta from that (`at`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli.functional import softplus_sum
from ebm_cli.model.base import Bipartite, Blocked, CategoricalSites, EnergyModel, Site, Sites, TwoValuedSites
from ebm_cli.model.given import Given
from ebm_cli.model.ising import Ising
from ebm_cli.model.potts import Potts
from ebm_cli.rng import AnyKey


class Scaled(EnergyModel):
    """E_beta(x) = beta E(x), beta (batch,) > 0."""

    def __init__(self, model: EnergyModel, beta: Tensor) -> None:
        super().__init__()
        self.space = model.space
        self.model, self.beta = model, beta

    @override
    def of_rows(self, rows: slice | Tensor) -> "Scaled":
        return type(self)(self.model.of_rows(rows), self.beta[rows])

    def statistics(self, x: Tensor) -> tuple[Tensor, ...]:
        """E(x), (batch,)."""
        return (self.model.energy(x),)

    def at(self, statistics: Sequence[Tensor], beta: Tensor) -> Tensor:
        """E_beta in the shape of beta, which all but the last dimensions of the statistics share."""
        return beta * statistics[0]

    @override
    def energy(self, x: Tensor) -> Tensor:
        """beta E(x), (batch,)."""
        return self.at(self.statistics(x), self.beta)

    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        energy, grad = self.model.energy_and_grad(x)
        return self.beta * energy, self.beta.reshape(-1, *[1] * (x.dim() - 1)) * grad

    @override
    def sites(self, x: Tensor) -> Sites:
        """Conditionals of the model, scaled."""
        sites = self.model.sites(x)
        if isinstance(sites, CategoricalSites):
            return ScaledCategoricalSites(sites, self.beta)
        assert isinstance(sites, TwoValuedSites)
        return ScaledSites(sites, self.beta)


class ScaledSites(TwoValuedSites):
    """logit_beta = beta logit."""

    def __init__(self, sites: TwoValuedSites, beta: Tensor) -> None:
        self.inner, self.beta = sites, beta
        self.x, self.low = sites.x, sites.low

    @override
    def logit(self, site: Site) -> Tensor:
        """beta times that of the model, (chains,)."""
        return self.beta * self.inner.logit(site)

    @override
    def assign(self, site: Site, value: Tensor) -> None:
        self.inner.assign(site, value)

    @override
    def decide(self, order: Sequence[Site], threshold: Tensor) -> None:
        """threshold < beta logit where threshold / beta < logit, so that the model's own fast sweep serves."""
        self.inner.decide(order, threshold / self.beta[:, None])


class ScaledCategoricalSites(CategoricalSites):
    """All logits times beta."""

    def __init__(self, sites: CategoricalSites, beta: Tensor) -> None:
        self.inner, self.beta = sites, beta
        self.x = sites.x

    @override
    def logits(self, site: Site) -> Tensor:
        """beta times those of the model, (chains, K)."""
        return self.beta[:, None] * self.inner.logits(site)

    @override
    def assign(self, site: Site, value: Tensor) -> None:
        self.inner.assign(site, value)


class ScaledGraph(Scaled, Blocked):
    """The same of an Ising or a Potts model, with its colours."""

    model: Ising | Potts
    sweeps_given = True

    @override
    def sweep(self, x: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """Every colour once, all logits times beta."""
        return self.model.swept(x, key, self._wide(), backwards=backwards)

    @override
    def sweep_given(self, x: Tensor, free: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """The same of the free sites."""
        return self.model.swept(x, key, self._wide(), backwards=backwards, free=free)

    def _wide(self) -> Tensor:
        return self.beta[:, None] if isinstance(self.model, Ising) else self.beta[:, None, None]


class ScaledBipartite(Scaled, Bipartite):
    """beta E(v, h): the joint energy is scaled, so that both conditionals still sample exactly, with logits times beta.

    Its marginal is exp(-F_beta(v)), F_beta(v) = -beta b.v - sum_j softplus(beta a_j(v)), which is not beta F(v) unless
    beta is 1; with beta -> 0 both become uniform.
    """

    model: Bipartite

    def __init__(self, model: Bipartite, beta: Tensor) -> None:
        super().__init__(model, beta)
        self.hidden = model.hidden

    @override
    def hidden_logits(self, v: Tensor) -> Tensor:
        """beta a(v), (batch, hidden)."""
        return self.beta[:, None] * self.model.hidden_logits(v)

    @override
    def visible_logits(self, h: Tensor) -> Tensor:
        """beta times those of the model, (batch, sites)."""
        return self.beta[:, None] * self.model.visible_logits(h)

    @override
    def draw_visible(self, logits: Tensor, key: AnyKey) -> Tensor:
        return self.model.draw_visible(logits, key)

    @override
    def visible_log_z(self, logits: Tensor) -> Tensor:
        return self.model.visible_log_z(logits)

    @override
    def statistics(self, x: Tensor) -> tuple[Tensor, ...]:
        """b.v (batch,) and a(v) (batch, hidden); b = visible logits while all hidden units are 0."""
        logits = self.model.hidden_logits(x)
        bias = self.model.visible_logits(torch.zeros_like(logits[:1])).squeeze(0)
        return x.flatten(1) @ bias, logits

    @override
    def at(self, statistics: Sequence[Tensor], beta: Tensor) -> Tensor:
        """F_beta(v)."""
        tilt, logits = statistics
        return -beta * tilt - softplus_sum(beta[..., None] * logits)

    @override
    def free_energy(self, v: Tensor, hidden_logits: Tensor) -> Tensor:
        """F_beta(v) from beta a(v), (batch,)."""
        bias = self.model.visible_logits(torch.zeros_like(hidden_logits[:1])).squeeze(0)
        return -self.beta * (v.flatten(1) @ bias) - softplus_sum(hidden_logits)

    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """By automatic differentiation, as of any model."""
        return EnergyModel.energy_and_grad(self, x)

    @override
    def sites(self, x: Tensor) -> Sites:
        """By evaluations of the energy, as of any model."""
        return EnergyModel.sites(self, x)


class ScaledGiven(Scaled, Blocked):
    """Of some sites given the others: those of the whole model at beta."""

    def __init__(self, given: Given, whole: Scaled) -> None:
        super().__init__(given, whole.beta)
        self.given, self.whole = given, whole

    @override
    def of_rows(self, rows: slice | Tensor) -> "ScaledGiven":
        return ScaledGiven(self.given.of_rows(rows), self.whole.of_rows(rows))

    @override
    def statistics(self, x: Tensor) -> tuple[Tensor, ...]:
        """Those of whole configurations."""
        return self.whole.statistics(self.given.filled(x))

    @override
    def at(self, statistics: Sequence[Tensor], beta: Tensor) -> Tensor:
        return self.whole.at(statistics, beta)

    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.given.along(self.whole, x)

    @override
    def sites(self, x: Tensor) -> Sites:
        return self.given.sites_of(self.whole, x)

    @override
    def sweep(self, x: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """Every block of the whole model once, of it the sites that are drawn."""
        return self.given.swept(self.whole, x, key, backwards=backwards)


def scaled(model: EnergyModel, beta: Tensor, *, blocks: bool) -> Scaled:
    """The model at beta (batch,); with `blocks` one that can be swept block by block.

    Then the joint energy of a bipartite model is scaled, otherwise that of x alone. Raises TypeError for a model whose
    blocks are of another kind.
    """
    if isinstance(model, Given):
        return ScaledGiven(model, scaled(model.model, beta, blocks=blocks))
    if not blocks:
        return Scaled(model, beta)
    if isinstance(model, Bipartite):
        return ScaledBipartite(model, beta)
    if isinstance(model, Ising | Potts):
        return ScaledGraph(model, beta)
    raise TypeError(f"the blocks of {type(model).__name__} are not known at other temperatures")
