"""Small images with fixed official splits, common in work on binary models: one .npz file each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from ebm_cli.dataset.base import Arrays, Binarize, Dataset, GreyDataset, Raw, Values
from ebm_cli.dataset.content import Bits, compact, whole
from ebm_cli.dataset.files import Remote, data_root, download, has_digest, missing, read_npz
from ebm_cli.dataset.stored import PackedRows
from ebm_cli.errors import UserError
from ebm_cli.registry import register

FOLDER = "binary_images"
SHAPE = (28, 28)
SPLITS = ("train", "val", "test")
LABELS = tuple(f"{name}_label" for name in SPLITS)
CALTECH = Remote(
    "caltech101_silhouettes_28_split1.mat",
    ("https://people.cs.umass.edu/~marlin/data/caltech101_silhouettes_28_split1.mat",),
    "sha256",
    "eb6735e8d84b1850fabc5590124aab1755e90c9fd28123585324398405e1e42a",
)


def read_splits(path: Path, values: Values, labelled: bool, shape: tuple[int, ...] = SHAPE) -> Raw:
    """`train`, `val`, `test` (n, *shape) uint8, with `*_label` (n,) if `labelled`.

    Raises UserError naming the file and the key if one is missing or is not that.
    """
    keys = (*SPLITS, *LABELS) if labelled else SPLITS
    if not path.is_file():
        raise UserError(missing(path.parent, f"{path.name} (keys {', '.join(keys)})"))
    arrays = read_npz(path, SPLITS, str(path), compact if values == "binary" else whole)
    arrays |= read_npz(path, LABELS, str(path)) if labelled else {}
    for key in keys:
        if key not in arrays:
            raise UserError(f"{path}: has no key {key}; it must have {', '.join(keys)}")
    for key in SPLITS:
        _check(arrays[key], values, shape, f"{path}: key {key}")
    labels = [arrays[key].astype(np.int64) for key in LABELS] if labelled else [None] * 3
    found = [array.packed if isinstance(array, Bits) else array for array in map(arrays.__getitem__, SPLITS)]
    return raw_of(found, labels, values)


def _check(array: NDArray[Any] | Bits, values: Values, shape: tuple[int, ...], said: str) -> None:
    if array.dtype != np.uint8 or array.shape != (len(array), *shape) or len(array) == 0:
        due = ", ".join(map(str, ("n", *shape)))
        raise UserError(f"{said} has type {array.dtype} and shape {array.shape}, it must be uint8 and ({due})")
    if values == "binary" and not isinstance(array, Bits) and array.max() > 1:
        raise UserError(f"{said} has values up to {array.max()}, it must have 0 and 1 alone")


def raw_of(arrays: Sequence[NDArray[Any] | PackedRows], labels: list[Any], values: Values) -> Raw:
    """The three official splits with their labels."""
    train, valid, test = (Arrays(*pair) for pair in zip(arrays, labels, strict=True))
    return Raw(values, train, valid, test)


@register("dataset", "binarized_mnist")
class BinarizedMNIST(Dataset):
    """MNIST binarised once and for all by drawing each pixel: 50000 + 10000 + 10000 binary images of 28 x 28.

    The file is <root>/binary_images/binarized_mnist.npz with keys train, val, test. The test images are sorted by
    digit.

    Source: R. Salakhutdinov and I. Murray, On the quantitative analysis of deep belief networks, ICML 2008.
    """

    root: str | None
    binarize: Binarize
    values: ClassVar[Values | None] = "binary"

    @override
    def read(self) -> Raw:
        """The file. Raises UserError if it is missing (there is no download) or malformed."""
        return read_splits(data_root(self.root) / FOLDER / "binarized_mnist.npz", "binary", labelled=False)


@register("dataset", "omniglot")
class Omniglot(GreyDataset):
    """Omniglot: characters of 50 alphabets reduced to 28 x 28 grey pixels, 23000 + 1345 + 8115 images.

    The file is <root>/binary_images/omniglot28.npz with keys train, val, test and train_label, val_label, test_label.
    It is the full data set reduced by averaging areas, not the 28 x 28 file of Burda et al. (2015): likelihoods are
    near, yet not exactly comparable with published ones.

    Source: B. Lake, R. Salakhutdinov and J. Tenenbaum, Human-level concept learning, Science 350 (2015) 1332.
    """

    root: str | None
    values: ClassVar[Values | None] = "grey"

    @override
    def read(self) -> Raw:
        """The file. Raises UserError if it is missing (there is no download) or malformed."""
        return read_splits(data_root(self.root) / FOLDER / "omniglot28.npz", "grey", labelled=True)


@register("dataset", "caltech101")
class Caltech101(Dataset):
    """Caltech-101 Silhouettes: outlines of objects, 4100 + 2264 + 2307 binary images of 28 x 28, 101 classes.

    A 1 is the object. The file is <root>/binary_images/caltech101_silhouettes_28.npz (keys train, val, test and
    train_label, val_label, test_label) or the original caltech101_silhouettes_28_split1.mat, downloaded if need be.

    Source: B. Marlin, K. Swersky, B. Chen and N. de Freitas, Inductive principles for restricted Boltzmann machine
    learning, AISTATS 2010.
    """

    root: str | None
    binarize: Binarize
    values: ClassVar[Values | None] = "binary"

    @override
    def read(self) -> Raw:
        """The .npz file if there is one, else the .mat file. Raises UserError if neither can be had."""
        folder = data_root(self.root) / FOLDER
        packed, original = folder / "caltech101_silhouettes_28.npz", folder / CALTECH.name
        if packed.is_file():
            return read_splits(packed, "binary", labelled=True)
        if not original.is_file():
            download(CALTECH, folder, f"{packed.name} or {original.name}")
        return read_mat(original)


def read_mat(path: Path) -> Raw:
    """The original file: rows are images in column-major order where 1 is the background; labels count from 1.

    Raises UserError if it is not, byte for byte, the published file: its parser is not made for damaged input.
    """
    from scipy.io import loadmat  # slow to import

    if not has_digest(path, CALTECH):
        raise UserError(f"{path}: its sha256 is not {CALTECH.digest}; delete it to download it again")
    source = loadmat(path)
    images = [1 - source[f"{name}_data"].reshape(-1, 28, 28).transpose(0, 2, 1) for name in SPLITS]
    labels = [source[f"{name}_labels"].ravel().astype(np.int64) - 1 for name in SPLITS]
    return raw_of([np.ascontiguousarray(image) for image in images], labels, "binary")
