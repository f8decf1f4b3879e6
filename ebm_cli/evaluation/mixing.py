"""Several samplers on one model: how soon chains from noise look like a long reference run, how well they then mix."""

import dataclasses
import json
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import registry
from ebm_cli.acceleration import full_arithmetic
from ebm_cli.device.engine import Engine, Work
from ebm_cli.evaluation import mixing_table
from ebm_cli.evaluation.base import Evaluation, Result, Subject, starts
from ebm_cli.evaluation.chains import diagnose, doubt, standing
from ebm_cli.evaluation.laid import laid, moved_by, refusal_of_past
from ebm_cli.evaluation.mixing_reference import Reference, Units
from ebm_cli.evaluation.table import UNSURE, Numbers, Table
from ebm_cli.model.base import EnergyModel
from ebm_cli.record import picture
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.sampler.adaptation import adapted, adapts, recorded
from ebm_cli.sampler.base import Info, Sampler, engine_for, run
from ebm_cli.space import Real, TwoValued, names
from ebm_cli.terminal import Pulse, log

Settings = dict[str, Any]
Label = Annotated[str, Field(pattern=r"^[\w.+-]+$")]  # part of a metric's name

_RECORDS = 1000  # steps recorded in the second half of a window
_MIXED = 1.01  # R-hat below which chains agree (Vehtari et al. 2021)
_SURE = 2  # standard errors by which a discrepancy must exceed 0
_DRIFT = 4  # standard errors by which the reference may move in its second half


class Calls(NamedTuple):
    """Of one chain: for the energy, with the gradient or without, and for both."""

    energy: float
    gradient: float


