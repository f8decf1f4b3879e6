"""log p of rows by the probability flow of a leveled model: from the data to the Gaussian, and what it contracts."""

import itertools
import math
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.evaluation.ais import likelihood
from ebm_cli.evaluation.base import Evaluation, Result, Subject, likelihoods
from ebm_cli.evaluation.baseline import above_independent
from ebm_cli.evaluation.table import Numbers, plus_minus
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.levels import Leveled
from ebm_cli.objective.divergence import axes, random_directions
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.sampler.base import Sampler
from ebm_cli.terminal import followed

_FEW = 4  # sites, whose second derivatives are all taken
_ROUGH = 0.5  # nats by which half the levels may differ from all


class Rate(NamedTuple):
    """dw/dc, (rows, D), and its divergence, (rows,)."""

    velocity: Tensor
    divergence: Tensor


@register("evaluation", "probability_flow")
class ProbabilityFlow(Evaluation):
    """log p(x) = log p_last(w) + integral of div v dc - D log(r a_0) along dw/dc = v = c dE_w/dw of each row.

    w = (x_k - m) / (r a_k) and c = s_k / a_k, E_w that of the density of w, from level 0 to the last (Song et al. 2021,
    eq. 39, in the coordinates of Karras et al. 2022, eq. 1), by Heun's rule from level to level. That is the density of
    what `sampler=predictor_corrector` without corrections gives of its flow, which has log Z = 0 whatever the model has
    learned; it is that of exp(-E(x, 0)) where the levels fit each other, so that both beside each other tell. `trace`
    exact takes D second derivatives, hutchinson `projections` along random signs for each row (Grathwohl et al. 2019);
    auto: exact up to 4 numbers. `rows` held-out rows.

    `probability_flow/coarse` is how much every other level alone changes the mean, nats: three times the error of the
    rule or more.
    """

    while_training: bool
    rows: Annotated[int, Field(ge=2)]
    trace: Literal["auto", "exact", "hutchinson"]
    projections: Annotated[int, Field(ge=1)]

    standing = 25
    compared = ("probability_flow/log_likelihood",)
    reports = likelihoods("probability_flow", "log_z", "bits_per_dimension", "coarse")

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The log-likelihood."""
        name = "probability_flow"
        if not values.has(f"{name}/log_likelihood", f"{name}/coarse"):
            return {}
        coarse = values[f"{name}/coarse"]
        values.leave(f"{name}/log_z")
        said = f"{plus_minus(values, name)} nats ({coarse:+.2g} by half the levels)"
        return {f"log-likelihood ({split}), flow": said}

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Levels."""
        return None if isinstance(model, Leveled) else "only model=leveled has a flow from level to level"

    @override
    def evaluate(self, subject: Subject) -> Result:
        """`probability_flow/...`."""
        model = subject.model
        assert isinstance(model, Leveled)
        x, key = subject.some_rows(self.rows), subject.key.fold("probability_flow")
        log_p = self.log_p(model, x, 1, key)
        if not log_p.isfinite().all():
            return Result({}, warnings=("the flow of some rows leaves all bounds: no figures are given",))
        coarse = (self.log_p(model, x, 2, key) - log_p).mean().item()
        found = {
            **likelihood("probability_flow", model.space, log_p, 0.0),
            **above_independent("probability_flow", subject, x, log_p),
            "probability_flow/coarse": coarse,
        }
        return Result(found, warnings=(_rough(coarse),) if abs(coarse) > _ROUGH else ())

    def log_p(self, model: Leveled, x: Tensor, stride: int, key: Key) -> Tensor:
        """log p(x) of rows (rows, *shape) by every `stride`-th level, (rows,) float64."""
        levels = [*range(0, model.levels - 1, stride), model.levels - 1]
        c, sites = (model.s / model.a).double().tolist(), model.space.sites
        w = (x - model.mean) / (model.scale * model.a[0])
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        directions = self._directions(w.flatten(1), key)
        for k, above in followed([*itertools.pairwise(levels)], "probability flow: level"):
            way = c[above] - c[k]
            here = rate(model, w, k, directions)
            there = rate(model, w + way * here.velocity, above, directions)
            w = w + way / 2 * (here.velocity + there.velocity)
            total += way / 2 * (here.divergence + there.divergence).double()
        width = (model.variance[-1].sqrt() / model.a[-1]).double()
        end = -(w.double() / width).flatten(1).square().sum(1) / 2 - sites * (width.log() + math.log(2 * math.pi) / 2)
        return end + total - sites * (model.scale * model.a[0]).double().log()

    def _directions(self, like: Tensor, key: Key) -> list[Tensor]:
        """d, (1 or rows, D) each, so that the sum of d.H d is the trace of H or has it as its mean."""
        if self.trace == "exact" or (self.trace == "auto" and like.shape[1] <= _FEW):
            return [*axes(like)]
        scale = self.projections**-0.5
        return [v * scale for v in random_directions(like, self.projections, "rademacher", key)]


def rate(model: Leveled, w: Tensor, level: int, directions: list[Tensor]) -> Rate:
    """v = c dE_w/dw at w (rows, *shape) of a level, and sum over directions d of d.(dv/dw) d."""
    a, c = model.a[level], model.s[level] / model.a[level]
    with torch.enable_grad():
        w = w.detach().requires_grad_()
        energy = model.at(level).energy(model.mean + model.scale * a * w)
        (slope,) = torch.autograd.grad(energy.sum(), w, create_graph=True)
        bends = [torch.autograd.grad((slope.flatten(1) * d).sum(), w, retain_graph=True)[0] for d in directions]
    found = sum((d * bend.flatten(1)).sum(1) for d, bend in zip(directions, bends, strict=True))
    assert isinstance(found, Tensor)
    return Rate(c * slope.detach(), c * found.detach())


def _rough(coarse: float) -> str:
    return (
        f"half the levels say {coarse:+.2g} nats, so that the flow is followed roughly; train with more of "
        "model.process.levels"
    )
