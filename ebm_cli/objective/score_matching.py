"""Score matching: the slope of the energy is fitted to that of the data, so neither chains nor a partition function."""

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.dataset.base import Data
from ebm_cli.model.base import EnergyModel
from ebm_cli.objective.base import Batch, Gradient, Metrics, Objective, slopes
from ebm_cli.objective.divergence import along, axes, random_directions, refusal_by_parts, slope
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.space import Box, Real, Space


@register("objective", "score_matching")
class ScoreMatching(Objective):
    """The score s(x) = -dE/dx is fitted to that of the data, which need not be known. The loss of each `variant`:

    explicit: mean tr ds/dx + |s|^2 / 2 (Hyvarinen 2005, theorem 1), one more pass for each of the D coordinates.
    sliced: mean v.(ds/dx) v + (v.s)^2 / 2 over `projections` random v for each row, sliced_vr: the same with |s|^2 / 2,
    the mean of that term (Song et al. 2019, sec. 3). `projection` is the law of v: rademacher (fair signs) or normal,
    both of E[v v^T] = 1. These three integrate by parts over R^D, which is wrong where the data end at walls: data in a
    box are refused. The energy must bend: of one that is piecewise linear they see the slopes alone.

    denoising: mean |s(x + a z) + z / a|^2 / 2, z standard normal, a the one level of `noise` (Vincent 2011, sec. 4).
    The density learned is that of data + noise of this level. Of several levels each row draws one, equally likely, and
    its term is weighted by a^2 (Song & Ermon 2019, sec. 3). As one energy serves all levels, it learns the mixture of
    their densities p_a with weights proportional to a^2, whose score makes sum_a a^2 p_a |s - d log p_a / dx|^2 least.
    Noise carries data in a box beyond the walls, where the energy is fitted too: within them it is that of the same
    density. `antithetic`: each row is seen at x + a z and at x - a z, without which the variance of the gradient grows
    as 1 / a^2.
    """

    variant: Literal["explicit", "sliced", "sliced_vr", "denoising"]
    projections: Annotated[int, Field(ge=1)]
    projection: Literal["rademacher", "normal"]
    noise: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    antithetic: bool

    spaces = (Real, Box)

    @property
    @override
    def differentiates(self) -> bool:
        return True

    @property
    @override
    def places(self) -> int:
        return 2 if self.variant == "denoising" and self.antithetic else 1

    @override
    def refusal_of_space(self, space: Space) -> str | None:
        """Integration by parts needs a density that vanishes at the ends."""
        if isinstance(space, Box) and self.variant != "denoising":
            return (
                f"objective.variant = {self.variant}: is for data without walls, these lie in a box; set "
                "objective.variant=denoising"
            )
        return None

    @override
    def refusal_of_data(self, data: Data) -> str | None:
        """The same of grey values that are taken as real numbers; and a site that never varies has no density."""
        if self.variant == "denoising":
            return None
        return refusal_by_parts(data, f"objective.variant = {self.variant}", "set objective.variant=denoising")

    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """By automatic differentiation of what was differentiated; `score_norm` is the mean of |s|."""
        parameters = dict(model.named_parameters())
        key = key.after(batch.first)
        with torch.enable_grad():
            loss, metrics = (self._denoised if self.variant == "denoising" else self._by_parts)(model, batch.x, key)
            found = slopes(loss, parameters)
        metrics = {name: value.detach() for name, value in {"loss": loss, **metrics}.items()}
        return Gradient(found, metrics, {})

    def _by_parts(self, model: EnergyModel, x: Tensor, key: AnyKey) -> tuple[Tensor, Metrics]:
        """mean -curvature + slope^2 / 2; `curvature` is the mean of tr d^2E/dx^2, or its estimate."""
        x, field = slope(model, x)
        square, curvature = 0.5 * field.square().sum(1), torch.zeros_like(field[:, 0])
        count = field.shape[1] if self.variant == "explicit" else self.projections
        weight = 1 if self.variant == "explicit" else 1 / count
        if self.variant == "sliced":
            square = torch.zeros_like(square)
        for v in self._directions(field, key):
            curvature = curvature + weight * along(field, x, v)
            if self.variant == "sliced":
                square = square + weight * 0.5 * (field * v).sum(1).square()
        metrics = {"score_norm": field.norm(dim=1).mean(), "curvature": curvature.mean()}
        return (square - curvature).mean(), metrics

    def _directions(self, field: Tensor, key: AnyKey) -> Iterator[Tensor]:
        """v for every row: the axes one after the other, or random ones; each (1 or batch, D)."""
        if self.variant == "explicit":
            return axes(field)
        return random_directions(field, self.projections, self.projection, key.fold("projection"))

    def _denoised(self, model: EnergyModel, x: Tensor, key: AnyKey) -> tuple[Tensor, Metrics]:
        """mean |a dE/dx - z|^2 / 2 at x + a z, divided by a^2 where there is one level."""
        levels = torch.tensor(self.noise, dtype=x.dtype, device=x.device)
        level = levels[rng.integers(len(levels), (len(x), 1), key.fold("level"), x.device)]
        z = rng.normal(x.flatten(1).shape, key.fold("noise"), x.device, x.dtype)
        if self.antithetic:
            x, level, z = torch.cat([x, x]), torch.cat([level, level]), torch.cat([z, -z])
        _, field = slope(model, x + (level * z).reshape(x.shape))
        weight = 0.5 / level.square() if len(levels) == 1 else torch.full_like(level, 0.5)
        loss = (weight * (level * field - z).square()).sum(1).mean()
        return loss, {"score_norm": field.norm(dim=1).mean()}
