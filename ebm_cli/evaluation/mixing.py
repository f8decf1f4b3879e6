"""Several samplers on one model: how soon chains from noise look like a long reference run, how well they then mix."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ebm_cli import picture, registry
from ebm_cli.errors import UserError
from ebm_cli.evaluation.base import Evaluation, Result, Subject
from ebm_cli.evaluation.chains import diagnose
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.sampler.base import Sampler, run
from ebm_cli.space import TwoValued

Settings = dict[str, Any]


@dataclass
class Course:
    """One sampler's chains along the way."""

    steps: list[int] = field(default_factory=lambda: [0])
    seconds: list[float] = field(default_factory=lambda: [0.0])
    mmd: list[float] = field(default_factory=list)
    energy_error: list[float] = field(default_factory=list)


@register("evaluation", "mixing")
class Mixing(Evaluation):
    """`chains` chains of every sampler start from the same noise and take `steps` steps, or stop after `seconds`.

    The reference is `reference_chains` chains from the data after `reference_steps` steps of the sampler `reference`.
    At `points` steps evenly spaced in their logarithm: the squared maximum mean discrepancy to it, unbiased, with the
    kernel exp(-share of sites that differ) (Grathwohl et al. 2021), and |mean energy - mean energy of the reference|.
    `steps_to` and `seconds_to` say when the discrepancy first fell below `level` of that of noise. The effective sample
    size is that of the energy over the second half, per step and per second of all chains together; an energy call
    is one of energy, or energy and gradient, of all chains.
    """

    while_training: bool
    samplers: dict[str, Settings]
    reference: Settings
    chains: Annotated[int, Field(ge=4)]
    steps: Annotated[int, Field(ge=8)]
    seconds: Annotated[float, Field(gt=0)]
    points: Annotated[int, Field(ge=2)]
    level: Annotated[float, Field(gt=0, lt=1)]
    reference_chains: Annotated[int, Field(ge=4)]
    reference_steps: Annotated[int, Field(ge=1)]

    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Every sampler must fit the model."""
        if not isinstance(model.space, TwoValued):
            return f"distances are counted in sites that differ, a {model.space.name} space has none"
        for label, settings in {**self.samplers, "reference": self.reference}.items():
            found = _built(label, settings).inner
            if not isinstance(model.space, found.spaces) or not all(isinstance(model, need) for need in found.needs):
                return f"sampler {label} does not fit this model"
        return None

    @torch.no_grad()
    def evaluate(self, subject: Subject) -> Result:
        """`mixing/<sampler>/...` and a picture of the curves."""
        reference = self._reference(subject)
        courses, metrics = {}, dict[str, float]()
        for label, settings in self.samplers.items():
            courses[label], found = self._follow(subject, _built(label, settings), reference)
            metrics |= {f"mixing/{label}/{name}": value for name, value in found.items()}
        return Result(metrics, {"mixing": figure(courses)})

    def _reference(self, subject: Subject) -> Tensor:
        split, key = subject.held_out, subject.key.fold("reference")
        rows = torch.arange(self.reference_chains) % len(split)
        start = split.rows(rows.to(split.grey.device), key.fold("binarize"))
        sampler = _built("reference", self.reference)
        return run(sampler, subject.model, start, self.reference_steps, key.fold("steps"), subject.device.engine)[0]

    def _follow(
        self, subject: Subject, sampler: Sampler[Any, Any], reference: Tensor
    ) -> tuple[Course, dict[str, float]]:
        model, key, space = subject.model, subject.key.fold("steps"), cast(TwoValued, subject.model.space)
        target = space.bits(reference)
        start = model.space.noise(self.chains, subject.key.fold("noise"), reference.device)
        wanted = {round(self.steps ** (i / (self.points - 1))) for i in range(self.points)}
        mean = model.energy(reference).mean()
        course = Course(
            mmd=[mmd(space.bits(start), target)], energy_error=[abs(model.energy(start).mean() - mean).item()]
        )
        state, spent, calls = sampler.init(model, start), 0.0, _Calls(model)
        energies, infos, jumps = [], list[Mapping[str, Tensor]](), []
        for step in range(1, self.steps + 1):
            before, began = state.x, time.perf_counter()
            with calls:
                state, info = sampler.step(model, state, key.fold(step))
            spent += time.perf_counter() - began
            energies.append(model.energy(state.x).double())
            infos.append(info)
            jumps.append((state.x != before).flatten(1).sum(1).double().mean())
            over = spent > self.seconds or step == self.steps
            if step in wanted or over:
                course.steps.append(step)
                course.seconds.append(spent)
                course.mmd.append(mmd(space.bits(state.x), target))
                course.energy_error.append(abs(energies[-1].mean() - mean).item())
            if over:
                break
        return course, {
            **_reached(course, self.level),
            **_effective(torch.stack(energies, 1), spent, calls.count),
            **{name: torch.stack([info[name] for info in infos]).mean().item() for name in infos[0]},
            "jump_distance": torch.stack(jumps).mean().item(),
            "mmd": course.mmd[-1],
            "energy_error": course.energy_error[-1],
        }


class _Calls:
    """Counts the calls of a model's energy within; those that one makes of the other once."""

    def __init__(self, model: EnergyModel) -> None:
        self.count, self._model, self._inside = 0, model, False

    def __enter__(self) -> None:
        for name in ("energy", "energy_and_grad"):
            object.__setattr__(self._model, name, self._counted(getattr(self._model, name)))

    def __exit__(self, *_: object) -> None:
        for name in ("energy", "energy_and_grad"):
            object.__delattr__(self._model, name)

    def _counted(self, call: Any) -> Any:
        def counting(x: Tensor) -> Any:
            outermost, self._inside = not self._inside, True
            self.count += outermost
            try:
                return call(x)
            finally:
                self._inside = not outermost

        return counting


