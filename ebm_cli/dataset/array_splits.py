"""Which arrays of a file are the splits, their labels and weights, each checked by itself and against train."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ebm_cli.dataset import array_files, kinds
from ebm_cli.dataset.array_files import ENDINGS, UNNAMED, Format
from ebm_cli.dataset.content import Bits, Header, Reader, whole
from ebm_cli.dataset.held_out import FileSplit
from ebm_cli.dataset.pieces import count, every
from ebm_cli.errors import UserError

_WORDS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
_SAMPLES = "samples"  # as rbms calls the rows
_TYPE = "variable_type"  # and what it calls their kind of values
_TYPES = ("bernoulli", "ising", "categorical", "continuous")
_NAMED = 5  # arrays named in a remark
_IS = ("is", "are")
AsRead = NDArray[Any] | Bits


class Parts(NamedTuple):
    """The splits in a file by their names train, valid and test."""

    splits: dict[str, FileSplit]
    remarks: tuple[str, ...]
    kind: str | None  # of values, where the file says it: one of rbms' names


def values_names(split: str) -> Iterator[str]:
    """What the values of a split may be called."""
    for word in _WORDS[split]:
        yield from (word, f"{word}_data", f"x_{word}", f"X_{word}")


def label_names(split: str) -> Iterator[str]:
    """What its labels may be called."""
    for word in _WORDS[split]:
        yield from (f"{word}_label", f"{word}_labels", f"y_{word}")


SPLIT_NAMES = tuple(name for split in _WORDS for name in values_names(split))
"""All names of values."""


def read_parts(path: Path, said: str, read: Reader, array: str | None) -> Parts:
    """What the file has; `array` names the one that holds train. Raises UserError with the first thing wrong."""
    if not path.exists():
        raise UserError(f"{said}: there is no such file")
    files = array_files.of(path)
    if files is None:
        what = "a folder without idx files" if path.is_dir() else "cut short, or of another kind"
        other = f"{what}; name a file of arrays, {ENDINGS}"
        raise UserError(f"{said}: not a file of arrays: {kinds.instead(path, other)}")
    there = files.headers(path, said)
    names, remarks = _chosen(there, array, said)
    arrays = files.read(path, tuple(names.values()), said, read)
    return _checked(files, path, said, names, there, arrays, remarks)


def _checked(
    files: Format, path: Path, said: str, names: Mapping[str, str], there: Mapping[str, Header],
    arrays: Mapping[str, Any], remarks: tuple[str, ...],
) -> Parts:  # fmt: skip
    beside = {split: _beside(split, key, there, said) for split, key in names.items()}
    others = files.read(path, [name for found in beside.values() for name in found.values()], said, whole)
    kind = _kind(files.read(path, (_TYPE,), said, whole).get(_TYPE), said)
    splits = {}
    for split, key in names.items():
        check_values(arrays[key], key, arrays[names["train"]], said)
        labels, weights = (others.get(beside[split].get(what, "")) for what in ("labels", "weights"))
        splits[split] = FileSplit(
            key, arrays[key], _labels(labels, beside[split].get("labels", ""), key, len(arrays[key]), said),
            _weights(weights, beside[split].get("weights", ""), key, len(arrays[key]), said),
        )  # fmt: skip
    read = {_TYPE, *names.values(), *(name for found in beside.values() for name in found.values())}
    return Parts(splits, (*remarks, *_unread(there, read, said)), kind)


def _chosen(there: Mapping[str, Header], array: str | None, said: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The names of the arrays by split, and remarks."""
    found: dict[str, str] = {}
    for split in _WORDS:
        names = [name for name in values_names(split) if name in there and not _is_sparse(name, there)]
        if len(names) > 1 and not (split == "train" and array):
            raise UserError(f"{said}: has both {names[0]} and {names[1]}; leave out one of them")
        found |= {split: names[0]} if names else {}
    if array is not None:
        if array not in there:
            raise UserError(f"dataset.array = {array}: {said} has no such array; it has {_listed(there)}")
        others = {split: name for split, name in found.items() if split != "train" and name != array}
        return {"train": array, **others}, ()
    if "train" in found:
        return found, ()
    only = _the_only(there, found)
    if only is None:
        raise UserError(
            f"{said}: has no key train; it has {_listed(there)}" + ("; name one, dataset.array=NAME" * bool(there))
        )
    said_as = () if only == _SAMPLES else (f"{said}: its one array{_called(only)} is taken for train",)
    return {"train": only, **found}, said_as


def _called(name: str) -> str:
    return "" if name == UNNAMED else f", {name},"


def _is_sparse(name: str, there: Mapping[str, Header]) -> bool:
    """Whether these are the numbers of a sparse matrix."""
    return f"{name.removesuffix('_data')}_indptr" in there


