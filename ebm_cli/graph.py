"""Graphs on the sites of a space: lattices, random ones, all pairs, or those of a file; and their colouring."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.errors import UserError
from ebm_cli.rng import Key

BYTES = 400
"""An edge takes while a graph is coloured and its neighbours are listed."""
PAIR = 24
"""Bytes a pair of sites takes while it is drawn for: two numbers and a random one."""


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


def read(path: Path, sites: int, said: str, coupling: float) -> tuple[Tensor, Tensor]:
    """Edges (n, 2) and couplings (n,) of a text file: in each line two sites, from 0, and perhaps J, else `coupling`.

    An edge may be there in both directions, with the same J. Raises UserError naming the line.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{said}: cannot be read ({type(error).__name__})") from error
    found: dict[tuple[int, int], float] = {}
    for number, line in enumerate(lines, 1):
        words, here = line.split("#")[0].split(), f"{said}, line {number}"
        if not words:
            continue
        a, b = _pair(words, sites, here)
        J = _number(words[2], here) if len(words) == 3 else coupling
        before = found.setdefault((a, b), J)
        if before != J:
            raise UserError(
                f"{here}: couples sites {a} and {b} by {J:g}, a line above by {before:g}; J_ij must be J_ji"
            )
    if not found:
        raise UserError(f"{said}: holds no edge")
    return torch.tensor(list(found)), torch.tensor(list(found.values()), dtype=torch.float32)


def _pair(words: list[str], sites: int, here: str) -> tuple[int, int]:
    """Two sites a < b, and nothing beside them but one number. Raises UserError."""
    if len(words) not in (2, 3) or not all(word.isdecimal() for word in words[:2]):
        raise UserError(f"{here}: {' '.join(words)!r} is not two numbers of sites and at most a coupling")
    a, b = sorted(map(int, words[:2]))
    if b >= sites:
        raise UserError(f"{here}: there is no site {b}, the data have sites 0 to {sites - 1}")
    if a == b:
        raise UserError(f"{here}: couples site {a} with itself")
    return a, b


def _number(word: str, here: str) -> float:
    try:
        found = float(word)
    except ValueError as error:
        raise UserError(f"{here}: {word!r} is not a number") from error
    if not math.isfinite(found):
        raise UserError(f"{here}: a coupling of {word} is not finite")
    return found


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


def around(edges: Tensor, sites: int) -> tuple[Tensor, Tensor]:
    """For each site its neighbours and the numbers of the edges to them, filled up with edge number `len(edges)`."""
    around: list[list[tuple[int, int]]] = [[] for _ in range(sites)]
    for number, (a, b) in enumerate(edges.tolist()):
        around[a].append((b, number))
        around[b].append((a, number))
    most = max(map(len, around), default=0) or 1
    filled = [[*entries, *[(0, len(edges))] * (most - len(entries))] for entries in around]
    table = torch.tensor(filled).reshape(sites, most, 2)
    return table[:, :, 0].contiguous(), table[:, :, 1].contiguous()


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