@register("evaluation", "mixing")
class Mixing(Evaluation):
    """`chains` chains of every sampler start from the same noise and take `steps` steps, or stop after `seconds`.

    The reference is `reference_chains` chains from the data after `reference_steps` steps of the sampler `reference`
    (null: that of the run). At `points` steps evenly spaced in their logarithm: the squared maximum mean discrepancy to
    it, unbiased, with the kernel exp(-share of sites that differ) (Grathwohl et al. 2021), of real numbers exp(-mean
    squared difference of a site) in standard deviations of the reference, and |mean energy - mean energy of the
    reference|. `steps_to_L` and `seconds_to_L`: the first of these steps at which the discrepancy was
    below the share L of that of noise.

    Over the second half of the first 2000 steps, or as many times twice that as it takes for R-hat to fall below 1.01,
    at most of all of them: the effective sample size of the energy and of the numbers of sites in which the
    chains differ from `distances` states of the reference, of real numbers their squared distances and as many
    coordinates along its longest principal axes, the worst of them, for each step of one chain (1 is as good
    as independent draws, 1 / ESS the autocorrelation time), each transition of one configuration, of which a chain with
    replicas takes many in a step, each energy call of one chain (energy, or energy and gradient; none where
    conditionals are had in closed form), each gradient call and each second of all chains; `acceptance`; and
    `jump_distance`, the mean number of sites that a step changes, of real numbers the mean squared distance. Seconds
    are those of the steps alone, compiled where the run is. A sampler that adapts has done so before, in
    `reference_steps` steps from the same noise, and its `step_size` is reported. Of trajectories of which each chain
    has its own length, calls are the mean over steps and chains, `gradients`.
    """

    while_training: bool
    samplers: Annotated[dict[Label, Settings], Field(min_length=1)]
    reference: Settings | None
    chains: Annotated[int, Field(ge=4)]
    steps: Annotated[int, Field(ge=8)]
    seconds: Annotated[float, Field(gt=0)]
    points: Annotated[int, Field(ge=2)]
    levels: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)]
    distances: Annotated[int, Field(ge=0)]
    reference_chains: Annotated[int, Field(ge=4)]
    reference_steps: Annotated[int, Field(ge=2)]

    moves_anywhere = True

    standing = 70

    @classmethod
    @override
    def tables(cls, values: Numbers) -> list[Table]:
        return mixing_table.tables(values)

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Every sampler must fit the model, and the reference must leave it invariant."""
        if not isinstance(model.space, TwoValued | Real):
            return f"states are told apart by sites that differ, or numbers; a {model.space.name} space has neither"
        for label, found in self._samplers(sampler).items():
            why = _refusal(found, model)
            if why:
                return f"samplers.{label} {why} (~evaluation.mixing.samplers.{label} leaves that sampler out)"
        reference = self._reference_sampler(sampler)
        why = _refusal(reference, model) or (None if reference.leaves_invariant else "only approximates the model")
        if not why:
            return None
        own = ", the sampler of the run," if self.reference is None else ""
        return f"reference{own} {why}; set evaluation.mixing.reference{self._example(sampler)}"

    def _example(self, own: Sampler[Any, Any]) -> str:
        """The first of the samplers that leave the model invariant, as a reference, or nothing."""
        exact = (label for label, found in self._samplers(own).items() if found.leaves_invariant)
        label = next((name for name in exact if not {"kernel"} & set(self.samplers[name])), None)
        if label is None:
            return ""
        keys = ", ".join(f"{key}: {json.dumps(value)}" for key, value in self.samplers[label].items())
        return f", e.g. evaluation.mixing.reference='{{{keys}}}'".replace('"', "")

    @property
    @override
    def work(self) -> Work:
        """Every sampler as far as it may, and the reference."""
        steps = self.steps * len(self.samplers)
        chain_steps = self.chains * steps + self.reference_chains * self.reference_steps
        return Work(chain_steps, steps + self.reference_steps)

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`mixing/<sampler>/...`, and a picture of the curves."""
        reference, warnings = self._reference(subject)
        space, key = cast(TwoValued | Real, subject.model.space), subject.key
        start = space.noise(self.chains, key.fold("noise"), reference.states.device)
        far = reference.mmd(start)
        metrics = {"mixing/noise_mmd": far} | {f"mixing/{name}": v for name, v in reference.errors(self.chains).items()}
        levels = [level for level in self.levels if level * far > _SURE * metrics["mixing/mmd_standard_error"]]
        warnings += _unresolved([level for level in self.levels if level not in levels])
        courses, results = dict[str, Course](), dict[str, dict[str, float]]()
        for label, sampler in self._samplers(subject.sampler).items():
            moving = Moving.of(laid(sampler, subject), subject, start, key.fold("steps", label), self.reference_steps)
            courses[label], trace = self._follow(label, moving, reference)
            results[label] = {**courses[label].reached(levels, far), **trace.found(moving), **courses[label].end()}
            metrics |= {f"mixing/{label}/{name}": value for name, value in results[label].items()}
            log.info("mixing: %s took %d steps in %.1f s", label, moving.step, moving.seconds)
        warnings += _doubts(results)
        return Result(metrics, {"mixing": figure(courses, metrics)}, tuple(warnings))

    def _samplers(self, own: Sampler[Any, Any]) -> dict[str, Sampler[Any, Any]]:
        """Those that are compared, by label; a kernel that is left open is that of the run's own sampler."""
        found = {label: _built(f"samplers.{label}", settings) for label, settings in self.samplers.items()}
        return {label: moved_by(own, sampler) for label, sampler in found.items()}

    def _reference_sampler(self, own: Sampler[Any, Any]) -> Sampler[Any, Any]:
        return own if self.reference is None else _built("reference", self.reference)

    def _reference(self, subject: Subject) -> tuple[Reference, list[str]]:
        """The reference, and a sentence if its second half still moved."""
        key, engine = subject.key.fold("reference"), subject.device.engine
        rows = starts(subject.held_out, self.reference_chains, key)
        model, sampler = full_arithmetic(subject.model, subject.device), self._reference_sampler(subject.sampler)
        half = self.reference_steps // 2
        before = run(sampler, model, rows, half, key.fold("first"), engine)[0]
        after = run(sampler, model, before, self.reference_steps - half, key.fold("second"), engine)[0]
        reference = Reference.of(model, after, self.distances)
        # Different chains, since a chain is not independent of its own past.
        middle = self.reference_chains // 2
        parts = before[:middle], after[middle:]
        earlier, later = (Reference.of(model, x, 0, reference.units) for x in parts)
        moved = abs(later.mmd(parts[0])) > _DRIFT * later.errors(middle)["mmd_standard_error"]
        moved |= later.energy_error(earlier.energy) > _DRIFT * later.errors(middle)["energy_standard_error"]
        return reference, [
            "the reference still moves in the second half of its steps, so it is not yet the model: take more "
            "evaluation.mixing.reference_steps, or another evaluation.mixing.reference"
        ] * moved

    def _follow(self, label: str, moving: "Moving", reference: Reference) -> tuple["Course", "Trace"]:
        """Look at the chains where a point of the curves or a record is due, with the clock stopped."""
        course, trace, pulse = Course(), Trace(reference.units, reference.landmarks), Pulse(time.perf_counter())
        wanted = sorted({round(self.steps ** (i / (self.points - 1))) for i in range(self.points)})
        while moving.step < self.steps and moving.seconds < self.seconds:
            point = next(step for step in wanted if step > moving.step)
            before, info = moving.advance(min(point, trace.next(moving.step)))
            x = moving.x
            trace.look(moving.step, moving.model, before, x, info)
            if moving.step == point or moving.seconds >= self.seconds:
                course.look(moving, reference)
            if pulse.due(time.perf_counter()):
                far = moving.step, self.steps, moving.seconds, self.seconds
                log.info("mixing: %s step %d/%d, %.0f of %g s", label, *far)
        return course, trace


