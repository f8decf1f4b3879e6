"""Maximum likelihood: CD, PCD, replay, short-run and exact gradients differ only in where the negatives come from."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ebm_cli import exact
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.rbm import RBM
from ebm_cli.objective.base import Metrics, Objective
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Binary, Real


@register("objective", "likelihood")
class Likelihood(Objective):
    """loss = mean E(x) - mean E(x_neg), whose gradient estimates that of -log p: E_data[dE] - E_model[dE].

    `negatives_from` chains: x_neg are the ends of the chains. enumeration: the second mean is exact, and the loss is
    the negative log-likelihood mean E(x) + log Z itself. `centered` applies the centred gradient (RBMs only).
    `energy_l2` adds energy_l2 * mean(E(x)^2 + E(x_neg)^2) (Du & Mordatch 2019), which needs chains.
    """

    negatives_from: Literal["chains", "enumeration"]
    centered: bool
    offset_rate: Annotated[float, Field(gt=0, le=1)]
    energy_l2: Annotated[float, Field(ge=0)]

    spaces = (Binary, Real)

    @property
    def negatives(self) -> bool:
        """Chains, unless the sum is exact."""
        return self.negatives_from == "chains"

    @property
    def enumerates(self) -> bool:
        """log Z by enumeration."""
        return not self.negatives

    def conflict(self) -> str | None:
        """The energy penalty is on data and chains alike."""
        if self.energy_l2 and not self.negatives:
            return f"objective.energy_l2 = {self.energy_l2}: needs chains, objective=exact has none; set it to 0"
        return None

    @property
    def needs(self) -> tuple[type[EnergyModel], ...]:
        """Only RBMs have a centred gradient."""
        return (RBM,) if self.centered else ()

    def gradient(self, model: EnergyModel, x: Tensor, x_neg: Tensor | None, key: Key) -> Metrics:
        """Backward through the loss, then the change of coordinates if `centered`."""
        if not self.centered:
            return self._backward(model, model.energy(x), x_neg)
        assert isinstance(model, RBM)
        logits = model.hidden_logits(x)
        metrics = self._backward(model, model.free_energy(x, logits), x_neg)
        self._move_offset(model, logits.detach())
        center_gradient(model)
        return metrics

    def _backward(self, model: EnergyModel, energy: Tensor, x_neg: Tensor | None) -> Metrics:
        loss, metrics = self._loss(model, energy, x_neg)
        loss.backward()
        return {"loss": loss.detach(), "energy_data": energy.detach().mean(), **metrics}

    def _loss(self, model: EnergyModel, energy: Tensor, x_neg: Tensor | None) -> tuple[Tensor, Metrics]:
        if x_neg is None:
            log_z = exact.log_z(model)
            return energy.mean() + log_z, {"log_z": log_z.detach()}
        energy_neg = model.energy(x_neg)
        gap = energy.mean() - energy_neg.mean()
        loss = gap
        if self.energy_l2:
            loss = loss + self.energy_l2 * (energy.square().mean() + energy_neg.square().mean())
        return loss, {"energy_chains": energy_neg.detach().mean(), "energy_gap": gap.detach()}

    def _move_offset(self, model: RBM, logits: Tensor) -> None:
        """lambda <- lambda + rate (mean_data p(h = 1 | v) - lambda)."""
        model.hidden_offset.lerp_(logits.sigmoid().mean(0), self.offset_rate)


@torch.no_grad()
def center_gradient(model: RBM) -> None:
    """From the gradient in (W, b, c) to the centred one (Melchior, Fischer, Wiskott 2016, eq. 10-12), in place.

    dW' = dW - mu dc^T - db lambda^T,  db' = db - dW' lambda,  dc' = dc - dW'^T mu: the gradient with respect to the
    parameters of E = -(v - mu).b - (h - lambda).c - (v - mu).W (h - lambda), carried back to the usual ones. mu is the
    mean of the training data, lambda a running mean of the hidden activity on it.
    """
    W, b, c = model.W.grad, model.b.grad, model.c.grad
    assert W is not None
    assert b is not None
    assert c is not None
    mu, lam = model.visible_offset, model.hidden_offset
    W.addr_(mu, c, alpha=-1).addr_(b, lam, alpha=-1)
    b.addmv_(W, lam, alpha=-1)
    c.addmv_(W.T, mu, alpha=-1)
