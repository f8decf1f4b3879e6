"""Datasets: what is read, how it is split, binarised and batched, and what is said about bad files."""

import dataclasses
import gzip
import hashlib
import importlib
import io
import math
import pkgutil
import socket
import time
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import yaml
from helpers.components import FALSE_ALARM, component, real_data
from helpers.keys import ENGINES, form
from helpers.statistics import chi_square
from helpers.training import batch

import ebm_cli.dataset
from ebm_cli import registry, rng
from ebm_cli.dataset import files
from ebm_cli.dataset.base import Data, Split, batch_index
from ebm_cli.dataset.binary_images import read_mat
from ebm_cli.errors import UserError
from ebm_cli.space import Binary, Real, Spin

for found in pkgutil.iter_modules(ebm_cli.dataset.__path__):
    importlib.import_module(f"ebm_cli.dataset.{found.name}")

REPOSITORY = Path(__file__).parents[1]
DEFAULTS = {path.stem: path for path in sorted((REPOSITORY / "conf" / "dataset").glob("*.yaml"))}


def defaults(name: str, **changes):
    return yaml.safe_load(DEFAULTS[name].read_text()) | changes


def dataset(name: str, **changes):
    return registry.build("dataset", defaults(name, **changes))


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


# Configuration


def test_every_component_has_a_file_and_every_file_a_component():
    assert sorted(DEFAULTS) == sorted(registry.components("dataset"))


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_build_and_are_exactly_the_fields(name):
    config = defaults(name)
    component = registry.build("dataset", config)
    assert config.pop("name") == name
    assert set(config) == {field.name for field in dataclasses.fields(component)}
    assert DEFAULTS[name].read_text().startswith("# ")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("digits", {"valid": -1}),
        ("digits", {"binarize": "maybe"}),
        ("mnist", {"valid": 1.5}),
        ("emnist", {"split": "all"}),
        ("bars_and_stripes", {"side": 1}),
        ("bars_and_stripes", {"side": 7}),
        ("npz", {"held_out": 0.0}),
        ("npz", {"held_out": 0.6}),
        ("binary_tabular", {"table": "adult"}),
    ],
)
def test_values_out_of_range_are_refused(name, change):
    with pytest.raises(UserError, match=rf"dataset\.{next(iter(change))} = "):
        dataset(name, **change)


def test_data_root_prefers_key_then_environment_then_cache(monkeypatch):
    monkeypatch.setenv("EBM_DATA", "/from/environment")
    assert files.data_root("/from/key") == Path("/from/key")
    assert files.data_root(None) == Path("/from/environment")
    monkeypatch.delenv("EBM_DATA")
    assert files.data_root(None).parts[-2:] == ("ebm", "data")


# Digits


def test_digits_split_covers_every_row_once():
    from sklearn.datasets import load_digits

    data = dataset("digits", dequantise=False).load((Real,))
    parts = (data.train, data.valid, data.test)
    assert [len(part) for part in parts] == [1293, 144, 360]
    assert data.space == Real((8, 8))
    split = torch.cat([part.all() for part in parts]).flatten(1) * 16
    labels = torch.cat([part.labels for part in parts])
    source = load_digits()
    # All 1797 images are distinct, so equal sets of (image, label) mean disjoint splits that leave nothing out.
    expected = {(*map(int, row), int(label)) for row, label in zip(source.data, source.target, strict=True)}
    assert len(expected) == 1797
    assert {(*map(int, row), int(label)) for row, label in zip(split.tolist(), labels, strict=True)} == expected


def test_digits_without_validation_keeps_the_test_rows():
    whole, cut = (dataset("digits", dequantise=False, **keys).load((Real,)) for keys in ({"valid": 0}, {}))
    assert whole.valid is None
    assert len(whole.train) == 1437
    assert torch.equal(whole.test.all(), cut.test.all())
    assert torch.equal(whole.train.all()[:1293], cut.train.all())
    assert torch.equal(whole.train.all()[1293:], cut.valid.all())


