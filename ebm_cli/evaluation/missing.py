"""What of the data chains that begin as noise do not come to, where that can be told by one direction."""

from typing import NamedTuple

import torch
from torch import Tensor

_ROWS = 1000  # that the direction is found by, at most
_APART = 0.8  # of the variance along it that two groups must explain: of a uniform law it is 0.75, of a normal one 0.64
_LEAST = 0.05  # share of the rows in the smaller group
_RARE = 1e-3  # probability, by which so few of the chains come by chance, from which on a group is missed


class Groups(NamedTuple):
    """A direction (sites,) of rows, and where along it two groups of them part."""

    direction: Tensor
    middle: float

    def upper(self, x: Tensor) -> Tensor:
        """Which of x (n, *shape) are of the upper one, (n,) bool."""
        return x.flatten(1).double() @ self.direction > self.middle


def groups(rows: Tensor) -> Groups | None:
    """Two groups of rows (n, *shape) along their first principal direction; None where they are no two groups.

    They part where the variance between them is largest (Otsu 1979), and are two where it is most of the whole.
    """
    x = rows[:_ROWS].flatten(1).double()
    if len(x) < 2 or not x.var(0).sum():
        return None
    direction = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[0]
    along = (x @ direction).sort().values
    n, below = len(along), along.cumsum(0)[:-1]
    k = torch.arange(1, n, dtype=along.dtype, device=along.device)
    between = (below / k - (along.sum() - below) / (n - k)).square() * k * (n - k) / n**2
    at = int(between.argmax())
    small = min(at + 1, n - at - 1) / n
    if between[at] < _APART * along.var(correction=0) or small < _LEAST:
        return None
    return Groups(direction, ((along[at] + along[at + 1]) / 2).item())


def missing(rows: Tensor, chains: Tensor) -> str | None:
    """Which group of rows (n, *shape) hardly any of the chains (m, *shape) are in, in words; None if there is none.

    Hardly any: of m chains as few as would be there by chance with a probability below 1 / 1000.
    """
    found = groups(rows)
    if found is None or not len(chains):
        return None
    share, there = found.upper(rows).double().mean().item(), int(found.upper(chains).sum())
    for part, count in ((share, there), (1 - share, len(chains) - there)):
        if _by_chance(count, len(chains), part) < _RARE:
            few = f"{count} of {len(chains)}" if count else f"none of {len(chains)}"
            return f"{100 * part:.2g} % of the held-out rows lie apart from the others, where {few} chains came"
    return None


def _by_chance(count: int, of: int, share: float) -> float:
    """The probability of at most so many, by the binomial law."""
    law = torch.distributions.Binomial(of, torch.tensor(share).double())
    return float(law.log_prob(torch.arange(count + 1.0).double()).exp().sum())
