"""Denoising score matching at all levels of noise of a leveled model."""

from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.levels import Leveled, per_row
from ebm_cli.objective.base import Batch, Gradient, Objective, slopes
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.space import Real


@register("objective", "denoising")
class Denoising(Objective):
    """mean |r s_k dE(x_k, k)/dx - z|^2 / D over rows x_k = m + r (a_k x_0 + s_k z), each at a level k drawn for it.

    All levels but the last, which has nothing to learn, are equally likely (Vincent 2011, sec. 4; Song & Ermon 2019,
    eq. 6 with lambda = sigma^2). Least where dE(x, k)/dx is that of -log p_k(x), the density of data with the noise of
    level k. Nothing is learned of the constants of the energies, and next to nothing of the weights of modes so far
    apart that no low level of noise leads from one to the other (Wenliang & Kanagawa 2020):
    `objective=diffusive_classification` adds what tells them.
    """

    spaces = (Real,)
    requires = (Leveled,)

    @property
    @override
    def compares(self) -> bool:
        return False

    @property
    @override
    def differentiates(self) -> bool:
        return True

    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """By automatic differentiation of what was differentiated."""
        assert isinstance(model, Leveled)
        noisy = noised(model, batch, model.levels - 1, key)
        with torch.enable_grad():
            loss = denoising_loss(model, noisy)
            found = slopes(loss, dict(model.named_parameters()))
        return Gradient(found, {"loss": loss.detach()}, {})


class Noisy(NamedTuple):
    """Rows x_k (batch, *shape) at levels k (batch,) int64, with the noise z that is in them."""

    x: Tensor
    level: Tensor
    z: Tensor


def noised(model: Leveled, batch: Batch, levels: int, key: AnyKey) -> Noisy:
    """The rows of a batch, each at a level drawn for it, the first so many equally likely."""
    x, key = batch.x, key.after(batch.first)
    level = rng.integers(levels, (len(x), 1), key.fold("level"), x.device).squeeze(1)
    z = rng.normal(x.shape, key.fold("noise"), x.device, x.dtype)
    return Noisy(model.noised(x, level, z), level, z)


def denoising_loss(model: Leveled, noisy: Noisy) -> Tensor:
    """mean |r s dE/dx - z|^2 / D, with its graph."""
    return off_noise(model, noisy, model.slope_at(noisy.x, noisy.level))


def off_noise(model: Leveled, noisy: Noisy, found: Tensor) -> Tensor:
    """mean |r s g - z|^2 / D of slopes g (batch, *shape)."""
    width = model.scale * per_row(model.s[noisy.level], found)
    return (width * found - noisy.z).square().mean()
