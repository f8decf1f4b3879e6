"""Noisy images brought back by the run's own sampler."""

import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.acceleration import full_arithmetic
from ebm_cli.device.engine import Work
from ebm_cli.evaluation.base import Evaluation, Result, Subject
from ebm_cli.model.base import EnergyModel
from ebm_cli.record import picture
from ebm_cli.registry import register
from ebm_cli.sampler.base import Sampler, run
from ebm_cli.space import Box

_SHOWN = 16


@register("evaluation", "denoise")
class Denoise(Evaluation):
    """Held-out images, at most `rows`, with normal numbers of standard deviation `noise` times the width of the box.

    What leaves the box is brought back to its bounds. Chains from there take `steps` steps of the run's sampler.
    Peak signal-to-noise ratios to the clean images, before and after, in decibels: see `psnr`. Chains draw from the
    model and are no posterior mean, so that with too many steps they forget the image they began with.
    """

    while_training: bool
    rows: Annotated[int, Field(ge=1)]
    noise: Annotated[float, Field(gt=0)]
    steps: Annotated[int, Field(ge=1)]

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Images whose values have bounds."""
        fits = isinstance(model.space, Box)
        return None if fits else f"noise is a share of the width of a box, a {model.space.name} space has none"

    @property
    @override
    def work(self) -> Work:
        return Work(self.rows * self.steps, self.steps)

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`denoise/psnr_before`, `denoise/psnr_after`, and of images a picture: clean, noisy, denoised."""
        space, key = subject.model.space, subject.key
        assert isinstance(space, Box)
        clean = subject.some_rows(self.rows)
        z = rng.normal(clean.shape, key.fold("noise"), clean.device)
        noisy = space.nearest(clean + self.noise * (space.high - space.low) * z)
        model = full_arithmetic(subject.model, subject.device)
        found, _ = run(subject.sampler, model, noisy, self.steps, key.fold("steps"), subject.device.engine)
        metrics = psnr("denoise/psnr_before", noisy, clean, space) | psnr("denoise/psnr_after", found, clean, space)
        n = min(_SHOWN, len(clean))
        shown = torch.cat([x[:n] for x in (clean, noisy, found)])
        return Result(metrics, {"denoise": picture.grid(space, shown, columns=n)} if space.is_image else {})


def psnr(name: str, x: Tensor, clean: Tensor, space: Box) -> dict[str, float]:
    """10 log10((high - low)^2 / mean squared error) over all values together, dB; nothing where no value is wrong."""
    error = (x.double() - clean.double()).square().mean().item()
    return {name: 10 * math.log10((space.high - space.low) ** 2 / error)} if error > 0 else {}
