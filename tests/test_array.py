"""The user's own file, .npz: kinds of values, what is held out, labels, and bad files."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.components import component

from ebm_cli.errors import UserError
from ebm_cli.space import Binary, Real, Spin


def npz(tmp_path: Path, held_out: float = 0.1, **arrays):
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)
    return component("dataset", "array", path=str(path), held_out=held_out)


@pytest.mark.parametrize(
    ("train", "test", "values", "dtype"),
    [
        (np.eye(4, dtype=bool), np.eye(4, dtype=np.int64), "binary", np.uint8),
        (np.eye(4), np.eye(4, dtype=np.float32), "binary", np.uint8),
        (np.eye(4, dtype=np.uint8) * 254, np.eye(4, dtype=np.uint8) * 255, "grey", np.uint8),
        (np.eye(4), np.eye(4, dtype=np.float32) * 0.5, "grey", np.float32),
        (np.eye(4), np.eye(4) * 1.5, "real", np.float32),
        (np.eye(4), -np.eye(4), "real", np.float32),
        (np.eye(4, dtype=np.int64) * 300, np.eye(4, dtype=np.int64) * 70_000, "real", np.float32),
    ],
)
def test_npz_kind_of_values_is_judged_on_all_splits(tmp_path, train, test, values, dtype):
    raw = npz(tmp_path, train=train, valid=train, test=test).read()
    assert raw.values == values
    assert {raw.train.values.dtype, raw.test.values.dtype} == {np.dtype(dtype)}
    assert np.array_equal(raw.test.values, test.astype(np.float64))


def test_npz_binary_loads_as_binary_and_grey_by_the_model(tmp_path):
    assert npz(tmp_path, train=np.eye(40)).load((Real,)).space == Binary((40,))
    grey = npz(tmp_path, train=np.full((40, 2, 3), 204, np.uint8))
    assert grey.load((Real,)).space == Real((2, 3))
    assert torch.equal(grey.load((Real,)).test.all(), torch.full((4, 2, 3), 0.8))
    assert grey.load((Binary,)).space == Binary((2, 3))
    assert grey.space_type((Binary,)) is None


def test_npz_of_spins_is_binary(tmp_path):
    spins = np.random.Generator(np.random.Philox(3)).choice([-1.0, 1.0], (40, 3))
    np.savez(tmp_path / "spins.npz", train=spins, valid=spins, test=spins)
    data = component("dataset", "array", path=str(tmp_path / "spins.npz")).load((Spin,))
    assert data.space == Spin((3,))
    assert np.array_equal(data.test.all().numpy(), spins)


def test_npz_real_values_cannot_be_binarised(tmp_path):
    np.savez(tmp_path / "real.npz", train=np.random.default_rng(0).normal(size=(20, 3)))
    reader = component("dataset", "array", path=str(tmp_path / "real.npz"), binarize="threshold")
    with pytest.raises(UserError, match=r"dataset.binarize = threshold: needs values in"):
        reader.load((Binary,))


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ((), (81, 9, 10)),
        (("test",), (90, 10, 7)),
        (("valid",), (90, 7, 10)),
        (("val",), (90, 7, 10)),
        (("valid", "test"), (100, 7, 7)),
    ],
)
def test_npz_holds_out_what_the_file_lacks(tmp_path, given, sizes):
    rows = np.arange(100)
    extra = {name: np.full((7, 2), -1.0) for name in given}
    raw = npz(tmp_path, train=np.stack([rows, rows], 1).astype(float), train_label=rows, **extra).read()
    parts = (raw.train, raw.valid, raw.test)
    assert tuple(len(part.values) for part in parts) == sizes
    own = np.concatenate([part.values for part in parts if part.values.min() >= 0])
    labels = np.concatenate([part.labels for part in parts if part.labels is not None])
    assert sorted(own[:, 0]) == rows.tolist()
    assert np.array_equal(own[:, 0], labels)


def test_npz_holds_out_the_same_rows_each_time(tmp_path):
    reader = npz(tmp_path, train=np.arange(200.0).reshape(100, 2))
    first, second = reader.read(), reader.read()
    assert np.array_equal(first.test.values, second.test.values)
    assert first.test.values[:, 0].tolist() != list(range(180, 200, 2))


def test_npz_label_names(tmp_path):
    x, label = np.eye(3), np.array([4, 5, 6], np.int16)
    for name in ("valid", "val"):
        for other in ("valid_label", "val_label"):
            raw = npz(tmp_path, train=x, test=x, test_label=label, **{name: x, other: label}).read()
            assert raw.train.labels is None
            assert raw.valid.labels.tolist() == raw.test.labels.tolist() == [4, 5, 6]


X = np.random.default_rng(0).normal(size=(10, 3))


def spoilt(*values: float) -> np.ndarray:
    array = X.copy()
    array.flat[: len(values)] = values
    return array


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": X, "more": X}, "has no key train; it has data, more; name one, dataset.array=NAME"),
        ({}, "has no key train; it has none"),
        ({"train": np.array([[1, None]])}, r"cannot read train \(Object arrays"),
        ({"train": spoilt(math.nan, math.inf)}, "train has 2 of 30 values NaN or infinite"),
        ({"train": X, "test": spoilt(-math.inf)}, "test has 1 of 30 values NaN or infinite"),
        ({"train": spoilt(1e300)}, "train has 1 of 30 values NaN or infinite"),
        ({"train": X, "val": X[:, :2]}, r"rows of val have shape \(2,\), those of train \(3,\)"),
        ({"train": X[:0]}, r"train has shape \(0, 3\), so it is empty"),
        ({"train": X[:, :0]}, r"train has shape \(10, 0\), so it is empty"),
        ({"train": X, "test": X[:0]}, r"test has shape \(0, 3\), so it is empty"),
        ({"train": X[0]}, r"train has shape \(3,\); it must be \(n, \*shape\)"),
        ({"train": np.float64(1)}, r"train has shape \(\); it must be"),
        ({"train": X.astype(str)}, "train has type <U32; it must be bool, integer or floating point"),
        ({"train": X.astype(complex)}, "train has type complex128; it must be"),
        ({"train": X.astype("M8[s]")}, "train has type datetime64"),
        ({"train": X, "train_label": np.arange(9)}, r"train_label has type int64 and shape \(9,\); .* \(10,\)"),
        ({"train": X, "train_label": X[:, 0]}, "train_label has type float64"),
        ({"train": X, "val": X, "valid": X}, "has both valid and val; leave out one"),
        ({"train": X[:1]}, "train has too few rows to hold out test rows; add a key test"),
        ({"train": X[:2]}, "train has too few rows to hold out valid rows"),
        (
            {"train": np.full((9, 2), 255, np.uint8), "test": np.full((9, 2), 0.5)},
            "its splits have types float64, uint8; store them all in one",
        ),
    ],
)
def test_bad_npz_is_named(tmp_path, arrays, message):
    reader = npz(tmp_path, **arrays)
    with pytest.raises(UserError, match=message) as caught:
        reader.read()
    assert str(caught.value).startswith(f"dataset.path = {tmp_path / 'own.npz'}: ")
    assert "\n" not in str(caught.value)


def test_npz_path_must_be_given_and_exist(tmp_path):
    with pytest.raises(UserError, match=r"dataset.path = null: name the file of arrays, dataset.path=FILE"):
        component("dataset", "array").read()
    for path, said in ((tmp_path, "a folder without idx files"), (tmp_path / "none.npz", "there is no such file")):
        with pytest.raises(UserError, match=said):
            component("dataset", "array", path=str(path)).read()


def test_npz_that_is_no_archive_or_is_damaged(tmp_path):
    path = tmp_path / "bad.npz"
    reader = component("dataset", "array", path=str(path))
    np.savez(path, train=X)
    whole = path.read_bytes()
    for content, said in (
        (b"\0", "cut short, or of another kind; name"),
        (whole[:-30], "it is an archive that is cut"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"not a file of arrays: {said}"):
            reader.read()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    path.write_bytes(flipped)
    with pytest.raises(UserError, match=r"cannot read train .*CRC"):
        reader.read()
