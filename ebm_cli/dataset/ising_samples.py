"""Samples of an Ising model with one known coupling on a periodic square lattice, to be recovered."""

import os
from pathlib import Path
from typing import Annotated

import numpy as np
import platformdirs
import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import graph, rng
from ebm_cli.dataset.base import DrawnDataset, Raw, Truth
from ebm_cli.dataset.files import read_npz
from ebm_cli.registry import register
from ebm_cli.space import Binary

_ENUMERATED = 16  # sites at most whose law is summed over all states
_SWEEPS = 2000  # of the checkerboard, each chain from coin flips; at sigma 0.25 spins forget in some tens


@register("dataset", "ising_samples")
class IsingSamples(DrawnDataset):
    """Independent samples of log p(s) = s.(sigma A) s + bias sum_i s_i + const, A the adjacency matrix of the torus.

    Each edge counts twice in s.A s, so that J_ij = 2 sigma on every edge (Grathwohl et al. 2021). One chain a sample,
    2000 sweeps of checkerboard Gibbs from coin flips. Kept in the user's cache under a name that says all of it.
    """

    side: Annotated[int, Field(ge=3, le=200)]
    sigma: float
    bias: float
    values = "binary"

    @override
    def read(self) -> Raw:
        """The samples as bits, from the folder or drawn now."""
        path = self._path()
        if not path.exists():
            spins = draw(self.side, self.sigma, self.bias, self.rows, self.seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}.writing")
            with temporary.open("wb") as file:
                np.savez_compressed(file, samples=(spins > 0).byte().numpy())
            temporary.rename(path)
        rows = read_npz(path, ("samples",), f"dataset.name = ising_samples: {path}")["samples"]
        law = self.log_prob if self.side**2 <= _ENUMERATED else None
        return self.parted("binary", rows, Truth(self.couplings(), law=law))

    def couplings(self) -> Tensor:
        """The true J, (sites, sites)."""
        sites = self.side**2
        edges = torch.cat(graph.lattice((self.side, self.side), periodic=True))
        J = torch.zeros(sites, sites)
        J[edges[:, 0], edges[:, 1]] = J[edges[:, 1], edges[:, 0]] = 2 * self.sigma
        return J

    def log_prob(self, bits: Tensor) -> Tensor:
        """log p of bits (n, side, side) in float64, (n,), by enumeration."""
        everything = Binary((self.side, self.side)).enumerate()
        return self._log_weight(bits) - self._log_weight(everything).logsumexp(0)

    def _log_weight(self, bits: Tensor) -> Tensor:
        """s.(sigma A) s + bias sum_i s_i, (n,)."""
        s = 2 * bits.flatten(1).double() - 1
        return ((s @ self.couplings().double()) * s).sum(1) / 2 + self.bias * s.sum(1)

    def _path(self) -> Path:
        about = f"{self.side}_{self.sigma!r}_{self.bias!r}_{self.train}_{self.held_out}_{self.seed}"
        return platformdirs.user_cache_path("ebm") / "ising" / f"{about}.npz"


def draw(side: int, sigma: float, bias: float, count: int, seed: int, sweeps: int = _SWEEPS) -> Tensor:
    """Spins (count, side, side): colour after colour, p(s_i = 1 | rest) = sigmoid(2 (2 sigma sum_j s_j + bias))."""
    sites = side * side
    edges = torch.cat(graph.lattice((side, side), periodic=True))
    neighbours = torch.tensor(graph.adjacency(edges, sites))
    colours = graph.coloured(edges, sites)
    key = rng.stream(seed, "ising_samples", side, str(sigma), str(bias))
    s = 2 * (rng.uniform((count, sites), key.fold("start")) < 0.5).float() - 1
    for sweep in range(sweeps):
        for number, here in enumerate(colours):
            up = rng.bernoulli(2 * (2 * sigma * s[:, neighbours[here]].sum(2) + bias), key.fold(sweep, number))
            s[:, here] = 2 * up - 1
    return s.reshape(count, side, side)
