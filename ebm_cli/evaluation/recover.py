"""How well the couplings of a model are those that made the data."""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.evaluation.base import Evaluation, Result, Subject
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.effective import couples_spins, spin_couplings, spin_triples
from ebm_cli.registry import register
from ebm_cli.sampler.base import Sampler

_TRIPLES = 1000


@register("evaluation", "recover")
class Recover(Evaluation):
    """Over all pairs i < j: root mean square of J_ij - J*_ij, its logarithm, and how well |J_ij| finds the edges of J*.

    The last is the area under the ROC curve, 0.5 for guessing. Couplings are those between spins: of a Boltzmann
    machine a quarter of those between its bits, of an RBM what its free energy has in effect (`model/effective.py`),
    with the root mean square of its couplings of three spins at 1000 random triples at most. Needs data that know
    their couplings (dataset=ising_samples).
    """

    while_training: bool

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        return None if couples_spins(model) else "this model has no couplings between spins"

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`recover/...`; without a truth nothing, and that is said."""
        truth = subject.data.truth.couplings
        if truth is None:
            return Result({}, warnings=("the couplings of these data are not known; use dataset=ising_samples",))
        values = compared(spin_couplings(subject.model).cpu(), truth)
        values |= three_body(subject)
        return Result({f"recover/{name}": value for name, value in values.items()})


def three_body(subject: Subject) -> dict[str, float]:
    """`three_body`, of models that couple triples: 0 where pairs are all there is, as in Ising models."""
    sites, key = subject.model.space.sites, subject.key.fold("triples")
    drawn = [rng.permutation(sites, key.fold(i))[:3] for i in range(_TRIPLES)]
    found = spin_triples(subject.model, torch.stack(drawn)) if sites >= len("ijk") else None
    return {} if found is None else {"three_body": found.square().mean().sqrt().item()}


def compared(found: Tensor, truth: Tensor) -> dict[str, float]:
    """`rmse`, `log_rmse` and, where the truth has both edges and none, `auroc`."""
    pairs = torch.triu_indices(len(truth), len(truth), 1)
    a, b = (J[pairs[0], pairs[1]].double() for J in (found, truth))
    rmse = (a - b).square().mean().sqrt()
    values = {"rmse": rmse.item(), "log_rmse": rmse.log().item()}
    from sklearn.metrics import roc_auc_score  # slow to import, and few runs need it

    edges = b != 0
    if edges.any() and not edges.all():
        values["auroc"] = float(roc_auc_score(edges.numpy(), a.abs().numpy()))
    return values
