"""Data: what a dataset file must deliver, and what training and evaluation read from it."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, reduce
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.dataset import own_rows
from ebm_cli.dataset.columns import Columns
from ebm_cli.dataset.density import Density
from ebm_cli.dataset.gray_code import GrayCode
from ebm_cli.dataset.levels import check_grey
from ebm_cli.dataset.own_rows import OwnRows
from ebm_cli.dataset.pieces import pieces
from ebm_cli.dataset.reads import observed
from ebm_cli.dataset.sparse import SparseRows
from ebm_cli.dataset.stored import LARGE, FileRows, PackedRows, Stored, give_back, packed, packed_pieces, parts, tensors
from ebm_cli.errors import UserError
from ebm_cli.rng import AnyKey
from ebm_cli.space import Binary, Box, Categorical, Counts, Discrete, Mixed, Real, Space, Spin, Units, Words

Binarize = Literal["auto", "none", "threshold", "stochastic"]
_HASHED_AT_ONCE = 1000  # rows
Values = Literal["binary", "grey", "real", "categorical", "mixed", "words", "counts"]


@dataclass(frozen=True)
class Arrays:
    """One split as it was read: values (n, *shape), and integer labels and weights of the rows where there are some.

    `missing` (n, *shape) says which values stand for ones that are missing, where there are such.
    """

    values: NDArray[Any] | SparseRows | PackedRows | FileRows
    labels: NDArray[np.int64] | None = None
    weights: NDArray[np.float64] | None = None
    missing: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Truth:
    """What is known of what made the data: couplings, which sites touch, each (sites, sites), and their density.

    `law` gives log p of bits (n, *site_shape), float64, where all states were few enough to be summed over. `plane`
    says which points of the plane rows of bits stand for, where they stand for such.
    """

    couplings: Tensor | None = None
    contacts: Tensor | None = None
    density: Density | None = None
    law: Callable[[Tensor], Tensor] | None = None
    plane: GrayCode | None = None


class Law(Protocol):
    """What rows are drawn from."""

    def rows(self, n: int, key: AnyKey, device: rng.Device) -> Tensor:
        """n independent rows as a data file would hold them, (n, *site_shape)."""
        ...


@dataclass(frozen=True)
class Raw:
    """What `Dataset.read` returns.

    `values`: "binary" {0, 1}; "grey" uint8 0-255 or float [0, 1], which models of categorical data alone take as
    `categories` equally spaced levels, if there are so few; "real" any float; "categorical" integers below
    `categories`; "mixed" float32, numbers of categories or real, as `columns` say; "words" numbers (n, context + 1) of
    `words`; "counts" of each of the `words` in documents, `SparseRows` (n, K).
    `remarks` are sentences that whoever trains on the data should read; `spins` of binary values that -1 stood for 0;
    `letters` those that categories are written as, in their order; `units` what real values were before; `sweeps` how
    often missing values are drawn from the model at each visit, `columns` those of a table.
    """

    values: Values
    train: Arrays
    valid: Arrays | None
    test: Arrays
    truth: Truth = Truth()
    categories: int = 0
    words: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    spins: bool = False
    letters: str = ""
    units: Units | None = None
    columns: Columns | None = None
    sweeps: int = 0

    def splits(self) -> dict[str, Arrays]:
        """Those there are, by name."""
        found = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: part for name, part in found.items() if part is not None}


@dataclass(frozen=True)
class Split:
    """Rows of one split on one device, in the bytes they need, of which `rows` makes numbers.

    `stored / scale` is the value, or the probability of a 1 if `stochastic`.

    `weights` (n,) say how often a row is drawn in training relative to the others, where they are not all equal.
    In real spaces `levels` grey values are spread evenly, level k of K over (k + u) / K, u uniform on [0, 1), so that
    the rows have a density (0: they are not), and normal numbers times `noise` are added in units of the space.
    `missing` (n, *site_shape) values are drawn by `sweeps` sweeps of the model at each visit (`training/step.py`); what
    is stored in their place are values of other rows.
    Where the `law` of the rows is known, each visit of a row is a new draw from it.
    """

    space: Space
    stored: Stored
    scale: float
    stochastic: bool
    labels: Tensor | None
    weights: Tensor | None = None
    levels: int = 0
    noise: float = 0.0
    missing: Tensor | None = None
    sweeps: int = 0
    law: Law | None = None

    def __len__(self) -> int:
        return len(self.stored)

    def rows(self, index: Tensor, key: AnyKey) -> Tensor:
        """x (len(index), *shape) float32; what is drawn, rows, bits or noise, anew for each key."""
        if self.law is not None:
            return self.space.encode(self.law.rows(len(index), key, index.device))
        return self._values(self.stored[index], key)

    def sparse(self, index: Tensor) -> Tensor:
        """Those rows of counts as a sparse tensor."""
        assert isinstance(self.stored, SparseRows)
        return self.stored.sparse(index)

    def _values(self, stored: Tensor, key: AnyKey) -> Tensor:
        x = stored.float()
        x = x if self.scale == 1 else x / self.scale
        if isinstance(self.space, Real):
            return self._shaded(self.space, x, key)
        x = (rng.uniform(x.shape, key, x.device) < x).float() if self.stochastic else x
        return self.space.encode(x)

    def _shaded(self, space: Real, x: Tensor, key: AnyKey) -> Tensor:
        """From values in [0, 1], or from any where the space has no bounds."""
        if self.levels:
            x = (x * (self.levels - 1) + rng.uniform(x.shape, key.fold("level"), x.device)) / self.levels
        x = space.of_unit(x) if isinstance(space, Box) else x
        return space.nearest(x + self.noise * rng.normal(x.shape, key.fold("noise"), x.device)) if self.noise else x

    def all(self) -> Tensor:
        """The whole split. What is random about it is drawn once and for all, so results compare across runs.

        It is drawn on the CPU, for a GPU draws and rounds otherwise: the rows are the same wherever a run is.
        """
        return self._fixed(0, len(self))

    def pieces(self, rows: int) -> Iterator[Tensor]:
        """`all()` in pieces of so many rows, the last one perhaps of fewer: the whole may be too large for float32."""
        return (self._fixed(first, min(first + rows, len(self))) for first in range(0, len(self), rows))

    def fixed(self, index: Tensor) -> Tensor:
        """Those rows of `all()`, (len(index), *shape)."""
        return torch.cat([self._fixed(row, row + 1) for row in index.tolist()])

    def _fixed(self, first: int, last: int) -> Tensor:
        key = rng.stream(0, "binarize", len(self)).at_row(first)
        index = torch.arange(first, last, device=self.stored.device)
        return self._values(self.stored[index].cpu(), key).to(index.device)

    @cached_property
    def fingerprint(self) -> str:
        """Of its rows as `all()` has them, drawn bits and noise included; of counts as they are stored."""
        digest = hashlib.blake2b(digest_size=16)
        sparse = [*self.stored.tensors()] if isinstance(self.stored, SparseRows) else []
        for part in sparse or self.pieces(_HASHED_AT_ONCE):
            values = part.cpu().numpy()
            digest.update(f"{values.dtype}{values.shape[1:]}".encode())
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()

    @property
    def size(self) -> float:
        """Number of rows, or of the independent ones that weighted rows amount to: the sum of the weights."""
        return len(self) if self.weights is None else self.weights.sum().item()

    def mean(self) -> Tensor:
        """Mean over the split, with the weights of its rows.

        Bits, categories, real numbers: of x, (*shape). Mixed sites: of their units, (units,). Spins: of their bits.
        Words: share of each word among the last ones, (V,). Counts: share of each word among all words, (K,).
        """
        return self._mean

    @cached_property
    def _mean(self) -> Tensor:
        """Looked at once: rows do not change, and there may be many."""
        if isinstance(self.stored, SparseRows):
            count = self.stored.of_columns().double()
            return (count / count.sum()).float()
        if isinstance(self.space, Words):
            assert isinstance(self.stored, Tensor)
            count = torch.bincount(self.stored[:, -1].cpu().long(), minlength=self.space.values)
            return (count.double() / len(self)).float().to(self.stored.device)
        if isinstance(self.space, Categorical):
            counts = self._counts(self.space.values)
            return (counts / self.size).float().reshape(self.space.shape).to(self.stored.device)
        if isinstance(self.space, Mixed):
            found = (self.space.as_units(part).sum(0, dtype=torch.float64) for part in parts(self.stored))
            return (reduce(torch.add, found) / len(self)).float()
        mean = (self._sum() / self.size / self.scale).float()
        mean = (mean * (self.levels - 1) + 0.5) / self.levels if self.levels else mean
        return self.space.of_unit(mean) if isinstance(self.space, Box) else mean

    def _sum(self) -> Tensor:
        """Of the rows as they are stored, with their weights, (*shape) float64."""
        assert not isinstance(self.stored, SparseRows)
        if self.weights is None:
            return reduce(torch.add, (part.sum(0, dtype=torch.float64) for part in parts(self.stored)))
        found, first = torch.zeros(self.stored.shape[1:], dtype=torch.float64, device=self.stored.device), 0
        for part in parts(self.stored):
            weights = self.weights[first : first + len(part)].to(part.device)
            found += torch.tensordot(weights, part.double(), 1)
            first += len(part)
        return found

    def _counts(self, values: int) -> Tensor:
        """How often each value of each site is there, with the weights of the rows, (sites, values) float64."""
        weights = torch.ones(len(self), dtype=torch.float64) if self.weights is None else self.weights.cpu()
        assert not isinstance(self.stored, SparseRows)
        whole = [self.stored] if isinstance(self.stored, Tensor) else parts(self.stored)
        found, first = torch.zeros(self.space.sites, values, dtype=torch.float64), 0
        for part in whole:
            weight = weights[first : first + len(part)]
            sites = part.flatten(1).cpu().unbind(1)
            found += torch.stack([torch.bincount(site.long(), weight, minlength=values) for site in sites])
            first += len(part)
        return found

    def to(self, device: torch.device) -> "Split":
        """The same split on another device."""
        labels, missing = (None if part is None else part.to(device) for part in (self.labels, self.missing))
        return replace(self, stored=self.stored.to(device), labels=labels, missing=missing)


@dataclass(frozen=True)
class Data:
    """A loaded dataset: three splits of one space; `valid` is None where none was kept back."""

    space: Space
    train: Split
    valid: Split | None
    test: Split
    method: str = "none"  # of binarisation, where there was any
    truth: Truth = Truth()
    words: tuple[str, ...] = ()  # by their numbers, where rows are words or counts of them
    remarks: tuple[str, ...] = ()
    letters: str = ""  # of categories, in their order, where they are written as letters
    shaded: bool = False  # whether values were shades from black to white, of which there are none beyond
    columns: Columns | None = None  # of a table
    idle: frozenset[str] = frozenset()  # keys of the data set that were not read, and so have no effect

    def smoothed_mean(self) -> Tensor:
        """Mean m of the training rows, for discrete rows (n m + 1) / (n + K), whose logits are finite.

        K is the number of values of a site and n that of rows; of counts K is the size of the vocabulary and n the
        number of all words.
        """
        mean, n = self.train.mean(), self.train.size
        if isinstance(self.train.stored, SparseRows):
            words = self.train.stored.count.sum().item()
            return ((words * mean.double() + 1) / (words + len(mean))).float()
        if isinstance(self.space, Mixed):
            count = torch.tensor(self.space.values, device=mean.device)[self.space.places[0].to(mean.device)]
            return torch.where(count > 0, (n * mean + 1) / (n + count), mean)
        return (n * mean + 1) / (n + self.space.values) if isinstance(self.space, Discrete | Words) else mean

    @cached_property
    def fingerprint(self) -> str:
        """Of all rows, labels and weights: the same for the same data alone."""
        digest = hashlib.blake2b(digest_size=16)
        for split in (self.train, self.valid, self.test):
            for kind, shape, content in () if split is None else _contents(split):
                digest.update(f"{kind}{shape}".encode())
                for piece in content:
                    digest.update(np.ascontiguousarray(piece).data)
        digest.update("\n".join(self.words).encode())
        return digest.hexdigest()

    @property
    def bytes(self) -> int:
        """Bytes of memory that rows, labels and weights take."""
        splits = [split for split in (self.train, self.valid, self.test) if split is not None]
        held = [
            part for split in splits for part in (*tensors(split.stored), split.labels, split.weights, split.missing)
        ]
        return sum(part.nbytes for part in held if part is not None)

    @property
    def kind(self) -> str:
        """Shape and kind of a row, in words."""
        how = {"threshold": ", binarised at one half", "stochastic": ", binarised anew at each visit"}
        kind = f"{'x'.join(map(str, self.space.site_shape))} {self.space.name}{how.get(self.method, '')}"
        kind += "" if self.train.law is None else ", drawn anew at each visit"
        if isinstance(self.space, Box):
            kind += f" in [{self.space.low:g}, {self.space.high:g}]"
        if isinstance(self.space, Real):
            spread = f", {self.train.levels} levels spread evenly" if self.train.levels else ""
            spread += "" if self.space.units is None else ", standardised"
            kind += spread + (f", noise {self.train.noise:g}" if self.train.noise else "")
        if isinstance(self.space, Categorical):
            kind += f" of {self.space.values} values"
        if isinstance(self.space, Mixed):
            bits, reals = self.space.values.count(2), len(self.space.reals)
            kind += f" columns ({bits} binary, {self.space.sites - bits - reals} categorical, {reals} real)"
        if isinstance(self.space, Words):
            kind += f" of a vocabulary of {self.space.values}"
        if isinstance(self.train.stored, SparseRows):
            length = self.train.stored.of_rows()
            kind = f"counts of {self.space.sites} words in documents of {length.min()} to {length.max()}"
        return kind

    def describe(self) -> str:
        """Shape, kind and number of rows, in words."""
        valid = len(self.valid) if self.valid else 0
        worth = "" if self.train.weights is None else f" (weighted, worth {self.train.size:.0f})"
        return (
            f"{self.kind}; {len(self.train)} rows for training{worth}, {valid} for validation, {len(self.test)} for "
            "testing"
        )

    def to(self, device: torch.device) -> "Data":
        """The same data on another device."""
        valid = None if self.valid is None else self.valid.to(device)
        return replace(self, train=self.train.to(device), valid=valid, test=self.test.to(device))


_Content = tuple[Any, tuple[int, ...], Iterator[NDArray[Any]]]


def _contents(split: Split) -> Iterator[_Content]:
    """Type, shape and numbers of all that makes its rows, whatever bytes they are stored in."""
    if isinstance(split.stored, SparseRows):
        yield from (_content(tensor.cpu().numpy()) for tensor in split.stored.tensors())
    elif isinstance(split.stored, Tensor) and not _narrow(split):
        yield _content(split.stored.cpu().numpy())
    else:
        kind = np.dtype(np.float32 if _narrow(split) else str(split.stored.dtype).removeprefix("torch."))
        content = (part.cpu().numpy().astype(kind, copy=False) for part in parts(split.stored))
        yield kind, tuple(split.stored.shape), content
    for part in (split.labels, split.weights, *(() if split.missing is None else (split.missing,))):
        yield _content(np.empty(0) if part is None else part.cpu().numpy())


def _content(array: NDArray[Any]) -> _Content:
    return array.dtype, array.shape, pieces(array)


def _narrow(split: Split) -> bool:
    """Whether real numbers are stored in integers that hold them."""
    return isinstance(split.space, Real) and split.scale == 1 and not split.stored.dtype.is_floating_point


def batch_index(train: Split, step: int, size: int, seed: int) -> Tensor:
    """Rows of batch number `step`: positions step*size ... of an endless sequence of shuffled passes over the data.

    Rows with weights are drawn independently, each with a probability proportional to its weight.
    """
    if train.weights is not None:
        u = rng.uniform((size,), rng.stream(seed, "batch", step), dtype=torch.float64)
        total = train.weights.cumsum(0)
        return torch.searchsorted(total, u * total[-1], right=True).clamp_max(len(train) - 1)
    rows = len(train)
    first, last = step * size, (step + 1) * size
    passes = [_order(rows, epoch, seed) for epoch in range(first // rows, (last - 1) // rows + 1)]
    offset = first - first // rows * rows
    return (torch.cat(passes) if len(passes) > 1 else passes[0])[offset : offset + size]


@lru_cache(maxsize=4)
def _order(rows: int, epoch: int, seed: int) -> Tensor:
    return rng.permutation(rows, rng.stream(seed, "epoch", epoch))


class Dataset(ABC):
    """A component that reads three splits; turning grey values into the model's space is done here, once for all."""

    binarize: Binarize
    values: ClassVar[Values | None]  # None: known only after reading
    levels: ClassVar[int] = 0  # so few grey values there are
    binary_by_default: ClassVar[Literal["threshold", "stochastic"]] = "stochastic"

    codes_are: ClassVar[str] = "store grey levels as 0 to 255, or in a data set of your own as floats in [0, 1]"
    """The way out for values that are no grey levels."""

    @property
    def out_of_vocabulary(self) -> int | None:
        """The number of the value that stands for all that a vocabulary lacks, if there is one."""
        return None

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the box that black and white are brought to."""
        return 0.0, 1.0

    @property
    def spreads_levels(self) -> bool:
        """Whether grey levels are spread evenly for models of real numbers."""
        return False

    @property
    def added(self) -> float:
        """Standard deviation of what is added to real values at each visit, in units of the space."""
        return 0.0

    @property
    def said(self) -> str:
        """How messages about its values begin."""
        path = getattr(self, "path", None)
        return "dataset" if path is None else f"dataset.path = {path}"

    @abstractmethod
    def read(self) -> Raw:
        """The arrays. Raises UserError naming folder and files when they are missing, malformed or empty."""

    def own_rows(self, path: Path, said: str, array: str | None) -> OwnRows:
        """Rows of the user's own from a file of the kind that such data come in, `said` being how it was named."""
        return own_rows.read(path, said, array)

    def bytes_to_read(self) -> int:
        """Bytes of memory that `read` takes, where headers tell; 0 where only reading can."""
        return 0

    def space_type(self, accepted: tuple[type[Space], ...]) -> type[Space] | None:
        """The space `load` would give a model that accepts those; None if only reading can tell."""
        if self.values is None and self.binarize not in ("threshold", "stochastic"):
            return None
        values = self.values or "grey"
        return _space_type(values, self.method(values, accepted), accepted, self.levels)

    def method(self, values: Values, accepted: tuple[type[Space], ...]) -> Binarize:
        """`auto` resolved: binarise grey values if the model takes binary data."""
        if self.binarize != "auto":
            return self.binarize
        return self.binary_by_default if values == "grey" and {Binary, Spin} & set(accepted) else "none"

    def load(self, accepted: tuple[type[Space], ...]) -> Data:
        """Read, binarise and check. Raises UserError naming the split and the first thing wrong with it."""
        dataset, unread = observed(self)
        data = dataset._loaded(accepted)
        return replace(data, idle=frozenset(unread))

    def _loaded(self, accepted: tuple[type[Space], ...]) -> Data:
        raw = self.read()
        if raw.values == "grey":
            method = self.method(raw.values, accepted)
        else:
            method = "none"
            self._refuse_bits(raw)
        space = _space(raw, method, accepted, lambda: self.bounds)
        splits = {name: split_of(part, raw, method, name, space) for name, part in raw.splits().items()}
        if isinstance(space, Real):
            splits = {name: self.shaded(split, raw) for name, split in splits.items()}
        remarks = (*raw.remarks, *self._remarks(raw, space))
        for split in splits.values():
            if isinstance(split.stored, FileRows):
                give_back(split.stored)
        return Data(
            space, splits["train"], splits.get("valid"), splits["test"], method, raw.truth, raw.words, remarks,
            raw.letters,
            raw.values == "grey", raw.columns,
        )  # fmt: skip

    def _refuse_bits(self, raw: Raw) -> None:
        """Raise UserError where values that cannot be binarised are to be."""
        wanted = vars(self)["binarize"]  # not an effect of the key on the data, and so not read as others are
        if raw.values != "binary" and wanted in ("threshold", "stochastic"):
            raise UserError(
                f"dataset.binarize = {wanted}: needs values in [0, 1] or uint8, the data go beyond; rescale them"
            )

    def shaded(self, split: Split, raw: Raw) -> Split:
        """The split, of real numbers, with what is added to its values."""
        if raw.values != "grey" or not self.spreads_levels:
            return replace(split, noise=self.added)
        levels = 256 if isinstance(split.stored, Tensor) and split.stored.dtype == torch.uint8 else raw.categories
        if not levels:
            raise UserError(
                "dataset.dequantise = true: these values are not uint8, so how many levels they have is not known; set "
                "it to false, with dataset.noise if need be, or store the values as uint8"
            )
        return replace(split, levels=levels, noise=self.added)

    def _remarks(self, raw: Raw, space: Space) -> tuple[str, ...]:
        """What the values are taken for, where that is not plain. Raises UserError if they are not what they seem."""
        if raw.spins and not isinstance(space, Spin):
            return ("the data are -1 and 1, this model has bits: -1 is 0, in samples too",)
        grey = _levels(raw) if raw.values == "grey" else {}
        return check_grey(grey, self.said, self.codes_are) if grey else ()