def test_digits_refuse_validation_that_leaves_no_training_rows():
    with pytest.raises(UserError, match=r"dataset.valid = 1437: must be below 1437"):
        dataset("digits", valid=1437).read()


def test_digits_are_thresholded_at_half():
    grey, binary = dataset("digits", dequantise=False).load((Real,)), dataset("digits").load((Binary,))
    assert binary.space == Binary((8, 8))
    assert torch.equal(binary.train.all(), (grey.train.all() * 16 >= 8).float())
    assert not torch.equal(binary.train.all(), (grey.train.all() * 16 > 8).float())


def test_digits_under_independent_pixels():
    """The simplest model fixes scale, threshold and split. Over random splits it gives -25.13, sd 0.18."""
    data = dataset("digits", valid=0).load((Binary,))
    x, test = data.train.all().flatten(1).double(), data.test.all().flatten(1).double()
    p = (x.sum(0) + 0.5) / (len(x) + 1)
    value = (test @ p.log() + (1 - test) @ (1 - p).log()).mean().item()
    assert value == pytest.approx(-25.176, abs=2e-3)


# Files in MNIST's format


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def idx_files(stems=("train", "t10k"), rows=(12, 5)) -> dict[str, bytes]:
    """Four small files of random images (different ones for train and test), labels 1, 2, 3, 1, ..."""
    contents = {}
    for stem, count in zip(stems, rows, strict=True):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28))
        contents[f"{stem}-images-idx3-ubyte"] = idx(images)
        contents[f"{stem}-labels-idx1-ubyte"] = idx(np.arange(count) % 3 + 1)
    return contents


def write_idx(folder: Path, contents: dict[str, bytes], packed: bool = True) -> None:
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_packed_or_not(tmp_path, packed):
    write_idx(tmp_path / "KMNIST" / "raw", idx_files(), packed)
    data = dataset("kmnist", root=str(tmp_path), valid=4, dequantise=False).load((Real,))
    source = np.random.default_rng(12).integers(0, 256, (12, 28, 28))
    expected = torch.from_numpy(source).float() / 255
    assert torch.equal(data.train.all(), expected[:8])
    assert torch.equal(data.valid.all(), expected[8:])
    assert len(data.test) == 5
    assert data.valid.labels.tolist() == [3, 1, 2, 3]


def test_mnist_validation_may_be_none_but_not_everything(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw", idx_files())
    data = dataset("mnist", root=str(tmp_path), valid=0).load((Real,))
    assert data.valid is None
    assert len(data.train) == 12
    with pytest.raises(UserError, match=r"dataset.valid = 12: must be below 12"):
        dataset("mnist", root=str(tmp_path), valid=12).read()


@pytest.mark.parametrize(("split", "first"), [("letters", 1), ("balanced", 0)])
def test_emnist_is_upright_and_its_labels_count_from_0(tmp_path, split, first):
    stems = (f"emnist-{split}-train", f"emnist-{split}-test")
    write_idx(tmp_path / "EMNIST" / "raw", idx_files(stems))
    raw = dataset("emnist", root=str(tmp_path), valid=0, split=split).read()
    stored = np.random.default_rng(12).integers(0, 256, (12, 28, 28))
    assert np.array_equal(raw.train.values, stored.transpose(0, 2, 1))
    assert raw.train.labels.tolist() == [label + 1 - first for label in [0, 1, 2] * 4]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: gzip.compress(content)[:-20], "cannot be read"),
        (lambda content: gzip.compress(content)[:9], "cannot be read"),
        (lambda content: content, "cannot be read"),
        (lambda content: b"", "not an idx file of bytes with 3"),
        (lambda content: gzip.compress(content[:-1]), "has 9423 bytes unpacked, 9424 are due"),
        (lambda content: gzip.compress(content + b"0"), "has more than 9424 bytes unpacked, 9424 are due"),
        (lambda content: gzip.compress(content[:7]), "not an idx file of bytes with 3"),
        (lambda content: gzip.compress(b"\0\0\x0d\3" + content[4:]), "not an idx file of bytes with 3"),
        (lambda content: gzip.compress(b"\0\0\x08\1" + content[4:]), "not an idx file of bytes with 3"),
        (lambda content: gzip.compress(b"\x80\4\x95" + content), "not an idx file of bytes with 3"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, damage, message):
    write_idx(tmp_path / "MNIST" / "raw", idx_files())
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(idx_files()["train-images-idx3-ubyte"]))
    with pytest.raises(UserError, match=message) as caught:
        dataset("mnist", root=str(tmp_path), valid=0).read()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_images_and_labels_of_different_length_are_refused(tmp_path):
    contents = idx_files()
    contents["train-labels-idx1-ubyte"] = idx(np.zeros(11))
    write_idx(tmp_path / "MNIST" / "raw", contents)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte has 12 rows and train-labels-idx1-ubyte 11"):
        dataset("mnist", root=str(tmp_path), valid=0).read()


