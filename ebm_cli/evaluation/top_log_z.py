"""log Z of the RBM at the top of a deep machine: exact where one of its sides is small, else by AIS."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.device.engine import Engine
from ebm_cli.evaluation.ais import forward, interval, weight_ess
from ebm_cli.evaluation.base import Subject, bits_per_dimension, standard_error
from ebm_cli.evaluation.baseline import above_independent
from ebm_cli.evaluation.bracket import few_chains
from ebm_cli.evaluation.table import Numbers, log_z_line, plus_minus
from ebm_cli.functional import log_mean_exp
from ebm_cli.log_z import enumeration
from ebm_cli.log_z.paths import BipartitePath
from ebm_cli.model.exponential_family import BernoulliProduct
from ebm_cli.model.rbm import RBM
from ebm_cli.rng import Key


class LogZ(NamedTuple):
    """Of an RBM; of an estimate also the bootstrapped values, and how many of the chains carry it."""

    value: float
    others: Tensor | None
    weight_ess: float | None = None

    def error(self) -> Tensor:
        """By how much these differ from the value, (bootstraps,), or 0."""
        return torch.zeros(()) if self.others is None else self.others - self.value


def bound_lines(values: Numbers, name: str, split: str) -> dict[str, str]:
    """The lower bound that an evaluation found, and log Z."""
    if not values.has(f"{name}/log_likelihood", f"{name}/log_z"):
        return {}
    errs = " (errs upwards)" if f"{name}/log_z_low" in values else ""
    said = {f"lower bound on the log-likelihood ({split})": f"{plus_minus(values, name)} nats{errs}"}
    return said | log_z_line(values, name, "AIS")


def bound_metrics(name: str, subject: Subject, x: Tensor, bound: Tensor, top: LogZ) -> dict[str, float]:
    """`<name>/log_likelihood` and what belongs to it, of a lower bound for each row x (rows,), and `<name>/log_z`."""
    value = bound.mean().item()
    return {
        f"{name}/log_likelihood": value,
        **standard_error(name, bound),
        **above_independent(name, subject, x, bound),
        f"{name}/log_z": top.value,
        **({} if top.others is None else interval(name, top.others)),
        **bits_per_dimension(name, subject.model.space, value),
    }


def few(name: str, top: LogZ, chains: int) -> tuple[str, ...]:
    """A warning where hardly any of the chains carries log Z."""
    found = None if top.weight_ess is None else few_chains(top.weight_ess, chains)
    return () if found is None else (f"{found}; raise evaluation.{name}.temperatures",)


class Runs(NamedTuple):
    """How many annealing runs, of how many temperatures, and how often they are drawn again for the interval."""

    chains: int
    temperatures: int
    bootstrap: int


def log_z_of(rbm: RBM, base: Callable[[], BernoulliProduct], runs: Runs, key: Key, engine: Engine) -> LogZ:
    """Of an RBM, from the independent units `base()` where it is annealed (Salakhutdinov & Murray 2008)."""
    if enumeration.refusal(rbm) is None:
        return LogZ(enumeration.log_z(copy.deepcopy(rbm).double()).item(), None)
    path = BipartitePath(base(), rbm)
    log_w, _ = forward(path, runs.chains, runs.temperatures, key.fold("forward"), engine)
    index = rng.integers(len(log_w), (runs.bootstrap, len(log_w)), key.fold("bootstrap"))
    others = log_mean_exp(log_w.cpu()[index]) + path.log_z_base
    return LogZ(path.log_z_base + log_mean_exp(log_w).item(), others, weight_ess(log_w))
