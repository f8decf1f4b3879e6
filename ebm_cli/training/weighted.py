"""Chains with weights that follow the model as it changes: persistent chains that need not mix."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebm_cli.chains import Chains
from ebm_cli.errors import UserError
from ebm_cli.evaluation import beginning
from ebm_cli.evaluation.base import Subject
from ebm_cli.functional import log_mean_exp
from ebm_cli.model.base import Conditional, EnergyModel, Intractable, ModelSpec
from ebm_cli.objective.base import Objective
from ebm_cli.rng import AnyKey, stream
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.sampler.rungs import resampled
from ebm_cli.space import Counts, Words
from ebm_cli.training.checks import Choice

OF_AVERAGES = (
    "optimizer.ema = %g: the chains have the shares of modes of the model as it is at each step; its average, which is "
    "judged and sampled, may give modes other shares; optimizer.ema=0 judges the model itself"
)
_TEMPERATURES = 20  # annealing steps from independent units to the model as it begins


class Weighted(NamedTuple):
    """What chains have beside their positions, float64.

    `log_w` (chains,) since they were drawn by their weights last, `energy` (chains,) of the model that they moved by
    last, and `log_z`, a scalar: that of the independent units at first, and log mean w of the times before.
    """

    log_w: Tensor
    energy: Tensor
    log_z: Tensor


def check(policy: Chains, model: ModelSpec, sampler: Sampler[Any, Any], objective: Objective, choice: Choice) -> None:
    """Chains with weights have energies and moves that weights can be known by, and an objective that reads them."""
    why = policy.refusal()
    if why:
        raise UserError(why)
    if policy.drawn_below is None:
        return
    if issubclass(model.builds, Intractable | Conditional) or {Counts, Words} & set(model.spaces):
        why = f"model={choice['model']} has no one energy of whole configurations that chains could be weighed by"
    elif not objective.negatives:
        why = f"objective={choice['objective']} with these keys has no use for chains"
    elif not objective.weighs:
        why = f"objective={choice['objective']} takes all chains alike with these keys"
    elif sampler.replicas > 1:
        why = f"sampler={choice['sampler']} has replicas of its own; take another sampler"
    elif sampler.weighing() is None:
        why = f"sampler={choice['sampler']} does not leave the model invariant, and by how much is not known"
    else:
        return
    raise UserError(f"chains.weighted = true: {why}; or set it to false")


@torch.no_grad()
def begun(subject: Subject, chains: int) -> tuple[Tensor, Weighted]:
    """So many that stand for the model as it is, (chains, *shape), by annealing from independent units.

    Raises UserError if they cannot.
    """
    why = subject.model.improper() or beginning.refusal_to_weigh(subject.model, subject.sampler)
    if why:
        raise UserError(f"chains.weighted = true: {why}; or set it to false")
    log_w, x, log_z = beginning.begun(subject, chains, _TEMPERATURES, 0.0, subject.key)
    return x, Weighted(log_w, subject.model.energy(x).double(), log_w.new_tensor(log_z))


def taken_up(
    kept: Weighted, model: EnergyModel, x: Tensor, least: float, key: AnyKey
) -> tuple[Weighted, Tensor, Tensor]:
    """Before chains x move by a model that has changed: their weights, the numbers of those that go on, (chains,), and
    how many count before any is drawn, a scalar.

    log w_i += E_before(x_i) - E_now(x_i). Where the effective share of the chains is below `least` they are drawn in
    proportion to w, and have equal weights. Nothing here waits for the device.
    """
    log_w = kept.log_w + kept.energy - model.energy(x).double()
    counting = share(log_w)
    again = counting < least
    chosen = torch.where(again, resampled(log_w, key), torch.arange(len(x), device=x.device))
    log_z = kept.log_z + torch.where(again, log_mean_exp(log_w), 0)
    return Weighted(torch.where(again, 0, log_w), kept.energy, log_z), chosen, len(x) * counting


def moved_on(kept: Weighted, model: EnergyModel, x: Tensor, log_ratio: Tensor | None) -> Weighted:
    """Once the chains have moved to x by moves that are worth `log_ratio`; None: 0, for p is invariant."""
    log_w = kept.log_w if log_ratio is None else kept.log_w + log_ratio.double()
    return kept._replace(log_w=log_w, energy=model.energy(x).double())


def share(log_w: Tensor) -> Tensor:
    """The effective share of the chains, (sum w)^2 / (n sum w^2), a scalar."""
    return 1 / (len(log_w) * log_w.softmax(0).square().sum())


def relative(kept: Weighted) -> Tensor:
    """n w_i / sum w, (chains,) float32."""
    return (len(kept.log_w) * kept.log_w.softmax(0)).float()


def said(kept: Weighted, counting: Tensor) -> Info:
    """What is logged: `ess`, how many chains counted before they were drawn again, and `log_z`, which weights are."""
    n = len(kept.log_w)
    found = {"ess": counting, "log_z": kept.log_z + log_mean_exp(kept.log_w)}
    return {name: value.expand(n) for name, value in found.items()}


def drawn(log_w: Tensor, x: Tensor) -> Tensor:
    """As many chains of x (chains, ...), in proportion to their weights: the same at each call."""
    return x[resampled(log_w, stream(0, "drawn by weight"))]