@dataclass
class Moving:
    """Chains of one sampler under a clock that runs while they step."""

    sampler: Sampler[Any, Any]
    model: EnergyModel
    state: Any
    key: Key
    engine: Engine
    calls: Calls  # of a step
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, sampler: Sampler[Any, Any], subject: Subject, start: Tensor, key: Key, adapt_steps: int = 0) -> Self:
        """At the start. A few steps are taken and forgotten, so that the clock sees no compiling."""
        model = full_arithmetic(subject.model, subject.device)
        if adapts(sampler):
            sampler, _ = adapted(sampler, model, start, adapt_steps, key.fold("adapt"))
        engine = engine_for(sampler, model, subject.device.engine)
        calls = calls_of_a_step(sampler, model, start, key.fold("count"))
        made = cls(sampler, model, sampler.init(model, start), key.fold("warm up"), engine, calls)
        made.advance(3)
        return cls(sampler, model, sampler.init(model, start), key, engine, calls)

    @property
    def x(self) -> Tensor:
        """Where the chains are."""
        found: Tensor = self.state.x
        return found

    def advance(self, until: int) -> tuple[Tensor, Info]:
        """Step until step number `until`; where the chains were before the last step, and what that said of itself."""
        before, info, step = self.x, Info(), self.engine.repeated(self.sampler.step)
        _wait(self.x)
        began = time.perf_counter()
        keys = [self.key.fold(i) for i in range(self.step, until)]
        for key in self.engine.keys(keys, self.x.device):
            before = self.x
            self.state, info = step(self.model, self.state, key)
        _wait(self.x)
        self.seconds += time.perf_counter() - began
        self.step = until
        return before, info


