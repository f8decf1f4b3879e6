"""Potts models: sites of K values, coupled along the edges of a graph."""

import copy
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import graph, rng
from ebm_cli.errors import UserError
from ebm_cli.model.base import Blocked, CategoricalSites, EnergyModel, Gradients, ModelSpec, Pullback, Site
from ebm_cli.model.exponential_family import CategoricalProduct
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Categorical, Space


class Potts(Blocked):
    """E(x) = -sum_{i<j} x_i.J_ij x_j - sum_i h_i.x_i on one-hot x, J_ij (K, K), zero off the graph; J_ji = J_ij^T.

    The parameter `J` (edges, K, K) holds J_ij with i < j, `h` (D, K) the fields.
    """

    edges: Tensor
    space: Categorical
    compiles = True
    couplings = ("J",)

    def __init__(self, space: Categorical, edges: Tensor, J: Tensor, h: Tensor) -> None:
        super().__init__()
        self.space = space
        self.J, self.h = nn.Parameter(J), nn.Parameter(h)
        self.register_buffer("edges", edges)  # saved: a file of edges may change
        for number, colour in enumerate(graph.coloured(edges, space.sites)):
            self.register_buffer(f"colour{number}", colour, persistent=False)

    def coupling(self) -> Tensor:
        """J as a symmetric matrix over sites and values, (D K, D K)."""
        sites, values = self.space.sites, self.space.values
        first, second = self.edges.unbind(1)
        blocks = self.J.new_zeros(sites, sites, values, values)
        blocks = blocks.index_put((first, second), self.J).index_put((second, first), self.J.transpose(1, 2))
        return blocks.permute(0, 2, 1, 3).reshape(sites * values, sites * values)

    @override
    def energy(self, x: Tensor) -> Tensor:
        """-x.J x / 2 - h.x, (batch,)."""
        v = x.flatten(1)
        return -(v * ((v @ self.coupling()) / 2 + self.h.flatten())).sum(1)

    @torch.no_grad()
    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """dE/dx = -(J x + h)."""
        v = x.flatten(1)
        inner = v @ self.coupling()
        h = self.h.flatten()
        return -(v * (inner / 2 + h)).sum(1), -(inner + h).reshape(x.shape)

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The energy, and dE/dJ_ij = -x_i x_j^T, dE/dh = -x."""
        v = x.flatten(1)

        def pull(weight: Tensor) -> Gradients:
            return {"J": -self.blocks(v.T @ (v * weight[:, None])), "h": -(weight @ v).reshape(self.h.shape)}

        return self.energy(x), pull

    def blocks(self, matrix: Tensor) -> Tensor:
        """Those blocks of a matrix (D K, D K) that belong to edges, (edges, K, K)."""
        sites, values = self.space.sites, self.space.values
        first, second = self.edges.unbind(1)
        return matrix.reshape(sites, values, sites, values).permute(0, 2, 1, 3)[first, second]

    @override
    def log_conditionals(self, x: Tensor, sites: Tensor) -> Tensor:
        """log softmax of J x + h at the values of x, (batch, len(sites))."""
        logits = self.space.table(x.flatten(1) @ self.coupling()) + self.h
        return (logits.log_softmax(2) * self.space.table(x)).sum(2)[:, sites]

    @override
    def sweep(self, x: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """Every colour once: p(x_i | rest) = softmax(sum_j J_ij x_j + h_i)."""
        return self.swept(x, key, 1.0, backwards=backwards)

    def swept(self, x: Tensor, key: AnyKey, beta: float | Tensor, *, backwards: bool) -> Tensor:
        """`sweep` of beta E, beta a number or (batch, 1, 1)."""
        coupling, v = self.coupling(), self.space.table(x)
        sites, values = self.space.sites, self.space.values
        columns = coupling.reshape(-1, sites, values)
        for number, here in self.colours()[:: -1 if backwards else 1]:
            logits = (v.flatten(1) @ columns[:, here].flatten(1)).reshape(len(v), -1, values) + self.h[here]
            drawn = rng.categorical(beta * logits, key.fold("colour", number))
            v = v.index_copy(1, here, nn.functional.one_hot(drawn, values).to(v.dtype))
        return v.reshape(x.shape)

    def colours(self) -> list[tuple[int, Tensor]]:
        """Numbers of the colours and their sites."""
        names = [name for name in self._buffers if name.startswith("colour")]
        return [(number, self.get_buffer(name)) for number, name in enumerate(names)]

    @override
    def mixed(self, base: EnergyModel, beta: float | Tensor) -> "Potts | None":
        """E_beta = (1 - beta) E_base + beta E, again a Potts model."""
        if not isinstance(base, CategoricalProduct):
            return None
        found = copy.copy(self)
        found._parameters = {
            "J": nn.Parameter(beta * self.J, requires_grad=False),
            "h": nn.Parameter((1 - beta) * base.b + beta * self.h, requires_grad=False),
        }
        return found

    @override
    def sites(self, x: Tensor) -> "PottsSites":
        """Conditionals from the K columns of J that belong to a site."""
        return PottsSites(self.coupling(), self.h, self.space.table(x))

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


class PottsSites(CategoricalSites):
    """logits p(x_i = k | rest) = (J x)_ik + h_ik: x_i itself does not enter."""

    def __init__(self, coupling: Tensor, h: Tensor, x: Tensor) -> None:
        self.coupling, self.h = coupling, h
        self.x = x.clone()

    @override
    def logits(self, site: Site) -> Tensor:
        """(J x)_i + h_i, (chains, K)."""
        sites, values = self.h.shape
        v = self.x.flatten(1)
        columns = self.coupling.reshape(-1, sites, values)
        if isinstance(site, int):
            return v @ columns[:, site] + self.h[site]
        chosen = columns.transpose(0, 1)[site]  # (chains, D K, K)
        return torch.einsum("cm,cmk->ck", v, chosen) + self.h[site]


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
        pairs = space.sites * (space.sites - 1) // 2
        edges = min(pairs, space.sites * len(space.site_shape)) if self.graph == "lattice" else pairs
        return edges * values**2 + space.sites * values

    @override
    def beside(self, space: Space) -> int:
        """The graph, the symmetric matrix and the blocks it is made of."""
        values = cast(Categorical, space).values
        edges = self.parameters(space) // values**2
        return graph.BYTES * edges + 3 * 4 * (space.sites * values) ** 2

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
