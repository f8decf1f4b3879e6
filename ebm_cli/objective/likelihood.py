"""Maximum likelihood: CD, PCD, replay, short-run and exact gradients differ only in where the negatives come from."""

from collections.abc import Collection
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.functional import joined
from ebm_cli.log_z import enumeration
from ebm_cli.model.base import EnergyModel, Gradients, Pullback
from ebm_cli.model.centred import Centred, HiddenMoments
from ebm_cli.objective.base import Batch, Gradient, Metrics, Objective, Tail, penalised, refusal_of_penalties, slopes
from ebm_cli.objective.kl import kl_gradient
from ebm_cli.registry import Later, register
from ebm_cli.rng import AnyKey
from ebm_cli.space import Binary, Box, Categorical, Counts, Mixed, Real, Space, Spin


@register("objective", "likelihood")
class Likelihood(Objective):
    """loss = mean E(x) - mean E(x_neg), whose gradient estimates that of -log p: E_data[dE] - E_model[dE].

    `negatives_from` chains: x_neg are the ends of the chains. enumeration: the second mean is exact, and the loss is
    the negative log-likelihood mean E(x) + log Z itself. `centered` applies the centred gradient (RBMs only); auto: to
    an RBM, and to no other model. `standardized` divides it by the variances of the units that each weight couples,
    `least_variance` at least.
    `kl` adds the gradient of KL(q || p), q the distribution of the ends of the chains and p held fixed (`kl.py`),
    differentiated through their last `kl_steps` transitions: du2021 with the weight `kl_weight`, which draws the chains
    to the model, cd with -`kl_weight`, the sign of the derivation of contrastive divergence, which drives them off.
    `kl_entropy` is the weight of the entropy in it. Means of the energies that differ by more than `max_gap` nats stop
    the run: chains no longer follow the model.

    `energy_l2` adds energy_l2 * mean(E(x)^2 + E(x_neg)^2) (Du & Mordatch 2019), which needs chains, and `coupling_l1`
    and `coupling_l2` add coupling_l1 * sum |J| and coupling_l2 * sum J^2 over the couplings of models that have some.
    """

    negatives_from: Literal["chains", "enumeration"]
    centered: bool | Literal["auto"]
    standardized: Annotated[bool, Later(value=False)]
    least_variance: Annotated[float, Field(gt=0), Later(0.01)]
    offset_rate: Annotated[float, Field(gt=0, le=1)]
    energy_l2: Annotated[float, Field(ge=0)]
    coupling_l1: Annotated[float, Field(ge=0)]
    coupling_l2: Annotated[float, Field(ge=0)]
    kl: Literal["none", "du2021", "cd"]
    kl_weight: Annotated[float, Field(gt=0)]
    kl_entropy: Annotated[float, Field(ge=0)]
    kl_steps: Annotated[int, Field(ge=1)]
    max_gap: Annotated[float, Field(gt=0)]

    spaces = (Binary, Spin, Categorical, Real, Box, Mixed, Counts)
    chosen_as = ("cd", "cd_replay", "exact", "ml_replay", "pcd", "short_run")

    @classmethod
    @override
    def chosen_for(cls, model: type[EnergyModel], spaces: Collection[type[Space]]) -> tuple[str, ...]:
        """Without `exact` where there is no sum over states, however small the model."""
        return tuple(name for name in cls.chosen_as if name != "exact" or enumeration.has_sum(model, spaces))

    @property
    @override
    def negatives(self) -> bool:
        """Chains, unless the sum is exact."""
        return self.negatives_from == "chains"

    @property
    @override
    def weighs(self) -> bool:
        """Chains, but not through their moves."""
        return self.negatives and not self.through

    @property
    @override
    def takes_sparse(self) -> bool:
        """With chains, but not through their moves."""
        return self.negatives and not self.through

    @property
    @override
    def enumerates(self) -> bool:
        return not self.negatives

    @override
    def refusal(self) -> str | None:
        """The energy penalty is on data and chains alike, the KL term of the chains."""
        if self.energy_l2 and not self.negatives:
            return f"objective.energy_l2 = {self.energy_l2}: needs chains, objective=exact has none; set it to 0"
        if self.through and not self.negatives:
            return f"objective.kl = {self.kl}: needs chains, objective=exact has none; set it to none"
        if self.standardized and self.centered is False:
            return (
                "objective.standardized = true: is a kind of centred gradient; set objective.centered to auto or true"
            )
        return None

    @property
    @override
    def through(self) -> int:
        """Transitions that the KL term is differentiated through."""
        return 0 if self.kl == "none" else self.kl_steps

    @property
    @override
    def differentiates(self) -> bool:
        """What is enumerated, and chains."""
        return self.enumerates or self.through > 0

    @property
    @override
    def bounds(self) -> dict[str, tuple[float, str]]:
        """The gap between the mean energies."""
        return gap_bound(self.max_gap) if self.negatives else {}

    @property
    @override
    def needs(self) -> tuple[type[EnergyModel], ...]:
        """Only RBMs have a centred gradient."""
        return (Centred,) if self.needed_by else ()

    @property
    @override
    def needed_by(self) -> str | None:
        return "standardized" if self.standardized else "centered" if self.centered is True else None

    def centers(self, model: EnergyModel) -> bool:
        """Whether the gradient of this model is the centred one."""
        return isinstance(model, Centred) if self.centered == "auto" else self.centered

    @override
    def refusal_of_model(self, model: type[EnergyModel]) -> str | None:
        """A penalty on couplings needs some."""
        return refusal_of_penalties(model, coupling_l1=self.coupling_l1, coupling_l2=self.coupling_l2)

    @torch.no_grad()
    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """One pass over data and negatives together: one product with the weights each way."""
        x, x_neg = batch.x, batch.x_neg
        rows = x if x_neg is None else joined(x, x_neg)
        pull: Pullback
        statistics: dict[str, Tensor] = {}
        if self.centers(model):
            assert isinstance(model, Centred)
            energy, pull, moments = model.centred_vjp(rows, len(x))
            statistics.update(hidden_mean=moments.mean, hidden_square=moments.square)
        else:
            energy, pull = model.energy_vjp(rows)
        if x_neg is None:
            return _enumerated(model, x, energy, pull)._replace(statistics=statistics)
        weight, metrics = contrast(energy[: len(x)], energy[len(x) :], self.energy_l2, batch.weight)
        return self._with_kl(model, batch.tail, Gradient(pull(weight), metrics, statistics))

    def _with_kl(self, model: EnergyModel, tail: Tail | None, gradient: Gradient) -> Gradient:
        """The same and the KL term, where it is wanted."""
        if tail is None or self.kl == "none":
            return gradient
        term, metrics = kl_gradient(model, tail, self.kl_entropy)
        weight = self.kl_weight if self.kl == "du2021" else -self.kl_weight
        total = {name: grad + weight * term[name] for name, grad in gradient.parameters.items()}
        return gradient._replace(parameters=total, metrics={**gradient.metrics, **metrics})

    @torch.no_grad()
    @override
    def finish(self, model: EnergyModel, gradient: Gradient) -> Gradients:
        """If `centered`: lambda <- lambda + rate (mean_data p(h = 1 | v) - lambda), then the change of coordinates.

        The penalties on couplings come last.
        """
        found = self._centered(model, gradient) if self.centers(model) else gradient.parameters
        return penalised(model, found, self.coupling_l1, self.coupling_l2)

    def _centered(self, model: EnergyModel, gradient: Gradient) -> Gradients:
        assert isinstance(model, Centred)
        found = gradient.statistics
        model.follow(HiddenMoments(found["hidden_mean"], found["hidden_square"]), self.offset_rate)
        scale = _scale(model, self.least_variance) if self.standardized else None
        return center(gradient.parameters, model.visible_offset, model.hidden_offset, scale)


