"""How many configurations a model spreads over: its entropy, by thermodynamic integration."""

import copy
import math
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.acceleration import full_arithmetic
from ebm_cli.dataset.base import Data
from ebm_cli.device.engine import Work
from ebm_cli.evaluation.base import Evaluation, Result, Subject, some_rows, starts
from ebm_cli.evaluation.invariance import invariant, refusal_to_anneal
from ebm_cli.evaluation.table import Numbers
from ebm_cli.log_z import enumeration
from ebm_cli.log_z.integration import ENOUGH, Pull, Walk, found, interval
from ebm_cli.log_z.tilted import tilted
from ebm_cli.model.base import EnergyModel
from ebm_cli.record import picture
from ebm_cli.registry import register
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Discrete

_LOST = "chains on their way never came to the target, so there is no figure; raise evaluation.entropy.steps"
_LAG = 3  # standard errors by which the way up may be above the way down
_LOOKED_AT = 10_000  # held-out rows among which the target may be


@register("evaluation", "entropy")
class Entropy(Evaluation):
    """S = -sum_x p(x) log p(x) = <E> + log Z, nats; exp(S) is an effective number of states of a discrete model.

    log Z by p_theta(x) ~ exp(-E(x) + theta n(x)), n(x) being the number of sites at which x is as one `target` row:
    from theta = 0 to one at which more than a tenth of the chains are at the target (`integration.py` has the formulas
    and signs). Half of the `chains` start at held-out rows and go up, half at the target's end and go down; S is the
    mean of both. The 95 % interval is by the errors of the chains, wider by what the two ways differ beyond these. The
    sampler moves chains of p_theta, a model of the same kind with other fields where there is one; a step size is as it
    is configured. Where log Z is a sum of few terms, S by it stands beside.
    """

    while_training: bool
    target: Annotated[int, Field(ge=0)] | Literal["lowest"]
    chains: Annotated[int, Field(ge=4)]
    steps: Annotated[int, Field(ge=2)]
    warmup: Annotated[int, Field(ge=1)]
    thetas: Annotated[int, Field(ge=3)]
    theta_max: Annotated[float, Field(gt=0, le=100)]

    moves_anywhere = True

    standing = 40
    reports = tuple(
        f"entropy/{name}"
        for name in ("nats", "standard_error", "low", "high", "per_site", "up_above_down", "mean_energy", "log_z",
                     "trapezoid_bias", "theta_max", "target_share", "by_exact_log_z")
    )  # fmt: skip

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The entropy, and that by exact log Z."""
        names = ("nats", "low", "high", "per_site")
        if not values.has(*(f"entropy/{name}" for name in names)):
            return {}
        nats, low, high, site = (values[f"entropy/{name}"] for name in names)
        lines = {"entropy": f"{nats:.2f} nats, 95 % [{low:.2f}, {high:.2f}]; {site:.3f} a site"}
        if "entropy/by_exact_log_z" in values:
            lines["  by exact log Z"] = f"{values['entropy/by_exact_log_z']:.2f} nats"
        return lines

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """The space, or that the sampler cannot move, or not leave invariant, the model pulled to its target."""
        if not isinstance(model.space, Discrete):
            return f"it is of bits, spins and categories, a {model.space.name} space has none"
        pulled = tilted(model, model.space.encode(torch.zeros(1, *model.space.site_shape))[0], 1.0)
        if all(isinstance(pulled, need) for need in sampler.inner.needs):
            return refusal_to_anneal(pulled, sampler)
        fits = ", ".join(invariant(pulled)) or "none"
        return f"this sampler cannot move the model pulled to a target; samplers that can: {fits}"

    @override
    def refusal_of_data(self, data: Data) -> str | None:
        """A target that no split could have."""
        least = min(len(split) for split in (data.train, data.valid, data.test) if split is not None)
        if self.target == "lowest" or self.target < least:
            return None
        return (
            f"evaluation.entropy.target = {self.target}: the rows have the numbers 0 to {least - 1}; name one of them"
        )

    @property
    @override
    def work(self) -> Work:
        steps = 2 * (self.thetas * self.steps + self.warmup)
        return Work(self.chains // 2 * steps, steps)

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`entropy/nats`, ..., the sites in common with the target along the way, and the same in entropy.csv."""
        model, key = full_arithmetic(subject.model, subject.device), subject.key
        pull = Pull(model, subject.sampler, self._goal(subject), self.steps)
        half = self.chains // 2
        noise = subject.model.space.noise(half, key.fold("noise"), pull.goal.device)
        top = pull.largest(noise, self.theta_max, key.fold("largest"))
        if top is None:
            return Result({}, warnings=(_never(self.theta_max),))
        theta, x = top
        thetas = [theta * i / (self.thetas - 1) for i in range(self.thetas)]
        thetas[-1] = theta
        (low,) = pull.moved(starts(subject.held_out, half, key), 0.0, self.warmup, key.fold("low"))
        (high,) = pull.moved(x, theta, self.warmup, key.fold("high"))
        up = pull.walk(low, thetas, key.fold("up"))
        down = pull.walk(high, thetas[::-1], key.fold("down")).backwards()
        if not (up.there.any() and down.there.any()):
            return Result({}, warnings=(_LOST,))
        metrics, warnings = self._found(pull, up, down, theta)
        return Result(
            {f"entropy/{name}": value for name, value in metrics.items()},
            {"entropy": figure(thetas, up, down)},
            warnings,
            {"entropy.csv": _listed(thetas, up, down)},
        )

    def _goal(self, subject: Subject) -> Tensor:
        """The target row, (*shape)."""
        rows = some_rows(subject.held_out, _LOOKED_AT, subject.key.fold("target"))
        if self.target == "lowest":
            return rows[subject.model.energy(rows).argmin()]
        index = torch.tensor([self.target], device=rows.device)
        return subject.held_out.rows(index, subject.key.fold("target"))[0]

    def _found(self, pull: Pull, up: Walk, down: Walk, theta: float) -> tuple[dict[str, float], tuple[str, ...]]:
        energy = pull.model.energy(pull.goal[None]).double().item()
        ways = [found(walk, energy, theta) for walk in (up, down)]
        whole = interval(*ways)
        metrics = {
            "nats": whole.entropy,
            "standard_error": whole.error,
            "low": whole.low,
            "high": whole.high,
            "per_site": whole.entropy / pull.space.sites,
            "up_above_down": whole.apart,
            "mean_energy": sum(way.energy for way in ways) / 2,
            "log_z": sum(way.log_z for way in ways) / 2,
            "trapezoid_bias": sum(way.bias for way in ways) / 2,
            "theta_max": theta,
            "target_share": torch.cat([up.there, down.there]).mean().item(),
        }
        lags = abs(whole.apart) > 2 * _LAG * whole.error
        return metrics | _exactly(pull.model, metrics["mean_energy"]), (_late(whole.apart),) * lags