def _levels(raw: Raw) -> dict[str, NDArray[np.uint8]]:
    """The splits that are stored as uint8; of rows that stay in a file all that it has, of bits their levels, once."""
    found: dict[str, NDArray[np.uint8]] = {}
    for name, part in raw.splits().items():
        values = part.values.bytes.numpy() if isinstance(part.values, FileRows) else part.values
        if isinstance(values, PackedRows):
            found |= {name: np.array(values.values, np.uint8)} if values.values else {}
            continue
        kind = part.values.dtype
        if kind in (np.uint8, torch.uint8) and isinstance(values, np.ndarray):
            found |= {name: values} if not any(np.may_share_memory(values, array) for array in found.values()) else {}
    return found


Added = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class GreyDataset(Dataset):
    """Images of grey or coloured pixels with levels in between: bits, categories or points of a box.

    `box` unit is [0, 1], symmetric [-1, 1], for models of a box. Models of real numbers, in a box or not, get grey
    levels spread evenly with `dequantise`, and with `noise` normal numbers of that standard deviation on top.
    """

    binarize: Binarize
    box: Literal["unit", "symmetric"]
    dequantise: bool
    noise: Added

    @property
    @override
    def bounds(self) -> tuple[float, float]:
        return (0.0 if self.box == "unit" else -1.0), 1.0

    @property
    @override
    def spreads_levels(self) -> bool:
        return self.dequantise

    @property
    @override
    def added(self) -> float:
        return self.noise


