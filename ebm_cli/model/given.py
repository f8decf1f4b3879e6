"""Some sites of each row given the others: p(x_m | x_c), proportional to exp(-E(x_m, x_c))."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import Blocked, CategoricalSites, EnergyModel, Site, Sites, TwoValuedSites
from ebm_cli.rng import AnyKey
from ebm_cli.space import Categorical, Mixed, Real, Space


class Given(Blocked):
    """The m sites `where` (rows, m) of rows `known` (rows, *shape), all others as they are there.

    A configuration x (batch, m), or (batch, m, K) one-hot, has these sites alone, so that no kernel can move another,
    nor spends a proposal on it, forth or back: whatever leaves exp(-E(x)) invariant leaves p(x_m | x_c) invariant.
    Batches hold as many configurations of each row, one row after the other.

    With `never` the sites drawn have not that one of their K values: x is (batch, m, K - 1), so that the law is
    p(x_m | x_c, no site of x_m has it).
    """

    def __init__(self, model: EnergyModel, known: Tensor, where: Tensor, never: int | None = None) -> None:
        super().__init__()
        self.model, self.known, self.where, self.never = model, known, where, never
        self.space = space_of(model.space, where.shape[1], never)
        self.sites_of_whole = math.prod(model.space.site_shape)  # of words the last alone is a variable
        self.alike = bool((where == where[:1]).all())

    @override
    def of_rows(self, rows: slice | Tensor) -> "Given":
        parts = self.known, self.where
        known, where = parts if isinstance(rows, slice) else (self.each(part, len(rows)) for part in parts)
        return Given(self.model, known[rows], where[rows], self.never)

    @override
    def energy(self, x: Tensor) -> Tensor:
        """Of whole configurations, (batch,)."""
        return self.model.energy(self.filled(x))

    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of whole configurations, the gradient in the sites that are drawn."""
        return self.along(self.model, x)

    @override
    def sites(self, x: Tensor) -> Sites:
        return self.sites_of(self.model, x)

    @override
    def sweep(self, x: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """Every block of the model once, of it the sites that are drawn."""
        return self.swept(cast(Blocked, self.model), x, key, backwards=backwards)

    def noise(self, n: int, key: AnyKey) -> Tensor:
        """n configurations of each row, as whole ones are maximally uninformed, (rows n, m)."""
        if not isinstance(self.model.space, Mixed):
            return self.space.noise(len(self.known) * n, key, self.known.device)
        return self.picked(self.model.space.noise(len(self.known) * n, key, self.known.device))

    def along(self, model: EnergyModel, x: Tensor) -> tuple[Tensor, Tensor]:
        """E (batch,) by a model of whole configurations, and dE/dx."""
        energy, grad = model.energy_and_grad(self.filled(x))
        return energy, self.picked(grad)

    def sites_of(self, model: EnergyModel, x: Tensor) -> Sites:
        """Conditionals by a model of whole configurations."""
        inner = model.sites(self.filled(x))
        if isinstance(inner, CategoricalSites):
            return GivenCategoricalSites(self, inner)
        assert isinstance(inner, TwoValuedSites)
        return GivenSites(self, inner)

    def swept(self, model: EnergyModel, x: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """A sweep by a model of whole configurations; where a value is left out site by site, since blocks have it."""
        if self.never is not None:
            sites, order = self.sites_of(model, x), range(self.where.shape[1])
            sites.sweep([*(reversed(order) if backwards else order)], rng.uniform((len(x), len(order)), key, x.device))
            return sites.x
        free = torch.zeros(len(x), self.sites_of_whole, dtype=torch.bool, device=x.device)
        free = free.scatter(1, self.each(self.where, len(x)), value=True)
        return self.picked(cast(Blocked, model).sweep_given(self.filled(x), free, key, backwards=backwards))

    def filled(self, x: Tensor) -> Tensor:
        """Whole configurations (batch, *shape) with x at the sites that are drawn."""
        whole = self.each(self.known, len(x)).to(x.dtype)
        table = whole.reshape(len(x), self.sites_of_whole, -1)
        index = self._index(table)
        return table.scatter(1, index, self.widened(x).reshape(index.shape)).reshape(whole.shape)

    def picked(self, whole: Tensor) -> Tensor:
        """The sites that are drawn of whole configurations, (batch, m) or (batch, m, K)."""
        table = whole.reshape(len(whole), self.sites_of_whole, -1)
        return self.narrowed(table.gather(1, self._index(table))).reshape(len(whole), *self.space.shape)

    def widened(self, x: Tensor) -> Tensor:
        """Numbers (..., K - 1) of the values that may be drawn, with a 0 for the one that may not, (..., K)."""
        if self.never is None:
            return x
        return torch.cat([x[..., : self.never], x.new_zeros(*x.shape[:-1], 1), x[..., self.never :]], -1)

    def narrowed(self, x: Tensor) -> Tensor:
        """Numbers (..., K) without that of the value that is never drawn."""
        return x if self.never is None else torch.cat([x[..., : self.never], x[..., self.never + 1 :]], -1)

    def each(self, of_rows: Tensor, batch: int) -> Tensor:
        """What belongs to each row, for every configuration of a batch."""
        copies, left = divmod(batch, len(self.known))
        if left:
            raise ValueError(f"{batch} configurations of {len(self.known)} rows")
        return of_rows if copies == 1 else of_rows.repeat_interleave(copies, 0)

    def _index(self, table: Tensor) -> Tensor:
        return self.each(self.where, len(table))[:, :, None].expand(-1, -1, table.shape[2])


class GivenSites(TwoValuedSites):
    """Conditionals of the whole model, at the sites that are drawn."""

    def __init__(self, given: Given, inner: TwoValuedSites) -> None:
        self.given, self.inner, self.low = given, inner, inner.low

    @property
    @override
    def x(self) -> Tensor:  # type: ignore[override]
        """Where the chains are, (chains, m)."""
        return self.given.picked(self.inner.x)

    @override
    def logit(self, site: Site) -> Tensor:
        return self.inner.logit(_of_whole(self.given, site, len(self.inner.x)))

    @override
    def assign(self, site: Site, value: Tensor) -> None:
        self.inner.assign(_of_whole(self.given, site, len(self.inner.x)), value)

    @override
    def decide(self, order: Sequence[Site], threshold: Tensor) -> None:
        self.inner.decide([_of_whole(self.given, site, len(threshold)) for site in order], threshold)


class GivenCategoricalSites(CategoricalSites):
    """The same of sites with several values."""

    def __init__(self, given: Given, inner: CategoricalSites) -> None:
        self.given, self.inner = given, inner

    @property
    @override
    def x(self) -> Tensor:  # type: ignore[override]
        """Where the chains are, (chains, m, K), or K - 1."""
        return self.given.picked(self.inner.x)

    @override
    def logits(self, site: Site) -> Tensor:
        return self.given.narrowed(self.inner.logits(_of_whole(self.given, site, len(self.inner.x))))

    @override
    def assign(self, site: Site, value: Tensor) -> None:
        self.inner.assign(_of_whole(self.given, site, len(self.inner.x)), self.given.widened(value))

    @override
    def sweep(self, order: Sequence[Site], u: Tensor) -> None:
        if self.given.never is not None:
            return super().sweep(order, u)
        self.inner.sweep([_of_whole(self.given, site, len(u)) for site in order], u)


def _of_whole(given: Given, site: Site, chains: int) -> Site:
    """The number in whole configurations of a site that is drawn; one for each chain where rows differ in them."""
    if isinstance(site, int) and given.alike:
        return int(given.where[0, site])
    where = given.each(given.where, chains)
    return where[:, site] if isinstance(site, int) else where.gather(1, site[:, None]).squeeze(1)


def space_of(space: Space, sites: int, never: int | None = None) -> Space:
    """That of so many sites of a space, without one of the values of categories; of mixed ones, which are others in
    each row, that of numbers."""
    if isinstance(space, Mixed):
        return Real((sites,))
    if isinstance(space, Categorical):
        return Categorical((sites, space.values - (never is not None)))
    return replace(space, shape=(sites,), units=None) if isinstance(space, Real) else replace(space, shape=(sites,))
