"""Data sets of pictures: CIFAR-10's binary files and folders of the user's own, all made up here."""

import hashlib
import io
import tarfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from helpers.cli import ebm
from helpers.components import component
from PIL import Image

from ebm_cli.dataset import cifar10
from ebm_cli.dataset.image_folder import read_image
from ebm_cli.errors import UserError
from ebm_cli.space import Box

# CIFAR-10

ROWS = 6  # in each made-up file
NAMES = (*cifar10.TRAIN, cifar10.TEST)


def records(seed: int) -> tuple[bytes, np.ndarray, np.ndarray]:
    """A file, its images and its labels."""
    draws = np.random.default_rng(seed)
    images, labels = draws.integers(0, 256, (ROWS, 3, 32, 32), np.uint8), draws.integers(0, 10, ROWS)
    content = b"".join(
        bytes([label]) + image[0].tobytes() + image[1].tobytes() + image[2].tobytes()
        for image, label in zip(images, labels, strict=True)
    )
    return content, images, labels


@pytest.fixture
def files(monkeypatch) -> dict[str, bytes]:
    monkeypatch.setattr(cifar10, "ROWS", ROWS)
    return {name: records(i)[0] for i, name in enumerate(NAMES)}


@pytest.fixture
def folder(tmp_path, files) -> Path:
    found = tmp_path / "cifar-10-batches-bin"
    found.mkdir()
    for name, content in files.items():
        (found / name).write_bytes(content)
    return found


def cifar(root: Path, **changes):
    return component("dataset", "cifar10", root=str(root), **({"valid": 4} | changes))


def test_cifar10_is_read_record_by_record(folder):
    raw = cifar(folder.parent).read()
    images = np.concatenate([records(i)[1] for i in range(5)])
    labels = np.concatenate([records(i)[2] for i in range(5)])
    assert np.array_equal(raw.train.values, images[:26])
    assert np.array_equal(raw.valid.values, images[26:])
    assert np.array_equal(raw.test.values, records(5)[1])
    assert [*raw.train.labels, *raw.valid.labels] == labels.tolist()
    assert raw.test.labels.tolist() == records(5)[2].tolist()
    assert cifar(folder.parent, valid=0).read().valid is None
    with pytest.raises(UserError, match=r"dataset.valid = 30: must be below 30"):
        cifar(folder.parent, valid=30).read()


def test_cifar10_is_a_box_of_three_channels(folder):
    data = cifar(folder.parent, box="symmetric", dequantise=False).load((Box,))
    assert data.space == Box((3, 32, 32), -1.0, 1.0)
    expected = torch.from_numpy(records(5)[1]).float() / 127.5 - 1
    assert torch.allclose(data.test.all(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "has 18437 bytes, 18438 are due"),
        (lambda content: content + b"0", "has 18439 bytes"),
        (lambda content: b"", "has 0 bytes"),
        (lambda content: b"\x0a" + content[1:], "has a label 10, they go from 0 to 9"),
    ],
)
def test_damaged_cifar10_files_are_named(folder, damage, message):
    path = folder / "data_batch_3.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        cifar(folder.parent).read()
    assert str(caught.value).startswith(f"{path}: ")
    assert "delete it to download it again" in str(caught.value)
    assert "\n" not in str(caught.value)


