"""Diffusive classification: a leveled model tells from which level of noise a row is."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel, Gradients
from ebm_cli.model.levels import Leveled
from ebm_cli.objective.base import Batch, Gradient, Metrics, Objective, slopes
from ebm_cli.objective.denoising import Noisy, denoising_loss, noised
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.space import Real


@register("objective", "diffusive_classification")
class DiffusiveClassification(Objective):
    """-log p(k | x_k) at the levels of noise, and `denoising` times the loss of `objective=denoising` on the same rows.

    A row x_k at a level k, all equally likely, is to be told from `levels` - 1 other levels j, drawn for it, by
    p(k | x) = exp(-E(x, k)) / sum_j exp(-E(x, j)) over the `levels` of them (DiffCLF, arXiv 2601.21025). Least where
    E(x, k) = -log p_k(x) + c with one constant c for all levels: the energies are compared at one x, so that the
    weights of modes far apart are learned at the levels where they meet and handed down to those where they do not.
    The last level is a Gaussian of log Z = 0, to which the constants b_k of the others come: at level 0 too log Z is
    learned to be 0. `accuracy` is the share of rows whose own level is the likeliest.
    """

    levels: Annotated[int, Field(ge=2, le=100)]
    denoising: Annotated[float, Field(ge=0)]

    spaces = (Real,)
    requires = (Leveled,)

    @property
    @override
    def differentiates(self) -> bool:
        return True

    @property
    @override
    def places(self) -> int:
        return self.levels + 1

    @override
    def remark(self, model: EnergyModel, steps: int) -> str | None:
        """Levels that there are not."""
        assert isinstance(model, Leveled)
        if self.levels <= model.levels:
            return None
        return f"objective.levels = {self.levels}: the model has {model.levels}, all of which are compared"

    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """The classification in closed form, the rest by automatic differentiation of what was differentiated."""
        assert isinstance(model, Leveled)
        noisy = noised(model, batch, model.levels, key)
        metrics, found = self.told_apart(model, batch, noisy, key)
        loss = metrics["classification_loss"]
        if self.denoising:
            with torch.enable_grad():
                denoised = self.denoised(model, batch, noisy)
                slope = slopes(denoised, dict(model.named_parameters()))
            found = {name: grad + self.denoising * slope[name] for name, grad in found.items()}
            loss = loss + self.denoising * denoised.detach()
            metrics["denoising_loss"] = denoised.detach()
        return Gradient(found, {"loss": loss, **metrics}, {})

    def denoised(self, model: Leveled, batch: Batch, noisy: Noisy) -> Tensor:
        """The loss of `objective=denoising`, with its graph."""
        return denoising_loss(model, noisy)

    def told_apart(self, model: Leveled, batch: Batch, noisy: Noisy, key: AnyKey) -> tuple[Metrics, Gradients]:
        """mean -log p(k | x_k), the share that is told, and the gradient: sum_j (1[j = k] - p(j | x)) dE(x, j)."""
        rows, level = self.compared(model, batch, noisy, key)
        n, count = level.shape
        energy, pull = model.energy_vjp_at(rows, level.flatten())
        log_p = (-energy.reshape(n, count)).log_softmax(1)
        own = F.one_hot(torch.zeros_like(level[:, 0]), count).to(log_p)
        accuracy = (log_p.argmax(1) == 0).to(log_p).mean()
        metrics = {"classification_loss": -log_p[:, 0].mean(), "accuracy": accuracy}
        return metrics, pull(((own - log_p.exp()) / n).flatten())

    def compared(self, model: Leveled, batch: Batch, noisy: Noisy, key: AnyKey) -> tuple[Tensor, Tensor]:
        """Each row once for each of the levels (batch, levels) that it is compared at, its own first."""
        level = self._compared(model, noisy.level, key.after(batch.first).fold("others"))
        n, count = level.shape
        rows = noisy.x[:, None].expand(-1, count, *noisy.x.shape[1:])
        return rows.reshape(n * count, *noisy.x.shape[1:]), level

    def _compared(self, model: Leveled, own: Tensor, key: AnyKey) -> Tensor:
        """The own level of each row, and after it others, all sets equally likely; (batch, levels) int64."""
        u = rng.uniform((len(own), model.levels), key, own.device)
        order = u.scatter(1, own[:, None], -1.0).argsort(1)
        return order[:, : self.levels]
