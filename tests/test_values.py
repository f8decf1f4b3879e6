"""What the values of a user's file are taken for: each is what it seems, or said, or refused in one sentence."""

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.cli import assert_refused, ebm
from helpers.components import component
from PIL import Image

from ebm_cli.dataset import kinds
from ebm_cli.dataset.files import read_npz
from ebm_cli.errors import UserError
from ebm_cli.space import Binary, Box, Categorical, Real, Spin

ROWS = np.random.Generator(np.random.Philox(8)).random((60, 5))


def npz(folder: Path, keys=(), **arrays):
    """The data set of a file with these arrays; `keys` are changes of its keys."""
    np.savez(folder / "own.npz", **arrays)
    return component("dataset", "array", path=str(folder / "own.npz"), **dict(keys))


def codes(values, dtype=np.uint8):
    """Rows of these values, each of them there."""
    return np.array(values)[(ROWS * len(values)).astype(int)].astype(dtype)


# Codes are no grey levels


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1, 2), "its uint8 values are 1 and 2 alone, .*nearly black"),
        ((0, 1, 2), "its uint8 values are 0, 1 and 2 alone"),
        ((0, 2), "0 and 2 alone"),
        ((2,), "2 alone"),
        (range(17), r"0 to 16 \(17 distinct\)"),
        ((65, 67, 71, 84), "65, 67, 71 and 84 alone"),
        ((0, 1, 2, 255), "0, 1 and 2 alone beside 255, perhaps a mark of what is missing"),
        ((0, 1, 255), "0 and 1 alone beside 255"),
    ],
)
@pytest.mark.parametrize("spaces", [(Binary,), (Real,), (Box,)])
def test_codes_in_bytes_are_refused_with_the_ways_out(tmp_path, values, expected, spaces):
    with pytest.raises(UserError, match=rf"dataset.path = .*{expected}.*set dataset.categories") as caught:
        npz(tmp_path, train=codes(values)).load(spaces)
    assert "\n" not in str(caught.value)


def test_codes_are_categories_where_that_is_said(tmp_path):
    data = npz(tmp_path, {"categories": 3}, train=codes((0, 1, 2))).load((Categorical,))
    assert data.space == Categorical((5, 3))
    assert not data.remarks


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_a_site_may_have_tens_of_thousands_of_values(tmp_path, kind):
    """More than a byte holds, also of a file that rows of bytes would stay in."""
    train = codes(np.arange(40_000), np.uint16)
    np.save(tmp_path / "own.npy", train)
    path, keys = str(tmp_path / "own.npy"), {"categories": 40_000, "held_out": 0.5}
    data = npz(tmp_path, keys, train=train) if kind == "npz" else component("dataset", "array", path=path, **keys)
    splits = data.load((Categorical,))
    assert splits.space.values == 40_000
    found = np.concatenate([split.all().argmax(-1).numpy() for split in (splits.train, splits.valid, splits.test)])
    assert sorted(map(tuple, found)) == sorted(map(tuple, train.astype(int)))
    with pytest.raises(UserError, match="less than or equal to 65536"):
        npz(tmp_path, {"categories": 70_000}, train=train)


def test_categories_that_never_occur_are_said(tmp_path):
    data = npz(tmp_path, {"categories": 20}, train=codes((0, 1, 2))).load((Categorical,))
    assert data.remarks == ("dataset.categories = 20: 2 is the largest there is, so the others never occur",)


@pytest.mark.parametrize("values", [(0, 255), (0, 128, 255), range(256), (0, 40, 255), (200, 201), range(0, 256, 17)])
def test_grey_levels_are_what_they_were(tmp_path, values):
    data = npz(tmp_path, train=codes(values)).load((Real,))
    assert not data.remarks
    assert data.train.scale == 255


def test_dark_images_are_said(tmp_path):
    rows = (np.random.Generator(np.random.Philox(1)).random((100, 20)) * 100).astype(np.uint8)
    (remark,) = npz(tmp_path, train=rows).load((Real,)).remarks
    assert "the largest of its uint8 values is 99 of the 255 that are white" in remark


