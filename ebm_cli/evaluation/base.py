"""The seam of evaluations: a trained or training model in, named numbers and pictures out."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_cli import rng
from ebm_cli.dataset.base import Data, Split
from ebm_cli.device.base import CPU, Device
from ebm_cli.device.engine import Work
from ebm_cli.evaluation.table import Numbers, Table
from ebm_cli.health.past import Training
from ebm_cli.model.base import Conditional, EnergyModel, Intractable
from ebm_cli.model.families import Family
from ebm_cli.objective.base import Auxiliary, Objective
from ebm_cli.rng import Key
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Box, Counts, Discrete, Space

Picture = NDArray[np.uint8]
T = TypeVar("T")


def likelihoods(name: str, *more: str) -> tuple[str, ...]:
    """Names of what an evaluation finds that finds the log-likelihood of rows, and of more under its own name."""
    found = ("log_likelihood", "standard_error", "above_independent", "above_independent_error", *more)
    return tuple(f"{name}/{metric}" for metric in found)


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a model, the data it was trained on, and the split it is held to."""

    model: EnergyModel
    data: Data
    split: str  # "test", "valid" or "train"
    sampler: Sampler[Any, Any]
    store: Tensor  # the run's own chains, (slots, *shape), perhaps none
    key: Key
    device: Device = CPU
    auxiliary: Auxiliary | None = None  # what the objective trained beside the model
    passed: Callable[[], Mapping[int, EnergyModel]] = dict  # models of the checkpoints before, read when asked for
    training: Training | None = None  # how it was trained, where that is known

    @property
    def held_out(self) -> Split:
        """The rows of `split`."""
        found: Split | None = getattr(self.data, self.split)
        assert found is not None, f"no {self.split} split"
        return found

    def some_rows(self, count: int) -> Tensor:
        """At most `count` of the held-out rows, a random choice without repetition, (rows, *shape)."""
        return some_rows(self.held_out, count, self.key.fold("rows"))

    def which_rows(self, count: int) -> Tensor:
        """The numbers in the split of the rows that `some_rows` chooses, (rows,)."""
        return _which(self.held_out, count, self.key.fold("rows"))


def some_rows(split: Split, count: int, key: Key) -> Tensor:
    """At most `count` rows of a split, a random choice without repetition, (rows, *shape)."""
    return split.rows(_which(split, count, key).to(split.stored.device), key.fold("binarize"))


def starts(split: Split, count: int, key: Key) -> Tensor:
    """`count` of the rows of a split in a random order, again and again where there are fewer, (count, *shape)."""
    order = rng.permutation(len(split), key.fold("rows"))
    rows = order[torch.arange(count) % len(order)].to(split.stored.device)
    return split.rows(rows, key.fold("binarize"))


def _which(split: Split, count: int, key: Key) -> Tensor:
    return rng.permutation(len(split), key)[:count]


@dataclass(frozen=True)
class Result:
    """Numbers under `<evaluation>/<metric>`, pictures and text files by name, and sentences the user should read.

    `warnings` say that something is doubtful, `said` is what was found in words. `by_row` has what some of the metrics
    are the means of, (rows,), so that two models can be compared row by row; `index` says which rows of the split these
    are, (rows,), where they are not all of them in their order.
    """

    metrics: Mapping[str, float]
    images: Mapping[str, Picture] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    by_row: Mapping[str, Tensor] = field(default_factory=dict)
    index: Mapping[str, Tensor] = field(default_factory=dict)