@dataclass(frozen=True, kw_only=True)
class DrawnDataset(Dataset):
    """Rows that are drawn from a known law: `train` of them, and `held_out` each for validation and testing."""

    train: Annotated[int, Field(ge=1)]
    held_out: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    binarize: Binarize

    @property
    def rows(self) -> int:
        """All together."""
        return self.train + 2 * self.held_out

    def parted(self, values: Values, rows: NDArray[Any], truth: Truth = Truth()) -> Raw:
        """What `read` returns of all the rows, (rows, *shape)."""
        parts = np.split(rows, [self.train, self.train + self.held_out])
        train, valid, test = (Arrays(np.ascontiguousarray(part)) for part in parts)
        return Raw(values, train, valid, test, truth)


def _space_type(values: Values, method: Binarize, accepted: tuple[type[Space], ...], categories: int) -> type[Space]:
    """Bits, unless the model takes spins or categories alone; grey values in a box, real or levels as it takes them."""
    if values in ("categorical", "mixed", "words", "counts"):
        kinds: dict[str, type[Space]] = {"categorical": Categorical, "mixed": Mixed, "words": Words, "counts": Counts}
        return kinds[values]
    if values == "binary" or method in ("threshold", "stochastic"):
        return next((space for space in (Binary, Spin, Categorical) if space in accepted), Binary)
    if values == "grey" and Box in accepted:
        return Box
    levels = values == "grey" and categories > 0 and Real not in accepted and Categorical in accepted
    return Categorical if levels else Real


