"""Word counts that are there already: .npz files of compressed sparse rows, and matrix market files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_cli.dataset.counting import SPLITS, Counted, checked_words
from ebm_cli.dataset.files import UNREADABLE, npz_keys, read_npz
from ebm_cli.dataset.texts import decoded
from ebm_cli.errors import UserError

PARTS = ("data", "indices", "indptr", "shape")
_KEYS = ("vocab", *(f"{split}_{part}" for split in SPLITS for part in (*PARTS, "label")))
_MOST = 2**31 - 1  # of any one count

Arrays = Mapping[str, NDArray[Any]]


def of_npz(path: Path, said: str) -> tuple[dict[str, Counted], tuple[str, ...]]:
    """The splits that the file has, train among them, and its words. Raises UserError naming the key that is wrong."""
    arrays = read_npz(path, _KEYS, said)
    there = [split for split in SPLITS if any(f"{split}_{part}" in arrays for part in PARTS)]
    for key in ("vocab", *(f"{split}_{part}" for split in ("train", *there) for part in PARTS)):
        if key not in arrays:
            raise UserError(f"{said}: has no key {key}; it has {', '.join(npz_keys(path)) or 'none'}")
    splits = {split: _split(arrays, split, said) for split in there}
    words = _vocabulary(arrays["vocab"], said)
    for split, part in splits.items():
        if part.counts.shape[1] != len(words):
            raise UserError(
                f"{said}: {split}_shape says {part.counts.shape[1]} words, vocab has {len(words)}; they must agree"
            )
    return splits, words


def _vocabulary(found: NDArray[Any], said: str) -> tuple[str, ...]:
    if found.dtype.kind != "U" or found.ndim != 1:
        raise UserError(f"{said}: vocab has type {found.dtype} and shape {found.shape}; it must be strings (words,)")
    return checked_words(map(str, found), f"{said}: vocab")


def _split(arrays: Arrays, split: str, said: str) -> Counted:
    """One split, each of its arrays checked by itself and against the others."""
    from scipy.sparse import csr_matrix

    data, indices, first, shape = (arrays[f"{split}_{part}"] for part in PARTS)
    for part, array in zip(PARTS[1:], (indices, first, shape), strict=True):
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise UserError(
                f"{said}: {split}_{part} has type {array.dtype} and shape {array.shape}; it must be integers in a row"
            )
    if len(shape) != 2 or shape.min() < 1:
        raise UserError(f"{said}: {split}_shape is {shape.tolist()}; it must be [documents, words]")
    documents, words = (int(n) for n in shape)
    first = first.astype(np.int64)
    if len(first) != documents + 1 or first[0] != 0 or (np.diff(first) < 0).any():
        raise UserError(f"{said}: {split}_indptr must rise from 0, with {documents + 1} entries for as many documents")
    if data.shape != indices.shape or first[-1] != len(indices):
        raise UserError(
            f"{said}: {split}_data has shape {data.shape}, {split}_indices {indices.shape} and {split}_indptr ends at "
            f"{first[-1]}; they must agree"
        )
    if len(indices) and (indices.min() < 0 or indices.max() >= words):
        raise UserError(
            f"{said}: {split}_indices go from {indices.min()} to {indices.max()}; the words are 0 to {words - 1}"
        )
    counts = whole(data, f"{said}: {split}_data")
    matrix = csr_matrix((counts, indices.astype(np.int64), first), shape=(documents, words))
    return Counted(matrix, [f"{split} row {i}" for i in range(documents)], _labels(arrays, split, documents, said))


def _labels(arrays: Arrays, split: str, documents: int, said: str) -> NDArray[np.int64] | None:
    labels = arrays.get(f"{split}_label")
    if labels is None:
        return None
    if labels.dtype.kind not in "biu" or labels.shape != (documents,):
        raise UserError(
            f"{said}: {split}_label has type {labels.dtype} and shape {labels.shape}; it must be integers of shape "
            f"{(documents,)}, one for each document"
        )
    return labels.astype(np.int64)


def of_matrix_market(
    path: Path, vocabulary: Path | None, encoding: str | None, said: str
) -> tuple[Counted, tuple[str, ...]]:
    """Documents and their words, which without a vocabulary file are called by the numbers of their columns, from 1."""
    from scipy.io import mmread
    from scipy.sparse import csr_matrix

    try:
        matrix = csr_matrix(mmread(path))
        counts = whole(matrix.data, f"{said}: its matrix")
    except (*UNREADABLE, TypeError, OverflowError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{said}: no matrix market file of documents and words ({reason}); write it anew") from error
    rows, columns = matrix.shape
    words = tuple(map(str, range(1, columns + 1)))
    if vocabulary is not None:
        named = f"dataset.vocabulary_file = {vocabulary}"
        words = checked_words(lines(decoded(vocabulary, encoding or "utf-8", named)), named)
    if len(words) != columns:
        raise UserError(
            f"dataset.vocabulary_file = {vocabulary}: has {len(words)} words, the matrix {columns} columns and {rows} "
            "rows; a column is a word, a row a document"
        )
    matrix = csr_matrix((counts, matrix.indices, matrix.indptr), shape=matrix.shape)
    return Counted(matrix, [f"row {i}" for i in range(1, rows + 1)]), words


def lines(text: str) -> Sequence[str]:
    """Lines without the blanks around them; empty ones at the end are none."""
    return [line.strip() for line in text.rstrip().split("\n")]


def whole(data: NDArray[Any], said: str) -> NDArray[np.int64]:
    """The same as integers. Raises UserError, beginning with `said`, for what is not a count."""
    if data.dtype.kind not in "biuf" or data.ndim != 1:
        raise UserError(f"{said} has type {data.dtype}; it must be counts")
    for wrong, what in (
        (data < 0, "negative"),
        (data != np.floor(data), "fractional"),
        (~(data <= _MOST), "too large"),
    ):
        if wrong.any():
            raise UserError(
                f"{said} has {wrong.sum()} {what} numbers, {data[wrong][0]:g} the first; counts are 0, 1, ..."
            )
    return data.astype(np.int64)
