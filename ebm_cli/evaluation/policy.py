"""The policy that was trained beside a model: its own likelihood of rows, and the log Z that its draws give."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.evaluation.base import Evaluation, Result, Subject, learned_log_z, likelihoods, standard_error
from ebm_cli.evaluation.baseline import above_independent
from ebm_cli.evaluation.table import Numbers
from ebm_cli.functional import effective_count
from ebm_cli.model.policy import Policy, sums_orders
from ebm_cli.objective.base import Objective
from ebm_cli.objective.gflownet import Beside, GFlowNet
from ebm_cli.registry import register
from ebm_cli.rng import Key

_TRUSTED = 0.05  # of the draws that they are worth at least
_BY = "policy/trajectories"


@register("evaluation", "policy")
class PolicyLikelihood(Evaluation):
    """log p(x) of held-out rows under the policy of objective=gflownet, and log Z of the model by its draws.

    Up to 10 sites p is the sum over all orders. Beyond, `log_likelihood` is log mean exp(log P_F - log P_B) over
    `trajectories` backwards from each row, below log p on average, and the nearer the more of them there are; papers
    have 20. `log_z` is log mean exp(-E + log P_B - log P_F) over `draws` paths of the policy, below log Z on average,
    and `effective` the draws that their weights are worth: few of them mean that the policy has not learned the model.
    `learned_log_z` is that of trajectory balance. The model's own likelihood is found by ais, bridge or exact.
    """

    while_training: bool
    rows: Annotated[int, Field(ge=1)]
    trajectories: Annotated[int, Field(ge=1)]
    draws: Annotated[int, Field(ge=1)]

    reports = likelihoods("policy", "log_z", "effective", "trajectories", "learned_log_z", "learned_log_z_error")

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The likelihood of the policy."""
        if not values.has("policy/log_likelihood", "policy/standard_error"):
            return {}
        mean, error = values["policy/log_likelihood"], values["policy/standard_error"]
        by = f" (errs downwards: by {values[_BY]:.0f} trajectories)" if _BY in values else ""
        return {f"policy's own log-likelihood ({split})": f"{mean:.2f} ± {error:.2f} nats{by}"}

    @override
    def refusal_of_objective(self, objective: Objective) -> str | None:
        """One objective trains a policy."""
        return None if isinstance(objective, GFlowNet) else "only objective=gflownet trains a policy; leave it out"

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`policy/...`."""
        beside = subject.auxiliary
        assert isinstance(beside, Beside)
        policy, key, x = beside.policy, subject.key, subject.some_rows(self.rows)
        log_p = policy.log_prob(x) if sums_orders(policy) else self._bound(policy, x, key.fold("rows"))
        weights = self._weights(subject, policy, key.fold("draws"))
        log_z = (weights.logsumexp(0) - math.log(len(weights))).item()
        effective = effective_count(weights).item()
        metrics = {
            "policy/log_likelihood": log_p.mean().item(),
            **standard_error("policy", log_p),
            **above_independent("policy", subject, x, log_p),
            **({} if sums_orders(policy) else {_BY: float(self.trajectories)}),
            "policy/log_z": log_z,
            "policy/effective": effective,
            **learned_log_z("policy", subject, log_z),
        }
        few = (_few(effective, self.draws),) if effective < _TRUSTED * self.draws else ()
        name = "policy/log_likelihood"
        return Result(metrics, warnings=few, by_row={name: log_p}, index={name: subject.which_rows(self.rows)})

    def _bound(self, policy: Policy, x: Tensor, key: Key) -> Tensor:
        return policy.log_prob_bound(x, self.trajectories, key)

    def _weights(self, subject: Subject, policy: Policy, key: Key) -> Tensor:
        """-E(x) + log P_B - log P_F of paths of the policy, (draws,) float64."""
        paths = policy.filled(policy.nothing(self.draws), policy.sites, key)
        forth, back = policy.log_paths(paths, policy.sites)
        return (back - forth - subject.model.energy(policy.rows(paths.table))).double()


def _few(effective: float, draws: int) -> str:
    return (
        f"{draws} draws of the policy are worth {effective:.1f} of the model: it has not learned the model, and log Z "
        "by its draws is too low; take more steps, or another rate for it (optimizer.rates=[[auxiliary.*,FACTOR]])"
    )
