"""Replicas on the models that training passed through, which exchange their configurations with their neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel, Normalised
from ebm_cli.rng import AnyKey, Key
from ebm_cli.sampler.base import Sampler, transitions


class Look(NamedTuple):
    """One round: u = log f_(k+1) - log f_k of the draws at rung k, `up`, and at k + 1, `down`, (pairs, chains) float64.

    `tried` says which pairs were to be exchanged, (pairs,) bool, and `taken` which draws of them were, (pairs, chains).
    """

    up: Tensor
    down: Tensor
    tried: Tensor
    taken: Tensor


@dataclass(frozen=True)
class Rungs:
    """p_0, ..., p_K: independent units, and models of which each is near the one before.

    A round is a fresh draw of p_0, `steps` transitions of `sampler` at each other rung, which leave its p_k invariant,
    and exchanges of neighbours, those of even k in one round and of odd k in the next, each taken with probability
    min(1, exp(E_k(x_k) + E_(k+1)(x_(k+1)) - E_k(x_(k+1)) - E_(k+1)(x_k))) (Bereux et al. 2025, sec. 3). Chain number i
    of a rung meets no others than those of number i.
    """

    base: Normalised
    models: Sequence[EnergyModel]
    sampler: Sampler[Any, Any]
    steps: int

    def begun(self, chains: int, key: AnyKey) -> list[Tensor]:
        """Chains at every rung, (chains, *shape) each: draws of p_0, moved at one rung after the other."""
        x = [self.base.sample(chains, key.fold("base"))]
        for k, model in enumerate(self.models, 1):
            x.append(self._moved(model, x[-1], key.fold("begin", k)))
        return x

    def round(self, x: Sequence[Tensor], number: int, key: AnyKey) -> tuple[list[Tensor], Look]:
        """The rungs' chains, (chains, *shape) each, one round later, and what it showed before the exchanges."""
        moved = [self.base.sample(len(x[0]), key.fold("base"))]
        moved += [self._moved(model, x[k], key.fold("move", k)) for k, model in enumerate(self.models, 1)]
        up, down = self._ratios(moved)
        tried = torch.arange(len(up)) % 2 == number % 2
        u = rng.uniform((up.shape[1], len(up)), key.fold("swap"), up.device, up.dtype).T  # a row for each chain
        taken = (u.log() < up - down) & tried[:, None].to(up.device)
        return _exchanged(moved, taken), Look(up.cpu(), down.cpu(), tried, taken.cpu())

    def _moved(self, model: EnergyModel, x: Tensor, key: AnyKey) -> Tensor:
        end, _ = transitions(self.sampler, model, x, [key.fold(i) for i in range(self.steps)])
        return end

    def _ratios(self, x: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        ladder = [self.base, *self.models]
        own = torch.stack([model.energy(at).double() for model, at in zip(ladder, x, strict=True)])
        above = torch.stack([model.energy(at).double() for model, at in zip(ladder[1:], x[:-1], strict=True)])
        below = torch.stack([model.energy(at).double() for model, at in zip(ladder[:-1], x[1:], strict=True)])
        return own[:-1] - above, below - own[1:]


def _exchanged(x: Sequence[Tensor], taken: Tensor) -> list[Tensor]:
    """With the pairs that are taken, (pairs, chains), exchanged; no rung is in two of them."""
    found = list(x)
    for k, chains in enumerate(taken):
        where = chains.reshape(-1, *[1] * (x[k].dim() - 1))
        found[k], found[k + 1] = torch.where(where, found[k + 1], found[k]), torch.where(where, found[k], found[k + 1])
    return found


class Size(NamedTuple):
    """How rungs are chosen: so many chains and transitions at each, and the least share of exchanges."""

    chains: int
    steps: int
    least: float


def chosen(
    base: Normalised, models: Sequence[EnergyModel], sampler: Sampler[Any, Any], size: Size, key: Key
) -> list[int]:
    """Which of the models, in the order of training, are rungs: as few as exchange often enough, and the last.

    A rung is the last model that would be exchanged with the rung before in the `least` share of all tries. Draws
    x ~ p_c of a rung with weights w = f_t / f_c are draws of p_t, so that the share needs chains at c alone.
    """
    energy, x = base.energy, base.sample(size.chains, key.fold("base"))
    kept, last = list[int](), torch.zeros(0)  # log w of the model before
    for number, model in enumerate(models):
        log_w = (energy(x) - model.energy(x)).double()
        if number and acceptance(log_w, key.fold("share", number)) < size.least:
            rung = models[number - 1]
            kept, energy = [*kept, number - 1], rung.energy
            again = x[resampled(last, key.fold("resample", number))]
            x, _ = transitions(sampler, rung, again, [key.fold("move", number, i) for i in range(size.steps)])
            log_w = (energy(x) - model.energy(x)).double()
        last = log_w
    return [*kept, len(models) - 1]


def acceptance(log_w: Tensor, key: Key) -> float:
    """Share of exchanges between draws x of p_c, log w = log f_t(x) - log f_c(x) (chains,), and draws of p_t."""
    other = log_w[resampled(log_w, key.fold("other"))][rng.permutation(len(log_w), key.fold("order")).to(log_w.device)]
    return (log_w - other).clamp_max(0).exp().mean().item()


def resampled(log_w: Tensor, key: AnyKey) -> Tensor:
    """Which chains there are n of in proportion to w, (n,): those at (u + i) / n of the cumulated w, one u for all."""
    n = len(log_w)
    at = (torch.arange(n, device=log_w.device) + rng.uniform((1,), key, log_w.device, log_w.dtype)) / n
    return torch.searchsorted(log_w.softmax(0).cumsum(0), at).clamp_max(n - 1)