def _the_only(there: Mapping[str, Header], found: Mapping[str, str]) -> str | None:
    """The array that must be the rows, where none is called so."""
    if _SAMPLES in there:
        return _SAMPLES
    beside = {*found.values(), *(name for split in _WORDS for name in label_names(split)), "labels", "label", "weights"}
    names = [name for name, about in there.items() if name not in beside and about.kind.kind in "biuf"]
    names = [name for name in names if len(there[name].shape) > 1] if len(names) > 1 else names
    return names[0] if len(names) == 1 else None


def _beside(split: str, key: str, there: Mapping[str, Header], said: str) -> dict[str, str]:
    """The names of the labels and weights of a split that there are."""
    own = split == "train"
    labels = [*label_names(split), f"{key}_label", f"{key}_labels", *(("labels", "label") if own else ())]
    weights = [f"{word}_weights" for word in (*_WORDS[split], key)] + (["weights"] if own else [])
    chosen = {
        what: next((n for n in names if n in there), None) for what, names in (("labels", labels), ("weights", weights))
    }
    one, other = "valid_label", "val_label"
    if split == "valid" and one in there and other in there:
        raise UserError(f"{said}: has both {one} and {other}; leave out one of them")
    return {what: name for what, name in chosen.items() if name is not None and name != key}


def _unread(there: Mapping[str, Header], read: set[str], said: str) -> tuple[str, ...]:
    """A remark on arrays that are passed over."""
    others = [name for name in there if name not in read]
    if not others:
        return ()
    which = f"{', '.join(others[:_NAMED])}{', ...' if len(others) > _NAMED else ''} {_IS[len(others) > 1]} not read"
    known = "train, valid, val, test, each with NAME_label and NAME_weights, or what dataset.array names"
    return (f"{said}: {which}; keys that are: {known}",)


def _listed(there: Mapping[str, Header]) -> str:
    return ", ".join(there) or "none"


def _kind(found: Any, said: str) -> str | None:
    """What the file says of its values."""
    if found is None:
        return None
    kind = str(found.reshape(-1)[0]) if found.dtype.kind == "U" and found.size == 1 else str(found.dtype)
    if kind.lower() not in _TYPES:
        raise UserError(f"{said}: {_TYPE} is {kind}; it must be one of {', '.join(_TYPES)}")
    return kind.lower()


def check_values(array: AsRead, key: str, train: AsRead, said: str) -> None:
    """Raise UserError unless `array` is numbers of shape (n > 0, *shape) with the row shape of `train`."""
    if isinstance(array, Bits):
        _check_shape(array, key, train, said)
        return
    if array.dtype.kind not in "biuf":
        raise UserError(f"{said}: {key} has type {array.dtype}; it must be bool, integer or floating point")
    if array.ndim < 2:
        raise UserError(f"{said}: {key} has shape {array.shape}; it must be (n, *shape), one row per configuration")
    if array.size == 0:
        raise UserError(f"{said}: {key} has shape {array.shape}, so it is empty; give it rows or leave it out")
    _check_shape(array, key, train, said)
    # float32 is what models get, so a finite float64 beyond its range is no better than an infinite one.
    with np.errstate(over="ignore"):
        bad = count(array, lambda part: ~np.isfinite(part.astype(np.float32))) if array.dtype.kind == "f" else 0
    if bad:
        raise UserError(f"{said}: {key} has {bad} of {array.size} values NaN or infinite (as float32); remove them")


def _check_shape(array: AsRead, key: str, train: AsRead, said: str) -> None:
    if array.shape[1:] != train.shape[1:]:
        raise UserError(f"{said}: rows of {key} have shape {array.shape[1:]}, those of train {train.shape[1:]}")


def _labels(found: Any, name: str, key: str, rows: int, said: str) -> NDArray[np.int64] | None:
    """Integers, (rows,), or None; numbers of MATLAB are floating-point ones, in a column or a line."""
    if found is None:
        return None
    flat = _flat(found, rows)
    whole_numbers = flat.dtype.kind in "biu" or (found.ndim == 2 and every(flat, lambda part: part == np.floor(part)))
    if not whole_numbers or flat.shape != (rows,):
        raise UserError(
            f"{said}: {name} has type {found.dtype} and shape {found.shape}; it must be integers of shape {(rows,)}, "
            f"one for each row of {key}"
        )
    return flat.astype(np.int64)


def _weights(found: Any, name: str, key: str, rows: int, said: str) -> NDArray[np.float64] | None:
    """Positive numbers, (rows,), or None."""
    if found is None:
        return None
    flat = _flat(found, rows)
    numbers = flat.dtype.kind in "iuf" and flat.shape == (rows,)
    if not numbers or not every(flat, lambda part: (part > 0) & (part < np.inf)):
        raise UserError(
            f"{said}: {name} has type {found.dtype} and shape {found.shape}; it must be positive numbers of shape "
            f"{(rows,)}, one for each row of {key}"
        )
    return flat.astype(np.float64)


def _flat(found: NDArray[Any], rows: int) -> NDArray[Any]:
    """A column or a line as MATLAB has it, or what it is."""
    return found.reshape(-1) if found.ndim == 2 and found.shape in ((rows, 1), (1, rows)) else found