@pytest.mark.parametrize("odd", ["train", "valid", "test"])
def test_bits_in_one_split_and_levels_in_another_are_refused(tmp_path, odd):
    splits = dict.fromkeys(("train", "valid", "test"), codes(range(256))) | {odd: codes((0, 1))}
    with pytest.raises(UserError, match=rf"its {odd} split holds 0 and 1 alone, its .* split values to 25"):
        npz(tmp_path, **splits).load((Binary,))


def test_one_black_row_is_no_other_scale(tmp_path):
    black = np.zeros((1, 5), np.uint8)
    assert not npz(tmp_path, train=codes(range(256)), valid=black, test=black).load((Binary,)).remarks


def test_masks_among_pictures_are_refused(tmp_path):
    for i in range(6):
        Image.fromarray(codes((0, 1, 2))[:5]).resize((8, 8), Image.Resampling.NEAREST).save(tmp_path / f"{i}.png")
    folder = component("dataset", "image_folder", path=str(tmp_path), size=8, colour=False)
    with pytest.raises(UserError, match=r"dataset.path = .*nearly black; store grey levels as 0 to 255"):
        folder.load((Box,))


# Types and layouts


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(ROWS),
        ROWS.astype(">f8"),
        ROWS.astype(np.float16),
        ROWS[::-1],
        ROWS.astype(np.longdouble),
    ],
    ids=["fortran", "big-endian", "float16", "strided", "longdouble"],
)
def test_any_layout_of_floats_is_the_same_data(tmp_path, array):
    data = npz(tmp_path, train=array, valid=array[:2], test=array[:3]).load((Real,))
    assert np.array_equal(data.train.all().numpy(), np.asarray(array, np.float32))


@pytest.mark.parametrize("dtype", [bool, np.int8, ">i2", np.uint64, np.float16])
def test_bits_of_any_type_are_bits(tmp_path, dtype):
    data = npz(tmp_path, train=codes((0, 1)).astype(dtype)).load((Binary,))
    assert data.space == Binary((5,))


def test_spins_that_become_bits_are_said(tmp_path):
    spins = npz(tmp_path, train=codes((-1, 1), np.int8))
    assert spins.load((Binary,)).remarks == ("the data are -1 and 1, this model has bits: -1 is 0, in samples too",)
    assert spins.load((Spin,)).remarks == ()
    assert npz(tmp_path, train=codes((0, 1))).load((Binary,)).remarks == ()


# Arrays of the file


def test_one_array_without_a_name_is_train(tmp_path):
    np.savez(tmp_path / "own.npz", ROWS)
    data = component("dataset", "array", path=str(tmp_path / "own.npz")).load((Real,))
    assert sum(map(len, (data.train, data.valid, data.test))) == len(ROWS)
    assert "its one array is taken for train" in data.remarks[0]
    np.savez(tmp_path / "own.npz", ROWS, ROWS)
    with pytest.raises(UserError, match="has no key train; it has arr_0, arr_1"):
        component("dataset", "array", path=str(tmp_path / "own.npz")).load((Real,))


@pytest.mark.long
def test_arrays_that_are_not_read_are_said(tmp_path):
    labels = np.arange(60)
    (remark,) = (
        npz(tmp_path, train=ROWS, train_label=labels, train_labels=labels, y=labels, test_label=labels).read().remarks
    )
    assert "own.npz: train_labels, y, test_label are not read; keys that are: train, valid, val, test, each " in remark
    (remark,) = npz(tmp_path, train=ROWS, names=labels).read().remarks
    assert "names is not read" in remark
    assert not npz(tmp_path, train=ROWS, train_label=labels, val=ROWS, valid_label=labels).read().remarks


# Files of another kind


def _archive(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, "x")
    return file.getvalue()


