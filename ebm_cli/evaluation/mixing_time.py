"""How many steps of the run's sampler make a chain forget where it was: overlaps at t and t / 2."""

from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.acceleration import full_arithmetic
from ebm_cli.device.engine import Work
from ebm_cli.evaluation.base import Evaluation, Result, Subject, starts
from ebm_cli.evaluation.overlap import Look, least_chains, looks, mixing_time, until_mixed
from ebm_cli.evaluation.table import Numbers
from ebm_cli.model.base import EnergyModel
from ebm_cli.record import picture
from ebm_cli.registry import register
from ebm_cli.sampler.adaptation import adapted, adapts
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Discrete


@register("evaluation", "mixing_time")
class MixingTime(Evaluation):
    """The least h at which chains at step 2 h share no more with themselves at step h than with each other.

    That is |own - others| < `threshold` spread (`overlap.py` has the formulas), at this look and the next two; looks
    are at h = 1, 2, 3, ... and from 10 on a tenth apart, up to `max_steps`. After 2 h steps from the same kind of start
    chains are then h steps past the time at which they forgot it. From `start` data chains begin in all modes of the
    data, and have mixed once they have gone from each to the others; modes in which no chain begins, or to which none
    comes, are not seen. A sampler that adapts does so before, in `warmup` steps.

    It tells how long one chain must run; `chains` has R-hat and autocorrelation times of its energy, `mixing` compares
    samplers with a long reference run.
    """

    while_training: bool
    start: Literal["data", "noise"]
    chains: Annotated[int, Field(ge=4, le=2**20)]
    max_steps: Annotated[int, Field(ge=1, le=10**7)]
    threshold: Annotated[float, Field(gt=0, lt=1)]
    warmup: Annotated[int, Field(ge=1)]

    moves_anywhere = True
    asks_for_energy = False

    standing = 51
    compared = ("mixing_time/steps",)
    reports = tuple(f"mixing_time/{name}" for name in ("steps", "more_than", "own", "others", "gap"))

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The time, and the overlaps where the looks ended."""
        if not values.has("mixing_time/own", "mixing_time/others", "mixing_time/gap"):
            return {}
        own, others, gap = (values[f"mixing_time/{name}"] for name in ("own", "others", "gap"))
        if values.has("mixing_time/steps"):
            time = f"{values['mixing_time/steps']:.0f} steps"
        else:
            time = f"> {values['mixing_time/more_than']:.0f} steps"
        overlaps = f"{100 * own:.1f} % of sites as they were, {100 * others:.1f} % of different chains alike"
        return {"mixing time": f"{time} ({overlaps}, {gap:.2g} deviations apart)"}

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Sites must have values that can agree, and the chains must be many enough for the threshold."""
        if not isinstance(model.space, Discrete):
            return f"it counts sites that agree, numbers of a {model.space.name} space never do; take chains"
        least = least_chains(self.threshold)
        if self.chains < least:
            return (
                f"evaluation.mixing_time.chains = {self.chains}: too few to tell a gap of {self.threshold:g} from "
                f"chance; take at least {least}, or a higher evaluation.mixing_time.threshold"
            )
        return None

    @property
    @override
    def work(self) -> Work:
        """As far as the chains may go."""
        return Work(self.chains * 2 * self.max_steps, 2 * self.max_steps)

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`mixing_time/steps` or `more_than`, a picture, and all looks in mixing_time.csv."""
        seen = measured(subject, self._start(subject), self.max_steps, self.threshold, self.warmup)
        time = mixing_time(seen, self.threshold)
        return Result(
            {f"mixing_time/{name}": value for name, value in self._found(seen, time).items()},
            {"mixing_time": figure(seen, time, self.threshold)},
            () if time else (_unmixed(seen[-1], self.max_steps),),
            {"mixing_time.csv": _listed(seen)},
        )

    def _start(self, subject: Subject) -> Tensor:
        if self.start == "data":
            return starts(subject.held_out, self.chains, subject.key)
        here = subject.held_out.stored.device
        return subject.model.space.noise(self.chains, subject.key.fold("noise"), here)

    def _found(self, seen: list[Look], time: int | None) -> dict[str, float]:
        """The time, or what it is above; and the overlaps then, or at the last look."""
        found = {"more_than": float(self.max_steps)} if time is None else {"steps": float(time)}
        look = next((look for look in seen if look.steps == time), seen[-1])
        return found | {"own": look.own, "others": look.others} | ({"gap": look.gap} if look.spread else {})


def measured(subject: Subject, start: Tensor, most: int, threshold: float, warmup: int) -> list[Look]:
    """Looks at chains of the subject's sampler from `start` (chains, *shape), until they have mixed or h is `most`."""
    model, sampler, key = full_arithmetic(subject.model, subject.device), subject.sampler, subject.key
    if adapts(sampler):
        sampler, _ = adapted(sampler, model, start, warmup, key.fold("adapt"))
    return until_mixed(looks(sampler, model, start, most, key, subject.device.engine), threshold)


def _unmixed(last: Look, most: int) -> str:
    if not last.spread:
        return "all chains are in one configuration, so that nothing tells whether they mix; start them from data"
    return (
        f"chains do not mix in {most} steps: {100 * last.own:.1f} % of their sites are as they were {last.steps} steps "
        f"before, {100 * last.others:.1f} % agree between chains; take another sampler, or a higher "
        "evaluation.mixing_time.max_steps"
    )


def _listed(seen: list[Look]) -> str:
    """A line for each look."""
    lines = [f"{h},{own:.6g},{others:.6g},{spread:.6g}" for h, own, others, spread in seen]
    return "\n".join(["steps,own,others,spread", *lines]) + "\n"


def figure(seen: list[Look], time: int | None, threshold: float) -> NDArray[np.uint8]:
    """Both overlaps against h, and the band in which the first counts as the second."""
    steps, own, others, spread = (np.array(numbers) for numbers in zip(*seen, strict=True))
    with picture.axes(1, 1) as drawing:
        axis = drawing.at[0][0]
        axis.semilogx(steps, own, label="a chain and itself h steps before")
        axis.semilogx(steps, others, color="0.4", label="two chains")
        band = threshold * spread
        axis.fill_between(steps, others - band, others + band, color="0.85", label=f"± {threshold:g} deviations")
        if time is not None:
            axis.axvline(time, color="tab:green", linestyle=":", label=f"mixing time {time}")
        axis.set(xlabel="h [steps]", ylabel="share of sites that agree")
        axis.legend(fontsize=8)
    return drawing.pixels