@pytest.mark.data
def test_mnist_is_the_original():
    root = real_data("MNIST/raw/train-images-idx3-ubyte.gz")
    from torchvision import datasets

    raw = Path(root) / "MNIST" / "raw"
    for name, expected in datasets.MNIST.resources:
        assert md5((raw / name).read_bytes()) == expected
    data = dataset("mnist", root=root).load((Binary,))
    assert [len(part) for part in (data.train, data.valid, data.test)] == [50000, 10000, 10000]
    assert data.space == Binary((28, 28))
    # Mean 0.1307 of the 60000 training images is the constant that tutorials normalise with.
    mean = (50000 * data.train.mean().mean() + 10000 * data.valid.mean().mean()) / 60000
    assert mean.item() == pytest.approx(0.1307, abs=5e-5)
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


@pytest.mark.data
def test_fashion_mnist_has_equal_classes():
    root = real_data("FashionMNIST/raw/train-images-idx3-ubyte.gz")
    raw = dataset("fashion_mnist", root=root, valid=0).read()
    assert raw.train.values.shape == (60000, 28, 28)
    assert np.bincount(raw.train.labels).tolist() == [6000] * 10
    assert np.bincount(raw.test.labels).tolist() == [1000] * 10
    assert raw.train.values.mean() / 255 == pytest.approx(0.2860, abs=5e-5)


# Downloads


@pytest.fixture
def served(monkeypatch):
    """A network with the files of the returned dictionary (URL -> content, or the error to raise) and no others."""
    import torchvision.datasets.utils

    network: dict[str, bytes | Exception] = {}

    def download_url(url, root, filename):
        assert socket.getdefaulttimeout() == files.TIMEOUT
        if (Path(root) / filename).exists():  # as the real one does
            return
        content = network.get(url, URLError("no network"))
        (Path(root) / filename).write_bytes(content if isinstance(content, bytes) else b"the first half")
        if isinstance(content, Exception):
            raise content

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", download_url)
    return network


def offer(monkeypatch, served, mirror: str = "http://mirror.invalid/") -> dict[str, bytes]:
    """Serve four small files as if they were MNIST."""
    from torchvision import datasets

    packed = {f"{name}.gz": gzip.compress(content) for name, content in idx_files().items()}
    served.update({f"{mirror}{name}": content for name, content in packed.items()})
    monkeypatch.setattr(datasets.MNIST, "resources", [(name, md5(content)) for name, content in packed.items()])
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://down.invalid/", "http://mirror.invalid/"])
    return packed


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "emnist"])
def test_without_network_the_missing_files_are_named(tmp_path, served, name):
    component = dataset(name, root=str(tmp_path))
    raw = tmp_path / component.folder / "raw"
    with pytest.raises(UserError) as caught:
        component.read()
    message = str(caught.value)
    train, test = component.stems()
    for stem in (train, test):
        assert f"{stem}-images-idx3-ubyte.gz" in message
        assert f"{stem}-labels-idx1-ubyte.gz" in message
    assert f"{raw} lacks " in message
    assert "set dataset.root or EBM_DATA" in message
    assert "no network" in message
    assert "\n" not in message
    assert list(raw.iterdir()) == []