def _built(label: str, settings: Settings) -> Sampler[Any, Any]:
    try:
        found: Sampler[Any, Any] = registry.build("sampler", settings)
    except UserError as error:
        raise UserError(f"evaluation.mixing, sampler {label}: {error}") from error
    return found


def mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy of bits (Gretton et al. 2012, eq. 3), in float64.

    k(a, b) = exp(-share of sites in which a and b differ).
    """
    n, m = len(x), len(y)
    within_x, within_y, between = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    own = (within_x.sum() - n) / (n * (n - 1)) + (within_y.sum() - m) / (m * (m - 1))
    return (own - 2 * between.mean()).item()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """Sites that differ are those where u = 1 and v = 0, or the reverse: sum u + sum v - 2 u.v."""
    u, v = x.flatten(1).double(), y.flatten(1).double()
    return (-(u.sum(1)[:, None] + v.sum(1) - 2 * u @ v.T) / u.shape[1]).exp()


def _reached(course: Course, level: float) -> dict[str, float]:
    """Steps and seconds until the discrepancy was below `level` of its start; nothing where it never was."""
    below = [i for i, value in enumerate(course.mmd) if value < level * course.mmd[0]]
    return {"steps_to": float(course.steps[below[0]]), "seconds_to": course.seconds[below[0]]} if below else {}


def _effective(energies: Tensor, seconds: float, calls: int) -> dict[str, float]:
    """Of the second half of the trace (chains, steps)."""
    late = energies[:, energies.shape[1] // 2 :].cpu().numpy()
    if late.shape[1] < 4 or not np.ptp(late):
        return {}
    ess = diagnose(late[None])["chains/ess_bulk"]
    steps, share = energies.shape[1], late.shape[1] / energies.shape[1]
    found = {"ess_per_step": ess / late.shape[1], "ess_per_second": ess / (share * seconds), "seconds": seconds}
    return found | ({"ess_per_energy_call": ess / (share * calls)} if calls else {}) | {"steps": float(steps)}


def figure(courses: Mapping[str, Course]) -> NDArray[np.uint8]:
    """Discrepancy and energy error against steps and against seconds."""
    with picture.axes(2, 2) as drawing:
        for label, course in courses.items():
            for row, values in enumerate((course.mmd, course.energy_error)):
                places: tuple[list[Any], ...] = (course.steps, course.seconds)
                for column, place in enumerate(places):
                    shown = [math.nan if value <= 0 else value for value in values[1:]]
                    drawing.at[row][column].loglog(place[1:], shown, label=label)
        for row, name in enumerate(("MMD² to the reference", "energy error in nats")):
            for column, unit in enumerate(("steps", "seconds")):
                drawing.at[row][column].set(xlabel=unit, ylabel=name)
        drawing.at[0][0].legend(fontsize=8)
    return drawing.pixels