def _wait(x: Tensor) -> None:
    """A clock must not be read while the device still works."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


@dataclass
class Course:
    """How far the chains are from the reference, along the way."""

    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    mmd: list[float] = field(default_factory=list)
    energy_error: list[float] = field(default_factory=list)

    def look(self, moving: Moving, reference: Reference) -> None:
        """One more point."""
        self.steps.append(moving.step)
        self.seconds.append(moving.seconds)
        self.mmd.append(reference.mmd(moving.x))
        self.energy_error.append(reference.energy_error(moving.model.energy(moving.x)))

    def reached(self, levels: list[float], far: float) -> dict[str, float]:
        """Steps and seconds until the discrepancy was below these shares of `far`; nothing where it never was."""
        found = {}
        for level in levels:
            below = [i for i, value in enumerate(self.mmd) if value < level * far]
            if below:
                found[f"steps_to_{level:g}"] = float(self.steps[below[0]])
                found[f"seconds_to_{level:g}"] = self.seconds[below[0]]
        return found

    def end(self) -> dict[str, float]:
        """Where it came to."""
        return {"mmd": self.mmd[-1], "energy_error": self.energy_error[-1]}


class Trace:
    """Quantities of every `stride`-th step.

    Once 2000 are kept: stop if R-hat of the second half is below 1.01, otherwise drop every other record and double the
    stride. Fast samplers are so judged on consecutive steps, since thinning them would understate their ESS; for slow
    ones thinning loses nothing, since their records stay correlated over several strides.
    """

    def __init__(self, units: Units, landmarks: Tensor) -> None:
        self.units, self.landmarks, self.stride, self.ended = units, landmarks, 1, False
        self.records: list[tuple[Tensor, Info]] = []

    def due(self, step: int) -> bool:
        """Whether this step is recorded."""
        return not self.ended and step % self.stride == 0

    def next(self, step: int) -> int:
        """The first step after this one that might be."""
        return (step // self.stride + 1) * self.stride

    def look(self, step: int, model: EnergyModel, before: Tensor, x: Tensor, info: Info) -> None:
        """Record the step that led from `before` to x, if it is due."""
        if not self.due(step):
            return
        far = self.units.apart(x, self.landmarks)
        parts = [model.energy(x)[:, None], far, self.units.along(x)]
        moved = self.units.moved(before, x).double()
        self.records.append((torch.cat([part.double() for part in parts], 1), {"jump_distance": moved, **info}))
        if len(self.records) == 2 * _RECORDS:
            self.ended = agreement(self.late()) < _MIXED
            if not self.ended:
                self.records, self.stride = self.records[1::2], 2 * self.stride

    def late(self) -> NDArray[Any]:
        """The second half, (quantities, chains, draws)."""
        late = [quantities for quantities, _ in self.records[len(self.records) // 2 :]]
        found: NDArray[Any] = torch.stack(late).permute(2, 1, 0).cpu().numpy()
        return found

    def found(self, moving: Moving) -> dict[str, float]:
        """Effective sample sizes, R-hat, means of Info; of the second half of the records."""
        infos = [info for _, info in self.records[len(self.records) // 2 :]]
        means = {name: torch.stack([info[name] for info in infos]).double().mean().item() for name in infos[0]}
        taken = {"steps": float(moving.step), "seconds": moving.seconds}
        if "gradients" in means:  # trajectories of which each chain has its own length
            moving = dataclasses.replace(moving, calls=Calls(means["gradients"], means["gradients"]))
        ess = effective(self.late(), self.stride, moving)
        if "ess_per_step" in ess:
            ess["ess_per_transition"] = ess["ess_per_step"] / moving.sampler.moves_per_step
        return {**ess, **means, **taken, **recorded(moving.sampler)}


def agreement(quantities: NDArray[Any]) -> float:
    """The largest R-hat of (quantities, chains, draws); infinite where chains do not move."""
    return math.inf if doubt(quantities) else diagnose(quantities)["chains/r_hat"]


def effective(quantities: NDArray[Any], stride: int, moving: Moving) -> dict[str, float]:
    """Of (quantities, chains, draws), `stride` steps apart: the smallest effective sample size, the largest R-hat."""
    _, chains, draws = quantities.shape
    if draws < 4:
        return {}
    found, still = {} if doubt(quantities) else diagnose(quantities), standing(quantities)
    if 0 < still < quantities.shape[1]:
        return {"standing_chains": float(still)}
    ess = found.get("chains/ess_bulk", 0.0)  # chains that never move have drawn nothing
    steps = draws * stride
    values = {"ess_per_step": ess / (chains * steps), "ess_per_second": ess * moving.step / (steps * moving.seconds)}
    for kind, count in zip(("energy", "gradient"), moving.calls, strict=True):
        if count:
            values[f"ess_per_{kind}_call"] = values["ess_per_step"] / count
    values["r_hat"] = found.get("chains/r_hat", math.nan)
    return {name: value for name, value in values.items() if math.isfinite(value)}


def calls_of_a_step(sampler: Sampler[Any, Any], model: EnergyModel, x: Tensor, key: Key) -> "Calls":
    """How often a step asks for the energy, or energy and gradient, and for the latter; none within another counts."""
    state, made, inside = sampler.init(model, x), Counter[str](), False

    def counted(name: str, call: Any) -> Any:
        def counting(x: Tensor) -> Any:
            nonlocal inside
            outermost, inside = not inside, True
            made[name] += outermost
            try:
                return call(x)
            finally:
                inside = not outermost

        return counting

    asked = [(part, name) for part in (model, *sampler.beside) for name in ("energy", "energy_and_grad")]
    try:
        for part, name in asked:
            object.__setattr__(part, name, counted(name, getattr(part, name)))
        sampler.step(model, state, key)
    finally:
        for part, name in asked:
            object.__delattr__(part, name)
    return Calls(made.total(), made["energy_and_grad"])


def _built(key: str, settings: Settings) -> Sampler[Any, Any]:
    found: Sampler[Any, Any] = registry.build("sampler", settings, at=f"evaluation.mixing.{key}")
    return found


def _refusal(sampler: Sampler[Any, Any], model: EnergyModel) -> str | None:
    """Why the sampler cannot move in this model, or None."""
    kernel = sampler.inner
    lacking = [need.called for need in kernel.needs if not isinstance(model, need)]
    if lacking:
        return f"wants a {' and '.join(lacking)} model, this one is not"
    if not isinstance(model.space, kernel.spaces):
        return f"moves in {names(kernel.spaces)} spaces, this one is {model.space.name}"
    why = sampler.refusal(model.space)
    return f"does not fit: {why}" if why else refusal_of_past(model, sampler)


def _unresolved(levels: list[float]) -> list[str]:
    """Which levels are left out, and why."""
    if not levels:
        return []
    named = ", ".join(f"{level:g}" for level in levels)
    return [
        f"the share {named} of the discrepancy of noise cannot be told from 0 with so few chains: take more "
        "evaluation.mixing.chains and reference_chains"
    ]


def _doubts(results: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Sentences on what these numbers are not worth."""
    still = [label for label, found in results.items() if found["jump_distance"] == 0]
    unsure = {label: found["r_hat"] for label, found in results.items() if found.get("r_hat", 1) > UNSURE}
    sentences = [f"no site changed in the second half of the steps of {', '.join(still)}"] if still else []
    part = {label: found["standing_chains"] for label, found in results.items() if "standing_chains" in found}
    if part:
        named = ", ".join(f"{label} {value:.0f}" for label, value in part.items())
        sentences.append(
            "chains stood still in the second half of the steps while others moved, so there is no ESS and no R-hat: "
            f"{named} of them; take more steps"
        )
    if unsure:
        named = ", ".join(f"{label} {value:.2f}" for label, value in unsure.items())
        sentences.append(
            "chains disagree in the second half of the steps, so their ESS is a guess, more likely too large: R-hat "
            f"(should be near 1) {named}; take more steps"
        )
    return sentences


