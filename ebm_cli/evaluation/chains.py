"""Do the chains mix? Convergence diagnostics of the run's sampler on the model."""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.dataset.base import Data
from ebm_cli.device.engine import EAGER, Engine
from ebm_cli.evaluation.base import Evaluation, Result, Subject, some_rows, starts
from ebm_cli.evaluation.class_chains import of_classes
from ebm_cli.evaluation.laid import along
from ebm_cli.evaluation.missing import missing
from ebm_cli.evaluation.table import UNSURE, Numbers
from ebm_cli.record import plain_json
from ebm_cli.registry import Later, register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.adaptation import adapted, adapts, recorded
from ebm_cli.sampler.base import Info, Sampler, engine_for
from ebm_cli.sampler.standstill import stuck
from ebm_cli.space import Counts, Words

_SHOWN_CHAINS, _SHOWN_STEPS, _SHOWN_LAGS = 6, 300, 300
_DECIMALS = 4
_ROWS = 1000  # in which modes are looked for


@register("evaluation", "chains")
class ChainDiagnostics(Evaluation):
    """Half the chains start at data, half at noise; after `warmup` steps, `steps` more are recorded.

    A sampler that adapts does so in the warm-up; what it found, as `step_size`, is reported.

    Of the energy and of `projections` random directions: rank-normalised split R-hat and bulk and tail effective
    sample size (Vehtari et al. 2021, through arviz), and the integrated autocorrelation time, steps per independent
    draw: chains * steps / ESS of the mean. The worst over these quantities is reported, and none of them where chains
    stand still or have run away. With `classes` a classifier of the data looks at every draw (`class_chains`): R-hat of
    p(class | x), and how often chains change their class.
    """

    while_training: bool
    chains: Annotated[int, Field(ge=4)]
    warmup: Annotated[int, Field(ge=0)]
    steps: Annotated[int, Field(ge=4)]
    projections: Annotated[int, Field(ge=0)]
    classes: Annotated[bool, Later(value=False)]

    moves_anywhere = True

    standing = 50
    compared = ("chains/r_hat",)

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The diagnostics in one line."""
        names = ("r_hat", "ess_bulk", "ess_tail", "autocorrelation_time")
        if not values.has(*(f"chains/{name}" for name in names)):
            return {}
        r_hat, bulk, tail, time = (values[f"chains/{name}"] for name in names)
        return {
            "chains": f"R-hat {r_hat:.3f}, ESS bulk {bulk:.0f} tail {tail:.0f}, autocorrelation time {time:.1f} steps"
        }

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`chains/r_hat`, `chains/ess_bulk`, `chains/autocorrelation_time`, ..."""
        x = self._start(subject)
        directions = rng.normal((x[0].numel(), self.projections), subject.key.fold("directions"), x.device)
        everything, info, jump, end = self._record(subject, x, directions)
        trace, places = np.split(everything, [1 + self.projections])
        metrics = {"chains/jump_distance": jump} | {f"chains/{k}": v for k, v in info.items()}
        doubts = (*stuck(info, subject.sampler), *filter(None, [doubt(trace)]))
        if doubts:
            return Result(metrics, warnings=(*doubts, *self._lost(subject, end)), files=drawn(trace))
        metrics = diagnose(trace) | metrics
        by_class, unsure = of_classes(subject, places) if self.classes else ({}, [])
        metrics |= by_class
        r_hat = metrics["chains/r_hat"]
        if r_hat < UNSURE:
            return Result(metrics, warnings=tuple(unsure), files=drawn(trace))
        way = f"try {along(subject) or 'another sampler'}, or more evaluation.chains.warmup and steps"
        apart = (
            f"chains from data and from noise disagree (R-hat {r_hat:.2f}, should be near 1): they do not mix in "
            f"{self.warmup + self.steps} steps; {way}"
        )
        return Result(metrics, warnings=(*unsure, apart, *self._lost(subject, end)), files=drawn(trace))

    def _lost(self, subject: Subject, end: Tensor) -> list[str]:
        """What of the data chains from noise did not come to, and what sampler may; nothing where that is not known."""
        if isinstance(subject.model.space, Counts | Words):
            return []
        held_out = some_rows(subject.held_out, _ROWS, subject.key.fold("missing"))
        found = missing(held_out, end[self.chains // 2 :])
        way = along(subject)
        return [f"chains from noise lost a mode: {found}" + (f"; take {way}" if way else "")] if found else []

    @override
    def refusal_of_data(self, data: Data) -> str | None:
        """Classes have labels."""
        if not self.classes or data.train.labels is not None:
            return None
        return "evaluation.chains.classes = true: the data have no labels to train a classifier by; set it to false"

    def _start(self, subject: Subject) -> Tensor:
        half = self.chains // 2
        data = starts(subject.held_out, half, subject.key)
        noise = subject.model.space.noise(self.chains - half, subject.key.fold("noise"), data.device)
        return torch.cat([data, noise])

    def _record(self, subject: Subject, x: Tensor, directions: Tensor) -> "_Recorded":
        """What half of the chains from data and half from noise did after the warm-up."""
        sampler, model, key = subject.sampler, subject.model, subject.key.fold("steps")
        warmup = self.warmup
        if adapts(sampler):
            sampler, x = adapted(sampler, model, x, warmup, key.fold("adapt"))
            warmup = 0
        state, seen = sampler.init(model, x), []
        watch, engine = _Watch(sampler, self.classes), _engine(subject, sampler, self.classes)
        moved, fixed = engine.region(watch), (model, directions)
        for i, step in enumerate(engine.keys([key.fold(i) for i in range(warmup + self.steps)], x.device)):
            if i < warmup and not engine.compiled:  # what nobody looks at is not measured, where that takes time
                state, _ = sampler.step(model, state, step)
                continue
            state, said = moved(fixed, state, step)
            if i >= warmup:
                seen.append(said)
        trace = torch.stack([said.pop("quantities") for said in seen], -1).permute(1, 0, 2).double().cpu().numpy()
        means = {name: torch.stack([said[name] for said in seen]).mean().item() for name in seen[0]}
        jump = means.pop("jump")
        return _Recorded(trace, means | recorded(sampler), jump, state.x)


class _Recorded(NamedTuple):
    """Quantities (1 + projections, chains, steps), where asked with all numbers of x after them, mean Info, mean
    distance moved per step, and the last x."""

    trace: NDArray[Any]
    info: dict[str, float]
    jump: float
    end: Tensor


@dataclass(frozen=True)
class _Watch:
    """A transition, and what is recorded of it: quantities (chains, 1 + projections), and means over the chains.

    With `places` all numbers of x follow the quantities.
    """

    sampler: Sampler[Any, Any]
    places: bool

    def __call__(self, fixed: tuple[Any, Tensor], state: Any, key: AnyKey) -> tuple[Any, Info]:
        model, directions = fixed
        after, info = self.sampler.step(model, state, key)
        flat = after.x.flatten(1)
        jump = (flat - state.x.flatten(1)).square().sum(1).sqrt().mean()
        quantities = torch.cat([model.energy(after.x)[:, None], flat @ directions, *([flat] if self.places else [])], 1)
        return after, {"quantities": quantities, "jump": jump, **{name: value.mean() for name, value in info.items()}}


def _engine(subject: Subject, sampler: Sampler[Any, Any], places: bool) -> Engine:
    """Libraries where this run has them; a step size found just now would be part of their code."""
    loops = subject.device.loops
    if loops is None or adapts(subject.sampler):
        return EAGER
    return engine_for(sampler, subject.model, loops.moving(_Watch(sampler, places)))


def doubt(trace: NDArray[Any]) -> str | None:
    """Why nothing can be diagnosed by (quantities, chains, draws), in a sentence, or None.

    Asked before arviz is: of a chain that never moves it says that all draws are effective, and infinite draws it takes
    for mixed.
    """
    lost = int((~np.isfinite(trace).all(axis=(0, 2))).sum())
    count = trace.shape[1]
    if lost:
        return (
            f"{lost} of {count} chains have an energy or a place that is no number (nan or infinity), so there is "
            "nothing to diagnose; lower sampler.step_size, or take another sampler"
        )
    if not np.ptp(trace, axis=(1, 2)).any():
        return "no chain ever moves, so there is nothing to diagnose"
    still = standing(trace)
    if not still:
        return None
    return (
        f"{still} of {count} chains stand still in a quantity in which others move or are elsewhere, so R-hat and ESS "
        "would mean nothing; take another sampler or sampler.step_size, or more steps"
    )


def drawn(trace: NDArray[Any]) -> dict[str, str]:
    """`chains.json`, what there is to see of (quantities, chains, draws): energies of some chains, and their memory.

    Nothing where an energy is not finite, or where none changes.

    `energy` has chains from data and from noise, at some of the `steps`; `autocorrelation` at `lags` is of the energy,
    about the mean and variance of all chains together, so that it stays above 0 where chains are apart.
    """
    energy = trace[0]
    if not np.isfinite(energy).all() or not np.ptp(energy):
        return {}
    half, stride = len(energy) // 2, 1 + energy.shape[1] // _SHOWN_STEPS
    some = {"data": energy[: min(half, _SHOWN_CHAINS)], "noise": energy[half : half + _SHOWN_CHAINS]}
    remembered = _autocorrelation(energy)
    shown = {
        "steps": list(range(0, energy.shape[1], stride)),
        "energy": {start: rows[:, ::stride].round(_DECIMALS).tolist() for start, rows in some.items()},
        "lags": list(range(len(remembered))),
        "autocorrelation": remembered.round(_DECIMALS).tolist(),
    }
    return {"chains.json": plain_json.dumps(shown)}


def _autocorrelation(energy: NDArray[Any]) -> NDArray[Any]:
    """Of (chains, draws) at lags 0, 1, ... (lags,): mean of the products that far apart over the variance of all."""
    draws = energy.shape[1]
    apart = energy - energy.mean()
    whole = np.fft.rfft(apart, 2 * draws, axis=1)
    sums = np.fft.irfft(np.abs(whole) ** 2, axis=1)[:, : min(draws // 2, _SHOWN_LAGS)].mean(0)
    products = sums / (draws - np.arange(len(sums)))
    return products / products[0]


def standing(trace: NDArray[Any]) -> int:
    """How many chains of (quantities, chains, draws) never change in a quantity that is not the same everywhere."""
    changing = trace[np.ptp(trace, axis=(1, 2)) > 0]
    return int((np.ptp(changing, axis=2) == 0).sum(1).max(initial=0))


def diagnose(trace: NDArray[Any]) -> dict[str, float]:
    """The worst of each diagnostic over quantities (quantities, chains, draws); one that never moves is left out."""
    from arviz_stats.base import array_stats

    moving = [quantity for quantity in trace if np.ptp(quantity) > 0]
    if not moving:
        raise ValueError("no recorded quantity changes in any chain")
    draws = trace[0].size
    return {
        "chains/r_hat": max(float(array_stats.rhat(q, method="rank")) for q in moving),
        "chains/ess_bulk": min(float(array_stats.ess(q, method="bulk")) for q in moving),
        "chains/ess_tail": min(float(array_stats.ess(q, method="tail", prob=(0.05, 0.95))) for q in moving),
        "chains/autocorrelation_time": max(draws / float(array_stats.ess(q, method="mean")) for q in moving),
    }
