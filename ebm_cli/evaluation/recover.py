"""How well the couplings of a model are those that made the data."""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli.evaluation.base import Evaluation, Result, Subject
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.ising import Ising
from ebm_cli.registry import register
from ebm_cli.sampler.base import Sampler


@register("evaluation", "recover")
class Recover(Evaluation):
    """Over all pairs i < j: root mean square of J_ij - J*_ij, its logarithm, and how well |J_ij| finds the edges of J*.

    The last is the area under the ROC curve, 0.5 for guessing. Needs data that know their couplings
    (dataset=ising_samples).
    """

    while_training: bool

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        return None if isinstance(model, Ising) else "this model has no couplings between spins"

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`recover/...`; without a truth nothing, and that is said."""
        truth = subject.data.truth.couplings
        if truth is None:
            return Result({}, warnings=("the couplings of these data are not known; use dataset=ising_samples",))
        assert isinstance(subject.model, Ising)
        found = subject.model.coupling().cpu()
        return Result({f"recover/{name}": value for name, value in compared(found, truth).items()})


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
