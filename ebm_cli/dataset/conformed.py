"""Rows of the user's own as a run's data were read: of its shape, checked, binarised and scaled alike."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_cli.dataset.base import Arrays, Data, Dataset, Raw, Split, Values, split_of
from ebm_cli.dataset.levels import check_grey
from ebm_cli.dataset.own_rows import OwnRows
from ebm_cli.errors import UserError
from ebm_cli.space import Categorical, Counts, Discrete, Measured, Mixed, Real, Space, Spin, Units, Words

_WHITE = 255


class Conformed(NamedTuple):
    """The rows as a split, and which of their sites are to be drawn, (n, *site_shape) bool."""

    split: Split
    missing: Tensor


def values_of(dataset: Dataset, space: Space, data: Data | None) -> Values | None:
    """What kind of values the data of a run had; `data` are these where only reading can tell. None: not known."""
    if isinstance(space, Real) and space.units is not None:
        return "real"
    if isinstance(space, Mixed):
        return "mixed"
    if dataset.values is not None:
        return dataset.values
    said = getattr(dataset, "categories", None)
    if said or (isinstance(space, Categorical) and space.values > 2 and not dataset.levels):
        return "categorical"
    if data is None:
        return "real" if type(space) is Real else None
    return "grey" if data.shaded else "binary" if isinstance(space, Discrete) else "real"


def conformed(dataset: Dataset, own: OwnRows, values: Values | None, space: Space, said: str) -> Conformed:
    """The rows of a file in the space of a run. Raises UserError naming the row, its value and the way out."""
    own = _shaped(own, space, said)
    kind = values or _guessed(own)
    array = _CHECKED[kind](own, space, said)
    if isinstance(space, Measured) and space.units is not None:
        array = _standardised(array, space.units)
    part = Arrays(array)
    raw = Raw(kind, part, None, part, categories=_categories(dataset, space), units=getattr(space, "units", None))
    method = dataset.method(kind, (type(space),)) if kind == "grey" else "none"
    split = split_of(part, raw, method, "given", space)
    split = dataset.shaded(split, raw) if isinstance(space, Real) else split
    return Conformed(split, torch.from_numpy(own.missing))


def _categories(dataset: Dataset, space: Space) -> int:
    return dataset.levels or (space.values if isinstance(space, Categorical) else 0)


def _shaped(own: OwnRows, space: Space, said: str) -> OwnRows:
    """Rows in the shape of the run's, or one after the other in a line."""
    shape = space.site_shape
    if own.values.shape[1:] not in (shape, (int(np.prod(shape)),)):
        here, due = ("x".join(map(str, form)) for form in (own.values.shape[1:], shape))
        raise UserError(f"{said}: its rows have {here} values, those of the run {due}; give rows of that shape")
    whole = (len(own.values), *shape)
    return replace(own, values=own.values.reshape(whole), missing=own.missing.reshape(whole))


def _guessed(own: OwnRows) -> Values:
    """By the values alone."""
    there = own.values[~own.missing]
    if np.isin(there, (0, 1)).all() or np.isin(there, (-1, 1)).all():
        return "binary"
    shades = own.values.dtype == np.uint8 or (own.values.dtype.kind == "f" and there.min() >= 0 and there.max() <= 1)
    return "grey" if shades else "real"


def _refuse(own: OwnRows, bad: NDArray[np.bool_], due: str, said: str) -> None:
    """Raise UserError for the first value that is bad, unless it is missing."""
    bad = bad & ~own.missing
    if not bad.any():
        return
    where = tuple(np.argwhere(bad)[0])
    site = int(np.ravel_multi_index(where[1:], own.values.shape[1:])) + 1
    raise UserError(f"{said}, {own.place(where[0])}: value {site} is {own.values[where]:g}; the run's are {due}")