def archive(contents: dict[str, bytes], *links: tuple[str, str]) -> bytes:
    """A gzipped tar archive of files, and of links (name, target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return buffer.getvalue()


def serve(monkeypatch, content: bytes | None) -> None:
    """A network with this archive alone, or none."""
    import torchvision.datasets.utils

    def download_url(url, root, filename):
        if content is None or url != cifar10.ARCHIVE.urls[0]:
            raise URLError("no network")
        (Path(root) / filename).write_bytes(content)

    digest = hashlib.md5(content or b"", usedforsecurity=False).hexdigest()
    remote = cifar10.Remote(cifar10.ARCHIVE.name, cifar10.ARCHIVE.urls, "md5", digest)
    monkeypatch.setattr(torchvision.datasets.utils, "download_url", download_url)
    monkeypatch.setattr(cifar10, "ARCHIVE", remote)


def packed(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"cifar-10-batches-bin/{name}": content for name, content in files.items()}


def test_cifar10_takes_its_files_and_nothing_else_out_of_the_archive(tmp_path, monkeypatch, files):
    absolute = str(tmp_path / "absolute.bin")
    others = {"../escape.bin": b"1", absolute: b"2", "cifar-10-batches-bin/readme.html": b"3"}
    serve(monkeypatch, archive(packed(files) | others, ("cifar-10-batches-bin/link", "/etc/passwd")))
    assert np.array_equal(cifar(tmp_path / "root").read().test.values, records(5)[1])
    found = [path for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()]
    assert sorted(path.relative_to(tmp_path / "root").as_posix() for path in found) == sorted(packed(files))


def test_a_link_in_the_place_of_a_file_is_refused(tmp_path, monkeypatch, files):
    name = "cifar-10-batches-bin/data_batch_2.bin"
    contents = {key: content for key, content in packed(files).items() if key != name}
    serve(monkeypatch, archive(contents, (name, "/etc/passwd")))
    with pytest.raises(UserError, match=r"lacks data_batch_1.bin.*the archive has no file .*data_batch_2.bin"):
        cifar(tmp_path).read()
    assert list((tmp_path / "cifar-10-batches-bin").iterdir()) == []


def test_an_archive_that_is_none_is_refused(tmp_path, monkeypatch, files):
    for content in (b"no archive", archive(packed(files))[:-2000]):
        serve(monkeypatch, content)
        with pytest.raises(UserError, match=r"cifar-10-binary.tar.gz cannot be unpacked"):
            cifar(tmp_path).read()
    assert list((tmp_path / "cifar-10-batches-bin").iterdir()) == []


def test_missing_cifar10_files_are_named(folder, monkeypatch):
    serve(monkeypatch, None)
    (folder / "test_batch.bin").unlink()
    with pytest.raises(UserError, match=r"lacks test_batch.bin; put it there.*no network") as caught:
        cifar(folder.parent).read()
    assert "\n" not in str(caught.value)


def test_the_archive_is_the_published_one():
    assert cifar10.ARCHIVE.urls == ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",)
    assert cifar10.ARCHIVE.digest == "c32a1d4ab5d03f1284b67883e8d87530"


# Folders of pictures


def picture(path: Path, value=None, size=(8, 8)) -> None:
    """A PNG file of one value, or (None) of noise that depends on its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(list(path.name.encode())).integers(0, 256, (size[1], size[0], 3), np.uint8)
    pixels = noise if value is None else np.full((size[1], size[0], 3), value, np.uint8)
    Image.fromarray(pixels).save(path)


def images(path: Path | None, **changes):
    settings = {"size": 8, "held_out": 0.2} | changes
    return component("dataset", "image_folder", path=None if path is None else str(path), **settings)


def fill(folder: Path, values) -> None:
    for value in values:
        picture(folder / f"{value:03}.png", value)


def firsts(part) -> list[int]:
    return part.values[:, 0, 0, 0].tolist()


def test_a_flat_folder_is_split_without_labels(tmp_path):
    fill(tmp_path, range(50))
    (tmp_path / "notes.txt").write_text("passed over")
    (tmp_path / ".hidden.png").write_text("passed over")
    raw = images(tmp_path).read()
    parts = [firsts(part) for part in (raw.train, raw.valid, raw.test)]
    assert [len(part) for part in parts] == [32, 8, 10]
    assert sorted(value for part in parts for value in part) == list(range(50))
    assert raw.train.labels is None
    assert raw.train.values.dtype == np.uint8
    assert raw.train.values.shape == (32, 3, 8, 8)
    assert parts == [firsts(part) for part in (images(tmp_path).read().train, raw.valid, raw.test)]