def _mat4(order: str) -> bytes:
    """As scipy.io.savemat(format="4") has it, or a machine whose bytes are in the other order."""
    numbers = (1000 * (order == ">"), 1, 2, 0, 7)
    return np.array(numbers, f"{order}i4").tobytes() + b"my_all\0" + np.zeros(2, f"{order}f8").tobytes()


KINDS = {
    "csv": (b"a,b\n1,2\n", r"it is a table in text.*numpy.loadtxt"),
    "gzip": (gzip.compress(b">a\nAC\n"), "it is packed by gzip; unpack it by gunzip -k FILE"),
    "bzip2": (b"BZh91AY", "it is packed by bzip2; unpack it"),
    "parquet": (b"PAR1\0\0", "it is a Parquet file"),
    "pickle": (b"\x80\x04\x95", "it is a Python pickle, which could run any code and is never read"),
    "png": (b"\x89PNG\r\n", "it is a PNG picture; name its folder with dataset=image_folder"),
    "fasta": (b">a\nACDE\n", "it is a FASTA file of sequences; use dataset=protein"),
    "clustal": (b"MUSCLE (3.8) multiple sequence alignment\n\na ACDE\n", "it is an alignment in Clustal format; write"),
    "phylip": (b" 2 4\na ACDE\nb ACDE\n", "it is an alignment in PHYLIP format; write it as aligned FASTA"),
    "mat4": (_mat4("<"), "it is a MATLAB file of version 4; write it anew for MATLAB 5"),
    "mat4_big": (_mat4(">"), "it is a MATLAB file of version 4; write it anew for MATLAB 5"),
    "stockholm": (b"# STOCKHOLM 1.0\n", "it is an alignment in Stockholm format; use dataset=protein"),
    "text": (b"nothing of interest", "it is text; write numpy.savez"),
    "utf16": ("1,2".encode("utf-16"), "it is text in UTF-16; convert it to UTF-8"),
    "empty": (b"", "it is empty; write it anew"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_called_by_its_kind(tmp_path, kind):
    content, expected = KINDS[kind]
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(UserError, match=rf"^dataset.path = .*own.npz: not a file of arrays: {expected}") as caught:
        component("dataset", "array", path=str(tmp_path / "own.npz")).read()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"), [("x/data.pkl", "pickle"), ("xl/a", "table"), ("a", "packed"), ("a.npy", "npz")]
)
def test_archives_are_known_by_what_they_hold(tmp_path, name, kind):
    (tmp_path / "file").write_bytes(_archive(name))
    assert kinds.found(tmp_path / "file")[0] == kind


def test_archives_of_another_kind_are_refused(tmp_path):
    (tmp_path / "own.npz").write_bytes(_archive("own/data.pkl"))
    with pytest.raises(UserError, match=r"not a file of arrays: it is a file of torch.save, which could run any code"):
        component("dataset", "array", path=str(tmp_path / "own.npz")).read()


def test_a_table_that_needs_its_names_says_how_an_array_file_becomes_one(tmp_path):
    np.save(tmp_path / "own.npz.npy", codes((1, 2)))
    (tmp_path / "own.npz.npy").rename(tmp_path / "own.npz")
    with pytest.raises(
        UserError, match=r"it is an .npy file.*numpy.savez\('FILE.npz', train=numpy.load\('FILE.npy'\)\)"
    ):
        read_npz(tmp_path / "own.npz", ("train",), "said")


def test_noise_of_bytes_has_no_kind(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(200, 256)))
    assert kinds.found(tmp_path / "file") is None
    assert kinds.found(tmp_path / "none") is None


def test_the_command_line_says_it_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("codes.npz", train=codes((1, 2)))
    Path("x.csv").write_text("a,b\n1,2\n")
    assert_refused(ebm("train dataset=array dataset.path=codes.npz tracker=none"), "codes.npz", "1 and 2 alone")
    assert_refused(ebm("train dataset=array dataset.path=x.csv tracker=none"), "x.csv", "it is a table in text")
