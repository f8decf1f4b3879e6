"""Fixed binary images: binarised MNIST, Omniglot and Caltech silhouettes."""

from pathlib import Path

import numpy as np
import pytest
from helpers.components import component, real_data

from ebm_cli.dataset.binary_images import read_mat
from ebm_cli.errors import UserError
from ebm_cli.space import Binary, Real

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


@pytest.mark.quick("caltech101", "omniglot")
@pytest.mark.data
@pytest.mark.parametrize("name", SIZES)
def test_binary_images_have_their_official_sizes(name):
    data = component("dataset", name, root=real_data(f"binary_images/{FILES[name]}")).load((Binary,))
    assert tuple(len(part) for part in (data.train, data.valid, data.test)) == SIZES[name]
    assert data.space == Binary((28, 28))
    assert data.space.contains(data.valid.all())
    assert (data.train.labels is None) == (name == "binarized_mnist")
    assert data.train.stochastic == (name == "omniglot")


@pytest.mark.data
def test_omniglot_mean_and_labels():
    data = component("dataset", "omniglot", root=real_data("binary_images/omniglot28.npz"), dequantise=False).load(
        (Real,)
    )
    assert data.train.mean().mean().item() == pytest.approx(0.081, abs=5e-4)
    assert int(data.test.labels.max()) == 1622


@pytest.mark.data
def test_caltech_original_equals_the_npz():
    root = real_data("binary_images/caltech101_silhouettes_28_split1.mat")
    converted = read_mat(Path(root) / "binary_images" / "caltech101_silhouettes_28_split1.mat")
    packed = component("dataset", "caltech101", root=real_data("binary_images/caltech101_silhouettes_28.npz")).read()
    for split in ("train", "valid", "test"):
        one, other = getattr(converted, split), getattr(packed, split)
        assert one.values.dtype == np.uint8
        assert np.array_equal(one.values, other.values)
        assert np.array_equal(one.labels, other.labels)


@pytest.mark.parametrize("name", ["binarized_mnist", "omniglot"])
def test_what_cannot_be_downloaded_is_described(tmp_path, name):
    with pytest.raises(UserError) as caught:
        component("dataset", name, root=str(tmp_path)).read()
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
        component("dataset", "binarized_mnist", root=str(tmp_path)).read()