def test_subfolders_are_classes_by_sorted_name(tmp_path):
    for label, name in enumerate(("ant", "bee", "cat")):
        fill(tmp_path / name, range(100 * label // 2, 100 * label // 2 + 10))
    raw = images(tmp_path).read()
    for part in (raw.train, raw.valid, raw.test):
        assert part.labels.tolist() == [value // 50 for value in firsts(part)]


def test_splits_that_are_there_are_taken_and_the_others_drawn(tmp_path):
    fill(tmp_path / "train", range(20))
    fill(tmp_path / "test", range(200, 203))
    raw = images(tmp_path).read()
    assert firsts(raw.test) == [200, 201, 202]
    assert len(raw.valid.values) == 4
    assert sorted(firsts(raw.train) + firsts(raw.valid)) == list(range(20))
    fill(tmp_path / "valid", [100])
    raw = images(tmp_path).read()
    assert (firsts(raw.train), firsts(raw.valid)) == (list(range(20)), [100])


def test_splits_of_classes_number_the_classes_alike(tmp_path):
    fill(tmp_path / "train" / "bee", range(5))
    fill(tmp_path / "train" / "cat", range(100, 105))
    fill(tmp_path / "test" / "cat", [110])
    fill(tmp_path / "valid" / "bee", [10])
    raw = images(tmp_path).read()
    assert (raw.train.labels.tolist(), raw.valid.labels.tolist(), raw.test.labels.tolist()) == (
        [0] * 5 + [1] * 5,
        [0],
        [1],
    )


def test_a_picture_is_cropped_to_its_centre(tmp_path):
    """Left and right of a square of 8 x 8 noise there is something else."""
    inside = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    wide = np.concatenate([np.zeros((8, 4, 3), np.uint8), inside, np.full((8, 4, 3), 255, np.uint8)], 1)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "high.png")
    assert np.array_equal(read_image(tmp_path / "wide.png", 8, colour=True), inside.transpose(2, 0, 1))
    assert np.array_equal(read_image(tmp_path / "high.png", 8, colour=True), inside.transpose(2, 1, 0))


def test_reducing_averages(tmp_path):
    """Stripes of one pixel become grey; picking every eighth pixel would leave black or white."""
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    found = read_image(tmp_path / "stripes.png", 8, colour=False).astype(int)
    assert abs(found[:, 1:-1] - 127.5).max() < 8


def test_grey_is_the_luma_and_colour_has_three_channels(tmp_path):
    """ITU-R 601: 0.299 red + 0.587 green + 0.114 blue."""
    Image.fromarray(np.full((4, 4, 3), (200, 100, 50), np.uint8)).save(tmp_path / "one.png")
    grey = read_image(tmp_path / "one.png", 4, colour=False)
    assert grey.shape == (4, 4)
    assert abs(grey.astype(int) - 124.2).max() < 1
    assert read_image(tmp_path / "one.png", 4, colour=True)[:, 0, 0].tolist() == [200, 100, 50]
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png", 4, colour=True)[:, 0, 0].tolist() == [9, 9, 9]


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    """EXIF orientation 6: what is stored is to be turned by 90 degrees clockwise."""
    stored = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png", 8, colour=False), np.rot90(stored, -1))


def refusal(path: Path | None, **changes) -> str:
    with pytest.raises(UserError) as caught:
        images(path, **changes).read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_folder_and_no_images(tmp_path):
    assert refusal(None) == "dataset.path = null: name the folder of pictures, dataset.path=FOLDER"
    assert refusal(tmp_path / "none").endswith("none: there is no such folder")
    (tmp_path / "notes.txt").write_text("no picture")
    assert "has no image; file names must end in .bmp, .gif" in refusal(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "has no image" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n"])
def test_all_bad_files_are_named(tmp_path, content):
    """One with the reason; of several, in whatever splits, the names, so that they need not be found one by one."""
    for split in ("train", "test"):
        fill(tmp_path / split, range(4))
    (tmp_path / "train" / "002.png").write_bytes(content)
    one = tmp_path / "train" / "002.png"
    assert refusal(tmp_path).startswith(f"{one}: cannot be read as a picture (cannot identify")
    (tmp_path / "test" / "003.png").write_bytes(content)
    said = f"dataset.path = {tmp_path}: 2 of 8 pictures cannot be read; take them out, or pass over them by "
    assert refusal(tmp_path) == f"{said}dataset.broken=skip: train/002.png, test/003.png"
    raw = images(tmp_path, broken="skip").read()
    said = "dataset.broken = skip: 2 of 8 pictures cannot be read and are passed over: train/002.png, test/003.png"
    assert raw.remarks == (said,)
    assert len(raw.train.values) + len(raw.valid.values) == len(raw.test.values) == 3
    for number in range(3):
        (tmp_path / "test" / f"{number:03}.png").write_bytes(content)
    with pytest.raises(UserError, match=r"no picture of test can be read"):
        images(tmp_path, broken="skip").read()


def test_pictures_of_ones_own_are_cut_out_alike(tmp_path):
    fill(tmp_path, (7, 40, 90))
    (tmp_path / "notes.txt").write_text("no picture")
    reader = images(tmp_path)
    found = reader.own_rows(tmp_path, "data = FOLDER", None)
    assert found.values.tolist() == [
        read_image(file, 8, colour=True).tolist() for file in sorted(tmp_path.glob("*.png"))
    ]
    assert not found.missing.any()
    assert found.labels.tolist() == ["007.png", "040.png", "090.png"]
    assert found.place(1) == "040.png"
    assert reader.own_rows(tmp_path / "040.png", "data = FILE", None).values.tolist() == found.values[1:2].tolist()
    np.save(tmp_path / "rows.npy", found.values)
    assert (reader.own_rows(tmp_path / "rows.npy", "data = FILE", None).values == found.values).all()
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="data = FOLDER: has no image"):
        reader.own_rows(tmp_path / "none", "data = FOLDER", None)


def test_a_picture_cut_short_is_named(tmp_path):
    picture(tmp_path / "half.png", size=(64, 64))
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:2000])
    with pytest.raises(UserError, match=r"half.png: cannot be read as a picture"):
        read_image(tmp_path / "half.png", 8, colour=True)


