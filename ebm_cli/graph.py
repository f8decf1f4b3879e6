"""Graphs on the sites of a space: lattices, random ones, all pairs, or those of a file; and their colouring."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.errors import UserError
from ebm_cli.rng import Key


def lattice(shape: Sequence[int], *, periodic: bool) -> list[Tensor]:
    """Edges (n, 2) between neighbours along each axis of a lattice, the lower site first where they do not wrap.

    Edges of one axis are in the order of their first site. An axis of length 2 or less has nothing to wrap.
    """
    sites = torch.arange(_count(shape)).reshape(tuple(shape))
    found = []
    for axis, length in enumerate(shape):
        first, second = sites, sites.roll(-1, axis)
        if not periodic or length <= 2:
            first, second = (t.narrow(axis, 0, max(0, length - 1)) for t in (first, second))
        found.append(torch.stack([first.flatten(), second.flatten()], 1))
    return found


def complete(sites: int) -> Tensor:
    """Every pair i < j, (n, 2)."""
    return torch.triu_indices(sites, sites, 1).T.contiguous()


def erdos_renyi(sites: int, degree: float, key: Key) -> Tensor:
    """Each pair with the same probability, so that a site has `degree` neighbours on average; (n, 2)."""
    pairs = complete(sites)
    return pairs[rng.uniform((len(pairs),), key) < degree / max(1, sites - 1)]


def read(path: Path, sites: int, said: str) -> Tensor:
    """Edges (n, 2) of a text file, two numbers of sites (from 0) in each line. Raises UserError naming the line."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{said}: cannot be read ({type(error).__name__})") from error
    edges: dict[tuple[int, int], None] = {}
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not all(word.isdecimal() for word in words):
            raise UserError(f"{said}, line {number}: {line.strip()!r} is not two numbers of sites")
        a, b = sorted(map(int, words))
        if b >= sites:
            raise UserError(f"{said}, line {number}: there is no site {b}, the data have sites 0 to {sites - 1}")
        if a == b:
            raise UserError(f"{said}, line {number}: couples site {a} with itself")
        edges[a, b] = None
    if not edges:
        raise UserError(f"{said}: holds no edge")
    return torch.tensor(list(edges))


def coloured(edges: Tensor, sites: int) -> list[Tensor]:
    """Sites by colour, no two of one colour adjacent: greedily, those with most neighbours first (Welsh & Powell 1967).

    A lattice that can have two colours gets its checkerboard: there, each site takes the first colour that is free in
    the order of a walk along the edges.
    """
    neighbours = adjacency(edges, sites)
    two = _two_coloured(neighbours)
    colour = two or _greedy(neighbours)
    return [torch.tensor([i for i in range(sites) if colour[i] == c]) for c in range(max(colour) + 1)]


def adjacency(edges: Tensor, sites: int) -> list[list[int]]:
    """Neighbours of each site."""
    found: list[list[int]] = [[] for _ in range(sites)]
    for a, b in edges.tolist():
        found[a].append(b)
        found[b].append(a)
    return found


def _two_coloured(neighbours: list[list[int]]) -> list[int] | None:
    colour = [-1] * len(neighbours)
    for start in range(len(neighbours)):
        if colour[start] >= 0:
            continue
        colour[start], waiting = 0, [start]
        while waiting:
            site = waiting.pop()
            for other in neighbours[site]:
                if colour[other] == colour[site]:
                    return None
                if colour[other] < 0:
                    colour[other] = 1 - colour[site]
                    waiting.append(other)
    return colour


def _greedy(neighbours: list[list[int]]) -> list[int]:
    colour = [-1] * len(neighbours)
    for site in sorted(range(len(neighbours)), key=lambda i: -len(neighbours[i])):
        taken = {colour[other] for other in neighbours[site]}
        colour[site] = next(c for c in itertools.count() if c not in taken)
    return colour


def _count(shape: Sequence[int]) -> int:
    return int(torch.tensor(list(shape)).prod())
