"""Chains followed for long: what they become, and whether they find the data or fall into one hole."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.acceleration import full_arithmetic
from ebm_cli.dataset.base import Data
from ebm_cli.device.engine import Work
from ebm_cli.evaluation.base import Evaluation, Picture, Result, Subject
from ebm_cli.evaluation.samples import within
from ebm_cli.evaluation.table import Numbers, Table
from ebm_cli.model.base import EnergyModel
from ebm_cli.record import picture
from ebm_cli.registry import register
from ebm_cli.sampler.augmented import Augmented
from ebm_cli.sampler.base import Sampler, followed
from ebm_cli.sampler.langevin import Langevin
from ebm_cli.sampler.standstill import lost, moved
from ebm_cli.yardstick.classifier import RIGHT, Judge, judge, unsure

_STRIPS = 8  # chains shown
_BAND = (0.01, 0.99)  # quantiles of held-out energies that count as their range
_WORDS = {  # a metric of chains that were followed, in a word or two
    "energy": "E [nats]",
    "energy_inside": "E as data",
    "recognised": "recognised",
    "largest_class": "largest class",
    "rarest_class": "rarest",
    "class_kept": "class kept",
    "class_changed_since_half": "changed late",
    "moved": "moved",
}
_CAPTION = (
    "At the end, as shares of the chains. E as data: between the 1 % and 99 % quantiles of held-out energies. "
    "Recognised: the classifier is as sure of the class as long_run.confident asks. Class kept: since the start; "
    "changed late: since half the steps. Moved: share of the distance between two rows of data. More: long_run.csv."
)


def _by_its_name(start: object) -> object:
    """The chains that a run keeps were once called its buffer."""
    return "chains" if start == "buffer" else start


Start = Annotated[Literal["noise", "data", "chains"], BeforeValidator(_by_its_name)]
"""Where chains begin; "chains" are those that the run keeps."""


@dataclass(frozen=True)
class Yardstick:
    """What chains are held against: quantiles of held-out energies, distances of held-out rows, classes."""

    energies: tuple[float, float]
    distance: float
    judge: Judge | None


@dataclass(frozen=True)
class Film:
    """Chains of one start at one noise: positions (frames, chains, *shape) after so many `steps`, first of 0."""

    noise: float | None
    start: str
    steps: tuple[int, ...]
    x: Tensor
    energy: Tensor  # (frames, chains)
    classes: Tensor | None  # (frames, chains, classes), probabilities

    @property
    def name(self) -> str:
        """In file names and metrics."""
        return f"from_{self.start}" if self.noise is None else f"noise_{self.noise:g}/from_{self.start}"


@register("evaluation", "long_run")
class LongRun(Evaluation):
    """`chains` chains each from noise, from held-out rows and from the run's own chains, followed for `steps` steps.

    At each of `noises`, standard deviations of Langevin steps (null: the sampler's own). After 0 steps and at every
    halving of `steps`, `frames` of them: the share of chains whose energy lies between the 1 % and the 99 % quantile of
    held-out energies; what a small classifier, trained on the training rows and on what is no image, makes of them: the
    share it gives a class with a probability of at least `confident` (`recognised`), and of the largest and the rarest
    class; how far they moved, as a share of the mean distance of two held-out rows; and how many changed their class
    since half the steps. `mistaken` is the share of what is no image that the classifier takes for one.
    """

    while_training: bool
    chains: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    starts: Annotated[tuple[Start, ...], Field(min_length=1)]
    noises: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] | None
    frames: Annotated[int, Field(ge=2, le=20)]
    confident: Annotated[float, Field(gt=0, lt=1)]

    moves_anywhere = True

    standing = 71

    @classmethod
    @override
    def tables(cls, values: Numbers) -> list[Table]:
        """How the chains of each noise and start ended."""
        found = {key: values[key] for key in values if key.startswith("long_run/") and "/from_" in key}
        names = [name for name in _WORDS if any(key.endswith(f"/{name}") for key in found)]
        heads = [_WORDS[name] for name in names]
        return [Table("long chains", heads, rows_of(found, names), _CAPTION)] if found else []

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Only Langevin has a noise to set."""
        if self.noises is not None and not isinstance(sampler.inner, Langevin):
            return (
                "noises are those of sampler=langevin, which this run does not use; set evaluation.long_run.noises=null"
            )
        return None

    @property
    @override
    def work(self) -> Work:
        levels = len(self.noises or (0,))
        return Work(levels * self.steps * self.chains * len(self.starts), levels * self.steps)

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`long_run/<noise>/<start>/...` at the end, everything in a table, strips of film and a figure."""
        yard, warnings = self._yardstick(subject)
        films = [film for noise in self.noises or (None,) for film in self._films(subject, noise, yard)]
        wrong = [f"{film.name}: {said}" for film in films if (said := astray(film))]
        if wrong:
            return Result({}, warnings=(*warnings, *wrong, "nothing of these chains is measured"))
        rows = {film.name: [*measured(film, yard, self.confident)] for film in films}
        metrics: dict[str, float] = {}
        if yard.judge is not None:
            metrics |= {"long_run/classifier_accuracy": yard.judge.accuracy, "long_run/mistaken": yard.judge.mistaken}
        for name, frames in rows.items():
            numbers = {key: value for key, value in frames[-1].items() if key not in ("noise", "start", "steps")}
            metrics |= {f"long_run/{name}/{key}": float(value) for key, value in numbers.items()}
        data = subject.data
        images = {f"long_run_{film.name.replace('/', '_')}": strip(data, film) for film in films if data.space.is_image}
        return Result(
            metrics,
            images | {"long_run": figure(films, yard)},
            warnings,
            {"long_run.csv": table([row for frames in rows.values() for row in frames])},
        )

    def _yardstick(self, subject: Subject) -> tuple[Yardstick, tuple[str, ...]]:
        x = subject.held_out.all()
        low, high = torch.quantile(subject.model.energy(x).double(), torch.tensor(_BAND, dtype=torch.float64)).tolist()
        distance = (x - x.roll(1, 0)).flatten(1).norm(dim=1).mean().item()
        if subject.data.train.labels is None:
            said = "the data have no labels, so nothing says which class a chain is in"
            return Yardstick((low, high), distance, None), (said,)
        by = judge(subject.data, subject.held_out, subject.key.fold("judge"))
        return Yardstick((low, high), distance, by), (unsure(by.accuracy),) if by.accuracy < RIGHT else ()

    def _films(self, subject: Subject, noise: float | None, yard: Yardstick) -> list[Film]:
        """All starts together, as rows of one set of chains."""
        sampler = subject.sampler if noise is None else with_noise(subject.sampler, noise)
        begin = {start: self._begin(subject, start) for start in self.starts}
        begin = {start: x for start, x in begin.items() if len(x)}
        steps = (0, *sorted({self.steps >> i for i in range(self.frames)} - {0}))
        model = full_arithmetic(subject.model, subject.device)
        keys = [subject.key.fold("steps", str(noise), i) for i in range(self.steps)]
        x = torch.cat([*begin.values()])
        frames = list(followed(sampler, model, x, keys, steps, subject.device.engine))
        found, first = [], 0
        for start, x in begin.items():
            part = torch.stack([frame[first : first + len(x)] for frame in frames])
            energy = torch.stack([subject.model.energy(frame) for frame in part])
            classes = None if yard.judge is None else torch.stack([yard.judge.probabilities(frame) for frame in part])
            found.append(Film(noise, start, steps, part, energy, classes))
            first += len(x)
        return found

    def _begin(self, subject: Subject, start: Start) -> Tensor:
        """Where chains begin, at most `chains`; the run may keep none of its own."""
        if start == "noise":
            return subject.model.space.noise(self.chains, subject.key.fold("noise"), subject.data.train.stored.device)
        return next(subject.held_out.pieces(self.chains)) if start == "data" else subject.store[: self.chains]


def astray(film: Film) -> str | None:
    """A sentence on chains that have run away, or all stand still, or None."""
    still = None if moved(film.x[0], film.x[-1]).any() else "no chain has moved"
    return next(filter(None, map(lost, film.x)), None) or still


def with_noise(sampler: Sampler[Any, Any], noise: float) -> Sampler[Any, Any]:
    """The same with another standard deviation of its Langevin steps, constant."""
    if isinstance(sampler, Augmented):
        return replace(sampler, kernel=with_noise(sampler.kernel, noise))
    assert isinstance(sampler, Langevin)
    return replace(sampler, noise=noise, final_noise=None)


def measured(film: Film, yard: Yardstick, confident: float) -> Iterator[dict[str, Any]]:
    """One row of numbers for each frame."""
    low, high = yard.energies
    half = len(film.steps) - 2
    for i, step in enumerate(film.steps):
        energy, moved = film.energy[i].double(), (film.x[i] - film.x[0]).flatten(1).norm(dim=1).mean().item()
        row: dict[str, Any] = {
            "noise": film.noise,
            "start": film.start,
            "steps": step,
            "energy": energy.mean().item(),
            "energy_inside": ((energy >= low) & (energy <= high)).double().mean().item(),
            "moved": moved / yard.distance,
        }
        if film.classes is not None:
            share = torch.bincount(film.classes[i].argmax(1), minlength=film.classes.shape[2]) / film.classes.shape[1]
            row |= {
                "recognised": (film.classes[i].amax(1) >= confident).double().mean().item(),
                "largest_class": share.max().item(),
                "rarest_class": share.min().item(),
                "class_kept": _agree(film.classes[i], film.classes[0]),
                "class_changed_since_half": 1 - _agree(film.classes[i], film.classes[half]) if i > half else 0.0,
            }
        yield row


def _agree(one: Tensor, other: Tensor) -> float:
    return (one.argmax(1) == other.argmax(1)).double().mean().item()


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Comma-separated, every frame a line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
    return text.getvalue()


def strip(data: Data, film: Film) -> Picture:
    """The first chains, one in each row, a column for each frame; of shades black and white where they are beyond."""
    x = film.x[:, :_STRIPS].transpose(0, 1)
    return picture.grid(data.space, within(data, x.flatten(0, 1)), columns=x.shape[1])


def figure(films: Sequence[Film], yard: Yardstick) -> NDArray[np.uint8]:
    """For each noise the energies against the steps beside the held-out range, and the classes at the end."""
    noises = list(dict.fromkeys(film.noise for film in films))
    with picture.axes(len(noises), 1 if yard.judge is None else 2) as drawing:
        for row, noise in zip(drawing.at, noises, strict=True):
            here = [film for film in films if film.noise == noise]
            said = "the run's own noise" if noise is None else f"noise {noise:g}"
            row[0].axhspan(*yard.energies, color="0.85", label="held-out, 1 to 99 %")
            for film in here:
                low, middle, high = torch.quantile(film.energy.double().cpu(), _QUARTILES, dim=1)
                row[0].plot(film.steps, middle.numpy(), marker=".", label=f"from {film.start}")
                row[0].fill_between(film.steps, low.numpy(), high.numpy(), alpha=0.2)
            row[0].set(xscale="symlog", xlabel="steps", ylabel="E(x) [nats]", title=said)
            if yard.judge is not None:
                _classes(row[1], here, yard.judge.classes)
        drawing.legend_beside()
    return drawing.pixels


_QUARTILES = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)


def _classes(axis: Any, films: Sequence[Film], count: int) -> None:
    width = 0.8 / len(films)
    for i, film in enumerate(films):
        assert film.classes is not None
        share = (torch.bincount(film.classes[-1].argmax(1).cpu(), minlength=count) / film.classes.shape[1]).numpy()
        axis.bar(np.arange(count) + (i + 0.5) * width - 0.4, share, width)
    axis.set(xlabel="class at the end", ylabel="share of chains", ylim=(0, 1), xticks=range(count))


def rows_of(found: Mapping[str, float], names: Sequence[str]) -> dict[str, list[str]]:
    """A line of numbers by their names for each noise and start, from keys `long_run/<noise>/<start>/<metric>`."""
    lines = {}
    for film in dict.fromkeys(key.rpartition("/")[0] for key in found):
        words = film.removeprefix("long_run/").replace("/", ", ").replace("_", " ")
        keys = [f"{film}/{name}" for name in names]
        lines[words] = [f"{found[key]:.3g}" if key in found else "-" for key in keys]
    return lines
