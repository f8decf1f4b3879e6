"""Columns of real numbers: brought to mean 0 and standard deviation 1, and what is doubtful about them as they are."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from ebm_cli.dataset.base import Data
from ebm_cli.dataset.stored import FileRows, exact_parts
from ebm_cli.errors import UserError
from ebm_cli.space import Box, Real, Units

_ROWS = 2000  # that scales and levels are judged by
_DIGITS = 100  # standard deviations below so many steps of float32 are hardly there
_FAR, _NARROW = 10.0, 0.01  # from 0 and 1, about which models of real numbers begin
_REPEATED = 10  # times that a value is there on average, of columns that are called quantised
_FEWEST = 50  # rows from which on that can be told
_NAMED = 3
_BE = ("is", "are")
_WAY = "dataset.standardise=true of dataset=array brings columns to mean 0 and standard deviation 1, and samples back"


class _Column(NamedTuple):
    """Of each column, (sites,) float64."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


def standardised(splits: Mapping[str, Any], said: str) -> tuple[Units, dict[str, Any]]:
    """Mean and standard deviation of each column of train, and all splits in these units: (x - mean) / deviation.

    Rows that stay in their file stay there. Raises UserError for a column that is constant in train.
    """
    train = splits["train"]
    column = _of_columns(train)
    constant = np.flatnonzero(column.low == column.high)
    if len(constant):
        raise UserError(
            f"dataset.standardise = true: {_columns(constant)} of {said} {_BE[len(constant) > 1]} constant in the "
            f"{len(train)} training rows, so there is no deviation to divide by; leave out such columns"
        )
    found = {name: _in_units(array, column.mean, column.deviation) for name, array in splits.items()}
    return Units(tuple(column.mean.tolist()), tuple(column.deviation.tolist())), found


def _of_columns(train: NDArray[Any] | FileRows) -> _Column:
    if isinstance(train, FileRows):
        return _of_file(train)
    x = train.reshape(len(train), -1).astype(np.float64)
    return _Column(x.min(0), x.max(0), x.mean(0), x.std(0))


def _of_file(train: FileRows) -> _Column:
    """The same of rows that are read some at a time, twice: deviations are from the mean, not from 0."""
    sums = [(part.amin(0), part.amax(0), part.sum(0)) for part in exact_parts(train)]
    low, high, total = (torch.stack(of) for of in zip(*sums, strict=True))
    mean = total.sum(0) / len(train)
    squares = torch.stack([(part - mean).square().sum(0) for part in exact_parts(train)]).sum(0)
    return _Column(low.amin(0).numpy(), high.amax(0).numpy(), mean.numpy(), (squares / len(train)).sqrt().numpy())


def _in_units(rows: NDArray[Any] | FileRows, mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> Any:
    if isinstance(rows, FileRows):
        return replace(rows, units=(torch.from_numpy(mean), torch.from_numpy(deviation)))
    shape = rows.shape[1:]
    return ((rows - mean.reshape(shape)) / deviation.reshape(shape)).astype(np.float32)


def check_resolution(train: NDArray[Any], said: str) -> None:
    """Raise UserError where float32, which models get, hardly tells the values of a column (n, *shape) apart."""
    x = _some(train).reshape(-1, int(np.prod(train.shape[1:]))).astype(np.float64)
    deviation, step = x.std(0), np.abs(x).max(0) * 2.0**-24
    lost = np.flatnonzero((x.min(0) < x.max(0)) & (deviation < _DIGITS * step))
    if len(lost):
        j = lost[0]
        raise UserError(
            f"{said}: column {j} of train has mean {x[:, j].mean():.9g} and standard deviation {deviation[j]:.3g}, for "
            "which the 7 digits of float32 are too few; set dataset.standardise=true"
        )


def remarks(data: Data, *, own_scale: bool) -> tuple[str, ...]:
    """Sentences on rows of which a density says little, or whose scale is not that of most models of real numbers."""
    if not isinstance(data.space, Real):
        return ()
    found = (None if own_scale else scale(data), _quantised(data))
    return tuple(str(doubt) for doubt in found if doubt)


class Scale(NamedTuple):
    """Of columns of real numbers the size of the mean farthest from 0, the least and the largest deviation."""

    mean: float
    low: float
    high: float

    @override
    def __str__(self) -> str:
        return (
            f"columns have means up to {self.mean:.3g} from 0 and standard deviations from {self.low:.3g} to "
            f"{self.high:.3g}, models of real numbers begin near 0 and 1; {_WAY}"
        )


def scale(data: Data) -> Scale | None:
    """That of columns far from mean 0 and standard deviation 1, if these are real numbers as they were read."""
    if type(data.space) is not Real or data.space.units is not None or data.shaded:
        return None
    x = _rows(data)
    mean, deviation = float(np.abs(x.mean(0)).max()), x.std(0)
    narrow = deviation[deviation > 0].min(initial=1.0)
    if max(mean, deviation.max()) <= _FAR and narrow >= _NARROW:
        return None
    return Scale(mean, float(deviation.min()), float(deviation.max()))


def _quantised(data: Data) -> str | None:
    """A sentence on values that repeat, so that a density can grow on them without bound, unless they are spread."""
    train = data.train
    if train.levels or train.noise or len(train) < _FEWEST:
        return None
    x = np.sort(_rows(data), axis=0)
    distinct = 1 + (np.diff(x, axis=0) > 0).sum(0)
    few = np.flatnonzero(distinct * _REPEATED <= len(x))
    if not len(few):
        return None
    example = f"column {few[0]} has {distinct[few[0]]} distinct values in {len(x)} rows"
    way = "dataset.noise" if not data.shaded else "dataset.dequantise=true (of uint8) or dataset.noise"
    inside = "the box" if isinstance(data.space, Box) else "the real numbers"
    return (
        f"the values of {_columns(few)} repeat ({example}): a density on {inside} can grow on them without bound, so a "
        f"likelihood says little; {way} spreads them"
    )


def _rows(data: Data) -> NDArray[np.float64]:
    """Some training rows as a model gets them, (rows, sites)."""
    index = torch.linspace(0, len(data.train) - 1, min(_ROWS, len(data.train)), dtype=torch.float64).long()
    grey = data.train.stored[index.to(data.train.stored.device)]
    return grey.flatten(1).double().cpu().numpy() / data.train.scale


def _some(rows: NDArray[Any]) -> NDArray[Any]:
    return rows[np.linspace(0, len(rows) - 1, min(_ROWS, len(rows))).astype(int)]


def _columns(which: NDArray[Any]) -> str:
    """Numbers of columns, the first few of many."""
    first = ", ".join(map(str, which[:_NAMED].tolist()))
    if len(which) == 1:
        return f"column {first}"
    return f"columns {first}" + (f", ... ({len(which)} of them)" if len(which) > _NAMED else "")
