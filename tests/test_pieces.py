"""Large arrays a piece at a time: the answers of the whole, without a copy of it."""

import hashlib
import tracemalloc

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from ebm_cli.dataset import pieces
from ebm_cli.dataset.array import convert
from ebm_cli.dataset.base import Data, Split
from ebm_cli.dataset.held_out import FileSplit, hold_out
from ebm_cli.space import Binary, Box, Categorical, Spin


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "_BYTES", 200)


@pytest.fixture
def rows():
    return np.random.default_rng(0).integers(0, 256, (101, 3, 4), np.uint8)


def peak(work):
    """Bytes that were allocated at once while it ran, and its answer."""
    tracemalloc.start()
    try:
        found = work()
        return tracemalloc.get_traced_memory()[1], found
    finally:
        tracemalloc.stop()


def test_pieces_are_views_that_cover_all_rows(rows):
    found = list(pieces.pieces(rows))
    assert len(found) == 7
    assert all(np.shares_memory(piece, rows) and piece.nbytes <= 200 for piece in found)
    assert_array_equal(np.concatenate(found), rows)
    assert list(pieces.pieces(rows[:0])) == []
    assert [len(piece) for piece in pieces.pieces(np.zeros((2, 999)))] == [1, 1]


def test_what_is_asked_of_values_is_asked_of_all(rows):
    assert pieces.every(rows, lambda part: part >= 0)
    rows[-1, -1, -1] = 7
    assert not pieces.every(rows, lambda part: part != 7)
    assert pieces.count(rows, lambda part: part > 99) == (rows > 99).sum()


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.bool_, np.float32, np.int64])
@pytest.mark.parametrize("owned", [True, False])
def test_bytes_take_the_memory_that_is_theirs(rows, kind, owned):
    array = (rows % 2).astype(kind)
    before = array.copy()
    found = pieces.as_bytes(array, lambda part: part > 0, owned=owned)
    assert found.dtype == np.uint8
    assert_array_equal(found, before > 0)
    assert np.shares_memory(found, array) == (owned and array.itemsize == 1)
    if not owned:
        assert_array_equal(array, before)


def test_rows_are_ordered_anew_in_place(rows):
    before, last = rows.copy(), np.sort(np.random.default_rng(1).permutation(101)[:23])
    kept = np.setdiff1d(np.arange(101), last)
    pieces.put_last(rows, kept, last)
    assert_array_equal(rows, before[np.concatenate([kept, last])])


def test_what_is_held_out_is_the_same_as_ever_and_no_copy(rows):
    before, labels = rows.copy(), np.arange(101)
    train, test = hold_out(FileSplit("train", rows, labels), "test", 0.1, "said")
    assert hashlib.md5(test.labels.tobytes()).hexdigest() == "706dfbaf72b1ee283aff5b6fd417b4ab"
    assert_array_equal(test.values, before[test.labels])
    assert_array_equal(train.values, before[train.labels])
    assert_array_equal(np.sort(np.concatenate([train.labels, test.labels])), labels)
    assert np.shares_memory(train.values, rows)
    assert np.shares_memory(test.values, rows)


@pytest.mark.parametrize("low", [0, -1])
def test_bits_and_spins_of_a_byte_become_bits_where_they_are(low):
    array = np.where(np.random.default_rng(0).random((4000, 50)) < 0.3, low, 1).astype(np.int8)
    expected = array > 0
    size, (values, (found,)) = peak(lambda: convert([array], "said"))
    assert (values, found.dtype) == ("binary", np.uint8)
    assert_array_equal(found, expected)
    assert size < array.nbytes / 4


def test_grey_levels_are_looked_at_without_a_copy():
    array = np.random.default_rng(0).integers(0, 256, (4000, 50), np.uint8)
    size, (values, (found,)) = peak(lambda: convert([array], "said"))
    assert values == "grey"
    assert found is array
    assert size < array.nbytes / 4


def test_the_mean_of_pieces_is_that_of_the_whole(monkeypatch, rows):
    monkeypatch.setattr("ebm_cli.dataset.stored._AT_ONCE", 100)
    monkeypatch.setattr("ebm_cli.dataset.stored._BYTES_AT_ONCE", 100)
    for grey in (torch.from_numpy(rows), torch.from_numpy(rows).float()):
        split = Split(Box((3, 4)), grey, 255.0, stochastic=False, labels=None)
        torch.testing.assert_close(split.mean(), (grey.double().mean(0) / 255).float(), rtol=0, atol=1e-7)


def test_frequencies_of_categories_are_those_of_the_whole(rows):
    rows = rows % 5
    weights = torch.from_numpy(np.random.default_rng(2).random(101))
    split = Split(Categorical((3, 4, 5)), torch.from_numpy(rows), 1.0, stochastic=False, labels=None, weights=weights)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(rows).long(), 5).double()
    expected = (one_hot * weights[:, None, None, None]).sum(0) / weights.sum()
    torch.testing.assert_close(split.mean(), expected.float())


@pytest.mark.parametrize("space", [Binary((3, 4)), Spin((3, 4)), Box((3, 4))])
def test_pieces_of_a_split_and_single_rows_are_those_of_the_whole(space, rows):
    """Also what is drawn."""
    split = Split(space, torch.from_numpy(rows), 255.0, stochastic=not isinstance(space, Box), labels=None, noise=0.1)
    whole = split.all()
    found = list(split.pieces(10))
    assert [len(piece) for piece in found] == [10] * 10 + [1]
    assert torch.equal(torch.cat(found), whole)
    assert torch.equal(split.fixed(torch.tensor([100, 0, 57])), whole[[100, 0, 57]])


def test_the_fingerprint_does_not_depend_on_pieces(monkeypatch, rows):
    def fingerprint():
        split = Split(Box((3, 4)), torch.from_numpy(rows), 255.0, stochastic=False, labels=None)
        return Data(split.space, split, None, split).fingerprint

    small = fingerprint()
    monkeypatch.setattr(pieces, "_BYTES", 2**24)
    assert fingerprint() == small
    rows[100, 2, 3] += 1
    assert fingerprint() != small