def _space(
    raw: Raw, method: Binarize, accepted: tuple[type[Space], ...], bounds: Callable[[], tuple[float, float]]
) -> Space:
    shape, kind = raw.train.values.shape[1:], _space_type(raw.values, method, accepted, raw.categories)
    if raw.columns is not None and (kind is Mixed or (kind not in accepted and Mixed in accepted)):
        return Mixed(shape, tuple(column.count for column in raw.columns.columns), units=raw.units)
    binary = raw.values == "binary" or method in ("threshold", "stochastic")
    if kind is Box:
        return Box(shape, *bounds())
    if kind is Words:
        return Words(shape, len(raw.words))
    if isinstance(raw.train.values, SparseRows):
        return Counts(shape, int(raw.train.values.of_rows().median()))
    if kind is Real:
        return Real(shape, units=raw.units)
    return Categorical((*shape, 2 if binary else raw.categories)) if kind is Categorical else kind(shape)


def split_of(part: Arrays, raw: Raw, method: Binarize, name: str, space: Space) -> Split:
    """The rows of a split in a space. Raises UserError naming the split if it is empty or of another shape."""
    values = raw.values
    if len(part.values) == 0:
        raise UserError(f"dataset: the {name} split is empty")
    if isinstance(part.values, SparseRows):
        return Split(space, part.values, 1.0, stochastic=False, labels=_labels(part, name))
    found: Any = part.values if isinstance(part.values, PackedRows | FileRows) else np.ascontiguousarray(part.values)
    found = found.astype(np.float32) if isinstance(space, Mixed) else found
    shape = space.site_shape
    if found.shape[1:] != shape:
        raise UserError(f"dataset: rows of the {name} split have shape {found.shape[1:]}, those of train {shape}")
    scale = 255.0 if values == "grey" and found.dtype in (np.uint8, torch.uint8) else 1.0
    if method == "threshold" and values == "grey":
        half = scale / 2
        found, scale = _of_each(found, lambda part: part >= half, packs=True), 1.0
    elif values == "grey" and method == "none" and isinstance(space, Categorical):
        top, white = space.values - 1, scale
        found, scale = _of_each(found, lambda part: np.rint(part / white * top)), 1.0
    elif values == "binary" and isinstance(found, np.ndarray) and found.size >= LARGE:
        found = packed(found, lambda part: part > 0)
    stored = torch.from_numpy(found) if isinstance(found, np.ndarray) else found
    weights = None if part.weights is None else torch.from_numpy(part.weights)
    stochastic = method == "stochastic" and values == "grey"
    missing = None if part.missing is None else torch.from_numpy(part.missing)
    return Split(
        space, stored, scale, stochastic, _labels(part, name), weights, missing=missing,
        sweeps=0 if missing is None else raw.sweeps,
    )  # fmt: skip


