"""Data in memory: what a dataset file must deliver, and what training and evaluation read from it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_cli import rng
from ebm_cli.errors import UserError
from ebm_cli.rng import AnyKey
from ebm_cli.space import Binary, Real, Space, Spin, TwoValued

Binarize = Literal["auto", "none", "threshold", "stochastic"]
Values = Literal["binary", "grey", "real"]


@dataclass(frozen=True)
class Arrays:
    """One split as it was read: values (n, *shape), and an integer label per row where there is one."""

    values: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Raw:
    """What `Dataset.read` returns. `values`: "binary" {0, 1}; "grey" uint8 0-255 or float [0, 1]; "real" any float."""

    values: Values
    train: Arrays
    valid: Arrays | None
    test: Arrays
    couplings: Tensor | None = None  # (sites, sites), where what made the data is known


@dataclass(frozen=True)
class Split:
    """Rows of one split on one device. `grey / scale` is the value, or the probability of a 1 if `stochastic`."""

    grey: Tensor
    scale: float
    stochastic: bool
    labels: Tensor | None
    spins: bool = False  # a row's bits are then shown as -1 and 1

    def __len__(self) -> int:
        return len(self.grey)

    def rows(self, index: Tensor, key: AnyKey) -> Tensor:
        """x (len(index), *shape) float32; with stochastic binarisation drawn anew for each key."""
        x = self.grey[index].float() / self.scale
        x = (rng.uniform(x.shape, key, x.device) < x).float() if self.stochastic else x
        return 2 * x - 1 if self.spins else x

    def all(self) -> Tensor:
        """The whole split. Stochastic binarisation is drawn once and for all, so results compare across runs."""
        return self.rows(torch.arange(len(self), device=self.grey.device), rng.stream(0, "binarize", len(self)))

    def mean(self) -> Tensor:
        """Mean over the split, (*shape): of x, for spins of their bits."""
        return (self.grey.sum(0, dtype=torch.float64) / len(self) / self.scale).float()

    def to(self, device: torch.device) -> "Split":
        """The same split on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, grey=self.grey.to(device), labels=labels)


@dataclass(frozen=True)
class Data:
    """A loaded dataset: three splits of one space; `valid` is None where none was kept back."""

    space: Space
    train: Split
    valid: Split | None
    test: Split
    method: str = "none"  # of binarisation, where there was any
    couplings: Tensor | None = None  # (sites, sites), where what made the data is known

    def smoothed_mean(self) -> Tensor:
        """Mean of the training rows, of spins their bits; of two values (n m + 1) / (n + 2): logits are finite."""
        mean, n = self.train.mean(), len(self.train)
        return (n * mean + 1) / (n + 2) if isinstance(self.space, TwoValued) else mean

    def describe(self) -> str:
        """Shape, kind and number of rows, in words."""
        how = {"threshold": ", binarised at one half", "stochastic": ", binarised anew at each visit"}
        valid = len(self.valid) if self.valid else 0
        return (
            f"{'x'.join(map(str, self.space.shape))} {self.space.name}{how.get(self.method, '')}; "
            f"{len(self.train)} rows for training, {valid} for validation, {len(self.test)} for testing"
        )

    def to(self, device: torch.device) -> "Data":
        """The same data on another device."""
        valid = None if self.valid is None else self.valid.to(device)
        return replace(self, train=self.train.to(device), valid=valid, test=self.test.to(device))


