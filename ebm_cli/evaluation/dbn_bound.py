"""A lower bound on the log-likelihood of a deep belief network, beside the likelihood of its first RBM alone."""

import copy
import dataclasses
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.evaluation.ais import unnormalised
from ebm_cli.evaluation.base import (
    Evaluation,
    Picture,
    Result,
    Subject,
    likelihoods,
    some_rows,
    standard_error,
)
from ebm_cli.evaluation.samples import draw
from ebm_cli.evaluation.table import Numbers
from ebm_cli.evaluation.top_log_z import LogZ, Runs, bound_lines, bound_metrics, few, log_z_of
from ebm_cli.log_z import enumeration
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.dbn import DBN
from ebm_cli.model.exponential_family import BernoulliProduct
from ebm_cli.model.rbm import RBM
from ebm_cli.record import picture
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Binary
from ebm_cli.yardstick.statistics import Against, shown_by_statistics

Count = Annotated[int, Field(ge=1)]
_ROWS_AT_ONCE, _ROWS_OF_MEAN = 1000, 10_000


@register("evaluation", "dbn_bound")
class DBNBound(Evaluation):
    """E_q[log p*(v, h) - log q(h | v)] - log Z <= log p(v), p* = Z p, of held-out rows v, the mean over `draws` of h.

    h are the units up to the visible ones of the top RBM, q their recognition, Z that of the top (Hinton et al. 2006,
    eq. 8; Salakhutdinov & Murray 2008, section 5). log Z is exact where one side of the RBM has at most 20 units,
    otherwise by AIS with `chains` runs of `temperatures` steps from independent units of mean (1 - base_mix) * mean of
    the data there + base_mix / 2. AIS errs low in log Z, so the bound then errs upwards, and may lie above log p(v).

    Beside it, `first_rbm_log_likelihood`: of the first RBM alone, as it was when the second one was stacked on it, on
    the same rows, by the same means; `gain` is the bound minus it. Its standard error is that of the paired rows, and
    `gain_low` to `gain_high` 95 % of what it is by the bootstrapped log Z, where these are estimates. `weight_ess` is
    the effective number of chains that an estimate of the top's log Z rests on.
    `exact_log_likelihood` is there where no hidden layer of the network has more than 10 units and log Z is exact.

    `pictures` samples of the first RBM and of the network, after `steps` Gibbs steps from noise each, side by side.
    """

    while_training: bool
    draws: Count
    chains: Annotated[int, Field(ge=2)]
    temperatures: Count
    base_mix: Annotated[float, Field(ge=0, le=1)]
    bootstrap: Annotated[int, Field(ge=100)]
    pictures: Annotated[int, Field(ge=0)]
    steps: Count

    asks_for_energy = False
    reports = (
        *likelihoods("dbn_bound", "log_z", "log_z_low", "log_z_high", "bits_per_dimension", "layers", "weight_ess"),
        *("dbn_bound/first_rbm_log_likelihood", "dbn_bound/first_rbm_log_z", "dbn_bound/exact_log_likelihood"),
        *("dbn_bound/gain", "dbn_bound/gain_standard_error", "dbn_bound/gain_low", "dbn_bound/gain_high"),
    )

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The bound, and log Z."""
        return bound_lines(values, "dbn_bound", split)

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        return None if isinstance(model, DBN) else "the bound is that of a deep belief network, model=dbn"

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`dbn_bound/log_likelihood`, `dbn_bound/first_rbm_log_likelihood`, `dbn_bound/gain`, ..., and a picture."""
        model, x = subject.model, subject.held_out.all()
        assert isinstance(model, DBN)
        top = self._log_z(subject, model.depth - 1)
        first = top if model.depth == 1 else self._log_z(subject, 0)
        bound = self._log_weights(model, x, subject.key.fold("draws")) - top.value
        alone = unnormalised(model.rbm(0), subject.held_out) - first.value
        gain = bound - alone
        metrics = {
            **bound_metrics("dbn_bound", subject, x, bound, top),
            "dbn_bound/first_rbm_log_likelihood": alone.mean().item(),
            "dbn_bound/first_rbm_log_z": first.value,
            "dbn_bound/gain": gain.mean().item(),
            **{f"dbn_bound/gain_{name.split('/')[1]}": error for name, error in standard_error("", gain).items()},
            **_uncertain(gain.mean().item(), top, first),
            "dbn_bound/layers": float(model.depth),
        }
        if top.others is None and model.refusal() is None:
            metrics["dbn_bound/exact_log_likelihood"] = _exact(model, x)
        if top.weight_ess is not None:
            metrics["dbn_bound/weight_ess"] = top.weight_ess
        warnings = (*_warnings(model), *few("dbn_bound", top, self.chains))
        by_row = {"dbn_bound/log_likelihood": bound}
        return Result(metrics, self._beside(subject, model) if self.pictures else {}, warnings, by_row=by_row)

    def _log_weights(self, model: DBN, x: Tensor, key: Key) -> Tensor:
        """The mean over draws of h of log p*(v, h) - log q(h | v), (rows,) float64."""
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for i in range(self.draws):
            for first in range(0, len(x), _ROWS_AT_ONCE):
                part = slice(first, first + _ROWS_AT_ONCE)
                total[part] += model.log_weight(x[part], key.fold(i).after(first)).double()
        return total / self.draws

    def _log_z(self, subject: Subject, layer: int) -> LogZ:
        """Of one of the RBMs."""
        assert isinstance(subject.model, DBN)
        rbm, key = subject.model.rbm(layer), subject.key.fold("layer", layer)
        runs = Runs(self.chains, self.temperatures, self.bootstrap)
        return log_z_of(rbm, lambda: self._base(subject, rbm, layer, key), runs, key, subject.device.engine)

    def _base(self, subject: Subject, rbm: RBM, layer: int, key: Key) -> BernoulliProduct:
        """Independent visible units near the mean that recognition gives them on training rows."""
        assert isinstance(subject.model, DBN)
        mean = subject.data.smoothed_mean()
        if layer:
            rows = some_rows(subject.data.train, _ROWS_OF_MEAN, key.fold("rows"))
            mean = subject.model.recognise(rows, key.fold("recognise"))[layer].mean(0)
            mean = (len(rows) * mean + 0.5) / (len(rows) + 1)
        assert isinstance(rbm.space, Binary)
        return BernoulliProduct(rbm.space, torch.lerp(mean, torch.full_like(mean, 0.5), self.base_mix)).to(rbm.b)

    def _beside(self, subject: Subject, model: DBN) -> dict[str, Picture]:
        """Samples of the first RBM on the left, of the network on the right; statistics of both one under the other."""
        first = copy.deepcopy(model)
        first.stacked.fill_(1)
        subjects = [dataclasses.replace(subject, model=each) for each in (first, model)]
        drawn = [draw(each, self.pictures, self.steps, "noise")[0] for each in subjects]
        if shown_by_statistics(model.space):
            against = Against(subject.data)
            names = ("samples of the first RBM", "samples of the network")
            both = [against.picture(x, name) for x, name in zip(drawn, names, strict=True)]
            return {"first_rbm_and_network": np.concatenate(both)}
        both = [picture.grid(model.space, x) for x in drawn]
        gap = np.full((len(both[0]), both[0].shape[0] // 20 + 1), 255, np.uint8)
        return {"first_rbm_and_network": np.concatenate([both[0], gap, both[1]], 1)}


def _uncertain(gain: float, top: LogZ, first: LogZ) -> dict[str, float]:
    """`dbn_bound/gain_low` and `dbn_bound/gain_high`, of the errors of both log Z; nothing where both are exact."""
    if first is top or (first.others is None and top.others is None):
        return {}
    spread = first.error() - top.error()
    low, high = (gain + spread).quantile(torch.tensor([0.025, 0.975], dtype=spread.dtype)).tolist()
    return {"dbn_bound/gain_low": low, "dbn_bound/gain_high": high}


def _exact(model: DBN, x: Tensor) -> float:
    """The mean of log p(v) by summation in float64."""
    double = copy.deepcopy(model).double()
    log_z = enumeration.log_z(double.top)
    parts = x.double().split(_ROWS_AT_ONCE)
    return torch.cat([double.log_likelihood(part, log_z) for part in parts]).mean().item()


def _warnings(model: DBN) -> tuple[str, ...]:
    """That it is not whole."""
    depth, count = model.depth, len(model.layers)
    return () if depth == count else (f"only {depth} of {count} RBMs are stacked so far",)
