"""What a file of another package says: a model of this one, with its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_cli.errors import UserError
from ebm_cli.space import Space

Array = NDArray[Any]

PLAIN = ("gaussian_rbm", "rbm", "boltzmann", "potts", "ising")
"""Models that arrays by name hold, format=npz."""


@dataclass(frozen=True)
class Foreign:
    """A model as this package has it.

    `model` is the name of a model and those of its keys that the file decides; `weights` are its parameters, by their
    own names; `chains` (n, *site_shape) are values of sites; `letters` those that categories are written as, if the
    file says. `about` is what the file says of itself, and `remarks` are sentences that its user should read.
    """

    model: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    space: Space
    about: Mapping[str, Any]
    chains: Tensor | None = None
    letters: str = ""
    remarks: tuple[str, ...] = field(default=())


class Source(NamedTuple):
    """A file, and which of its checkpoints (None: the last)."""

    path: Path
    checkpoint: str | None

    @property
    def said(self) -> str:
        """How sentences about it begin."""
        return str(self.path)


def others_that_hold(model: Foreign) -> str:
    """The way out where a format of one package cannot hold a model: formats of ours that can."""
    return "use format=npz or hub" if model.model["name"] in PLAIN else "use format=hub"


def single(array: Array) -> Tensor:
    """As float32, which models have."""
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def check_finite(said: str, **arrays: Array) -> None:
    """Raise UserError naming the first array with a number that is not finite, or that float32 cannot hold."""
    most = float(np.finfo(np.float32).max)
    for name, array in arrays.items():
        bad = np.argwhere(~(np.abs(array) <= most))
        if len(bad):
            place = tuple(int(number) for number in bad[0])
            raise UserError(
                f"{said}: {name}{list(place)} is {array[place]:g}; weights must be finite float32 numbers, so take an "
                "earlier checkpoint, or train it again"
            )


def check_shapes(said: str, expected: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    """Raise UserError naming the first array, of (its shape, what that must be), whose shape is another."""
    for name, (shape, due) in expected.items():
        if shape != due:
            raise UserError(f"{said}: {name} has shape {shape}; beside the other arrays it must be {due}")


def rounded(said: str, arrays: Mapping[str, Array]) -> tuple[str, ...]:
    """A remark on numbers that float32 does not hold as they are."""
    lost = [name for name, array in arrays.items() if not np.array_equal(array, array.astype(np.float32))]
    return (f"{said}: {', '.join(lost)} rounded to float32, which models here have",) if lost else ()