def batch_index(rows: int, step: int, size: int, seed: int) -> Tensor:
    """Rows of batch number `step`: positions step*size ... of an endless sequence of shuffled passes over the data."""
    first, last = step * size, (step + 1) * size
    passes = [_order(rows, epoch, seed) for epoch in range(first // rows, (last - 1) // rows + 1)]
    offset = first - first // rows * rows
    return torch.cat(passes)[offset : offset + size]


@lru_cache(maxsize=4)
def _order(rows: int, epoch: int, seed: int) -> Tensor:
    return rng.permutation(rows, rng.stream(seed, "epoch", epoch))


class Dataset(ABC):
    """A component that reads three splits; turning grey values into the model's space is done here, once for all."""

    binarize: Binarize
    values: ClassVar[Values | None]  # None: known only after reading
    binary_by_default: ClassVar[Literal["threshold", "stochastic"]] = "stochastic"

    @abstractmethod
    def read(self) -> Raw:
        """The arrays. Raises UserError naming folder and files when they are missing, malformed or empty."""

    def space_type(self, accepted: tuple[type[Space], ...]) -> type[Space] | None:
        """The space `load` would give a model that accepts those; None if only reading can tell."""
        if self.binarize in ("threshold", "stochastic") or self.values == "binary":
            return _two_valued(accepted)
        if self.values is None:
            return None
        return _two_valued(accepted) if self.values == "grey" and self.method("grey", accepted) != "none" else Real

    def method(self, values: Values, accepted: tuple[type[Space], ...]) -> Binarize:
        """`auto` resolved: binarise grey values if the model takes binary data."""
        if self.binarize != "auto":
            return self.binarize
        return self.binary_by_default if values == "grey" and {Binary, Spin} & set(accepted) else "none"

    def load(self, accepted: tuple[type[Space], ...]) -> Data:
        """Read, binarise and check. Raises UserError naming the split and the first thing wrong with it."""
        raw = self.read()
        method = self.method(raw.values, accepted)
        if raw.values == "real" and method in ("threshold", "stochastic"):
            raise UserError(
                f"dataset.binarize = {method}: needs values in [0, 1] or uint8, the data go beyond; rescale them"
            )
        binary = raw.values == "binary" or method in ("threshold", "stochastic")
        shape = raw.train.values.shape[1:]
        space: Space = _two_valued(accepted)(shape) if binary else Real(shape)
        splits = [
            None if part is None else _split(part, raw.values, method, name, space)
            for name, part in (("train", raw.train), ("valid", raw.valid), ("test", raw.test))
        ]
        train, valid, test = splits
        assert train is not None
        assert test is not None
        return Data(space, train, valid, test, method if raw.values == "grey" else "none", raw.couplings)


def _two_valued(accepted: tuple[type[Space], ...]) -> type[TwoValued]:
    """Bits, unless the model takes spins alone."""
    return Spin if Spin in accepted and Binary not in accepted else Binary


def _split(part: Arrays, values: Values, method: Binarize, name: str, space: Space) -> Split:
    array: NDArray[Any] = np.ascontiguousarray(part.values)
    if len(array) == 0:
        raise UserError(f"dataset: the {name} split is empty")
    shape = space.shape
    if array.shape[1:] != shape:
        raise UserError(f"dataset: rows of the {name} split have shape {array.shape[1:]}, those of train {shape}")
    scale = 255.0 if values == "grey" and array.dtype == np.uint8 else 1.0
    if method == "threshold" and values == "grey":
        array, scale = (array >= scale / 2).astype(np.uint8), 1.0
    labels = None if part.labels is None else torch.from_numpy(np.ascontiguousarray(part.labels, np.int64))
    if labels is not None and len(labels) != len(array):
        raise UserError(f"dataset: the {name} split has {len(array)} rows and {len(labels)} labels")
    return Split(
        torch.from_numpy(array), scale, method == "stochastic" and values == "grey", labels, isinstance(space, Spin)
    )


def placeholder(space: Space) -> Data:
    """One row of noise: enough to build a model whose parameters will be loaded, where the data are not at hand."""
    row = space.noise(1, rng.stream(0, "placeholder"))
    bits = space.bits(row) if isinstance(space, TwoValued) else row
    split = Split(bits, 1.0, stochastic=False, labels=None, spins=isinstance(space, Spin))
    return Data(space, split, None, split)