def _bits(own: OwnRows, space: Space, said: str) -> NDArray[np.uint8]:
    """0 and 1; -1 and 1 are the same."""
    low = -1 if are_spins(own) else 0
    due = "-1 and 1, or 0 and 1" if isinstance(space, Spin) else "0 and 1"
    _refuse(own, (own.values != low) & (own.values != 1), due, said)
    return (own.values == 1).astype(np.uint8)


def are_spins(own: OwnRows) -> bool:
    """Whether there is a -1 among the values, and no 0."""
    there = own.values[~own.missing]
    return bool((there == -1).any() and not (there == 0).any())


def _grey(own: OwnRows, space: Space, said: str) -> NDArray[Any]:
    """uint8, or floats in [0, 1]; 0 and 1 alone are black and white whatever their type."""
    values = own.values
    if np.isin(values[~own.missing], (0, 1)).all():
        return values.astype(np.float32)
    if values.dtype.kind in "iu":
        _refuse(own, (values < 0) | (values > _WHITE), "grey levels from 0 to 255, or floats from 0 to 1", said)
        found = values.astype(np.uint8)
        check_grey({"rows": found}, said, "give grey levels as 0 to 255, or as floats from 0 to 1")
        return found
    _refuse(own, ~((values >= 0) & (values <= 1)), "grey levels from 0 to 1, or 0 to 255 as whole numbers", said)
    return values.astype(np.float32)


def _numbers(own: OwnRows, space: Space, said: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        _refuse(own, ~np.isfinite(own.values.astype(np.float32)), "finite numbers (as float32)", said)
    units = isinstance(space, Real) and space.units is not None
    return own.values.astype(np.float64 if units else np.float32)


def _numbered(own: OwnRows, space: Space, said: str) -> NDArray[Any]:
    """Numbers of categories."""
    assert isinstance(space, Categorical)
    top = space.values - 1
    bad = (own.values < 0) | (own.values > top) | (own.values != np.floor(own.values))
    _refuse(own, bad, f"the numbers of categories, 0 to {top}", said)
    return own.values.astype(np.uint8 if top < 2**8 else np.int32)


def _words(own: OwnRows, space: Space, said: str) -> NDArray[np.int64]:
    assert isinstance(space, Words)
    bad = (own.values < 0) | (own.values >= space.values) | (own.values != np.floor(own.values))
    _refuse(own, bad, f"the numbers of words, 0 to {space.values - 1}", said)
    return own.values.astype(np.int64)


def _counted(own: OwnRows, space: Space, said: str) -> NDArray[np.float32]:
    assert isinstance(space, Counts)
    _refuse(own, (own.values < 0) | (own.values != np.floor(own.values)), "counts of words, 0, 1, 2, ...", said)
    empty = np.flatnonzero(own.values.sum(1) == 0)
    if len(empty):
        raise UserError(f"{said}, {own.place(int(empty[0]))}: holds no word; leave such documents out")
    return own.values.astype(np.float32)


def _of_columns(own: OwnRows, space: Space, said: str) -> NDArray[np.float64]:
    """Numbers of categories, or finite ones, each column by itself."""
    assert isinstance(space, Mixed)
    values, count = own.values.astype(np.float64), np.array(space.values)
    whole = (values == np.floor(values)) & (values >= 0) & (values < count)
    _refuse(own, (count > 0) & ~whole, "numbers of the categories of each column from 0", said)
    with np.errstate(over="ignore"):
        _refuse(own, ~np.isfinite(values.astype(np.float32)), "finite numbers (as float32)", said)
    return values


def _standardised(values: NDArray[Any], units: Units) -> NDArray[np.float32]:
    """(x - mean) / deviation of the run's training rows."""
    mean, deviation = (np.array(of).reshape(values.shape[1:]) for of in (units.mean, units.deviation))
    found: NDArray[np.float32] = ((values - mean) / deviation).astype(np.float32)
    return found


_CHECKED: dict[Values, Any] = {
    "binary": _bits,
    "grey": _grey,
    "real": _numbers,
    "categorical": _numbered,
    "mixed": _of_columns,
    "words": _words,
    "counts": _counted,
}