def test_a_dead_address_fails_within_seconds(tmp_path, monkeypatch):
    """The real download function, at a port that nobody listens to and at a server that never answers."""
    monkeypatch.setattr(files, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = ("http://127.0.0.1:9/f", f"http://127.0.0.1:{silent.getsockname()[1]}/f")
        start = time.monotonic()
        with pytest.raises(UserError, match=r"refused.*timed out"):
            files.download(files.Remote("f", urls, "md5", "0"), tmp_path, "f")
        assert time.monotonic() - start < 5
    assert socket.getdefaulttimeout() is None


def test_download_from_the_second_mirror_is_complete_and_kept(tmp_path, monkeypatch, served):
    packed = offer(monkeypatch, served)
    component = dataset("mnist", root=str(tmp_path), valid=0)
    first = component.read()
    raw = tmp_path / "MNIST" / "raw"
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == packed
    served.clear()
    assert np.array_equal(component.read().train.values, first.train.values)


def test_only_missing_files_are_downloaded(tmp_path, monkeypatch, served):
    packed = offer(monkeypatch, served)
    write_idx(tmp_path / "MNIST" / "raw", idx_files())
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    for name in packed:
        if not name.startswith("t10k-labels"):
            del served[f"http://mirror.invalid/{name}"]
    assert len(dataset("mnist", root=str(tmp_path), valid=0).read().test.labels) == 5


def test_download_with_the_wrong_hash_is_refused(tmp_path, monkeypatch, served):
    offer(monkeypatch, served)
    served["http://mirror.invalid/train-images-idx3-ubyte.gz"] = gzip.compress(idx(np.zeros((12, 28, 28))))
    with pytest.raises(UserError, match="its md5 is not"):
        dataset("mnist", root=str(tmp_path), valid=0).read()
    assert list((tmp_path / "MNIST" / "raw").iterdir()) == []


def test_interrupted_download_leaves_nothing(tmp_path, monkeypatch, served):
    offer(monkeypatch, served)
    served["http://down.invalid/train-images-idx3-ubyte.gz"] = TimeoutError("stalled")
    served["http://mirror.invalid/train-images-idx3-ubyte.gz"] = TimeoutError("stalled")
    with pytest.raises(UserError, match="stalled"):
        dataset("mnist", root=str(tmp_path), valid=0).read()
    assert list((tmp_path / "MNIST" / "raw").iterdir()) == []


def test_emnist_archive_is_unpacked_without_its_folder(tmp_path, monkeypatch, served):
    from torchvision import datasets

    contents = idx_files(("emnist-digits-train", "emnist-digits-test"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("gzip/", "")
        for name, content in contents.items():
            archive.writestr(f"gzip/{name}.gz", gzip.compress(content))
        archive.writestr("../../escape.gz", b"")
    served[datasets.EMNIST.url] = buffer.getvalue()
    monkeypatch.setattr(datasets.EMNIST, "md5", md5(buffer.getvalue()))
    raw = dataset("emnist", root=str(tmp_path), valid=0, split="digits").read()
    assert raw.train.values.shape == (12, 28, 28)
    names = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert names == sorted([*(f"{name}.gz" for name in contents), "escape.gz"])
    assert not (tmp_path / "escape.gz").exists()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path, served):
    (tmp_path / "MNIST").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"lacks train-images.*the download failed: .*MNIST"):
        dataset("mnist", root=str(tmp_path)).read()


# Fixed binary images

SIZES = {
    "binarized_mnist": (50000, 10000, 10000),
    "omniglot": (23000, 1345, 8115),
    "caltech101": (4100, 2264, 2307),
}
FILES = {
    "binarized_mnist": "binarized_mnist.npz",
    "omniglot": "omniglot28.npz",
    "caltech101": "caltech101_silhouettes_28.npz",
}


@pytest.mark.data
@pytest.mark.parametrize("name", SIZES)
def test_binary_images_have_their_official_sizes(name):
    data = dataset(name, root=real_data(f"binary_images/{FILES[name]}")).load((Binary,))
    assert tuple(len(part) for part in (data.train, data.valid, data.test)) == SIZES[name]
    assert data.space == Binary((28, 28))
    assert data.space.contains(data.valid.all())
    assert (data.train.labels is None) == (name == "binarized_mnist")
    assert data.train.stochastic == (name == "omniglot")


@pytest.mark.data
def test_omniglot_mean_and_labels():
    data = dataset("omniglot", root=real_data("binary_images/omniglot28.npz"), dequantise=False).load((Real,))
    assert data.train.mean().mean().item() == pytest.approx(0.081, abs=5e-4)
    assert int(data.test.labels.max()) == 1622


@pytest.mark.data
def test_caltech_original_equals_the_npz():
    root = real_data("binary_images/caltech101_silhouettes_28_split1.mat")
    converted = read_mat(Path(root) / "binary_images" / "caltech101_silhouettes_28_split1.mat")
    packed = dataset("caltech101", root=real_data("binary_images/caltech101_silhouettes_28.npz")).read()
    for split in ("train", "valid", "test"):
        one, other = getattr(converted, split), getattr(packed, split)
        assert one.values.dtype == np.uint8
        assert np.array_equal(one.values, other.values)
        assert np.array_equal(one.labels, other.labels)


@pytest.mark.data
def test_caltech_is_downloaded_and_checked(tmp_path, served):
    name = "caltech101_silhouettes_28_split1.mat"
    original = Path(real_data(f"binary_images/{name}")) / "binary_images" / name
    url = f"https://people.cs.umass.edu/~marlin/data/{name}"
    component = dataset("caltech101", root=str(tmp_path))
    served[url] = original.read_bytes()[:-1]
    with pytest.raises(UserError, match=r"caltech101_silhouettes_28.npz or .*split1.mat.*its sha256 is not"):
        component.read()
    served[url] = original.read_bytes()
    assert len(component.read().train.values) == 4100
    (tmp_path / "binary_images" / name).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"split1.mat: its sha256 is not .*delete it"):
        component.read()


