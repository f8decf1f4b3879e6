"""Policies that fill the sites of a configuration one by one, and take them away again (GFlowNets).

A partial configuration is a table (n, D, K): one-hot at sites that have a value, zeros at those that have none yet.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import Normalised
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Categorical, Discrete, TwoValued

_NEVER = -1e9  # a logit whose exponential is 0 beside any other, and that has no NaN in its gradients
_ROWS_AT_ONCE = 50_000  # partial configurations
_NUMBERS = 2**23  # logits in one pass, of which several copies are kept for the gradient
_SUMMED = 10  # sites at most whose orders are summed up
_FIXED = rng.stream(0, "policy")


class Heads(NamedTuple):
    """log P_F(add value k at site i) (n, D K), and log P_B(take the value of site i away) (n, D), of each row."""

    add: Tensor
    remove: Tensor


class Paths(NamedTuple):
    """Full tables (n, D, K), and the order (n, D) in which their sites got their values."""

    table: Tensor
    order: Tensor


class Policy(nn.Module):
    """P_F(s' | s) over additions of a value at a site without one, and P_B(s | s') over sites to take the value from.

    One network of layers `widths` with leaky ReLUs gives D K logits of additions and, if P_B is `learned`, D of
    removals; otherwise P_B is uniform over the sites with a value. Both begin uniform. Two values enter as -1 and 1,
    more as one-hot; sites without a value as 0 (Zhang et al. 2022, sect. 3.1).
    """

    def __init__(self, space: Discrete, widths: Sequence[int], key: Key, *, learned: bool) -> None:
        super().__init__()
        self.space, self.learned = space, learned
        self.sites, self.values = space.sites, space.values
        entries = self.sites * (1 if self.values == 2 else self.values)
        sizes = [entries, *widths, self.sites * (self.values + learned)]
        self.layers = nn.ModuleList(skip_init(nn.Linear, a, b) for a, b in itertools.pairwise(sizes))
        with torch.no_grad():
            for i, layer in enumerate(self.layers):
                for name, parameter in layer.named_parameters():
                    draw = 2 * rng.uniform(parameter.shape, key.fold(i, name)) - 1
                    parameter.copy_(draw / math.sqrt(sizes[i]) if i + 2 < len(sizes) else torch.zeros_like(draw))

    @override
    def forward(self, table: Tensor) -> Heads:
        """Of partial configurations (n, D, K); the head that has nothing to choose from says nothing."""
        n, units = len(table), self._entered(table)
        for layer in self.layers[:-1]:
            units = F.leaky_relu(layer(units))
        found = self.layers[-1](units)
        filled = table.sum(2) > 0
        add = found[:, : self.sites * self.values].reshape(n, self.sites, self.values)
        add = add.masked_fill(filled[:, :, None], _NEVER).flatten(1).log_softmax(1)
        remove = found[:, self.sites * self.values :] if self.learned else torch.zeros_like(filled, dtype=found.dtype)
        return Heads(add, remove.masked_fill(~filled, _NEVER).log_softmax(1))

    def _entered(self, table: Tensor) -> Tensor:
        return table[:, :, 1] - table[:, :, 0] if self.values == 2 else table.flatten(1)

    def table(self, x: Tensor) -> Tensor:
        """Of configurations x (n, *shape), in the arithmetic of the policy."""
        x = x.to(next(self.parameters()).dtype)
        if isinstance(self.space, Categorical):
            return self.space.table(x)
        assert isinstance(self.space, TwoValued)
        bits = self.space.bits(x).flatten(1)
        return torch.stack([1 - bits, bits], 2)

    def rows(self, table: Tensor) -> Tensor:
        """x of full tables: the inverse of `table`."""
        if isinstance(self.space, Categorical):
            return table.reshape(-1, *self.space.shape)
        assert isinstance(self.space, TwoValued)
        return self.space.of_bits(table[:, :, 1]).reshape(-1, *self.space.shape)

    @torch.no_grad()
    def filled(self, table: Tensor, steps: int, key: AnyKey, explore: float = 0.0) -> Paths:
        """`steps` values added to partial tables by P_F; of the order only the last `steps` sites are meant.

        With probability `explore` each addition is one of all possible ones, equally likely.
        """
        table, added = table.clone(), []
        for i in range(steps):
            log_p = self(table).add
            if explore:
                log_p = _mixed(log_p, explore)
            move = rng.categorical(log_p, key.fold(i))
            site, value = move // self.values, move % self.values
            table[torch.arange(len(table), device=table.device), site, value] = 1
            added.append(site)
        return Paths(table, _with_others(added, len(table), self.sites, table.device))

    @torch.no_grad()
    def emptied(self, table: Tensor, steps: int, key: AnyKey) -> tuple[Paths, Tensor]:
        """`steps` values taken from full tables by P_B: the full tables with the order, and what is left of them."""
        removed: list[Tensor] = []
        if not self.learned:
            order = rng.uniform((len(table), self.sites), key, table.device).argsort(1)
            removed = [*order[:, :steps].unbind(1)]
        left = table.clone()
        for i in range(steps):
            site = removed[i] if not self.learned else rng.categorical(self(left).remove, key.fold(i))
            left[torch.arange(len(left), device=left.device), site] = 0
            removed += [site] if self.learned else []
        return Paths(table, _with_others(removed[::-1], len(table), self.sites, table.device)), left

    def log_paths(self, paths: Paths, steps: int) -> tuple[Tensor, Tensor]:
        """sum log P_F and sum log P_B of the last `steps` steps of the paths, (n,) each, differentiable."""
        n, sites = paths.order.shape
        rank = torch.empty_like(paths.order).scatter_(
            1, paths.order, torch.arange(sites, device=paths.order.device).expand(n, -1)
        )
        chosen = paths.order[:, sites - steps :]
        value = paths.table.argmax(2).gather(1, chosen)
        size = self.at_once(steps)
        parts = zip(paths.table.split(size), rank.split(size), chosen.split(size), value.split(size), strict=True)
        found = [self._log_paths(*part, steps) for part in parts]
        forth, back = zip(*found, strict=True)
        return torch.cat(forth), torch.cat(back)

    def at_once(self, steps: int) -> int:
        """Paths whose partial configurations are in one pass of the network."""
        return max(1, _NUMBERS // ((steps + 1) * self.sites * (self.values + 1)))

    def _log_paths(
        self, table: Tensor, rank: Tensor, chosen: Tensor, value: Tensor, steps: int
    ) -> tuple[Tensor, Tensor]:
        """All partial configurations of a path are in one pass: after first, first + 1, ..., D sites."""
        n, sites, values = table.shape
        length = torch.arange(sites - steps, sites + 1, device=table.device)
        there = rank[:, None, :] < length[None, :, None]
        heads = self((table[:, None] * there[..., None]).reshape(-1, sites, values))
        add, remove = (head.reshape(n, steps + 1, -1) for head in heads)
        forth = add[:, :-1].gather(2, (chosen * values + value)[:, :, None]).sum((1, 2))
        return forth, remove[:, 1:].gather(2, chosen[:, :, None]).sum((1, 2))

    @torch.no_grad()
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """n independent draws, (n, *shape): filled from nothing."""
        return self.rows(self.filled(self.nothing(n), self.sites, key).table)

    def nothing(self, n: int) -> Tensor:
        """Tables without any value."""
        weight = next(self.parameters())
        return torch.zeros(n, self.sites, self.values, dtype=weight.dtype, device=weight.device)

    @torch.no_grad()
    def log_prob_bound(self, x: Tensor, trajectories: int, key: AnyKey) -> Tensor:
        """log mean exp(log P_F - log P_B) over backward trajectories from each row, (n,): below log p(x) on average.

        p(x) = sum over orders of P_F, an expectation under P_B (Zhang et al. 2022, their code's `cal_logp`).
        """
        tables, found = self.table(x), []
        most = max(1, _ROWS_AT_ONCE // (len(x) * (self.sites + 1)))
        for first in range(0, trajectories, most):
            count = min(most, trajectories - first)
            paths, _ = self.emptied(tables.repeat(count, 1, 1), self.sites, key.fold(first))
            forth, back = self.log_paths(paths, self.sites)
            found.append((forth - back).double().reshape(count, len(x)))
        return torch.cat(found).logsumexp(0) - math.log(trajectories)

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) (n,), all orders summed up over the 2^D partial configurations of each row, for few sites.

        The mass of a set of sites is the sum over its last site of the mass without it times P_F.
        """
        table, sites = self.table(x), self.sites
        subset = (torch.arange(2**sites)[:, None] >> torch.arange(sites)) & 1
        mass = torch.full((len(x), 2**sites), -torch.inf, dtype=torch.float64)
        mass[:, 0] = 0
        number = subset.sum(1)
        for size in range(sites):
            for at in (number == size).nonzero().flatten().split(max(1, _ROWS_AT_ONCE // max(1, len(x)))):
                there = subset[at].to(table)
                add = self((table[:, None] * there[None, :, :, None]).reshape(-1, sites, self.values)).add
                step = (add.reshape(len(x), len(at), sites, self.values) * table[:, None]).sum(3).double().cpu()
                for site in range(sites):
                    free = subset[at, site] == 0
                    after = at[free] + 2**site
                    mass[:, after] = torch.logaddexp(mass[:, after], mass[:, at[free]] + step[:, free, site])
        return mass[:, -1].to(x.device)


def _mixed(log_p: Tensor, share: float) -> Tensor:
    """log of (1 - share) p + share u, u uniform over what is possible."""
    possible = log_p > _NEVER / 2
    uniform = -possible.sum(1, keepdim=True).log()
    mixed = torch.logaddexp(log_p + math.log1p(-share), uniform + math.log(share)) if share < 1 else uniform + 0 * log_p
    return torch.where(possible, mixed, -torch.inf)


def _with_others(last: Sequence[Tensor], n: int, sites: int, device: torch.device) -> Tensor:
    """Orders (n, sites) that end with these sites, one (n,) for each step; the others come before, in any order."""
    rank = torch.full((n, sites), -1, device=device)
    for i, site in enumerate(last):
        rank.scatter_(1, site[:, None], i)
    return rank.argsort(dim=1, stable=True)


def log_ratio(policy: Policy, energies: tuple[Tensor, Tensor], back: Paths, forth: Paths, steps: int) -> Tensor:
    """log of the acceptance ratio of moves x -> x' by `steps` removals and as many additions, (n,).

    E(x) - E(x') + log P(x' -> x) - log P(x -> x') along the path: removals of `forth` and additions of `back` over
    removals of `back` and additions of `forth`. Energies are those of x and x'. The move is a path and its reversal, so
    that it leaves exp(-E) invariant whatever the policy (Zhang et al. 2022, sect. 3.2).
    """
    added_back, removed_back = policy.log_paths(back, steps)
    added_forth, removed_forth = policy.log_paths(forth, steps)
    return energies[0] - energies[1] + removed_forth + added_back - removed_back - added_forth


class PolicyModel(Normalised):
    """The law of a policy's draws, as a model: E(x) = -log p(x), log Z = 0, and exact independent samples.

    Up to 10 sites all orders are summed up; beyond, E is the bound by 20 trajectories of a fixed key.
    """

    called = "policy"

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.space, self.policy = policy.space, policy

    @override
    def energy(self, x: Tensor) -> Tensor:
        """-log p(x), or more than that on average where it is a bound, (batch,)."""
        log_p = self.policy.log_prob(x) if sums_orders(self.policy) else self.policy.log_prob_bound(x, 20, _FIXED)
        return -log_p.to(x.dtype)

    @override
    def log_z(self) -> Tensor:
        """0."""
        return next(self.policy.parameters()).new_zeros(())

    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        return self.policy.sample(n, key)


def sums_orders(policy: Policy) -> bool:
    """Whether sites are few enough for `log_prob`."""
    return policy.sites <= _SUMMED
