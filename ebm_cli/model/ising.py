"""Ising models: spins coupled along the edges of a graph."""

import copy
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import graph, rng
from ebm_cli.errors import UserError
from ebm_cli.model.base import Blocked, EnergyModel, Gradients, ModelSpec, Pullback, Quadratic, Site, TwoValuedSites
from ebm_cli.model.exponential_family import BernoulliProduct
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Space, Spin

_DENSE = 0.1  # share of all pairs from which on fields are one product with a matrix


class Ising(Blocked, Quadratic):
    """E(s) = -s.J s / 2 - b.s with s_i in {-1, +1}, J symmetric with zero diagonal, J_ij = 0 off the graph.

    The parameter `J` holds one number for each edge, `b` one for each site. `periodic` is None where the graph is not
    the lattice of the space's shape.
    """

    edges: Tensor
    edge_of: Tensor
    neighbours: Tensor
    compiles = True
    sweeps_given = True
    couplings = ("J",)

    def __init__(self, space: Space, edges: Tensor, J: Tensor, b: Tensor, periodic: bool | None = None) -> None:
        super().__init__()
        self.space = space
        self.periodic = periodic
        self.J, self.b = nn.Parameter(J), nn.Parameter(b)
        self.dense = len(edges) > _DENSE * space.sites * (space.sites - 1) / 2
        self.register_buffer("edges", edges)  # saved: a file of edges may change
        listed = edges[:0] if self.dense else edges  # of many edges the matrix alone is read
        for name, table in zip(("neighbours", "edge_of"), graph.around(listed, space.sites), strict=True):
            self.register_buffer(name, table, persistent=False)
        for number, colour in enumerate(graph.coloured(edges, space.sites)):
            self.register_buffer(f"colour{number}", colour, persistent=False)

    @override
    def coupling(self) -> Tensor:
        """J as a symmetric matrix, (sites, sites)."""
        empty = self.J.new_zeros(self.space.sites, self.space.sites)
        first, second = self.edges.unbind(1)
        return empty.index_put((first, second), self.J).index_put((second, first), self.J)

    def fields(self, s: Tensor, sites: Tensor | None = None, J: Tensor | None = None) -> Tensor:
        """(J s)_i at all sites or at some, for s (chains, sites): (chains, number of them), given J if it is known."""
        if self.dense:
            J = self.coupling() if J is None else J
            return s @ (J if sites is None else J[:, sites])
        neighbours, edge_of = (t if sites is None else t[sites] for t in (self.neighbours, self.edge_of))
        strength = torch.cat([self.J, self.J.new_zeros(1)])[edge_of]
        return torch.stack([s[:, n] * w for n, w in zip(neighbours.T, strength.T, strict=True)]).sum(0)

    @override
    def energy(self, x: Tensor) -> Tensor:
        """-s.J s / 2 - b.s, (batch,)."""
        s = x.flatten(1)
        return -(s * (self.fields(s) / 2 + self.b)).sum(1)

    @override
    def slopes(self, x: Tensor, coupling: Tensor | None) -> tuple[Tensor, Tensor]:
        """dE/ds = -(J s + b)."""
        s = x.flatten(1)
        inner = self.fields(s, J=coupling)
        return -(s * (inner / 2 + self.b)).sum(1), -(inner + self.b).reshape(x.shape)

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The energy, and dE/dJ_ij = -s_i s_j, dE/db = -s."""
        s = x.flatten(1)
        first, second = self.edges.unbind(1)

        def pull(weight: Tensor) -> Gradients:
            weighted = s * weight[:, None]
            pairs = (s.T @ weighted)[first, second] if self.dense else (s[:, first] * weighted[:, second]).sum(0)
            return {"J": -pairs, "b": -weighted.sum(0)}

        return self.energy(x), pull

    @override
    def sweep(self, x: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """Every colour once: p(s_i = 1 | rest) = sigmoid(2 ((J s)_i + b_i))."""
        return self.swept(x, key, 1.0, backwards=backwards)

    @override
    def sweep_given(self, x: Tensor, free: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """Every colour once, of it the free sites."""
        return self.swept(x, key, 1.0, backwards=backwards, free=free)

    def swept(
        self, x: Tensor, key: AnyKey, beta: float | Tensor, *, backwards: bool, free: Tensor | None = None
    ) -> Tensor:
        """`sweep` of beta E, beta a number or (batch, 1), of all sites or of the `free` (batch, sites)."""
        s, J = x.flatten(1), self.coupling() if self.dense else None
        for number, here in self.colours()[:: -1 if backwards else 1]:
            up = rng.bernoulli(2 * beta * (self.fields(s, here, J) + self.b[here]), key.fold("colour", number))
            new = (2 * up - 1).to(s.dtype)
            s = s.index_copy(1, here, new if free is None else torch.where(free[:, here], new, s[:, here]))
        return s.reshape(x.shape)

    def colours(self) -> list[tuple[int, Tensor]]:
        """Numbers of the colours and their sites."""
        names = [name for name in self._buffers if name.startswith("colour")]
        return [(number, self.get_buffer(name)) for number, name in enumerate(names)]

    @override
    def mixed(self, base: EnergyModel, share: float | Tensor, beta: float | Tensor) -> "Ising | None":
        """share E_base + beta E, again an Ising model, since E_base(s) = -b_base.(s + 1) / 2.

        The constant b_base / 2 is left out, which moves nothing.
        """
        if not isinstance(base, BernoulliProduct):
            return None
        found = copy.copy(self)
        found._parameters = {
            "J": nn.Parameter(beta * self.J, requires_grad=False),
            "b": nn.Parameter(share * base.b / 2 + beta * self.b, requires_grad=False),
        }
        return found

    @override
    def log_conditionals(self, x: Tensor, sites: Tensor) -> Tensor:
        """log sigmoid(2 s_i ((J s)_i + b_i)), (batch, len(sites))."""
        s = x.flatten(1)
        return F.logsigmoid(2 * s[:, sites] * (self.fields(s, sites) + self.b[sites]))

    @override
    def sites(self, x: Tensor) -> "IsingSites":
        """Conditionals from one row of J."""
        return IsingSites(self.coupling(), self.b, x)


class IsingSites(TwoValuedSites):
    """logit p(s_i = 1 | rest) = 2 ((J s)_i + b_i)."""

    low = -1.0

    def __init__(self, coupling: Tensor, bias: Tensor, x: Tensor) -> None:
        self.coupling, self.bias = coupling, bias
        self.x = x.flatten(1).clone()

    @override
    def logit(self, site: Site) -> Tensor:
        """2 (J_i.s + b_i), (chains,)."""
        if isinstance(site, int):
            return 2 * (torch.mv(self.x, self.coupling[site]) + self.bias[site])
        return 2 * ((self.x * self.coupling[site]).sum(1) + self.bias[site])


@register("model", "ising")
class IsingSpec(ModelSpec):
    """Ising model: spins coupled along a lattice, all pairs, a random graph, or the edges of a file."""

    graph: Literal["lattice", "complete", "erdos_renyi", "file"]
    periodic: bool
    degree: Annotated[float, Field(gt=0)]
    path: str | None
    coupling: float
    bias: float | None

    builds = Ising
    spaces = (Spin,)

    def __post_init__(self) -> None:
        """A file is named where it is read, and only there."""
        if self.graph == "file" and self.path is None:
            raise UserError("model.path = null: name the file of the edges, model.path=FILE")
        if self.graph != "file" and self.path is not None:
            raise UserError(f"model.path = {self.path}: is read with model.graph=file, not with {self.graph}")

    @override
    def parameters(self, space: Space) -> int:
        if self.graph == "lattice":
            return space.sites * (len(space.shape) + 1)
        return space.sites * (space.sites + 1) // 2

    @override
    def beside(self, space: Space) -> int:
        """The graph and, where it may be dense, the symmetric matrix and what it is made of."""
        if self.graph == "lattice":
            return graph.BYTES * space.sites * len(space.shape)
        pairs = space.sites * (space.sites - 1) // 2
        if self.graph == "complete":
            return graph.BYTES * pairs + 2 * 4 * space.sites**2
        drawn = graph.PAIR * pairs if self.graph == "erdos_renyi" else 0  # each pair is drawn for
        return drawn + graph.BYTES * int(min(pairs, self.degree * space.sites / 2)) * (self.graph == "erdos_renyi")

    @override
    def smaller(self) -> str:
        fewer = "data of fewer sites"
        return fewer if self.graph == "lattice" else f"{fewer}, or a sparse graph, model.graph=lattice"

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> Ising:
        """J = `coupling` on every edge, or as the file says; b = `bias`, or logit(mean) / 2 where that is null."""
        edges, J = self._couplings(space, key.fold("graph"))
        b = mean.flatten().logit() / 2 if self.bias is None else torch.full((space.sites,), float(self.bias))
        periodic = self.periodic if self.graph == "lattice" else None
        return Ising(space, edges, J, b, periodic)

    def _couplings(self, space: Space, key: Key) -> tuple[Tensor, Tensor]:
        if self.graph == "file":
            path = Path(str(self.path)).expanduser()
            return graph.read(path, space.sites, f"model.path = {self.path}", self.coupling)
        edges = self._edges(space, key)
        return edges, torch.full((len(edges),), float(self.coupling))

    def _edges(self, space: Space, key: Key) -> Tensor:
        if self.graph == "lattice":
            return torch.cat(graph.lattice(space.shape, periodic=self.periodic))
        if self.graph == "complete":
            return graph.complete(space.sites)
        return graph.erdos_renyi(space.sites, self.degree, key)
