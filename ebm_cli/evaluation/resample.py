"""Chains from noise, and how much they look like data after more and more steps."""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.acceleration import full_arithmetic
from ebm_cli.device.engine import Work
from ebm_cli.evaluation.base import Evaluation, Result, Subject
from ebm_cli.model.base import EnergyModel
from ebm_cli.record import picture
from ebm_cli.registry import register
from ebm_cli.sampler.base import followed
from ebm_cli.sampler.standstill import lost, moved
from ebm_cli.yardstick.mmd import mmd, resolution, squared_distance, within

_SURE, _MUCH = 4, 2  # standard errors by which, and how many times, the end must be worse than the best


@register("evaluation", "resample")
class Resample(Evaluation):
    """`chains` chains from noise take `steps` steps of the run's sampler; they are looked at after 1, 3, 10, 30, ...

    Each time: the squared maximum mean discrepancy to held-out rows (at most `rows`), unbiased, kernel
    exp(-|a - b|^2 / s), s the mean of |y - y'|^2 over pairs of these rows; and the mean energy, beside that of the
    rows. A model in equilibrium comes nearer to the data until it stays; one whose chains were too short in training is
    best at about the number of steps of those, and worse beyond (Decelle, Furtlehner and Seoane 2021). `best_steps` is
    where the discrepancy is smallest. The sampler is used as training uses it: its step size is not adapted.
    """

    while_training: bool
    chains: Annotated[int, Field(ge=2)]
    rows: Annotated[int, Field(ge=2)]
    steps: Annotated[int, Field(ge=1)]

    moves_anywhere = True

    @property
    @override
    def work(self) -> Work:
        return Work(self.chains * self.steps, self.steps)

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`resample/best_steps`, `resample/mmd_best`, `resample/mmd_at_end`, ..., and the curves."""
        model = full_arithmetic(subject.model, subject.device)
        rows = subject.some_rows(self.rows)
        if len(rows) < 2:
            return Result({}, warnings=("one held-out row alone has no distances to measure by",))
        target = Target.of(model, rows)
        start = model.space.noise(self.chains, subject.key.fold("noise"), subject.data.train.stored.device)
        course, frames = Course(), self._followed(subject, model, start)
        wrong = next(filter(None, map(lost, frames)), None)
        if wrong or not moved(start, frames[-1]).any():
            return Result({}, warnings=(wrong or f"no chain moved in {self.steps} steps, so there is no course",))
        for step, x in zip((0, *looks(self.steps)), (start, *frames), strict=True):
            course.look(step, model, x, target)
        best = 1 + int(np.argmin(course.mmd[1:]))
        error = resolution(target.features, self.chains)
        metrics = {
            "best_steps": float(course.steps[best]),
            "mmd_best": course.mmd[best],
            "mmd_at_end": course.mmd[-1],
            "mmd_of_noise": course.mmd[0],
            "mmd_standard_error": error,
            "energy_at_end": course.energy[-1],
            "energy_of_data": target.energy,
        }
        worse = course.mmd[-1] > max(course.mmd[best] + _SURE * error, _MUCH * course.mmd[best])
        warnings = (
            f"chains from noise are nearest to the data after {course.steps[best]} steps and further away after "
            f"{self.steps}: a sign of training out of equilibrium; samples are best after about as many steps",
        ) * worse
        found = {f"resample/{name}": value for name, value in metrics.items()}
        return Result(found, {"resample": figure(course, target, error)}, warnings)

    def _followed(self, subject: Subject, model: EnergyModel, start: Tensor) -> list[Tensor]:
        """Positions at each of the looks, (chains, *shape); as many chains at once as the engine allows."""
        engine, sampler = subject.device.engine, subject.sampler
        keys = [subject.key.fold("steps", i) for i in range(self.steps)]
        found = []
        for part in engine.slices(len(start), sampler.replicas):
            own = [key.after(part.start) for key in keys]
            found.append([*followed(sampler, model, start[part], own, looks(self.steps), engine)])
        return [torch.cat(positions) for positions in zip(*found, strict=True)]


def looks(steps: int) -> list[int]:
    """1, 3, 10, 30, ... as far as there are `steps`, and the last of them."""
    found = [n * 10**k for k in range(len(str(steps))) for n in (1, 3)]
    return sorted({n for n in found if n < steps} | {steps})


@dataclass(frozen=True)
class Target:
    """Held-out rows: `features` are the rows times `scale` = sqrt(D / s), so that `mmd` has the kernel wanted."""

    features: Tensor
    scale: float
    within: float
    energy: float

    @classmethod
    def of(cls, model: EnergyModel, x: Tensor) -> "Target":
        """At rows x (n, *shape)."""
        n = len(x)
        mean = squared_distance(x, x).sum().item() / (n * (n - 1))
        # Rows that are all alike leave any unit as good as another.
        scale = (x[0].numel() / mean) ** 0.5 if mean > 0 else 1.0
        return cls(x * scale, scale, within(x * scale), model.energy(x).double().mean().item())


@dataclass
class Course:
    """What the chains were like, along the way."""

    steps: list[int] = field(default_factory=list)
    mmd: list[float] = field(default_factory=list)
    energy: list[float] = field(default_factory=list)

    def look(self, step: int, model: EnergyModel, x: Tensor, target: Target) -> None:
        """One more point, chains at x."""
        self.steps.append(step)
        self.mmd.append(mmd(x * target.scale, target.features, target.within))
        self.energy.append(model.energy(x).double().mean().item())


def figure(course: Course, target: Target, error: float) -> NDArray[np.uint8]:
    """Discrepancy, what chance makes of it in grey, and mean energy, against steps."""
    with picture.axes(1, 2) as drawing:
        left, right = drawing.at[0]
        left.semilogx(course.steps[1:], course.mmd[1:], marker=".", label="chains from noise")
        left.axhspan(-2 * error, 2 * error, color="0.9", zorder=0, label="chance")
        left.axhline(course.mmd[0], color="0.5", linestyle=":", label="noise")
        left.set(xlabel="steps", ylabel="MMD² to held-out rows")
        left.legend(fontsize=8)
        right.semilogx(course.steps[1:], course.energy[1:], marker=".", label="chains from noise")
        right.axhline(target.energy, color="0.5", linestyle="--", label="held-out rows")
        right.set(xlabel="steps", ylabel="mean energy [nats]")
        right.legend(fontsize=8)
    return drawing.pixels