@pytest.mark.parametrize("name", ["binarized_mnist", "omniglot"])
def test_what_cannot_be_downloaded_is_described(tmp_path, name):
    with pytest.raises(UserError) as caught:
        dataset(name, root=str(tmp_path)).read()
    assert f"{tmp_path / 'binary_images'} lacks {FILES[name]} (keys train, val, test" in str(caught.value)


GOOD = np.zeros((3, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val": None}, "has no key val; it must have train, val, test"),
        ({"val": np.zeros((3, 784), np.uint8)}, r"key val has type uint8 and shape \(3, 784\)"),
        ({"test": np.zeros((3, 28, 28))}, "key test has type float64"),
        ({"test": GOOD[:0]}, r"key test has type uint8 and shape \(0, 28, 28\)"),
        ({"train": GOOD + 2}, "key train has values up to 2, it must have 0 and 1 alone"),
        ({"train": np.array([None])}, "cannot read train .*[Oo]bject arrays"),
    ],
)
def test_malformed_binary_images(tmp_path, changes, message):
    (tmp_path / "binary_images").mkdir()
    arrays = {"train": GOOD, "val": GOOD, "test": GOOD} | changes
    present = {key: array for key, array in arrays.items() if array is not None}
    np.savez(tmp_path / "binary_images" / "binarized_mnist.npz", **present)
    with pytest.raises(UserError, match=message):
        dataset("binarized_mnist", root=str(tmp_path)).read()


# Binary tables


