"""A model on the plane, normalised on a grid: likelihood, divergence from the truth, and what it looks like."""

import math
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.dataset.base import Data
from ebm_cli.dataset.density import Density
from ebm_cli.evaluation.base import (
    Evaluation,
    Picture,
    Result,
    Subject,
    learned_log_z,
    likelihoods,
    standard_error,
    without_density,
)
from ebm_cli.evaluation.baseline import above_independent
from ebm_cli.evaluation.points_map import maps_rows, rows_map
from ebm_cli.model.base import EnergyModel, Normalised
from ebm_cli.model.families import Family
from ebm_cli.record import picture
from ebm_cli.registry import register
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Binary, Box, Real

_ROWS_AT_ONCE = 50_000
_SHARE, _BORDER = 20, 1e-3  # this part of a side is the border at each end of it; of the mass may lie there
_WIDENED = 6  # times that a map is made twice as wide to hold the mass
_APART, _STEEP, _OFF = 0.2, 0.5, 0.05  # nats: see `Density2D`
_LOOKED_AT = 1000  # rows

Pair = tuple[float, float]


class Cells(NamedTuple):
    """`side` x `side` cells between the corners `low` and `high` of the plane."""

    low: Pair
    high: Pair
    side: int

    @property
    def size(self) -> Pair:
        """Width and height of a cell."""
        return (self.high[0] - self.low[0]) / self.side, (self.high[1] - self.low[1]) / self.side

    @property
    def area(self) -> float:
        """Of a cell."""
        return self.size[0] * self.size[1]

    def centres(self, device: torch.device | str = "cpu") -> Tensor:
        """Rows of equal second coordinate one after the other, (side^2, 2) float32."""
        each = torch.arange(self.side, dtype=torch.float64, device=device) + 0.5
        first, second = (low + each * size for low, size in zip(self.low, self.size, strict=True))
        second, first = torch.meshgrid(second, first, indexing="ij")
        return torch.stack([first, second], 2).reshape(-1, 2).float()

    def number(self, x: Tensor) -> Tensor:
        """That of the cell with each row of x (n, 2) in it, or -1 where there is none, (n,)."""
        place = (x.double() - x.new_tensor(self.low, dtype=torch.float64)) / x.new_tensor(
            self.size, dtype=torch.float64
        )
        inside = ((place >= 0) & (place <= self.side)).all(1)
        first, second = place.long().clamp(0, self.side - 1).unbind(1)
        return torch.where(inside, second * self.side + first, -1)

    def border(self, log_p: Tensor) -> float:
        """The mass in the outer twentieths of the sides, of the masses exp(log_p) (side^2,)."""
        width = max(1, self.side // _SHARE)
        inner = log_p.exp().reshape(self.side, self.side)[width:-width, width:-width]
        return 1 - inner.sum().item()

    def wider(self) -> "Cells":
        """Twice as wide around the same middle."""
        off = [(high - low) / 2 for low, high in zip(self.low, self.high, strict=True)]
        low, high = (self.low[0] - off[0], self.low[1] - off[1]), (self.high[0] + off[0], self.high[1] + off[1])
        return Cells(low, high, self.side)


@register("evaluation", "density_2d")
class Density2D(Evaluation):
    """log Z = log sum_i exp(-E(x_i)) a over `side` x `side` cells of area a, x_i their centres.

    They cover a box from wall to wall, since beyond there is no density. Otherwise they cover `margin` times the reach
    of the known density around the origin, or of the training data around the middle of their range, and are made twice
    as wide up to six times while more than a thousandth of the mass lies in the outer twentieths of the sides.
    `log_likelihood` is that of the held-out rows with this Z, `standard_error` its error over them. Where the density
    p* is known (dataset=points_2d): `kl` = sum_i p*_i (log p*_i - log p_i) in nats, p*_i = p*(x_i) a normalised; and
    where it has modes, `mode_error`, the largest |w_k / w*_k - 1| of the masses nearest to each.

    There is a map and there are no numbers where mass leaves even the widest one, and where cells are too wide for what
    the model has learned: log Z by every other row and column of cells (four ways) differs by more than 0.2 nats, or
    energies of training rows from those at the centres of their cells by more than 0.5 on average, or the sum from a
    log Z that the model knows by more than 0.05.

    Of bits that stand for points (dataset=points_gray) there is the map alone: exp(-E) at one row for each cell.
    """

    while_training: bool
    side: Annotated[int, Field(ge=10)]
    margin: Annotated[float, Field(ge=1)]

    reports = likelihoods("density_2d", "log_z", "learned_log_z", "learned_log_z_error", "kl", "mode_error")

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Two real numbers, and a density over them."""
        if isinstance(model.space, Binary) and len(model.space.shape) == 1:
            return None
        if not isinstance(model.space, Real) or model.space.shape != (2,):
            return "only rows of two real numbers have a map"
        over_plane = not isinstance(model, Family) or model.has_density
        return None if over_plane else "log Z of this family, which is known, is no integral over the plane"

    @override
    def refusal_of_data(self, data: Data) -> str | None:
        """Bits stand for points."""
        if isinstance(data.space, Real) or data.truth.plane is not None:
            return None
        return "only rows of two real numbers have a map, and bits that stand for points (dataset=points_gray)"

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`density_2d/log_z`, ... and the map."""
        if maps_rows(subject):
            return Result({}, {"density_2d": self._of_rows(subject)})
        truth, model = subject.data.truth.density, subject.model
        log_f = -model.energy(subject.held_out.all()).double()
        device = log_f.device
        cells, f = covered(model, first_map(subject, self.side, self.margin), device)
        if not f.logsumexp(0).isfinite():
            return Result({}, warnings=("no cell of the map has a finite energy, so there is nothing to sum",))
        log_p, log_z = f.log_softmax(0), f.logsumexp(0).item() + math.log(cells.area)
        drawn = {"density_2d": density_map(log_p, truth, cells, subject.store)}
        why = without_density(log_f) or doubt(model, cells, f, subject.data.train.all()[:_LOOKED_AT])
        if why:
            return Result({}, drawn, (f"{why}: no figures are given",))
        numbers = {"log_z": log_z, "log_likelihood": log_f.mean().item() - log_z}
        numbers |= {} if truth is None else compared(truth, cells.centres(device), log_p)
        metrics = {f"density_2d/{name}": value for name, value in numbers.items()}
        metrics |= standard_error("density_2d", log_f)
        metrics |= above_independent("density_2d", subject, subject.held_out, log_f - log_z)
        metrics |= learned_log_z("density_2d", subject, log_z)
        return Result(metrics, drawn, by_row={"density_2d/log_likelihood": log_f - log_z})

    def _of_rows(self, subject: Subject) -> Picture:
        """The map of bits that stand for points, as far as these reach."""
        code = subject.data.truth.plane
        assert code is not None
        cells = Cells((-code.reach, -code.reach), (code.reach, code.reach), self.side)
        return rows_map(subject, cells.centres(subject.held_out.stored.device), code.reach)


def first_map(subject: Subject, side: int, margin: float) -> Cells:
    """From wall to wall; else `margin` times as far as the known density or the training data reach."""
    space, truth = subject.model.space, subject.data.truth.density
    if isinstance(space, Box):
        return Cells((space.low, space.low), (space.high, space.high), side)
    if truth is not None:
        reach = margin * truth.reach
        return Cells((-reach, -reach), (reach, reach), side)
    rows = subject.data.train.all().double()
    low, high = rows.amin(0), rows.amax(0)
    middle, reach_of = (low + high) / 2, margin * (high - low) / 2
    widest = reach_of.max().item() or 1.0  # one value in all rows still has something around it
    first, second = reach_of.where(reach_of > 0, widest).tolist()
    x, y = middle.tolist()
    return Cells((x - first, y - second), (x + first, y + second), side)


def covered(model: EnergyModel, cells: Cells, device: torch.device) -> tuple[Cells, Tensor]:
    """-E at the centres of cells that hold the mass of the model, or of those given if none do; and the cells."""
    found = [(cells, log_f_of(model, cells, device))]
    while spilt(model, *found[-1]) and len(found) <= _WIDENED:
        wider = found[-1][0].wider()
        found.append((wider, log_f_of(model, wider, device)))
    return found[0] if spilt(model, *found[-1]) else found[-1]


def log_f_of(model: EnergyModel, cells: Cells, device: torch.device) -> Tensor:
    """-E(x) at the centres, (side^2,) float64."""
    return torch.cat([-model.energy(part).double() for part in cells.centres(device).split(_ROWS_AT_ONCE)])


def spilt(model: EnergyModel, cells: Cells, f: Tensor) -> bool:
    """Whether mass may lie beyond the cells, f = -E at their centres."""
    return not isinstance(model.space, Box) and not cells.border(f.log_softmax(0)) <= _BORDER


def doubt(model: EnergyModel, cells: Cells, f: Tensor, rows: Tensor) -> str | None:
    """Why the sum over the cells may not be the integral, or None; f = -E at their centres, rows (n, 2) of the data."""
    if spilt(model, cells, f):
        share = cells.border(f.log_softmax(0))
        return f"{share:.0%} of the model's mass is at the edge of the map; raise evaluation.density_2d.margin"
    off = {
        "log Z by every other cell differs by": (apart(cells.side, f), _APART),
        "energies of data differ from those at the centres of their cells by": (steep(model, cells, f, rows), _STEEP),
        "log Z is known and off by": (known(model, cells, f), _OFF),
    }
    wrong = [f"{said} {by:.2g} nats" for said, (by, most) in off.items() if not by <= most]
    width = "cells of the map are too wide for what the model has learned"
    return f"{width} ({wrong[0]}); raise evaluation.density_2d.side" if wrong else None


def apart(side: int, f: Tensor) -> float:
    """The range of the four log Z by every other row and column of cells."""
    even = side - side % 2
    table = f.reshape(side, side)[:even, :even]
    found = [table[i::2, j::2].flatten().logsumexp(0) for i in (0, 1) for j in (0, 1)]
    return (max(found) - min(found)).item()


def steep(model: EnergyModel, cells: Cells, f: Tensor, rows: Tensor) -> float:
    """The mean difference of rows' energies from those at the centres of their cells; 0 where none is in a cell."""
    number = cells.number(rows)
    inside = rows[number >= 0]
    if not len(inside):
        return 0.0
    return (model.energy(inside).double() + f[number[number >= 0]]).abs().mean().item()


def known(model: EnergyModel, cells: Cells, f: Tensor) -> float:
    """How far log Z by the cells is from the one that a model knows; 0 where it knows none."""
    if not isinstance(model, Normalised):
        return 0.0
    return abs(f.logsumexp(0).item() + math.log(cells.area) - model.log_z().item())


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


def density_map(log_p: Tensor, truth: Density | None, cells: Cells, store: Tensor) -> NDArray[np.uint8]:
    """The density of the model with chains, if there are, beside its energy and, where it is known, the truth."""
    side, x = cells.side, cells.centres(log_p.device)
    true = None if truth is None else truth.log_prob(x.double()).log_softmax(0).exp()
    top = (log_p.exp() if true is None else true).max().item()
    aspect = "equal" if cells.size[0] == cells.size[1] else "auto"
    extent = (cells.low[0], cells.high[0], cells.low[1], cells.high[1])
    with picture.axes(1, 2 if true is None else 3) as drawing:
        maps = [("model and chains" if len(store) else "model", log_p.exp(), {"vmin": 0, "vmax": top})]
        maps += [] if true is None else [("truth", true, {"vmin": 0, "vmax": top})]
        maps += [("log-density of the model", log_p - log_p.max(), {"vmin": -15, "vmax": 0})]
        for axis, (title, values, colours) in zip(drawing.at[0], maps, strict=True):
            shown = axis.imshow(
                values.reshape(side, side).cpu().numpy(), origin="lower", extent=extent, aspect=aspect, **colours
            )
            axis.set(title=title)
        axis.figure.colorbar(shown, ax=axis, label="nats below the top")
        points = store.reshape(-1, 2)[-1000:].cpu()
        drawing.at[0][0].scatter(points[:, 0], points[:, 1], s=1, c="white", alpha=0.5)
        drawing.at[0][0].set(xlim=extent[:2], ylim=extent[2:])
    return drawing.pixels