def _exactly(model: EnergyModel, mean_energy: float) -> dict[str, float]:
    """<E> + log Z with log Z by enumeration, and <E> too where all states can be summed over; nothing otherwise."""
    if enumeration.refusal(model) is not None:
        return {}
    model = copy.deepcopy(model).double()
    log_z = enumeration.log_z(model).item()
    assert isinstance(model.space, Discrete)
    if model.space.sites * math.log2(model.space.values) <= enumeration.LOG2_LIMIT:
        mean_energy = enumeration.total(model, lambda x: (-model.energy(x) - log_z).exp() * model.energy(x)).item()
    return {"by_exact_log_z": mean_energy + log_z}


def _never(theta: float) -> str:
    return (
        f"at no theta above {theta:g} more than {100 * ENOUGH:g} % of the chains are at the target: take another "
        "sampler, or more evaluation.entropy.steps"
    )


def _late(apart: float) -> str:
    return (
        f"chains lag behind theta: the entropy is {apart:.2g} nats higher on the way up than on the way down, and the "
        "interval is as wide; raise evaluation.entropy.steps or thetas, or take another sampler"
    )


def _listed(thetas: list[float], up: Walk, down: Walk) -> str:
    """A line for each theta: mean sites that differ from the target on both ways."""
    rows = zip(thetas, up.differ.mean(0).tolist(), down.differ.mean(0).tolist(), strict=True)
    return "\n".join(["theta,differ_up,differ_down", *(",".join(f"{v:.6g}" for v in row) for row in rows)]) + "\n"


def figure(thetas: list[float], up: Walk, down: Walk) -> NDArray[np.uint8]:
    """Sites that differ from the target against theta, on both ways: the integrand."""
    with picture.axes(1, 1) as drawing:
        axis = drawing.at[0][0]
        for name, walk in (("up", up), ("down", down)):
            axis.plot(thetas, walk.differ.mean(0).cpu(), label=f"{name} in theta")
        axis.set(xlabel="theta", ylabel="sites that differ from the target")
        axis.legend(fontsize=8)
    return drawing.pixels
