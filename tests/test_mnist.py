"""Images in MNIST's format: MNIST, Fashion-MNIST, KMNIST and EMNIST, read from files that are whole or damaged."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.components import component, real_data
from helpers.idx import idx, idx_files, md5, write_idx

from ebm_cli.errors import UserError
from ebm_cli.space import Binary, Real


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_packed_or_not(tmp_path, packed):
    write_idx(tmp_path / "KMNIST" / "raw", idx_files(), packed)
    data = component("dataset", "kmnist", root=str(tmp_path), valid=4, dequantise=False).load((Real,))
    source = np.random.default_rng(12).integers(0, 256, (12, 28, 28))
    expected = torch.from_numpy(source).float() / 255
    assert torch.equal(data.train.all(), expected[:8])
    assert torch.equal(data.valid.all(), expected[8:])
    assert len(data.test) == 5
    assert data.valid.labels.tolist() == [3, 1, 2, 3]


def test_mnist_validation_may_be_none_but_not_everything(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw", idx_files())
    data = component("dataset", "mnist", root=str(tmp_path), valid=0).load((Real,))
    assert data.valid is None
    assert len(data.train) == 12
    with pytest.raises(UserError, match=r"dataset.valid = 12: must be below 12"):
        component("dataset", "mnist", root=str(tmp_path), valid=12).read()


@pytest.mark.parametrize(("split", "first"), [("letters", 1), ("balanced", 0)])
def test_emnist_is_upright_and_its_labels_count_from_0(tmp_path, split, first):
    stems = (f"emnist-{split}-train", f"emnist-{split}-test")
    write_idx(tmp_path / "EMNIST" / "raw", idx_files(stems))
    raw = component("dataset", "emnist", root=str(tmp_path), valid=0, split=split).read()
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
        component("dataset", "mnist", root=str(tmp_path), valid=0).read()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_images_and_labels_of_different_length_are_refused(tmp_path):
    contents = idx_files()
    contents["train-labels-idx1-ubyte"] = idx(np.zeros(11))
    write_idx(tmp_path / "MNIST" / "raw", contents)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte has 12 rows and train-labels-idx1-ubyte 11"):
        component("dataset", "mnist", root=str(tmp_path), valid=0).read()


@pytest.mark.long
@pytest.mark.data
def test_mnist_is_the_original():
    root = real_data("MNIST/raw/train-images-idx3-ubyte.gz")
    from torchvision import datasets

    raw = Path(root) / "MNIST" / "raw"
    for name, expected in datasets.MNIST.resources:
        assert md5((raw / name).read_bytes()) == expected
    data = component("dataset", "mnist", root=root).load((Binary,))
    assert [len(part) for part in (data.train, data.valid, data.test)] == [50000, 10000, 10000]
    assert data.space == Binary((28, 28))
    # Mean 0.1307 of the 60000 training images is the constant that tutorials normalise with.
    mean = (50000 * data.train.mean().mean() + 10000 * data.valid.mean().mean()) / 60000
    assert mean.item() == pytest.approx(0.1307, abs=5e-5)
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


@pytest.mark.long
@pytest.mark.data
def test_fashion_mnist_has_equal_classes():
    root = real_data("FashionMNIST/raw/train-images-idx3-ubyte.gz")
    raw = component("dataset", "fashion_mnist", root=root, valid=0).read()
    assert raw.train.values.shape == (60000, 28, 28)
    assert np.bincount(raw.train.labels).tolist() == [6000] * 10
    assert np.bincount(raw.test.labels).tolist() == [1000] * 10
    assert raw.train.values.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
