"""log p of rows by the probability flow of a leveled model: from the data to the Gaussian, and what it contracts."""

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
_EVEN = 1e-4  # by which steps of log a / s may differ
_ROUGH = 0.5  # nats by which half the levels may differ from all


class Rate(NamedTuple):
    """du/dl, (rows, *shape), and its divergence, (rows,)."""

    velocity: Tensor
    divergence: Tensor


@register("evaluation", "probability_flow")
class ProbabilityFlow(Evaluation):
    """log p(x) = log N(u_last) + integral of div v dl - sum_i log(r_i sqrt(v_0)) along du/dl = v from level 0 to the
    last.

    u = (x_k - m) / (r sqrt(v_k)), l = log s_k / a_k, v = (s_k^2 / v_k) (dE/du - u): the probability flow (Song et al.
    2021, eq. 13 and 39) in coordinates in which it stands still for Gaussian data. Where levels are evenly spaced in l,
    two of them are a step of the classical rule of fourth order, else and for an odd one Heun's. That is the density
    of what the flow makes of draws of the last level, which has log Z = 0 whatever the model has learned; it is that of
    exp(-E(x, 0)) where the levels fit each other, so that both beside each other tell. `trace` exact takes D second
    derivatives, hutchinson `projections` along random signs for each row (Grathwohl et al. 2019); auto: exact up to 4
    numbers. `rows` held-out rows.

    `probability_flow/coarse` is how much every other level alone changes the mean, nats.
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
        if isinstance(model, Leveled) and model.of_noise:
            return None
        return "only model=leveled has a flow from level to level; of a product of such models ais has the likelihood"

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
            **likelihood("probability_flow", subject.held_out, log_p, 0.0),
            **above_independent("probability_flow", subject, x, log_p),
            "probability_flow/coarse": coarse,
        }
        return Result(found, warnings=(_rough(coarse),) if abs(coarse) > _ROUGH else ())

    def log_p(self, model: Leveled, x: Tensor, stride: int, key: Key) -> Tensor:
        """log p(x) of rows (rows, *shape) by every `stride`-th level, (rows,) float64."""
        levels = [*range(0, model.levels - 1, stride), model.levels - 1]
        u, sites = (x - model.mean) / (model.scale * model.variance[0].sqrt()), model.space.sites
        way = Way(model, self._directions(u.flatten(1), key))
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for step in followed(steps(model.log_ratio, levels), "probability flow: level"):
            u, grown = way.moved(u, step)
            total += grown
        end = -(u.double().flatten(1).square().sum(1) + sites * math.log(2 * math.pi)) / 2
        return end + total - sites / 2 * model.variance[0].double().log() - model.log_volume

    def _directions(self, like: Tensor, key: Key) -> list[Tensor]:
        """d, (1 or rows, D) each, so that the sum of d.H d is the trace of H or has it as its mean."""
        if self.trace == "exact" or (self.trace == "auto" and like.shape[1] <= _FEW):
            return [*axes(like)]
        scale = self.projections**-0.5
        return [v * scale for v in random_directions(like, self.projections, "rademacher", key)]


class Way(NamedTuple):
    """The flow of a model, and the directions by which its divergence is found."""

    model: Leveled
    directions: list[Tensor]

    def rate(self, u: Tensor, level: int) -> Rate:
        """v at u (rows, *shape) of a level, and sum over directions d of d.(dv/du) d."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            v = flow_of(self.model, u, level)
            bends = [torch.autograd.grad((v.flatten(1) * d).sum(), u, retain_graph=True)[0] for d in self.directions]
        found = torch.stack([(d * bend.flatten(1)).sum(1) for d, bend in zip(self.directions, bends, strict=True)])
        return Rate(v.detach(), found.sum(0).detach())

    def moved(self, u: Tensor, step: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Where rows are after a step over two or three levels, and the integral of the divergence, (rows,) float64."""
        first, *middle, last = step
        way = (self.model.log_ratio[first] - self.model.log_ratio[last]).item()
        rates = [self.rate(u, first)]
        for level in middle:
            rates.append(self.rate(u + way / 2 * rates[-1].velocity, level))
            rates.append(self.rate(u + way / 2 * rates[-1].velocity, level))
        rates.append(self.rate(u + way * rates[-1].velocity, last))
        weights = (1 / 6, 1 / 3, 1 / 3, 1 / 6) if middle else (1 / 2, 1 / 2)
        velocity = sum((w * rate.velocity for w, rate in zip(weights, rates, strict=True)), torch.zeros_like(u))
        divergence = sum(w * rate.divergence.double() for w, rate in zip(weights, rates, strict=True))
        return u + way * velocity, way * torch.as_tensor(divergence)


def flow_of(model: Leveled, u: Tensor, level: int) -> Tensor:
    """(s^2 / v) (dE/du - u), with its graph."""
    width, share = model.scale * model.variance[level].sqrt(), model.s[level].square() / model.variance[level]
    energy = model.at(level).energy(model.mean + width * u)
    (slope,) = torch.autograd.grad(energy.sum(), u, create_graph=True)
    return share * (slope - u)


def steps(log_ratio: Tensor, levels: list[int]) -> list[tuple[int, ...]]:
    """Three levels each where the middle one is in the middle of log a / s, else two."""
    found, at = list[tuple[int, ...]](), 0
    while at < len(levels) - 1:
        three = levels[at : at + 3]
        fits = len(three) == 3 and abs(log_ratio[three].diff().diff().item()) < _EVEN
        found.append((*three,) if fits else (*three[:2],))
        at += len(found[-1]) - 1
    return found


def _rough(coarse: float) -> str:
    return (
        f"half the levels say {coarse:+.2g} nats, so that the flow is followed roughly; train with more of "
        "model.process.levels"
    )
