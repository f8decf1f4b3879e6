"""Rows in few bytes, packed or in their file, are the same rows: to a model, to hashes and to means."""

import gzip
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from helpers.components import component
from helpers.idx import idx
from numpy.testing import assert_array_equal

from ebm_cli import rng
from ebm_cli.commands.best import _as_many
from ebm_cli.dataset import base, content, mnist, stored
from ebm_cli.dataset.base import Data, Split
from ebm_cli.dataset.mnist import read_idx
from ebm_cli.dataset.stored import FileRows, PackedRows, packed
from ebm_cli.device import memory
from ebm_cli.device.ahead import traced
from ebm_cli.errors import UserError
from ebm_cli.noise.dataset import Rows
from ebm_cli.rng import Counter
from ebm_cli.space import Binary, Box, Categorical, Real, Spin

DRAWS = np.random.default_rng(0)
BITS = (DRAWS.random((101, 3, 5)) < 0.3).astype(np.uint8)
GREY = DRAWS.integers(0, 256, (101, 3, 5), np.uint8)
REAL = DRAWS.normal(size=(101, 3, 5))


@pytest.fixture
def _everything_is_large(monkeypatch):
    for module in (content, base, mnist):
        monkeypatch.setattr(module, "LARGE", 1)
    monkeypatch.setattr(content, "MAPPED", 1)
    monkeypatch.setattr(content, "_AT_ONCE", 200)
    monkeypatch.setattr(stored, "_BYTES_AT_ONCE", 100)


def split_of(space, rows, **changes):
    settings = {"scale": 1.0, "stochastic": False, "labels": None} | changes
    return Split(space, rows, **settings)