def _of_each(values: Any, number: Callable[[NDArray[Any]], NDArray[Any]], *, packs: bool = False) -> Any:
    """`number` of every value, a byte each, or packed where they `pack` and are many."""
    if isinstance(values, PackedRows):
        return values  # bits already
    content = pieces(values) if isinstance(values, np.ndarray) else (part.numpy() for part in parts(values))
    if packs and math.prod(values.shape) >= LARGE:
        return packed_pieces(map(number, content), values.shape)
    found, first = np.empty(values.shape, np.uint8), 0
    for piece in map(number, content):
        found[first : first + len(piece)] = piece
        first += len(piece)
    return found


def _labels(part: Arrays, name: str) -> Tensor | None:
    """One for each row, or None."""
    if part.labels is None:
        return None
    if len(part.labels) != len(part.values):
        raise UserError(f"dataset: the {name} split has {len(part.values)} rows and {len(part.labels)} labels")
    return torch.from_numpy(np.ascontiguousarray(part.labels, np.int64))


def placeholder(space: Space) -> Data:
    """One row of zeros: enough to build a model whose parameters will be loaded, where the data are not at hand."""
    split = Split(space, torch.zeros(1, *space.site_shape), 1.0, stochastic=False, labels=None)
    return Data(space, split, None, split)
