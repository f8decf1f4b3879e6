"""MNIST and the three data sets published in its file format, read directly and downloaded only when missing."""

import gzip
import io
import math
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from ebm_cli.dataset.base import Arrays, GreyDataset, Raw, Values
from ebm_cli.dataset.files import Remote, data_root, download, move, unpack
from ebm_cli.dataset.stored import LARGE, PackedRows, packed_pieces
from ebm_cli.device import memory
from ebm_cli.errors import UserError
from ebm_cli.registry import register


class TorchvisionFiles(Protocol):
    """What is used of a torchvision dataset class: file names with their MD5 sums, and folders to find them in."""

    resources: list[tuple[str, str]]
    mirrors: list[str]


_WHITE = 255
_AT_ONCE = 2**20  # bytes that are unpacked at once
Valid = Annotated[int, Field(ge=0)]


class IdxImages(GreyDataset):
    """What the four have in common: four idx files, and the last `valid` training rows kept for validation."""

    root: str | None
    valid: int
    values: ClassVar[Values | None] = "grey"
    folder: ClassVar[str]

    def stems(self) -> tuple[str, str]:
        """What the names of the training and of the test files begin with."""
        return "train", "t10k"

    @abstractmethod
    def fetch(self, raw: Path, absent: list[str]) -> None:
        """Download at least the `absent` files to the folder `raw`. Raises UserError if that fails."""

    @override
    def read(self) -> Raw:
        """Grey images, (n, 28, 28) uint8, with labels. Raises UserError for a missing or damaged file."""
        raw = data_root(self.root) / self.folder / "raw"
        names = [f"{stem}-{kind}-ubyte" for stem in self.stems() for kind in ("images-idx3", "labels-idx1")]
        absent = [f"{name}.gz" for name in names if not (raw / name).exists() and not (raw / f"{name}.gz").exists()]
        if absent:
            self.fetch(raw, absent)
        train, test = self._pair(raw, names[:2]), self._pair(raw, names[2:])
        cut = len(train.values) - self.valid
        if cut <= 0:
            raise UserError(f"dataset.valid = {self.valid}: must be below {len(train.values)}, the rows of training")
        return Raw("grey", _rows(train, slice(cut)), _rows(train, slice(cut, None)) if self.valid else None, test)

    def _pair(self, raw: Path, names: list[str]) -> Arrays:
        bits = self.upright_bits if self.binarize == "threshold" else None
        images, labels = read_idx(_present(raw, names[0]), 3, bits), read_idx(_present(raw, names[1]), 1)
        if len(images) != len(labels):
            raise UserError(
                f"{raw}: {names[0]} has {len(images)} rows and {names[1]} {len(labels)}; replace both files"
            )
        assert isinstance(labels, np.ndarray)
        return Arrays(images, labels.astype(np.int64))

    def upright_bits(self, images: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Those of images (n, 28, 28) that are binarised at one half, as they stand upright."""
        found: NDArray[np.bool_] = images >= _WHITE / 2
        return found


def _rows(part: Arrays, rows: slice) -> Arrays:
    assert part.labels is not None
    values = part.values.part(rows) if isinstance(part.values, PackedRows) else cast(Any, part.values)[rows]
    return Arrays(values, part.labels[rows])


def _present(raw: Path, name: str) -> Path:
    packed = raw / f"{name}.gz"
    return packed if packed.exists() else raw / name


Bits = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]


def read_idx(path: Path, dims: int, bits: Bits | None = None) -> NDArray[np.uint8] | PackedRows:
    """An idx file of bytes with `dims` dimensions, packed with gzip if its name ends in .gz; or `bits` of its rows.

    Layout: 0, 0, 8 (unsigned byte), `dims`, then each dimension as a big-endian 32-bit number, then the values.
    Raises UserError naming the file if it is anything else.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read_idx(file, path, dims, bits)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it to download it again") from error


def _read_idx(file: io.BufferedIOBase, path: Path, dims: int, bits: Bits | None) -> NDArray[np.uint8] | PackedRows:
    """The array in a file that is open; no more is read, nor memory taken, than its head says and there is."""
    head = file.read(4 + 4 * dims)
    if head[:4] != bytes((0, 0, 8, dims)) or len(head) < 4 + 4 * dims:
        raise UserError(f"{path}: not an idx file of bytes with {dims} dimensions; delete it to download it again")
    shape = tuple(int(size) for size in np.frombuffer(head, ">u4", dims, 4))
    due = math.prod(shape)
    packs = bits is not None and due >= LARGE
    memory.check_room(due // 8 if packs else due, str(path))
    rows = _pieces(file, path, len(head), shape)
    if bits is not None and packs:
        return _bits_of_grey(rows, bits, shape)
    found, there = np.empty(shape, np.uint8), 0
    for piece in rows:
        found[there : there + len(piece)] = piece
        there += len(piece)
    return found


def _bits_of_grey(rows: Iterator[NDArray[np.uint8]], bits: Bits, shape: tuple[int, ...]) -> PackedRows:
    """The bits alone; but which levels there were, so that it can be seen whether they are any."""
    there = np.zeros(256, np.int64)

    def looked_at() -> Iterator[NDArray[np.bool_]]:
        for piece in rows:
            there[:] += np.bincount(piece.reshape(-1), minlength=256)
            yield bits(piece)

    found = packed_pieces(looked_at(), shape)
    return replace(found, values=tuple(np.flatnonzero(there).tolist()))


def _pieces(file: io.BufferedIOBase, path: Path, head: int, shape: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
    """The rows of an array, some at a time, from a file that stands behind its head of so many bytes."""
    row, due = math.prod(shape[1:]), math.prod(shape)
    step = max(1, _AT_ONCE // max(1, row))
    for first in range(0, shape[0], step):
        rows = min(step, shape[0] - first)
        content = file.read(rows * row)
        if len(content) < rows * row:
            raise _of_another_size(path, str(head + first * row + len(content)), head + due)
        yield np.frombuffer(content, np.uint8).reshape(rows, *shape[1:])
    if file.read(1):
        raise _of_another_size(path, f"more than {head + due}", head + due)


def _of_another_size(path: Path, there: str, due: int) -> UserError:
    return UserError(f"{path}: has {there} bytes unpacked, {due} are due; delete it to download it again")


def _fetch_each(source: TorchvisionFiles, raw: Path, absent: list[str]) -> None:
    """Download the `absent` ones of the files that a torchvision MNIST class lists."""
    for name, md5 in source.resources:
        if name in absent:
            urls = tuple(f"{mirror}{name}" for mirror in source.mirrors)
            download(Remote(name, urls, "md5", md5), raw, ", ".join(absent), move)


@register("dataset", "mnist")
class MNIST(IdxImages):
    """MNIST: 60000 + 10000 handwritten digits of 28 x 28 grey pixels.

    Source: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-based learning applied to document recognition,
    Proc. IEEE 86 (1998) 2278. Files in <root>/MNIST/raw.
    """

    root: str | None
    valid: Valid
    folder: ClassVar[str] = "MNIST"

    @override
    def fetch(self, raw: Path, absent: list[str]) -> None:
        """From the mirrors that torchvision lists, with its MD5 sums."""
        from torchvision import datasets

        _fetch_each(datasets.MNIST, raw, absent)


@register("dataset", "fashion_mnist")
class FashionMNIST(IdxImages):
    """Fashion-MNIST: 60000 + 10000 articles of clothing of 28 x 28 grey pixels, 10 classes.

    Source: H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, arXiv:1708.07747 (2017). Files in <root>/FashionMNIST/raw.
    """

    root: str | None
    valid: Valid
    folder: ClassVar[str] = "FashionMNIST"

    @override
    def fetch(self, raw: Path, absent: list[str]) -> None:
        """From the mirror that torchvision lists, with its MD5 sums."""
        from torchvision import datasets

        _fetch_each(datasets.FashionMNIST, raw, absent)


@register("dataset", "kmnist")
class KMNIST(IdxImages):
    """Kuzushiji-MNIST: 60000 + 10000 cursive Japanese characters of 28 x 28 grey pixels, 10 classes.

    Source: T. Clanuwat et al., Deep Learning for Classical Japanese Literature, arXiv:1812.01718 (2018).
    Files in <root>/KMNIST/raw.
    """

    root: str | None
    valid: Valid
    folder: ClassVar[str] = "KMNIST"

    @override
    def fetch(self, raw: Path, absent: list[str]) -> None:
        """From the mirror that torchvision lists, with its MD5 sums."""
        from torchvision import datasets

        _fetch_each(datasets.KMNIST, raw, absent)


@register("dataset", "emnist")
class EMNIST(IdxImages):
    """EMNIST: handwritten letters and digits of 28 x 28 grey pixels, in six splits.

    The files hold each image transposed; here it is upright. Labels count from 0, also in "letters", whose file
    counts from 1.

    Source: G. Cohen, S. Afshar, J. Tapson and A. van Schaik, EMNIST, arXiv:1702.05373 (2017).
    Files in <root>/EMNIST/raw.
    """

    root: str | None
    valid: Valid
    split: Literal["balanced", "letters", "digits", "mnist", "byclass", "bymerge"]
    folder: ClassVar[str] = "EMNIST"

    @override
    def stems(self) -> tuple[str, str]:
        """One pair of names for each of the six splits."""
        return f"emnist-{self.split}-train", f"emnist-{self.split}-test"

    @override
    def fetch(self, raw: Path, absent: list[str]) -> None:
        """The one archive with all six splits (about 0.5 GB), from the address and with the MD5 of torchvision."""
        from torchvision import datasets

        source = datasets.EMNIST
        archive = Remote(Path(source.url).name, (source.url,), "md5", source.md5)
        download(archive, raw, ", ".join(absent), unpack)

    @override
    def _pair(self, raw: Path, names: list[str]) -> Arrays:
        part = super()._pair(raw, names)
        assert part.labels is not None
        first = 1 if self.split == "letters" else 0
        if isinstance(part.values, PackedRows):
            return Arrays(part.values, part.labels - first)
        upright: NDArray[np.uint8] = np.ascontiguousarray(cast(Any, part.values).transpose(0, 2, 1), np.uint8)
        return Arrays(upright, part.labels - first)

    @override
    def upright_bits(self, images: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Of images that lie transposed."""
        return super().upright_bits(images).transpose(0, 2, 1)
