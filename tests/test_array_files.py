"""Files of arrays in every format: the same rows as from .npz, sizes looked at first, nothing outside the file read."""

import gzip
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from helpers.components import component
from helpers.idx import idx

from ebm_cli import registry
from ebm_cli.cli.renamed import by_new_names
from ebm_cli.dataset import content, own_rows, stored
from ebm_cli.dataset.stored import FileRows
from ebm_cli.errors import UserError
from ebm_cli.space import Categorical, Real

DRAWS = np.random.default_rng(0)
GREY = DRAWS.integers(0, 256, (23, 3, 5), np.uint8)
BITS = (DRAWS.random((23, 15)) < 0.3).astype(np.uint8)
REAL = DRAWS.normal(size=(23, 4))
CODES = DRAWS.integers(0, 5, (23, 4))
LABELS = np.arange(23)


def hdf5(path, named, **options):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, value in named.items():
            file.create_dataset(name, data=value, **(options if np.ndim(value) > 1 else {}))


def mat(path, named, **options):
    from scipy.io import savemat

    savemat(path, {name: value for name, value in named.items() if not isinstance(value, str)}, **options)


def mat73(path, named):
    """As MATLAB writes them: axes the other way round, with a header of 512 bytes."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in named.items():
            file[name] = np.atleast_2d(value).T if np.ndim(value) < 3 else np.transpose(value)
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
    whole = path.read_bytes()
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + whole[512:])


def npz(path, named):
    np.savez(path, **named)
    path.with_suffix(".npz.npz").exists() and path.with_suffix(".npz.npz").rename(path)


WAYS = {
    "own.npz": npz,
    "own.h5": hdf5,
    "packed.h5": lambda path, named: hdf5(path, named, compression="gzip", chunks=True, shuffle=True),
    "own.mat": mat,
    "packed.mat": lambda path, named: mat(path, named, do_compression=True),
    "v73.mat": mat73,
}


def reader(path, **keys):
    return component("dataset", "array", path=str(path), **keys)


def all_rows(data):
    return torch.cat([data.train.all(), data.valid.all(), data.test.all()])


@pytest.mark.quick("rows0*")
@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(("rows", "keys"), [(GREY, {}), (BITS, {}), (REAL, {"standardise": True})])
def test_rows_and_labels_are_those_of_the_npz_file(tmp_path, name, rows, keys):
    named = {"train": rows, "train_label": LABELS, "test": rows[::-1], "test_label": LABELS[::-1]}
    npz(tmp_path / "due.npz", named)
    WAYS[name](tmp_path / name, named)
    due, data = (reader(tmp_path / file, **keys).load((Real,)) for file in ("due.npz", name))
    assert data.fingerprint == due.fingerprint
    assert data.test.labels.tolist() == LABELS[::-1].tolist()
    own = own_rows.read(tmp_path / name, "data", "test")
    assert np.array_equal(own.values, rows[::-1])


@pytest.mark.parametrize("name", [name for name in WAYS if "mat" not in name])
def test_files_in_the_layout_of_rbms_say_their_kind_of_values(tmp_path, name):
    weights = np.linspace(0.5, 2, 23)
    named = {"samples": CODES, "labels": LABELS, "weights": weights, "variable_type": "categorical"}
    WAYS[name](tmp_path / name, named)
    data = reader(tmp_path / name).load((Categorical,))
    assert data.space == Categorical((4, 5))
    assert not any("not read" in remark for remark in data.remarks)
    assert np.array_equal(data.train.stored, CODES[data.train.labels])
    assert torch.equal(data.train.weights, torch.from_numpy(weights)[data.train.labels])
    assert data.test.weights is None
    WAYS[name](tmp_path / name, named | {"samples": BITS, "variable_type": "continuous"})
    assert isinstance(reader(tmp_path / name).load((Real,)).space, Real)
    WAYS[name](tmp_path / name, named | {"variable_type": "ising"})
    with pytest.raises(UserError, match="variable_type is ising, but there are values other than 0 and 1, or -1"):
        reader(tmp_path / name).read()
    WAYS[name](tmp_path / name, named | {"variable_type": "potts"})
    with pytest.raises(UserError, match="variable_type is potts; it must be one of bernoulli, ising, categorical"):
        reader(tmp_path / name).read()


def test_arrays_are_found_by_the_names_that_others_give_them(tmp_path):
    npz(tmp_path / "keras.npz", {"x_train": GREY, "y_train": LABELS, "x_test": GREY[:5], "y_test": LABELS[:5]})
    raw = reader(tmp_path / "keras.npz").read()
    assert (raw.train.labels is not None, len(raw.test.values), raw.remarks) == (True, 5, ())
    npz(tmp_path / "two.npz", {"a": GREY, "b": GREY[:, :2], "b_labels": LABELS})
    raw = reader(tmp_path / "two.npz", array="b").read()
    assert raw.train.values.shape[1:] == (2, 5)
    assert sorted(np.concatenate([part.labels for part in raw.splits().values()])) == LABELS.tolist()
    with pytest.raises(UserError, match=r"dataset.array = c: dataset.path = .* has no such array; it has a, b, b_lab"):
        reader(tmp_path / "two.npz", array="c").read()


@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_of_idx_files_is_read_by_their_names(tmp_path, packed):
    end, made = (".idx.gz", gzip.compress) if packed else ("", bytes)
    for name, array in {"my-train-images": GREY, "my-train-labels": LABELS, "t10k": GREY[:7]}.items():
        (tmp_path / f"{name}{end}").write_bytes(made(idx(array.astype(np.uint8))))
    (tmp_path / "README").write_text("not an array")
    raw = reader(tmp_path).read()
    assert np.array_equal(raw.test.values, GREY[:7])
    assert sorted(np.concatenate([raw.train.labels, raw.valid.labels])) == LABELS.tolist()
    assert np.array_equal(own_rows.read(tmp_path / f"t10k{end}", "data", None).values, GREY[:7])
    (tmp_path / f"other{end}").write_bytes(made(idx(GREY)))
    with pytest.raises(UserError, match=r"my-train-images.* and other.* both hold train; name them train-"):
        reader(tmp_path).read()


def test_idx_files_of_other_numbers(tmp_path):
    for code, kind in ((0x09, "i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")):
        head = bytes((0, 0, code, 2)) + struct.pack(">2I", *CODES.shape)
        (tmp_path / "own").write_bytes(head + CODES.astype(kind).tobytes())
        assert np.array_equal(own_rows.read(tmp_path / "own", "data", None).values, CODES)


def test_numbers_of_a_matlab_file_have_the_type_that_matlab_has(tmp_path):
    """It stores small whole numbers of type double in bytes, where they would pass for grey levels."""
    mat(tmp_path / "own.mat", {"train": np.arange(60.0).reshape(20, 3)})
    whole = (tmp_path / "own.mat").read_bytes()
    at = whole.index(struct.pack("<2I", 9, 480))
    short = struct.pack("<2I", 2, 60) + np.arange(60).reshape(20, 3).T.astype(np.uint8).tobytes() + bytes(4)
    size = struct.pack("<2I", 14, at - 136 + len(short))
    (tmp_path / "own.mat").write_bytes(whole[:128] + size + whole[136:at] + short)
    raw = reader(tmp_path / "own.mat").read()
    assert raw.values == "real"
    assert sorted(np.concatenate([part.values for part in raw.splits().values()])[:, 0]) == list(range(0, 60, 3))


def test_the_mean_of_weighted_rows_is_weighted(tmp_path):
    weights = np.linspace(0.1, 3, 23)
    npz(tmp_path / "own.npz", {"train": BITS, "train_weights": weights, "valid": BITS, "test": BITS})
    mean = reader(tmp_path / "own.npz").load((Real,)).train.mean()
    assert np.allclose(mean, np.average(BITS, axis=0, weights=weights))


def test_runs_of_before_are_built_as_they_were():
    registry.load_components()
    there = component("dataset", "array", path="own.npz")
    before = {key: value for key, value in vars(there).items() if key != "array"} | {"name": "npz"}
    assert registry.build("dataset", before) == there
    assert registry.file_keys("dataset", "npz") == {"path": True}
    assert by_new_names(["dataset=npz", "dataset@noise.source=npz", "dataset.path=npz"]) == (
        ["dataset=array", "dataset@noise.source=array", "dataset.path=npz"], ["dataset=npz is called array"] * 2
    )  # fmt: skip


# Rows that stay in their file


@pytest.fixture
def _everything_is_mapped(monkeypatch):
    monkeypatch.setattr(content, "MAPPED", 1)
    monkeypatch.setattr(content, "LARGE", 10**9)
    monkeypatch.setattr(stored, "_AT_ONCE", 20)
    monkeypatch.setattr(stored, "_BYTES_AT_ONCE", 20)


@pytest.mark.quick("keys0*")
@pytest.mark.usefixtures("_everything_is_mapped")
@pytest.mark.parametrize("kind", [np.float64, np.int32, np.uint8, np.float16])
@pytest.mark.parametrize("name", ["own.npy", "own.h5"])
@pytest.mark.parametrize("keys", [{"standardise": True}, {"categories": 5}])
def test_rows_in_a_file_are_scaled_and_numbered_as_those_in_memory(tmp_path, monkeypatch, kind, name, keys):
    rows = CODES.astype(kind) + ((1000 if kind == np.float64 else 3) if "standardise" in keys else 0)
    if name == "own.npy":
        np.save(tmp_path / name, rows)
    else:
        hdf5(tmp_path / name, {"train": rows})
    spaces = (Categorical,) if "categories" in keys else (Real,)
    found = reader(tmp_path / name, **keys).load(spaces)
    monkeypatch.setattr(content, "MAPPED", 2**26)
    due = reader(tmp_path / name, **keys).load(spaces)
    assert isinstance(found.train.stored, FileRows)
    assert not isinstance(due.train.stored, FileRows)
    assert torch.allclose(all_rows(found), all_rows(due), atol=1e-6)
    assert torch.allclose(found.train.mean(), due.train.mean(), atol=1e-6)
    assert "standardise" in keys or found.fingerprint == due.fingerprint


# Bad files


def refused(path, said):
    """In one sentence, and without memory for what is declared."""
    tracemalloc.start()
    with pytest.raises(UserError, match=said) as caught:
        reader(path).read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value).startswith(f"dataset.path = {path}")
    assert "\n" not in str(caught.value)
    assert peak < 2**24
    with pytest.raises(UserError, match=said):
        own_rows.read(path, "data = x", None)


def test_what_lies_outside_an_hdf5_file_is_not_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    secret = tmp_path / "other.h5"
    hdf5(secret, {"train": GREY})
    (tmp_path / "raw").write_bytes(b"\1" * 400)
    links = {
        "link": lambda file: file.__setitem__("train", h5py.ExternalLink(str(secret), "/train")),
        "soft": lambda file: file.__setitem__("train", h5py.SoftLink("/nowhere")),
    }
    for name, made in links.items():
        with h5py.File(tmp_path / name, "w") as file:
            made(file)
        refused(tmp_path / name, r"cannot read train \(it is a link to /\w+( in the file .*)?, which is not followed")
    layout = h5py.VirtualLayout(GREY.shape, np.uint8)
    layout[:] = h5py.VirtualSource(secret, "train", GREY.shape)
    with h5py.File(tmp_path / "virtual", "w") as file:
        file.create_virtual_dataset("train", layout)
    refused(tmp_path / "virtual", r"cannot read train \(its values lie in another file, which is not followed")
    with h5py.File(tmp_path / "raws", "w") as file:
        file.create_dataset("train", (4, 100), np.uint8, external=[(str(tmp_path / "raw"), 0, 400)])
    refused(tmp_path / "raws", "its values lie in another file")


def test_hdf5_files_that_declare_what_is_not_there(tmp_path):
    h5py = pytest.importorskip("h5py")
    for name, options in {"plain": {}, "chunks": {"chunks": (64, 64)}, "gzip": {"compression": "gzip"}}.items():
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("train", (2**16, 2**15), np.uint8, **options)
        refused(tmp_path / name, rf"cannot read train \(it declares {2**31} bytes, of which 0 are stored\)")
    hdf5(tmp_path / "short", {"train": np.ones((100, 1000))})
    (tmp_path / "short").write_bytes((tmp_path / "short").read_bytes()[:9000])
    refused(tmp_path / "short", r"cannot read the list of arrays \(.*truncated")
    for name, value in {"text": np.array(["a", "b"], object), "parts": np.zeros(3, "f8,i4")}.items():
        hdf5(tmp_path / name, {"train": value})
        refused(tmp_path / name, r"cannot read (train|rows) \(type .*, which is no type of numbers|no array of rows")


def test_mat_files_that_declare_what_is_not_there(tmp_path):
    from scipy.io import savemat

    path = tmp_path / "own.mat"
    mat(path, {"train": np.ones((8, 9))})
    good = path.read_bytes()
    shape = struct.pack("<2i", 8, 9)
    at = good.index(shape)
    path.write_bytes(good[:at] + struct.pack("<2i", 2**16, 2**15) + good[at + 8 :])
    refused(path, "train declares 2147483648 numbers, which its 576 bytes do not hold")
    numbers = good.index(struct.pack("<2I", 9, 576))
    huge = good[:at] + struct.pack("<2i", 2**14, 2**14) + good[at + 8 : numbers] + struct.pack("<2I", 9, 2**31)
    path.write_bytes(huge + good[numbers + 8 :])
    refused(path, "train declares 268435456 numbers, which its 2147483648 bytes do not hold")
    inner = zlib.compress(huge[128:] + good[numbers + 8 :])
    path.write_bytes(good[:128] + struct.pack("<2I", 15, len(inner)) + inner)
    refused(path, "which its 2147483648 bytes do not hold")
    path.write_bytes(good[:-40])
    refused(path, r"cannot read the list of arrays \(it is cut short\)")
    for other in (np.array([[1, "a"]], object), np.ones((3, 3)) * 1j, "letters"):
        savemat(path, {"train": other})
        refused(path, r"cannot read train \(it is no array of real numbers\)")


def test_idx_files_that_declare_what_is_not_there(tmp_path):
    huge = bytes((0, 0, 8, 2)) + struct.pack(">2I", 2**16, 2**15)
    for name, made in {"plain": huge + bytes(99), "packed.gz": gzip.compress(huge + bytes(99))}.items():
        (tmp_path / name).write_bytes(made)
        refused(tmp_path / name, rf"cannot read {name} \(its header declares {2**31 + 12} bytes, (packed in )?\d+ are")
    (tmp_path / "short.gz").write_bytes(gzip.compress(idx(GREY))[:-90])
    refused(tmp_path / "short.gz", r"cannot read short.gz \(Compressed file ended")


def test_weights_are_positive(tmp_path):
    for weights in (np.zeros(23), LABELS[1:], LABELS * np.nan):
        npz(tmp_path / "own.npz", {"train": GREY, "train_weights": weights})
        with pytest.raises(UserError, match=r"train_weights has type .* must be positive numbers of shape \(23,\)"):
            reader(tmp_path / "own.npz").read()
