"""Fields J x of a Potts model at some of its sites, by sums of rows of its couplings."""

from abc import ABC, abstractmethod

from torch import Tensor
from typing_extensions import override

from ebm_cli.model import one_hot
from ebm_cli.model.base import Site


class Fields(ABC):
    """(J x)_i from the places of the ones of x (chains, D), which lie i K from where they lie in one site."""

    @abstractmethod
    def at(self, places: Tensor, site: Site) -> Tensor:
        """Of one site, or of one for each chain, (chains, K)."""

    @abstractmethod
    def of(self, places: Tensor, sites: Tensor | None = None) -> Tensor:
        """Of all sites or of some, (chains, number of them, K)."""


class DenseFields(Fields):
    """From J by the site that feels it, (D, D K, at least K): a sweep reads such a matrix after the other.

    Columns beyond the `values` are there for whole vectors of a processor.
    """

    def __init__(self, by_site: Tensor, values: int) -> None:
        self.by_site, self.values = by_site, values

    @override
    def at(self, places: Tensor, site: Site) -> Tensor:
        if isinstance(site, int):
            return one_hot.product(places, self.by_site[site])[:, : self.values]
        rows = places + self.by_site.shape[1] * site[:, None]
        return one_hot.product(rows, self.by_site.flatten(0, 1))[:, : self.values]

    @override
    def of(self, places: Tensor, sites: Tensor | None = None) -> Tensor:
        return one_hot.products(places, self.by_site if sites is None else self.by_site[sites])[:, :, : self.values]


class EdgeFields(Fields):
    """From J_ij and J_ji of each edge, (2 edges + 1, K, K), the last of them zero: rows by the value of the other site.

    `neighbours` (D, n) are filled up to the largest number of them, and `felt` (D, n) says which matrix each has.
    """

    def __init__(self, matrices: Tensor, neighbours: Tensor, felt: Tensor) -> None:
        self.rows, self.values = matrices.flatten(0, 1), matrices.shape[2]
        self.neighbours, self.shift = neighbours, self.values * (felt - neighbours)

    @override
    def at(self, places: Tensor, site: Site) -> Tensor:
        if isinstance(site, int):
            return self._sum(places[:, self.neighbours[site]] + self.shift[site])
        return self._sum(places.gather(1, self.neighbours[site]) + self.shift[site])

    @override
    def of(self, places: Tensor, sites: Tensor | None = None) -> Tensor:
        near, shift = (t if sites is None else t[sites] for t in (self.neighbours, self.shift))
        chosen = places[:, near] + shift
        return self._sum(chosen.flatten(0, 1)).reshape(len(places), len(near), self.values)

    def _sum(self, chosen: Tensor) -> Tensor:
        return one_hot.product(chosen, self.rows)
