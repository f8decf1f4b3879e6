"""Where chains with weights begin: independent units, annealed to a model in a few steps."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebm_cli.acceleration import full_arithmetic
from ebm_cli.evaluation.ais import forward
from ebm_cli.evaluation.annealing import annealing_path, independent_units
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.invariance import refusal_to_anneal
from ebm_cli.log_z.paths import tempered
from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import Key
from ebm_cli.sampler.base import Sampler, transitions


class Begun(NamedTuple):
    """log w (chains,) float64 with E[w] = Z / Z_base, positions x (chains, *shape), and log Z_base."""

    log_w: Tensor
    x: Tensor
    log_z_base: float


def begun(subject: Subject, chains: int, temperatures: int, base_mix: float, key: Key) -> Begun:
    """Chains that stand for the model with their weights (Neal 2001), by moves of the sampler's inner kernel."""
    if subject.sampler.inner.leaves_invariant:
        path = annealing_path(subject, base_mix)
        return Begun(*forward(path, chains, temperatures, key, subject.device.repeating), path.log_z_base)
    return _by_weighed_moves(subject, chains, temperatures, base_mix, key)


def _by_weighed_moves(subject: Subject, chains: int, temperatures: int, base_mix: float, key: Key) -> Begun:
    """The same where moves leave nothing invariant but say by how much (Carbone et al. 2023, prop. 1)."""
    model, kernel = full_arithmetic(subject.model, subject.device), subject.sampler.inner.weighing()
    assert kernel is not None
    base = independent_units(subject.data, model, base_mix).to(next(model.parameters()))
    x = base.sample(chains, key.fold("start"))
    log_w, before = torch.zeros(chains, dtype=torch.float64, device=x.device), base.energy(x).double()
    for k in range(1, temperatures + 1):
        at = tempered(base, model, k / temperatures)
        log_w = log_w + before - at.energy(x).double()
        x, info = transitions(kernel, at, x, [key.fold("move", k)])
        log_w, before = log_w + info["log_ratio"].double(), at.energy(x).double()
    return Begun(log_w, x, base.log_z().item())


def refusal_to_weigh(model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
    """Why chains of this sampler cannot have weights that follow the model, and those that can, or None."""
    kernel = sampler.inner.weighing()
    return None if kernel is not None and type(model.space) in kernel.spaces else refusal_to_anneal(model, sampler)
