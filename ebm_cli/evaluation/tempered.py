"""log Z by the replicas of parallel tempering: Bennett's ratio of neighbours, from fair draws at beta = 0 on."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_cli.evaluation.ais import likelihood, unnormalised
from ebm_cli.evaluation.base import Result, Subject, without_density
from ebm_cli.evaluation.baseline import above_independent
from ebm_cli.evaluation.trajectory import Seen, influence, lag, of_all, overlaps
from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.parallel_tempering import ParallelTempering
from ebm_cli.space import Categorical, TwoValued

_BAND = 1.96  # standard errors to either side: 95 % of a normal law
_OVERLAP = 0.03
_BEHIND, _SURE = 0.1, 3  # nats of lag, and its standard errors


class Look(NamedTuple):
    """u = log f_(r+1) - log f_r of draws at r, `up`, and at r + 1, `down`, (R, chains), r = 0, ..., R - 1; log Z_0."""

    up: Tensor
    down: Tensor
    log_z_0: float


class Ratios(NamedTuple):
    """log Z = log Z_0 + sum_r log Z_(r+1) / Z_r over beta_0 = 0 < beta_1 < ... < beta_R = 1.

    p_0 has all configurations alike likely: its draws are made anew at each look, and its log Z is known. Each ratio is
    Bennett's (1976, eq. 12a) of the draws of all looks. Its error, `overlap` and `lag` are those of
    `evaluation.trajectory`, whose rungs are models as the temperatures are here.
    """

    seen: Seen
    log_z_0: float


def applies(model: EnergyModel) -> bool:
    """Whether every site of the model's space has as many values, so that all configurations can be alike likely."""
    return isinstance(model.space, TwoValued | Categorical)


def look(sampler: ParallelTempering, model: EnergyModel, x: Tensor, key: AnyKey) -> Look:
    """At replicas x (chains, R, *shape) of the sampler, and as many fresh draws of p_0 as there are chains."""
    space = model.space
    assert isinstance(space, TwoValued | Categorical)
    x = torch.cat([space.noise(len(x), key, x.device)[:, None], x], 1)
    betas = torch.cat([x.new_zeros(1), sampler.betas(x)])
    hot = sampler.at(model, betas.repeat(len(x)))
    parts = [part.unflatten(0, x.shape[:2]) for part in hot.statistics(x.flatten(0, 1))]

    def log_f(place: slice, at: Tensor) -> Tensor:
        here = [part[:, place] for part in parts]
        return -hot.at(here, at.expand(len(x), -1)).double().cpu().T

    low, high = slice(None, -1), slice(1, None)
    up = log_f(low, betas[high]) - log_f(low, betas[low])
    down = log_f(high, betas[high]) - log_f(high, betas[low])
    all_alike = log_f(low, betas[low])[0, 0].item()
    return Look(up, down, space.sites * math.log(space.values) + all_alike)


def ratios(looks: Sequence[Look]) -> Ratios:
    """All looks together."""
    up, down = torch.stack([each.up for each in looks], 1), torch.stack([each.down for each in looks], 1)
    return Ratios(Seen(up, down, up.new_ones(len(up))), looks[0].log_z_0)


def found(ratios: Ratios, subject: Subject) -> Result:
    """`tempering/log_z` and what follows from it; where replicas do not tell, only why."""
    seen = ratios.seen
    log_f = unnormalised(subject.model, subject.held_out)
    lost = without_density(log_f)
    if lost or not (seen.up.isfinite().all() and seen.down.isfinite().all()):
        return Result({}, warnings=(f"{lost or 'replicas come to where there is no density'}: no log Z is given",))
    steps = of_all(seen)
    overlap, (behind, unsure) = overlaps(seen, steps), lag(seen, steps)
    about = {"tempering/overlap": overlap.min().item(), "tempering/lag": behind}
    why = _doubt(overlap, behind, unsure)
    if why:
        return Result(about, warnings=(f"{why}: no log Z is given",))
    log_z = ratios.log_z_0 + steps.sum().item()
    error = _BAND * influence(seen, steps).square().sum().sqrt().item()
    metrics = {
        **likelihood("tempering", subject.held_out, log_f, log_z),
        **above_independent("tempering", subject, subject.held_out, log_f - log_z),
        **{"tempering/log_z_low": log_z - error, "tempering/log_z_high": log_z + error},
        **about,
    }
    return Result(metrics, by_row={"tempering/log_likelihood": log_f - log_z})


def _doubt(overlap: Tensor, behind: float, unsure: float) -> str | None:
    k = int(overlap.argmin())
    if overlap[k] < _OVERLAP:
        names = ("beta = 0", "the hottest temperature") if k == 0 else (f"temperatures {k}", f"{k + 1}")
        way = "lower sampler.beta_min" if k == 0 else "raise sampler.temperatures"
        return f"{names[0]} and {names[1]} have little in common (overlap {overlap[k]:.2g}); {way}"
    if behind > max(_BEHIND, _SURE * unsure):
        return f"replicas lag behind their temperatures by {behind:.2g} nats; raise evaluation.tempering.warmup"
    return None
