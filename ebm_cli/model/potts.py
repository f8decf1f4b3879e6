"""Potts models: sites of K values, coupled along the edges of a graph."""

import copy
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import graph, rng
from ebm_cli.errors import UserError
from ebm_cli.model import one_hot
from ebm_cli.model.base import Blocked, EnergyModel, Gradients, ModelSpec, Pullback, Quadratic
from ebm_cli.model.exponential_family import CategoricalProduct
from ebm_cli.model.potts_fields import DenseFields, EdgeFields, Fields
from ebm_cli.model.potts_sites import PottsSites
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Categorical, Space

_VECTOR = 8  # columns of a matrix are summed up so many at a time
_AT_ONCE = 2**22  # numbers of the rows that are laid out along edges
_DENSE = 0.3  # share of all pairs from which on couplings are formed as a matrix


class Potts(Blocked, Quadratic):
    """E(x) = -sum_{i<j} x_i.J_ij x_j - sum_i h_i.x_i on one-hot x, J_ij (K, K), zero off the graph; J_ji = J_ij^T.

    The parameter `J` (edges, K, K) holds J_ij with i < j, `h` (D, K) the fields. Where no gradient is asked for, x is
    read as what it is, rows with a single one for each site.
    """

    edges: Tensor
    neighbours: Tensor
    felt: Tensor
    space: Categorical
    compiles = True
    sweeps_given = True
    couplings = ("J",)

    def __init__(self, space: Categorical, edges: Tensor, J: Tensor, h: Tensor) -> None:
        super().__init__()
        self.space = space
        self.J, self.h = nn.Parameter(J), nn.Parameter(h)
        self.dense = len(edges) > _DENSE * space.sites * (space.sites - 1) / 2
        self.register_buffer("edges", edges)  # saved: a file of edges may change
        neighbours, felt = _felt(edges, space.sites, dense=self.dense)
        self.register_buffer("neighbours", neighbours, persistent=False)
        self.register_buffer("felt", felt, persistent=False)
        for number, colour in enumerate(graph.coloured(edges, space.sites)):
            self.register_buffer(f"colour{number}", colour, persistent=False)

    def matrices(self) -> Tensor:
        """J_ij and J_ji of each edge and then zeros, (2 edges + 1, K, K): row b of a matrix is felt where x_j is b."""
        return torch.cat([self.J, self.J.transpose(1, 2), torch.zeros_like(self.J[:1])])

    def by_site(self, columns: int = 0) -> Tensor:
        """J by the site that feels it, (D, D K, K): J_ij(a, b) stands at (i, j K + b, a); of a dense model.

        With more `columns` than K the others are zero.
        """
        sites, values = self.space.sites, self.space.values
        matrices = F.pad(self.matrices(), (0, max(0, columns - values)))
        return matrices.index_select(0, self.felt.flatten()).reshape(sites, sites * values, -1)

    @override
    def coupling(self) -> Tensor:
        """J as a symmetric matrix over sites and values, (D K, D K)."""
        sites, values = self.space.sites, self.space.values
        first, second = self.edges.unbind(1)
        blocks = self.J.new_zeros(sites, sites, values, values)
        blocks = blocks.index_put((first, second), self.J).index_put((second, first), self.J.transpose(1, 2))
        return blocks.permute(0, 2, 1, 3).reshape(sites * values, sites * values)

    def fields(self, columns: int = 0) -> Fields:
        """What gives J x site by site; a dense model may have columns of zeros beside its own."""
        if self.dense:
            return DenseFields(self.by_site(columns), self.space.values)
        return EdgeFields(self.matrices(), self.neighbours, self.felt)

    @override
    def energy(self, x: Tensor) -> Tensor:
        """-x.J x / 2 - h.x, (batch,)."""
        v = self.space.table(x)
        if not torch.is_grad_enabled():
            places = one_hot.places(v)
            return self._energy(places, self.fields().of(places))
        first, second = self.edges.unbind(1)
        if self.dense:
            pairs = (v.flatten(1) * (v.flatten(1) @ self.coupling())).sum(1) / 2
        else:
            pairs = (torch.einsum("nea,eab->neb", v[:, first], self.J) * v[:, second]).sum((1, 2))
        return -pairs - (v * self.h).sum((1, 2))

    def _energy(self, places: Tensor, inner: Tensor) -> Tensor:
        """E(x) given J x, (batch, D, K), at the values of x."""
        return -(inner / 2 + self.h).flatten(1).gather(1, places).sum(1)

    @override
    def slopes(self, x: Tensor, coupling: Tensor | None) -> tuple[Tensor, Tensor]:
        """dE/dx = -(J x + h)."""
        places = one_hot.places(self.space.table(x))
        inner = self.fields().of(places) if coupling is None else self.space.table(one_hot.product(places, coupling))
        return self._energy(places, inner), -(inner + self.h).reshape(x.shape)

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The energy, and dE/dJ_ij = -x_i x_j^T, dE/dh = -x."""
        v = self.space.table(x)
        places = one_hot.places(v)

        def pull(weight: Tensor) -> Gradients:
            weighted = v * weight[:, None, None]
            pairs = self._dense_pairs(places, weighted) if self.dense else self._edge_pairs(v, weighted)
            return {"J": -pairs, "h": -weighted.sum(0)}

        return self._energy(places, self.fields().of(places)), pull

    def _dense_pairs(self, places: Tensor, weighted: Tensor) -> Tensor:
        """sum_n w_n x_i x_j^T of every edge, (edges, K, K)."""
        first, second = self.edges.unbind(1)
        return one_hot.pair_moments(places, weighted)[second * (second - 1) // 2 + first]

    def _edge_pairs(self, v: Tensor, weighted: Tensor) -> Tensor:
        """The same, some rows at a time: each becomes as many numbers as its edges have values."""
        first, second = self.edges.unbind(1)
        rows = max(1, _AT_ONCE // (len(first) * self.space.values))
        parts = zip(v.split(rows), weighted.split(rows), strict=True)
        found = [torch.einsum("nea,neb->eab", a[:, first], b[:, second]) for a, b in parts]
        return sum(found[1:], found[0])

    @override
    def log_conditionals(self, x: Tensor, sites: Tensor) -> Tensor:
        """log softmax of J x + h at the values of x, (batch, len(sites))."""
        places = one_hot.places(self.space.table(x))
        values = (places % self.space.values)[:, sites]
        logits = (self.fields().of(places) + self.h)[:, sites]
        return logits.log_softmax(2).gather(2, values[:, :, None]).squeeze(2)

    @override
    def sweep(self, x: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """Every colour once: p(x_i | rest) = softmax(sum_j J_ij x_j + h_i)."""
        return self.swept(x, key, 1.0, backwards=backwards)

    @override
    def sweep_given(self, x: Tensor, free: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """Every colour once, of it the free sites."""
        return self.swept(x, key, 1.0, backwards=backwards, free=free)

    def swept(
        self, x: Tensor, key: AnyKey, beta: float | Tensor, *, backwards: bool, free: Tensor | None = None
    ) -> Tensor:
        """`sweep` of beta E, beta a number or (batch, 1, 1), of all sites or of the `free` (batch, sites)."""
        fields, places, values = self.fields(), one_hot.places(self.space.table(x)), self.space.values
        for number, here in self.colours()[:: -1 if backwards else 1]:
            logits = fields.of(places, here) + self.h[here]
            drawn = rng.categorical(beta * logits, key.fold("colour", number))
            new = drawn + values * here
            places = places.index_copy(
                1, here, new if free is None else torch.where(free[:, here], new, places[:, here])
            )
        return one_hot.one_hot(places, values, x.dtype).reshape(x.shape)

    def colours(self) -> list[tuple[int, Tensor]]:
        """Numbers of the colours and their sites."""
        names = [name for name in self._buffers if name.startswith("colour")]
        return [(number, self.get_buffer(name)) for number, name in enumerate(names)]

    @override
    def mixed(self, base: EnergyModel, share: float | Tensor, beta: float | Tensor) -> "Potts | None":
        """share E_base + beta E, again a Potts model."""
        if not isinstance(base, CategoricalProduct):
            return None
        found = copy.copy(self)
        found._parameters = {
            "J": nn.Parameter(beta * self.J, requires_grad=False),
            "h": nn.Parameter(share * base.b + beta * self.h, requires_grad=False),
        }
        return found

    @override
    def sites(self, x: Tensor) -> PottsSites:
        """Conditionals from the rows of J that the other sites' values choose."""
        whole = _VECTOR * -(-self.space.values // _VECTOR)
        return PottsSites(self.fields(whole), self.h, self.space.table(x))

    @torch.no_grad()
    def zero_sum(self) -> tuple[Tensor, Tensor]:
        """J and h of the same distribution in the gauge sum_a J_ij(a, b) = sum_b J_ij(a, b) = sum_a h_i(a) = 0.

        J_ij(a, b) - J_ij(., b) - J_ij(a, .) + J_ij(., .), a dot meaning the mean, and what is taken from it goes to
        the fields (Ekeberg et al. 2013, sec. II); their constants change E by the same number everywhere.
        """
        rows, columns, whole = self.J.mean(2), self.J.mean(1), self.J.mean((1, 2))
        J = self.J - rows[:, :, None] - columns[:, None] + whole[:, None, None]
        first, second = self.edges.unbind(1)
        h = self.h.index_add(0, first, rows).index_add(0, second, columns)
        return J, h - h.mean(1, keepdim=True)


@register("model", "potts")
class PottsSpec(ModelSpec):
    """Potts model: categorical sites coupled along all pairs, a lattice or a random graph; zero couplings to start."""

    graph: Literal["complete", "lattice", "erdos_renyi"]
    periodic: bool
    degree: Annotated[float, Field(gt=0)]
    coupling: float

    builds = Potts
    spaces = (Categorical,)

    @override
    def parameters(self, space: Space) -> int:
        values = cast(Categorical, space).values
        return self._edge_count(space) * values**2 + space.sites * values

    def _edge_count(self, space: Space) -> int:
        """As many as there may be; of a random graph as many as are expected."""
        pairs = space.sites * (space.sites - 1) // 2
        if self.graph == "complete":
            return pairs
        return min(pairs, int(space.sites * (len(space.site_shape) if self.graph == "lattice" else self.degree / 2)))

    @override
    def beside(self, space: Space) -> int:
        """The graph and its tables, and the couplings twice, by edges or as matrices of all sites and values."""
        values, edges = cast(Categorical, space).values, self._edge_count(space)
        pairs = space.sites * (space.sites - 1) // 2
        drawn = graph.PAIR * pairs if self.graph == "erdos_renyi" else 0  # each pair is drawn for
        numbers = 3 * (space.sites * values) ** 2 if edges > _DENSE * pairs else 4 * edges * values**2
        return drawn + graph.BYTES * edges + 4 * numbers

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> Potts:
        """J_ij = `coupling` times the identity on every edge, h = log(mean) less its mean over values."""
        assert isinstance(space, Categorical)
        edges = self._edges(space, key.fold("graph"))
        if not len(edges):
            raise UserError(f"model.graph = {self.graph}: leaves no edge between {space.sites} sites")
        h = mean.reshape(space.sites, space.values).log()
        J = self.coupling * torch.eye(space.values).repeat(len(edges), 1, 1)
        return Potts(space, edges, J, h - h.mean(1, keepdim=True))

    def _edges(self, space: Categorical, key: Key) -> Tensor:
        if self.graph == "lattice":
            return torch.cat(graph.lattice(space.site_shape, periodic=self.periodic)).sort(1).values
        if self.graph == "complete":
            return graph.complete(space.sites)
        return graph.erdos_renyi(space.sites, self.degree, key)


def _felt(edges: Tensor, sites: int, *, dense: bool) -> tuple[Tensor, Tensor]:
    """Neighbours (D, n) of each site, and which of `matrices()` it feels there; dense: all sites are neighbours."""
    count = len(edges)
    if dense:
        first, second = edges.unbind(1)
        felt = torch.full((sites, sites), 2 * count)
        felt[second, first], felt[first, second] = torch.arange(count), torch.arange(count, 2 * count)
        return torch.arange(sites).repeat(sites, 1), felt
    neighbours, edge_of = graph.around(edges, sites)
    ends = torch.cat([edges[:, 0], torch.full((1,), -1)])[edge_of]
    felt = edge_of + count * (ends == torch.arange(sites)[:, None])
    return neighbours, torch.where(edge_of == count, 2 * count, felt)
