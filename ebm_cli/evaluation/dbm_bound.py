"""A lower bound on the log-likelihood of a deep Boltzmann machine, by mean field."""

import copy
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.evaluation.base import (
    Evaluation,
    Result,
    Subject,
    likelihoods,
    some_rows,
)
from ebm_cli.evaluation.table import Numbers
from ebm_cli.evaluation.top_log_z import LogZ, Runs, bound_lines, bound_metrics, few, log_z_of
from ebm_cli.log_z import enumeration
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.dbm import DBM
from ebm_cli.model.exponential_family import BernoulliProduct
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Binary

Count = Annotated[int, Field(ge=1)]
_ROWS_AT_ONCE, _ROWS_OF_MEAN = 1000, 10_000


@register("evaluation", "dbm_bound")
class DBMBound(Evaluation):
    """E_q[-E(v, h, g)] + H(q) - log Z <= log p(v) of held-out rows, q of both layers by `sweeps` of mean field.

    Salakhutdinov & Hinton 2009, eq. 7 to 9. log Z is that of the RBM between the first hidden layer and all else:
    exact where one of these sides has at most 20 units, otherwise by AIS with the first layer summed out (Salakhutdinov
    & Murray 2008), `chains` runs of `temperatures` steps from independent units of mean (1 - base_mix) * mean there +
    base_mix / 2, for the second layer that of mean field on training rows. AIS errs low in log Z, so the bound then
    errs upwards, and may lie above log p(v). `exact_log_likelihood` is there where the second layer has at most 10
    units and log Z is exact; it is above the bound by the mean of KL(q || p(h, g | v)).
    """

    while_training: bool
    sweeps: Count
    chains: Annotated[int, Field(ge=2)]
    temperatures: Count
    base_mix: Annotated[float, Field(ge=0, le=1)]
    bootstrap: Annotated[int, Field(ge=100)]

    asks_for_energy = False
    reports = (
        *likelihoods("dbm_bound", "log_z", "log_z_low", "log_z_high", "bits_per_dimension", "weight_ess"),
        "dbm_bound/exact_log_likelihood",
    )

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The bound, and log Z."""
        return bound_lines(values, "dbm_bound", split)

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        return None if isinstance(model, DBM) else "the bound is that of a deep Boltzmann machine, model=dbm"

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`dbm_bound/log_likelihood`, `dbm_bound/log_z`, ..."""
        model, x = subject.model, subject.held_out.all()
        assert isinstance(model, DBM)
        top = self._log_z(subject, model)
        parts = [model.bound(model.mean_field(part, self.sweeps)) for part in x.split(_ROWS_AT_ONCE)]
        bound = torch.cat(parts).double() - top.value
        metrics = bound_metrics("dbm_bound", subject, x, bound, top)
        if top.others is None and model.refusal() is None:
            metrics["dbm_bound/exact_log_likelihood"] = _exact(model, x)
        if top.weight_ess is not None:
            metrics["dbm_bound/weight_ess"] = top.weight_ess
        return Result(metrics, warnings=few("dbm_bound", top, self.chains), by_row={"dbm_bound/log_likelihood": bound})

    def _log_z(self, subject: Subject, model: DBM) -> LogZ:
        runs, key = Runs(self.chains, self.temperatures, self.bootstrap), subject.key.fold("top")
        return log_z_of(model.top, lambda: self._base(subject, model, key), runs, key, subject.device.engine)

    def _base(self, subject: Subject, model: DBM, key: Key) -> BernoulliProduct:
        """Independent units near the means of rows, and of the second layer on them."""
        rows = some_rows(subject.data.train, _ROWS_OF_MEAN, key.fold("rows"))
        mean = model.mean_field(rows, self.sweeps)[:, model.space.sites :].mean(0)
        mean = (len(rows) * mean + 0.5) / (len(rows) + 1)
        mean = torch.cat([subject.data.smoothed_mean().flatten().to(mean), mean])
        space = model.top.space
        assert isinstance(space, Binary)
        return BernoulliProduct(space, torch.lerp(mean, torch.full_like(mean, 0.5), self.base_mix)).to(model.top.b)


def _exact(model: DBM, x: Tensor) -> float:
    """The mean of log p(v) by summation in float64."""
    double = copy.deepcopy(model).double()
    log_z = enumeration.log_z(double.top)
    return torch.cat([double.log_likelihood(part.double(), log_z) for part in x.split(_ROWS_AT_ONCE)]).mean().item()
