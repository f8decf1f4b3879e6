"""A model on the plane, normalised on a grid: likelihood, divergence from the truth, and what it looks like."""

import math
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ebm_cli import picture
from ebm_cli.density import Density
from ebm_cli.evaluation.base import Evaluation, Result, Subject, learned_log_z
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Real

_ROWS_AT_ONCE = 50_000
_BORDER = 1e-3  # of the mass may lie in the outermost cells


@register("evaluation", "density_2d")
class Density2D(Evaluation):
    """log Z = log sum_i exp(-E(x_i)) d^2 over `side` x `side` cells of size d, x_i their centres.

    They cover `margin` times the reach of the known density, or of the training data, around the origin.
    `log_likelihood` is that of the held-out rows with this Z. Where the density p* is known (dataset=points_2d): `kl` =
    sum_i p*_i (log p*_i - log p_i) in nats, p*_i = p*(x_i) d^2 normalised; and where it has modes, `mode_error`, the
    largest |w_k / w*_k - 1| of the masses nearest to each.
    """

    while_training: bool
    side: Annotated[int, Field(ge=10)]
    margin: Annotated[float, Field(ge=1)]

    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Two real numbers."""
        fits = isinstance(model.space, Real) and model.space.shape == (2,)
        return None if fits else "only rows of two real numbers have a map"

    @torch.no_grad()
    def evaluate(self, subject: Subject) -> Result:
        """`density_2d/log_z`, ... and the map."""
        truth, model = subject.data.truth.density, subject.model
        reach = self.margin * (truth.reach if truth else subject.data.train.all().abs().max().item())
        x, cell = grid(self.side, reach, subject.data.train.grey.device)
        f = torch.cat([-model.energy(part).double() for part in x.split(_ROWS_AT_ONCE)])
        log_z = f.logsumexp(0) + 2 * math.log(cell)
        log_p = f - f.logsumexp(0)
        held_out = -model.energy(subject.held_out.all()).double().mean() - log_z
        numbers = {"log_z": log_z.item(), "log_likelihood": held_out.item()}
        learned = learned_log_z("density_2d", subject, log_z.item())
        numbers |= {} if truth is None else compared(truth, x, log_p)
        border = (x.abs() > reach - cell).any(1)
        outside = log_p[border].exp().sum().item()
        lost = f"{outside:.0%} of the model's mass is at the edge of the map; raise evaluation.density_2d.margin"
        drawn = density_map(log_p, truth, x, subject.store, reach)
        warnings = (lost,) if outside > _BORDER else ()
        metrics = {f"density_2d/{name}": value for name, value in numbers.items()} | learned
        return Result(metrics, {"density_2d": drawn}, warnings)


def grid(side: int, reach: float, device: torch.device) -> tuple[Tensor, float]:
    """Centres of the cells of [-reach, reach]^2, rows of equal second coordinate, (side^2, 2), and their size."""
    cell = 2 * reach / side
    line = (torch.arange(side, device=device) + 0.5) * cell - reach
    second, first = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([first, second], 2).reshape(-1, 2), cell


def compared(truth: Density, x: Tensor, log_p: Tensor) -> dict[str, float]:
    """`kl` and `mode_error` of the masses exp(log_p) (cells,) of cells with centres x."""
    log_true = truth.log_prob(x.double()).log_softmax(0)
    there = log_true.exp() > 0
    found = {"kl": (log_true[there].exp() * (log_true[there] - log_p[there])).sum().item()}
    if truth.modes is not None:
        nearest = torch.cdist(x.double(), truth.modes.to(x).double()).argmin(1)
        masses = [torch.bincount(nearest, log.exp(), len(truth.modes)) for log in (log_p, log_true)]
        found["mode_error"] = (masses[0] / masses[1] - 1).abs().max().item()
    return found


def density_map(log_p: Tensor, truth: Density | None, x: Tensor, store: Tensor, reach: float) -> NDArray[np.uint8]:
    """The density of the model with chains of the run, beside its energy and, where it is known, the true density."""
    side = math.isqrt(len(x))
    true = None if truth is None else truth.log_prob(x.double()).log_softmax(0).exp()
    top = (log_p.exp() if true is None else true).max().item()
    extent = (-reach, reach, -reach, reach)
    with picture.axes(1, 2 if true is None else 3) as drawing:
        maps = [("model and chains", log_p.exp(), {"vmin": 0, "vmax": top})]
        maps += [] if true is None else [("truth", true, {"vmin": 0, "vmax": top})]
        maps += [("log-density of the model", log_p - log_p.max(), {"vmin": -15, "vmax": 0})]
        for axis, (title, values, colours) in zip(drawing.at[0], maps, strict=True):
            shown = axis.imshow(values.reshape(side, side).cpu().numpy(), origin="lower", extent=extent, **colours)
            axis.set(title=title)
        axis.figure.colorbar(shown, ax=axis, label="nats below the top")
        points = store.reshape(-1, 2)[-1000:].cpu()
        drawing.at[0][0].scatter(points[:, 0], points[:, 1], s=1, c="white", alpha=0.5)
        drawing.at[0][0].set(xlim=(-reach, reach), ylim=(-reach, reach))
    return drawing.pixels