class Evaluation(ABC):
    """The component. `while_training`: also every `eval_every` steps, on the validation split."""

    while_training: bool
    of_words: ClassVar[bool] = False
    """Whether it measures models of a word given its context."""
    of_counts: ClassVar[bool] = False
    """Whether it measures models of documents."""
    moves_anywhere: ClassVar[bool] = False
    """Whether it moves chains that begin as noise, wherever the model has a density."""
    goes_by_checkpoints: ClassVar[bool] = False
    """Whether it needs many of the checkpoints before."""
    asks_for_energy: ClassVar[bool] = True
    """Whether it computes energies of the model's configurations."""
    standing: ClassVar[int] = 90
    """Where its lines stand in the last table: likelihoods first, then chains, then all else."""
    compared: ClassVar[tuple[str, ...]] = ()
    """Metrics by which runs are compared, which have the first columns of the table of a multirun."""
    reports: ClassVar[tuple[str, ...]] = ()
    """All metrics that it may find, `ais/log_z`; none where their names depend on its keys, the data or the model."""

    @classmethod
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """What it found, in words, each line by its name; metrics without a line are shown under their own key."""
        return {}

    @classmethod
    def tables(cls, values: Numbers) -> list[Table]:
        """Tables of its own, for what is compared."""
        return []

    def while_it_trains(self) -> "Evaluation":
        """What is done in its place every `eval_every` steps: itself, or something cheaper."""
        return self

    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Why it cannot be done on this model with this sampler, or None."""
        return None

    def refusal_of_objective(self, objective: Objective) -> str | None:
        """Why a run trained by this objective has not what it measures, and the way out, or None."""
        return None

    def refusal_of_data(self, data: Data) -> str | None:
        """What of the data it needs is missing, and the way out, or None."""
        return None

    @property
    def work(self) -> Work:
        """How far it moves chains, where that takes long."""
        return Work(0, 0)

    @property
    def required(self) -> bool:
        """Whether a refusal is an error; otherwise the evaluation is left out, and that is said."""
        return True

    @abstractmethod
    def evaluate(self, subject: Subject) -> Result:
        """Measure. It changes nothing and draws only from `subject.key`."""


def refusal(evaluation: Evaluation, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
    """Why an evaluation cannot be done on this model with this sampler, or None."""
    if evaluation.asks_for_energy and isinstance(model, Intractable):
        return "this model has no energy that can be computed"
    if evaluation.moves_anywhere and isinstance(model, Family):
        return "chains neither come to the support of this family nor move on it, and its log Z is known"
    if isinstance(model, Conditional) and not evaluation.of_words:
        return "it measures whole configurations, this model gives the last word of one given those before it"
    if isinstance(model.space, Counts) and not evaluation.of_counts:
        return (
            "it measures configurations of one kind, this model has documents of every length; take perplexity, topics "
            "or retrieval"
        )
    return evaluation.refusal(model, sampler)


def bits_per_dimension(name: str, space: Space, log_likelihood: float) -> dict[str, float]:
    """`<name>/bits_per_dimension` of discrete data, from nats per example; nothing for real data."""
    if not isinstance(space, Discrete):
        return {}
    return {f"{name}/bits_per_dimension": -log_likelihood / math.log(2) / space.sites}


def bits_of_levels(name: str, split: Split, log_likelihood: float) -> dict[str, float]:
    """The same, and of grey levels that are spread evenly, whose density bounds their probability from below.

    A level has the K-th part of the width w between white and black, so that log P(levels) >= E log p(x) + D log(w / K)
    over what is spread (Theis, van den Oord, Bethge 2016, eq. 4). Nothing where noise is added on top.
    """
    space = split.space
    if not split.levels or split.noise:
        return bits_per_dimension(name, space, log_likelihood)
    width = space.high - space.low if isinstance(space, Box) else 1.0
    of_levels = log_likelihood + space.sites * math.log(width / split.levels)
    return {f"{name}/bits_per_dimension": -of_levels / math.log(2) / space.sites}


def standard_error(name: str, values: Tensor) -> dict[str, float]:
    """`<name>/standard_error` of the mean over rows; nothing where there is only one."""
    return {f"{name}/standard_error": values.std().item() / len(values) ** 0.5} if len(values) > 1 else {}


def without_density(log_f: Tensor) -> str | None:
    """That some of log f = -E of held-out rows (rows,) is not finite, so that their mean says nothing; or None."""
    lost = int((~log_f.isfinite()).sum())
    return f"{lost} of {len(log_f)} held-out rows have no finite energy" if lost else None


def learned_log_z(name: str, subject: Subject, log_z: float) -> dict[str, float]:
    """`<name>/learned_log_z`, which training has learned beside the model, and how far it is above this value, nats."""
    learned = None if subject.auxiliary is None else subject.auxiliary.log_z()
    if learned is None:
        return {}
    return {f"{name}/learned_log_z": learned.item(), f"{name}/learned_log_z_error": learned.item() - log_z}


def measured(evaluation: Evaluation, subject: Subject) -> Result:
    """What it finds, log-likelihoods those of the data in their own units: log p(x) less `Space.log_volume`.

    So are those of single rows. log Z stays that of the model, which is of the standardised x where data are
    standardised.
    """
    result = evaluation.evaluate(subject)
    log_volume = subject.model.space.log_volume
    if not log_volume:
        return result
    moved = {name: value - log_volume for name, value in result.metrics.items() if _of_data(name)}
    by_row = {name: rows - log_volume if _of_data(name) else rows for name, rows in result.by_row.items()}
    return replace(result, metrics={**result.metrics, **moved}, by_row=by_row)


def _of_data(name: str) -> bool:
    return name.endswith("/log_likelihood")


def on_split(metrics: Mapping[str, T], split: str) -> dict[str, T]:
    """Keys say the split unless it is the test split: `exact/valid/log_likelihood`."""
    if split == "test":
        return dict(metrics)
    return {f"{name.split('/')[0]}/{split}/{name.partition('/')[2]}": value for name, value in metrics.items()}


def of_split(metrics: Mapping[str, T], split: str) -> dict[str, T]:
    """Those of a split under the keys they have on the test split."""
    return {name.replace(f"/{split}/", "/"): value for name, value in metrics.items()}