def table(tmp_path, **changes) -> dict[str, np.ndarray]:
    """Writes nltcs.npz with a few rows of its own for each split."""
    drawn = rng.bernoulli(torch.zeros(3, 5, 16), rng.stream(0, "table")).byte().numpy()
    arrays = dict(zip(("train", "val", "test"), (drawn[0], drawn[1, :2], drawn[2, :4]), strict=True)) | changes
    (tmp_path / "binary_tabular").mkdir()
    np.savez(tmp_path / "binary_tabular" / "nltcs.npz", **arrays)
    return arrays


def test_binary_tables_are_read_split_by_split(tmp_path):
    arrays = table(tmp_path)
    data = dataset("binary_tabular", root=str(tmp_path)).load((Binary,))
    assert data.space == Binary((16,))
    for part, key in ((data.train, "train"), (data.valid, "val"), (data.test, "test")):
        assert np.array_equal(part.all().numpy(), arrays[key])
        assert part.labels is None
    assert dataset("binary_tabular", root=str(tmp_path)).load((Spin,)).space == Spin((16,))


def test_a_table_that_is_missing_or_another_is_named(tmp_path):
    with pytest.raises(UserError, match=r"binary_tabular lacks dna.npz \(keys train, val, test\); put it there, or "):
        dataset("binary_tabular", table="dna", root=str(tmp_path)).read()
    table(tmp_path, test=np.zeros((4, 69), np.uint8))
    with pytest.raises(UserError, match=r"nltcs.npz: key test has .* shape \(4, 69\), it must be uint8 and \(n, 16\)"):
        dataset("binary_tabular", root=str(tmp_path)).read()


TABLES = {
    "nltcs": ((16181, 2157, 3236), 16),
    "plants": ((17412, 2321, 3482), 69),
    "jester": ((9000, 1000, 4116), 100),
    "mushrooms": ((2000, 500, 5624), 112),
    "dna": ((1600, 400, 1186), 180),
    "nips": ((400, 100, 1240), 500),
}


@pytest.mark.data
@pytest.mark.parametrize("name", TABLES)
def test_binary_tables_have_their_official_sizes(name):
    data = dataset("binary_tabular", table=name, root=real_data(f"binary_tabular/{name}.npz")).load((Binary,))
    sizes, variables = TABLES[name]
    assert tuple(len(part) for part in (data.train, data.valid, data.test)) == sizes
    assert data.space == Binary((variables,))
    assert data.space.contains(data.test.all())


# Bars and stripes


@pytest.mark.parametrize("side", [2, 3, 4])
def test_bars_and_stripes_counts(side):
    data = dataset("bars_and_stripes", side=side).load((Binary,))
    assert data.valid is None
    assert data.space == Binary((side, side))
    x = data.train.all()
    assert torch.equal(x, data.test.all())
    codes, counts = data.space.code(x).unique(return_counts=True)
    assert len(x) == 2 * 2**side
    assert len(codes) == 2 * 2**side - 2
    assert {int(code): int(count) for code, count in zip(codes, counts, strict=True) if count > 1} == {
        0: 2,
        data.space.states - 1: 2,
    }
    bars, stripes = x[: 2**side], x[2**side :]
    assert (bars == bars[:, :1, :]).all()
    assert (stripes == stripes[:, :, :1]).all()


def test_bars_and_stripes_best_likelihood():
    """sum over the 30 distinct images of log p = 2 log(2/32) + 28 log(1/32)."""
    data = dataset("bars_and_stripes").load((Binary,))
    counts = data.space.code(data.train.all()).unique(return_counts=True)[1]
    assert (counts.double() / 32).log().sum().item() == pytest.approx(-102.5858, abs=1e-4)
    assert 2 * math.log(2 / 32) + 28 * math.log(1 / 32) == pytest.approx(-102.5858, abs=1e-4)


# The user's own file


def npz(tmp_path: Path, held_out: float = 0.1, **arrays):
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)
    return dataset("npz", path=str(path), held_out=held_out)