@pytest.mark.parametrize("row", [(15,), (3, 5), (16,), (1,), (2, 2, 2)])
def test_packed_bits_are_the_bits(row):
    bits = (DRAWS.random((23, *row)) < 0.4).astype(np.uint8)
    rows = packed(bits, lambda part: part > 0)
    assert rows.bytes.shape == (23, -(-np.prod(row) // 8))
    for index in ([4, 0, 22, 4], []):
        index = torch.tensor(index, dtype=torch.int64)
        assert rows[index].dtype == torch.uint8
        assert_array_equal(rows[index], bits[index])
        assert_array_equal(rows.part(index)[torch.arange(len(index))], bits[index])
    assert rows.shape == bits.shape


@pytest.mark.parametrize("space", [Binary((3, 5)), Spin((3, 5)), Categorical((3, 5, 2))])
def test_a_split_of_packed_bits_is_that_of_the_bits(space):
    plain, small = split_of(space, torch.from_numpy(BITS)), split_of(space, packed(BITS, lambda part: part > 0))
    assert torch.equal(small.all(), plain.all())
    assert torch.equal(small.mean(), plain.mean())
    assert small.fingerprint == plain.fingerprint
    whole, few = (Data(space, part, None, part) for part in (plain, small))
    assert few.fingerprint == whole.fingerprint
    assert few.bytes < whole.bytes / 7
    assert_array_equal(_as_many(small, 7).all(), _as_many(plain, 7).all())
    key = rng.stream(0, "rows")
    assert torch.equal(Rows(small).sample(20, key), Rows(plain).sample(20, key))


def test_taking_out_packed_rows_can_be_traced():
    rows, index = packed(BITS, lambda part: part > 0), torch.tensor([7, 3])

    def taken(index, content):
        return split_of(Spin((3, 5)), PackedRows(content, (3, 5))).rows(index, Counter(torch.zeros(4).long()))

    assert torch.equal(traced(taken, [index, rows.bytes])(index, rows.bytes), taken(index, rows.bytes))


@pytest.mark.parametrize("form", ["savez", "savez_compressed", "npy"])
@pytest.mark.parametrize(
    ("values", "space", "kind"),
    [
        (BITS, Binary, PackedRows),
        (BITS.astype(bool), Spin, PackedRows),
        (BITS.astype(np.float64), Binary, PackedRows),
        (np.where(BITS > 0, 1, -1).astype(np.int8), Spin, PackedRows),
        (np.where(BITS > 0, 1, -1).astype(np.float32), Spin, PackedRows),
        (GREY, Box, FileRows),
        (GREY, Binary, FileRows),
        (REAL, Real, FileRows),
        (REAL.astype(np.float32), Real, FileRows),
        (np.floor(9 * REAL).astype(np.int64), Real, FileRows),
        (np.floor(9 * REAL).astype(np.int16), Real, FileRows),
        (np.asfortranarray(REAL), Real, torch.Tensor),
        (REAL.astype(">f4"), Real, torch.Tensor),
    ],
)
def test_data_in_few_bytes_are_the_data(tmp_path, request, form, values, space, kind):
    """With rows held out, from each kind of file, as small arrays are read whole."""
    path = tmp_path / ("own.npy" if form == "npy" else "own.npz")
    np.save(path, values) if form == "npy" else getattr(np, form)(path, train=values)
    reader = component("dataset", "array", path=str(path))
    whole = reader.load((space,))
    request.getfixturevalue("_everything_is_large")
    with warnings.catch_warnings(action="error"):
        few = reader.load((space,))
    due = torch.Tensor if kind is FileRows and form == "savez_compressed" else kind
    assert isinstance(whole.train.stored, torch.Tensor)
    assert isinstance(few.train.stored, due)
    for part in ("train", "valid", "test"):
        assert torch.equal(getattr(few, part).all(), getattr(whole, part).all())
    assert few.fingerprint == whole.fingerprint
    assert few.train.fingerprint == whole.train.fingerprint
    assert torch.equal(few.train.mean(), whole.train.mean())
    assert few.describe() == whole.describe()


@pytest.mark.usefixtures("_everything_is_large")
def test_splits_are_judged_together(tmp_path):
    """Bits in one and levels in the other: both are levels; bits and spins: both are numbers."""
    levels, spins = GREY[:20] % 2 + 200, np.where(BITS > 0, 1.0, -1.0)
    both = np.concatenate([spins[:50], BITS * 1.0])
    for train, test in ((BITS * 1.0, REAL), (BITS * 1.0, spins), (both, both), (BITS, levels)):
        np.savez(tmp_path / "own.npz", train=train, valid=train[:9], test=test)
        reader = component("dataset", "array", path=str(tmp_path / "own.npz"))
        if train.dtype == np.uint8:
            with pytest.raises(UserError, match="its train split holds 0 and 1 alone, its test split values to 201"):
                reader.load((Real,))
            continue
        data = reader.load((Real,))
        assert_array_equal(data.train.all(), train.astype(np.float32))
        assert_array_equal(data.test.all(), test.astype(np.float32))


@pytest.mark.parametrize("threshold", [True, False])
@pytest.mark.usefixtures("_everything_is_large")
def test_grey_levels_of_a_file_are_binarised_and_numbered_in_pieces(tmp_path, threshold):
    np.savez(tmp_path / "own.npz", train=GREY, valid=GREY[:9], test=GREY[:9])
    setting = {"binarize": "threshold"} if threshold else {}
    data = component("dataset", "array", path=str(tmp_path / "own.npz"), **setting).load(
        (Binary,) if threshold else (Box,)
    )
    assert isinstance(data.train.stored, PackedRows if threshold else FileRows)
    due = (GREY >= 127.5) if threshold else GREY / np.float32(255)
    assert_array_equal(data.train.all(), due.astype(np.float32))


@pytest.mark.usefixtures("_everything_is_large")
def test_columns_of_a_file_are_standardised(tmp_path):
    """Which makes other numbers, in memory, and leaves the file as it is."""
    np.save(tmp_path / "own.npy", REAL)
    settings = {"path": str(tmp_path / "own.npy"), "standardise": True}
    train = component("dataset", "array", **settings).load((Real,)).train
    torch.testing.assert_close(train.all().mean(0), torch.zeros(3, 5), atol=1e-6, rtol=0)
    torch.testing.assert_close(train.all().std(0, correction=0), torch.ones(3, 5))
    assert_array_equal(np.load(tmp_path / "own.npy"), REAL)


def test_small_integers_stay_small(tmp_path):
    """And have the hash of the same numbers as float32."""
    for times, kind in ((1, torch.uint8), (-100, torch.int16), (1000, torch.float32)):
        values = GREY.astype(np.int64) * times
        hashes = []
        for array in (values, values.astype(np.float32)):
            np.savez(tmp_path / "own.npz", train=array)
            data = component("dataset", "array", path=str(tmp_path / "own.npz")).load((Real,))
            hashes.append((data.fingerprint, data.train.fingerprint))
            assert data.train.stored.dtype == (kind if array is values else torch.float32)
        assert hashes[0] == hashes[1]


@pytest.mark.quick("savez")
@pytest.mark.parametrize("form", [np.savez, np.savez_compressed])
def test_bits_are_never_there_one_to_a_byte(tmp_path, form):
    values = (DRAWS.random((60_000, 100)) < 0.3).astype(np.uint8)
    form(tmp_path / "own.npz", train=values)
    reader = component("dataset", "array", path=str(tmp_path / "own.npz"))
    tracemalloc.start()
    try:
        data = reader.load((Binary,))
        data.fingerprint, data.train.mean()
        assert tracemalloc.get_traced_memory()[1] < values.nbytes / 2
    finally:
        tracemalloc.stop()
    assert data.bytes < values.nbytes / 7


@pytest.mark.long
def test_a_file_larger_than_memory_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "MAPPED", 2**20)
    values = DRAWS.integers(0, 256, (16_000, 1000), np.uint8)
    for form in (np.savez, np.savez_compressed):
        form(tmp_path / f"{form.__name__}.npz", train=values)
    monkeypatch.setattr(memory, "available", lambda device: values.nbytes // 2)
    reader = component("dataset", "array", path=str(tmp_path / "savez.npz"))
    tracemalloc.start()
    try:
        data = reader.load((Box,))
        assert tracemalloc.get_traced_memory()[1] < values.nbytes / 2
    finally:
        tracemalloc.stop()
    assert reader.bytes_to_read() < values.nbytes / 5
    assert data.bytes < values.nbytes / 100
    with pytest.raises(UserError, match=r"reading it takes 16 MB of memory, 8 MB are available"):
        component("dataset", "array", path=str(tmp_path / "savez_compressed.npz")).load((Box,))


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_was_read_of_a_file_is_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "MAPPED", 2**20)
    values = DRAWS.integers(0, 256, (64_000, 1000), np.uint8)
    np.save(tmp_path / "own.npy", values)
    before = memory.taken(torch.device("cpu"))
    data = component("dataset", "array", path=str(tmp_path / "own.npy")).load((Box,))
    mean = data.train.mean()
    assert memory.taken(torch.device("cpu")) - before < values.nbytes / 2
    torch.testing.assert_close(mean, data.train.mean(), atol=0, rtol=0)


@pytest.mark.usefixtures("_everything_is_large")
def test_images_are_binarised_as_they_are_unpacked(tmp_path):
    path = tmp_path / "a.gz"
    head = bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in GREY.shape)

    def read(content):
        path.write_bytes(gzip.compress(content))
        return read_idx(path, 3, lambda part: part >= 127.5)

    found = read(head + GREY.tobytes())
    assert isinstance(found, PackedRows)
    assert_array_equal(found[torch.arange(len(GREY))], GREY >= 127.5)
    for pixels, there in ((GREY.tobytes()[:-1], "1530"), (GREY.tobytes() + b"x", "more than 1531")):
        with pytest.raises(UserError, match=f"has {there} bytes unpacked, 1531 are due"):
            read(head + pixels)


