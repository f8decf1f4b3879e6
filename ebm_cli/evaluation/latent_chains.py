"""Do the chains of codes mix? What they look like decoded, and whether they go from class to class."""

import itertools
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.device.engine import Work
from ebm_cli.evaluation.base import Evaluation, Picture, Result, Subject, starts
from ebm_cli.evaluation.chains import diagnose, doubt
from ebm_cli.evaluation.table import UNSURE, Numbers
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.latent_ebm import LatentEBM
from ebm_cli.record import picture
from ebm_cli.registry import register
from ebm_cli.sampler.adaptation import adapted, adapts, recorded
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.latent import Latent
from ebm_cli.sampler.standstill import stuck
from ebm_cli.yardstick.classifier import RIGHT, Judge, judge, unsure

_WIDE = 2.0  # standard deviations of the normal law from which half the chains begin
_STRIPS, _FRAMES = 8, 11  # chains shown, and how often


class Course(NamedTuple):
    """Codes (chains, 1 + steps, dim), their energies (chains, 1 + steps), means of Info and what a warm-up found."""

    codes: Tensor
    energy: Tensor
    info: dict[str, float]


@register("evaluation", "latent_chains")
class LatentChains(Evaluation):
    """Half the chains of codes begin at the encoder's draws for held-out rows, half at twice the normal law.

    After `warmup` steps of the sampler, `steps` more are recorded. R-hat and bulk effective sample size (as of
    evaluation=chains), the worst of the energy and of all numbers of the code: `r_hat`, `ess_bulk`; and of
    `projections` random directions of the decoded means: `r_hat_decoded`, `ess_bulk_decoded`. Draws of x at the end:
    `recognised` is the share that a classifier of the labelled training rows gives a class with a probability of at
    least `confident`, `recognised_of_data` that of held-out rows, and `largest_class` and `rarest_class` their shares.
    `class_changed` is the share of chains whose decoded mean has another class `apart` steps later.
    """

    while_training: bool
    chains: Annotated[int, Field(ge=4)]
    warmup: Annotated[int, Field(ge=0)]
    steps: Annotated[int, Field(ge=4)]
    projections: Annotated[int, Field(ge=1)]
    apart: Annotated[int, Field(ge=1)]
    confident: Annotated[float, Field(gt=0, lt=1)]

    asks_for_energy = False
    standing = 51
    compared = ("latent_chains/r_hat",)

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The diagnostics in one line, what the classifier says in another."""
        found = {}
        if values.has(*(f"latent_chains/{name}" for name in _DIAGNOSED)):
            r_hat, bulk, decoded, of_decoded = (values[f"latent_chains/{name}"] for name in _DIAGNOSED)
            found["chains of codes"] = (
                f"R-hat {r_hat:.3f}, ESS bulk {bulk:.0f}; decoded R-hat {decoded:.3f}, ESS bulk {of_decoded:.0f}"
            )
        if values.has(*(f"latent_chains/{name}" for name in _JUDGED)):
            seen, of_data, changed, rarest = (values[f"latent_chains/{name}"] for name in _JUDGED)
            found["  decoded"] = (
                f"{seen:.1%} recognised (held-out rows {of_data:.1%}), rarest class {rarest:.1%}, {changed:.1%} of the "
                "chains changed class"
            )
        return found

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        if not isinstance(model, LatentEBM):
            return "it follows codes of a latent energy-based model, model=latent_ebm"
        return None if isinstance(sampler, Latent) else "it moves codes, by sampler=latent"

    @property
    @override
    def work(self) -> Work:
        each = self.warmup + self.steps
        return Work(self.chains * each, each)

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`latent_chains/r_hat`, `latent_chains/recognised`, ..., and a strip of film."""
        model = subject.model
        assert isinstance(model, LatentEBM)
        course = self._followed(subject, model)
        trace = torch.cat([course.energy[None], course.codes.permute(2, 0, 1)])[:, :, 1:].double().cpu().numpy()
        metrics = {f"latent_chains/{name}": value for name, value in course.info.items()}
        doubts = (*stuck(course.info, subject.sampler), *filter(None, [doubt(trace)]))
        if doubts:
            return Result(metrics, warnings=doubts)
        metrics |= _diagnosed(trace) | _diagnosed(self._decoded(subject, model, course), "_decoded")
        warnings: tuple[str, ...] = (
            () if metrics["latent_chains/r_hat"] < UNSURE else (_apart(metrics["latent_chains/r_hat"]),)
        )
        if subject.data.train.labels is not None:
            by = judge(subject.data, subject.held_out, subject.key.fold("judge"))
            metrics |= self._judged(subject, model, course, by)
            warnings += (unsure(by.accuracy),) if by.accuracy < RIGHT else ()
        return Result(metrics, _film(model, course), warnings)

    def _followed(self, subject: Subject, model: LatentEBM) -> Course:
        """From wide and from data."""
        sampler, key, half = subject.sampler, subject.key, self.chains // 2
        assert isinstance(sampler, Latent)
        of_rows = model.code(starts(subject.held_out, half, key), key.fold("encode"))
        wide = _WIDE * model.prior.space.noise(self.chains - half, key.fold("noise"), of_rows.device)
        z, kernel, warmup = torch.cat([of_rows, wide.to(of_rows)]), sampler.kernel, self.warmup * sampler.moves
        if adapts(kernel) and warmup:
            kernel, z = adapted(kernel, model.prior, z, warmup, key.fold("adapt"))
            warmup = 0
        state, kept, infos = kernel.init(model.prior, z), [], []
        for i in range(warmup + self.steps * sampler.moves):
            if i >= warmup and (i - warmup) % sampler.moves == 0:
                kept.append(state.x)
            state, info = kernel.step(model.prior, state, key.fold("steps", i))
            infos.append(info)
        kept.append(state.x)
        codes = torch.stack(kept, 1)
        energy = torch.stack([model.prior.energy(at) for at in codes.unbind(1)], 1)
        means = {name: torch.stack([info[name].mean() for info in infos]).mean().item() for name in infos[0]}
        return Course(codes, energy, means | recorded(kernel))

    def _decoded(self, subject: Subject, model: LatentEBM, course: Course) -> NDArray[Any]:
        """Decoded means along random directions, (projections, chains, steps)."""
        shape = (model.space.sites, self.projections)
        directions = rng.normal(shape, subject.key.fold("directions"), course.codes.device).to(course.codes)
        found = [model.decoded(z).flatten(1) @ directions for z in course.codes[:, 1:].unbind(1)]
        return torch.stack(found, 2).permute(1, 0, 2).double().cpu().numpy()

    def _judged(self, subject: Subject, model: LatentEBM, course: Course, by: Judge) -> dict[str, float]:
        """What the classifier says of draws at the end, and of decoded means on the way."""
        p = by.probabilities(model.generate(course.codes[:, -1], subject.key.fold("decode")))
        share = torch.bincount(p.argmax(1), minlength=by.classes) / len(p)
        of_data = by.probabilities(subject.held_out.all())
        found = {
            "recognised": self._sure(p),
            "recognised_of_data": self._sure(of_data),
            "largest_class": share.max().item(),
            "rarest_class": share.min().item(),
            "classifier_accuracy": by.accuracy,
            "mistaken": by.mistaken,
        }
        looks = range(0, self.steps + 1, self.apart)
        classes = [by.probabilities(model.decoded(course.codes[:, at])).argmax(1) for at in looks]
        changes = [(one != other).double().mean() for one, other in itertools.pairwise(classes)]
        if changes:
            found["class_changed"] = torch.stack(changes).mean().item()
        return {f"latent_chains/{name}": value for name, value in found.items()}

    def _sure(self, p: Tensor) -> float:
        return (p.amax(1) >= self.confident).double().mean().item()


_DIAGNOSED = ("r_hat", "ess_bulk", "r_hat_decoded", "ess_bulk_decoded")
_JUDGED = ("recognised", "recognised_of_data", "class_changed", "rarest_class")


def _diagnosed(trace: NDArray[np.float64], of: str = "") -> dict[str, float]:
    """R-hat and bulk ESS of (quantities, chains, draws), the worst."""
    found = diagnose(trace)
    return {f"latent_chains/{name}{of}": found[f"chains/{name}"] for name in ("r_hat", "ess_bulk")}


def _apart(r_hat: float) -> str:
    return (
        f"chains of codes from data and from twice the normal law disagree (R-hat {r_hat:.2f}, should be near 1): take "
        "another sampler.kernel.step_size, or more evaluation.latent_chains.warmup and steps"
    )


def _film(model: LatentEBM, course: Course) -> dict[str, Picture]:
    """Decoded means of the first chains, one in each row, from the beginning to the end; of images alone."""
    if not model.space.is_image:
        return {}
    at = torch.linspace(0, course.codes.shape[1] - 1, _FRAMES).long().unique()
    z = course.codes[:_STRIPS, at].flatten(0, 1)
    return {"latent_chains": picture.grid(model.space, model.decoded(z), columns=len(at))}