def _enumerated(model: EnergyModel, x: Tensor, energy: Tensor, pull: Pullback) -> Gradient:
    """Of mean E(x) + log Z, the negative log-likelihood itself; of documents Z is that of each one's length."""
    parameters = dict(model.named_parameters())
    with torch.enable_grad():
        log_z = enumeration.log_z_of_rows(model, x).mean()
    of_log_z = slopes(log_z, parameters)
    of_energy = pull(torch.full_like(energy, 1 / len(energy)))
    found = {name: of_energy[name] + grad for name, grad in of_log_z.items()}
    mean, log_z = energy.mean(), log_z.detach()
    return Gradient(found, {"loss": mean + log_z, "energy_data": mean, "log_z": log_z}, {})


def gap_bound(most: float) -> dict[str, tuple[float, str]]:
    """The bound of `energy_gap` beyond which a run stops, and why."""
    return {"energy_gap": (most, f"objective.max_gap = {most:g}: chains and model no longer follow each other")}


def contrast(
    energy: Tensor, energy_neg: Tensor, penalty: float, weight_neg: Tensor | None = None
) -> tuple[Tensor, Metrics]:
    """dloss/dE of every row, (batch + chains,), and what to log, of data and chains by their energies.

    loss = mean E(x) - mean E(x_neg) + penalty * (mean E(x)^2 + mean E(x_neg)^2), the means over x_neg by `weight_neg`,
    (chains,), which is 1 in the mean.
    """
    n, m = len(energy), len(energy_neg)
    counted = energy_neg if weight_neg is None else weight_neg * energy_neg
    share = torch.full_like(energy_neg, 1 / m) if weight_neg is None else weight_neg / m
    gap = energy.mean() - counted.mean()
    loss, weight = gap, torch.cat([torch.full_like(energy, 1 / n), -share])
    if penalty:
        loss = loss + penalty * (energy.square().mean() + (counted * energy_neg).mean())
        weight = weight + 2 * penalty * torch.cat([energy / n, counted / m])
    means = {"energy_data": energy.mean(), "energy_chains": counted.mean()}
    return weight, {"loss": loss, **means, "energy_gap": gap}


def _scale(model: Centred, least: float) -> Tensor:
    """1 / (s_i^2 t_j^2) of the variances of visible and hidden units, `least` at least."""
    of_v, of_h = (found.clamp_min(least) for found in (model.visible_variance(), model.hidden_variance()))
    return 1 / (of_v[:, None] * of_h)


def center(gradient: Gradients, mu: Tensor, lam: Tensor, scale: Tensor | None = None) -> Gradients:
    """From the gradient in (W, b, c) to the centred one (Melchior, Fischer, Wiskott 2016, eq. 10-12).

    dW' = dW - mu dc^T - db lambda^T,  db' = db - dW' lambda,  dc' = dc - dW'^T mu: the gradient with respect to the
    parameters of E = -(v - mu).b - (h - lambda).c - (v - mu).W (h - lambda), carried back to the usual ones. mu is the
    mean of the training data, lambda a running mean of the hidden activity on it. Other parameters do not depend on the
    coordinates.

    With `scale` = 1 / (s^2 t^2), of the variances of v and of h, dW' is multiplied by it: the couplings are those of
    (v - mu) / s and (h - lambda) / t, whose weights are s W t.
    """
    b, c = gradient["b"], gradient["c"]
    W = gradient["W"].addr(mu, c, alpha=-1).addr(b, lam, alpha=-1)
    if scale is not None:
        W = W * scale
    return {**gradient, "W": W, "b": b - W @ lam, "c": c - mu @ W}