@pytest.mark.parametrize(
    ("train", "test", "values", "dtype"),
    [
        (np.eye(4, dtype=bool), np.eye(4, dtype=np.int64), "binary", np.uint8),
        (np.eye(4), np.eye(4, dtype=np.float32), "binary", np.uint8),
        (np.eye(4, dtype=np.uint8) * 254, np.eye(4, dtype=np.uint8) * 255, "grey", np.uint8),
        (np.eye(4), np.eye(4, dtype=np.float32) * 0.5, "grey", np.float32),
        (np.eye(4), np.eye(4) * 1.5, "real", np.float32),
        (np.eye(4), -np.eye(4), "real", np.float32),
        (np.eye(4, dtype=np.int64), np.eye(4, dtype=np.int64) * 255, "real", np.float32),
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
    data = component("dataset", "npz", path=str(tmp_path / "spins.npz")).load((Spin,))
    assert data.space == Spin((3,))
    assert np.array_equal(data.test.all().numpy(), spins)


def test_npz_real_values_cannot_be_binarised(tmp_path):
    np.savez(tmp_path / "real.npz", train=np.random.default_rng(0).normal(size=(20, 3)))
    component = dataset("npz", path=str(tmp_path / "real.npz"), binarize="threshold")
    with pytest.raises(UserError, match=r"dataset.binarize = threshold: needs values in"):
        component.load((Binary,))


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
    component = npz(tmp_path, train=np.arange(200.0).reshape(100, 2))
    first, second = component.read(), component.read()
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
        ({"data": X}, "has no key train; it has data"),
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
    component = npz(tmp_path, **arrays)
    with pytest.raises(UserError, match=message) as caught:
        component.read()
    assert str(caught.value).startswith(f"dataset.path = {tmp_path / 'own.npz'}: ")
    assert "\n" not in str(caught.value)


def test_npz_path_must_be_given_and_exist(tmp_path):
    with pytest.raises(UserError, match=r"dataset.path = null: name the .npz file, dataset.path=FILE"):
        dataset("npz").read()
    for path in (tmp_path, tmp_path / "none.npz"):
        with pytest.raises(UserError, match="there is no such file"):
            dataset("npz", path=str(path)).read()


def test_npz_that_is_no_archive_or_is_damaged(tmp_path):
    path = tmp_path / "bad.npz"
    component = dataset("npz", path=str(path))
    np.savez(path, train=X)
    whole = path.read_bytes()
    for content in (b"\0", whole[:-30]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"not an .npz file: cut short, or of another kind; write it anew"):
            component.read()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    path.write_bytes(flipped)
    with pytest.raises(UserError, match=r"cannot read train .*CRC"):
        component.read()


# Batches and binarisation


@pytest.mark.parametrize(("rows", "size"), [(10, 3), (10, 10), (7, 20), (5, 1), (12, 4)])
def test_batches_visit_each_row_once_per_pass(rows, size):
    passes = 2 * size  # so many passes are a whole number of batches
    index = torch.cat([batch_index(rows_of(rows), step, size, 3) for step in range(passes * rows // size)])
    orders = index.reshape(passes, rows)
    assert torch.equal(orders.sort(1).values, torch.arange(rows).expand(passes, rows))
    assert rows == 1 or len({tuple(order) for order in orders.tolist()}) > 1


def test_batch_index_is_a_function_of_seed_and_step():
    forward = [batch_index(rows_of(50), step, 8, 1) for step in range(30)]
    assert all(torch.equal(batch_index(rows_of(50), step, 8, 1), forward[step]) for step in reversed(range(30)))
    assert not torch.equal(batch_index(rows_of(50), 0, 8, 2), forward[0])


def rows_of(count, weights=None):
    """So many rows."""
    return Split(Binary((1,)), torch.zeros(count, 1), 1.0, stochastic=False, labels=None, weights=weights)


def test_rows_are_drawn_by_their_weights():
    """6000 draws of rows of weight 0, 1, 2, 3; each batch another one, and the same again for the same step."""
    split = rows_of(4, torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64))
    drawn = torch.cat([batch_index(split, step, 60, 0) for step in range(100)])
    count = torch.bincount(drawn, minlength=4)
    assert chi_square(count, 1000 * split.weights) > FALSE_ALARM
    assert split.size == 6
    assert torch.equal(batch_index(split, 7, 60, 0), drawn[420:480])
    assert not torch.equal(batch_index(split, 8, 60, 0), drawn[420:480])


def data_of(grey: torch.Tensor, scale: float, stochastic: bool) -> Data:
    space = Binary(tuple(grey.shape[1:]))
    split = Split(space, grey, scale, stochastic, None)
    return Data(space, split, None, split)


def test_stochastic_binarisation_is_drawn_anew_at_each_step():
    data = data_of(torch.full((4, 100), 128, dtype=torch.uint8), 255.0, stochastic=True)
    first = batch(data, 0, 4, 0)
    assert data.space.contains(first)
    assert torch.equal(batch(data, 0, 4, 0), first)
    assert not torch.equal(batch(data, 1, 4, 0), first)
    assert not torch.equal(batch(data, 0, 4, 1), first)
    assert torch.equal(data.train.all(), data.train.all())


def test_stochastic_binarisation_has_the_grey_mean():
    """Each of 52 grey levels in 4000 draws: 5 standard errors miss in 1 of 30000 runs of another key, never of this."""
    grey = torch.arange(0, 256, 5, dtype=torch.uint8).repeat(4000, 1)
    p = grey[0].double() / 255
    mean = (
        Split(Binary((52,)), grey, 255.0, stochastic=True, labels=None)
        .rows(torch.arange(4000), rng.stream(0, "test"))
        .double()
        .mean(0)
    )
    assert ((mean - p).abs() <= 5 * (p * (1 - p) / 4000).sqrt()).all()


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_some_rows_are_binarised_as_among_all(engine):
    """A share of a batch with the key at its first row."""
    split = Split(Binary((3, 3)), torch.full((20, 3, 3), 100, dtype=torch.uint8), 255.0, stochastic=True, labels=None)
    index, key = torch.arange(20).flip(0), rng.stream(0, "binarize")
    whole = split.rows(index, form(engine, key))
    assert set(whole.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(split.rows(index[3:8], form(engine, key.at_row(3))), whole[3:8])


@pytest.mark.parametrize("method", ["auto", "none", "threshold", "stochastic"])
def test_binarising_binary_data_changes_nothing(method):
    data = dataset("bars_and_stripes", binarize=method).load((Binary,))
    assert torch.equal(data.train.all(), dataset("bars_and_stripes").load((Binary,)).train.all())
    assert data.space == Binary((4, 4))


def test_explicit_method_and_default_method(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw", idx_files())
    root = {"root": str(tmp_path), "valid": 0}
    grey = dataset("mnist", dequantise=False, **root).load((Real,)).train.all()
    assert dataset("mnist", **root).load((Binary,)).train.stochastic
    assert dataset("mnist", **root).load((Binary, Real)).space == Binary((28, 28))
    half = dataset("mnist", binarize="threshold", **root).load((Real,))
    assert half.space == Binary((28, 28))
    assert torch.equal(half.train.all(), (grey >= 0.5).float())
    assert dataset("mnist", binarize="none", **root).load((Binary,)).space == Real((28, 28))


@pytest.mark.parametrize("name", ["digits", "bars_and_stripes"])
@pytest.mark.parametrize("method", ["auto", "none", "threshold", "stochastic"])
@pytest.mark.parametrize("accepted", [(Binary,), (Real,), (Binary, Real)])
def test_space_is_known_before_reading(name, method, accepted):
    component = dataset(name, binarize=method)
    assert component.space_type(accepted) is type(component.load(accepted).space)