def test_an_array_file_is_the_training_rows(tmp_path):
    np.save(tmp_path / "own.npy", REAL)
    data = component("dataset", "array", path=str(tmp_path / "own.npy")).load((Real,))
    assert f"dataset.path = {tmp_path}/own.npy: its one array is taken for train" in data.remarks
    content = (tmp_path / "own.npy").read_bytes()
    (tmp_path / "own.npy").write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"cannot read its array .its header declares 12120 bytes, there are 12119"):
        component("dataset", "array", path=str(tmp_path / "own.npy")).load((Real,))


def test_numbers_that_are_no_grey_levels_are_refused_where_they_become_bits_as_they_are_read(tmp_path):
    """A large file of codes 0 to 2, all of them black at one half; levels up to 200 are taken."""
    for top, refused in ((2, True), (200, False)):
        folder = tmp_path / str(top) / "KMNIST" / "raw"
        folder.mkdir(parents=True)
        for stem, count in (("train", 10_001), ("t10k", 20)):
            images = np.tile((np.arange(784) % 2 * top).reshape(28, 28), (count, 1, 1))
            images[0, 0, 0] = 1
            (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images), 1))
            (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(count))))
        dataset = component("dataset", "kmnist", root=str(tmp_path / str(top)), binarize="threshold")
        if refused:
            with pytest.raises(UserError, match=r"its uint8 values are 0, 1 and 2 alone, .*nearly black"):
                dataset.load((Binary,))
        else:
            assert isinstance(dataset.load((Binary,)).train.stored, PackedRows)
