"""Annealing of particles that are drawn anew by their weights on the way, and its reverse: log Z from both sides."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.device.engine import EAGER, Engine
from ebm_cli.functional import effective_count, log_mean_exp
from ebm_cli.log_z.paths import Path
from ebm_cli.rng import Key
from ebm_cli.terminal import followed

_FEW = 0.5  # of the particles, which their weights are worth at least


class Cloud(NamedTuple):
    """Particles of each run, the rows of a path's `state`, their log w (runs, particles), log Z_hat (runs,) so far."""

    state: Any
    log_w: Tensor
    log_z: Tensor


def forward(path: Path[Any], runs: int, particles: int, temperatures: int, key: Key, engine: Engine = EAGER) -> Tensor:
    """log Z_hat (runs,) float64 with E[Z_hat] = Z / Z_base, by sequential Monte Carlo (Del Moral, Doucet, Jasra 2006).

    As AIS of `particles` chains in each run. Where their weights w are worth fewer than half of them, (sum w)^2 /
    sum w^2, particles are drawn among them with probabilities w, the mean of which Z_hat is multiplied by, and weigh
    alike again: chains that have become worth nothing end. One particle is a chain of AIS.
    """
    found = []
    for part in engine.slices(runs, particles):
        own, count = key.after(part.start * particles), (part.stop - part.start) * particles
        begun = path.observe(path.start(count, own.fold("start")))
        found.append(_walked(path, begun, particles, temperatures, own, "annealing: temperature", None))
    return torch.cat(found)


def reverse_log_p(
    path: Path[Any],
    x: Tensor,
    runs: int,
    particles: int,
    temperatures: int,
    key: Key,
    engine: Engine = EAGER,
) -> Tensor:
    """Lower bound (rows,) float64, in expectation, on the log probability by `forward` of rows x (rows, *shape).

    A run goes back from x along one particle's way, x_(k-1) ~ T~_k(. | x_k), and then forward with that particle
    among the others, never replaced: conditional SMC (Andrieu, Doucet, Holenstein 2010, sec. 4.3). Of a particle that
    is drawn by its weight at the end, E[f(x) / (Z_hat Z_base)] is the probability at x; the log mean of that over
    `runs` is less. With x ~ p, E[1 / Z_hat] = Z_base / Z (Grosse, Ghahramani, Adams 2015). One particle is RAISE.
    """
    rows, found = x.repeat_interleave(runs, dim=0), []
    for part in engine.slices(len(rows), particles):
        here, own = rows[part], key.after(part.start * particles)
        kept = _way_back(path, here, temperatures, key.after(part.start).fold("back"))
        others = path.start(len(here) * particles, own.fold("start"))
        begun = path.observe(_with(others, kept[0], particles))
        log_z = _walked(path, begun, particles, temperatures, own, "annealing again: temperature", kept)
        found.append(path.log_target(path.observe(here)) - path.log_z_base - log_z)
    return log_mean_exp(torch.cat(found).reshape(len(x), runs))


def _way_back(path: Path[Any], x: Tensor, temperatures: int, key: Key) -> list[Tensor]:
    """Positions of one way to x, (rows, *shape) each, from the base on."""
    state, way = path.observe(x), [x]
    for k in followed(range(temperatures, 0, -1), "annealing back: temperature"):
        state = path.move_back(state, k / temperatures, key.fold(k))
        way.append(state.x)
    return way[::-1]


def _walked(
    path: Path[Any], state: Any, particles: int, temperatures: int, key: Key, said: str, kept: Sequence[Tensor] | None
) -> Tensor:
    """log Z_hat (runs,) after all temperatures, the first particle of each run on its way `kept`, if there is one."""
    log_w = torch.zeros(len(state.x) // particles, particles, dtype=torch.float64, device=state.x.device)
    cloud = Cloud(state, log_w, log_w[:, 0])
    for k in followed(range(1, temperatures + 1), said):
        beta, below, each = k / temperatures, (k - 1) / temperatures, key.fold(k)
        ratio = path.log_ratio(cloud.state, beta, below).double()
        cloud = cloud._replace(log_w=cloud.log_w + ratio.reshape(log_w.shape))
        cloud = _drawn(path, cloud, each.fold("drawn"))
        moved = path.move(cloud.state, beta, each)
        if kept is not None:  # whatever was drawn in its place
            moved = path.observe(_with(moved.x, kept[k], particles))
        cloud = cloud._replace(state=moved)
    return cloud.log_z + log_mean_exp(cloud.log_w)


def _drawn(path: Path[Any], cloud: Cloud, key: Key) -> Cloud:
    """Runs whose weights are worth too few particles with new ones."""
    log_w, count = cloud.log_w, cloud.log_w.shape[1]
    poor = (effective_count(log_w) < _FEW * count)[:, None]
    if not poor.any():
        return cloud
    same = torch.arange(count, device=log_w.device).expand_as(log_w)
    of = torch.where(poor, rng.categorical(log_w[:, None].expand(-1, count, -1), key), same)
    rows = of + count * torch.arange(len(log_w), device=log_w.device)[:, None]
    log_z = cloud.log_z + torch.where(poor[:, 0], log_mean_exp(log_w), 0.0)
    return Cloud(path.observe(cloud.state.x[rows.flatten()]), log_w.masked_fill(poor, 0.0), log_z)


def _with(x: Tensor, kept: Tensor, particles: int) -> Tensor:
    """x (runs * particles, *shape) whose first particle of each run is `kept` (runs, *shape)."""
    each = x.reshape(len(kept), particles, *x.shape[1:])
    return torch.cat([kept[:, None], each[:, 1:]], 1).flatten(0, 1)