_CURVES = {  # the name of a curve, of its standard error, and in words
    "mmd": ("mmd_standard_error", "MMD² to the reference"),
    "energy_error": ("energy_standard_error", "error of the mean energy [nats]"),
}


def figure(courses: Mapping[str, Course], metrics: Mapping[str, float]) -> NDArray[np.uint8]:
    """Discrepancy and energy error against steps and against seconds; what chance alone makes of mixed chains is grey.

    The axes end at half a standard error; values below that, negative ones too, stand there.
    """
    with picture.axes(2, 2) as drawing:
        for row, (curve, (error, name)) in zip(drawing.at, _CURVES.items(), strict=True):
            least = metrics[f"mixing/{error}"] / 2
            for axis, unit in zip(row, ("steps", "seconds"), strict=True):
                for label, course in courses.items():
                    shown = [max(value, least) for value in getattr(course, curve)]
                    axis.loglog(getattr(course, unit), shown, label=label)
                axis.axhspan(least, 2 * _SURE * least, color="0.9", zorder=0, label="chance")
                axis.set(xlabel=unit, ylabel=name)
                axis.set_ylim(bottom=least)
        for axis in drawing.at[0]:
            axis.axhline(metrics["mixing/noise_mmd"], color="0.5", linestyle=":", label="noise")
        drawing.legend_beside()
    return drawing.pixels