def test_sixteen_bits_are_refused(tmp_path):
    """Pillow would clip them at 255."""
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match=r"deep.png: has more than 8 bits a channel"):
        read_image(tmp_path / "deep.png", 4, colour=False)


def test_too_few_images(tmp_path):
    fill(tmp_path, range(2))
    assert "too few images for training (2); the three splits need one each" in refusal(tmp_path)
    fill(tmp_path, range(3))
    raw = images(tmp_path).read()
    assert [len(part.values) for part in (raw.train, raw.valid, raw.test)] == [1, 1, 1]
    assert "too few rows to hold out valid rows; put some into a subfolder valid" in refusal(tmp_path, held_out=0.5)


def test_mixed_layouts_are_refused(tmp_path):
    fill(tmp_path / "both", range(4))
    fill(tmp_path / "both" / "cat", range(4))
    assert "has images (000.png, ...) beside subfolders (cat, ...)" in refusal(tmp_path / "both")
    fill(tmp_path / "deep" / "cat" / "black", range(4))
    assert "cat is a class, yet has a subfolder black" in refusal(tmp_path / "deep")
    fill(tmp_path / "beside" / "train", range(4))
    fill(tmp_path / "beside" / "cat", range(4))
    assert "has cat beside the subfolders train" in refusal(tmp_path / "beside")
    fill(tmp_path / "lacking" / "test", range(4))
    assert "has no train among the subfolders test" in refusal(tmp_path / "lacking")
    fill(tmp_path / "unlike" / "train", range(4))
    fill(tmp_path / "unlike" / "test" / "cat", range(4))
    assert "some of train, test have a subfolder for each class and some not" in refusal(tmp_path / "unlike")
    fill(tmp_path / "loose" / "train", range(4))
    fill(tmp_path / "loose", [7])
    assert "has 007.png beside the subfolders train" in refusal(tmp_path / "loose")


def test_pictures_train_in_a_box(tmp_path):
    fill(tmp_path, range(0, 250, 25))
    data = images(tmp_path, colour=False, box="symmetric", dequantise=False).load((Box,))
    assert data.space == Box((8, 8), -1.0, 1.0)
    values = data.train.all()[:, 0, 0]
    assert torch.allclose((values + 1) * 127.5, (values + 1).mul(127.5).round(), atol=1e-3)


@pytest.mark.long
def test_the_recipe_of_leveled_photographs_takes_steps(folder, monkeypatch):
    """Two updates of the full network, of few rows and moves."""
    monkeypatch.chdir(folder.parent)
    keys = "dataset.root=. dataset.valid=4 batch_size=2 objective.steps=2 steps=2 evaluation=[] hydra.run.dir=run"
    answer = ebm(f"train experiment=leveled_cifar10 {keys} device=cpu tracker=none log_every=1")
    assert answer.code == 0, answer.err
    assert len((folder.parent / "run" / "metrics.jsonl").read_text().splitlines()) >= 2
