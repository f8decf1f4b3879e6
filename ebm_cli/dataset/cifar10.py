"""CIFAR-10 from its binary files, which hold numbers alone; the Python version is made of pickles."""

from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from ebm_cli.dataset.base import Arrays, GreyDataset, Raw, Values
from ebm_cli.dataset.files import Remote, data_root, download, unpack_tar
from ebm_cli.errors import UserError
from ebm_cli.registry import register

FOLDER = "cifar-10-batches-bin"
TRAIN, TEST = tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"
ROWS = 10_000  # in each file
SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
CLASSES = 10
ARCHIVE = Remote(
    "cifar-10-binary.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    "md5",
    "c32a1d4ab5d03f1284b67883e8d87530",
)


@register("dataset", "cifar10")
class Cifar10(GreyDataset):
    """CIFAR-10: 50000 + 10000 photographs of 3 x 32 x 32 coloured pixels (channels red, green, blue), 10 classes.

    Files of the binary version in <root>/cifar-10-batches-bin; the last `valid` training rows are kept for validation.

    Source: A. Krizhevsky, Learning multiple layers of features from tiny images, University of Toronto 2009.
    """

    root: str | None
    valid: Annotated[int, Field(ge=0)]
    values: ClassVar[Values | None] = "grey"

    @override
    def read(self) -> Raw:
        """Images (n, 3, 32, 32) uint8 with labels. Raises UserError for a missing or damaged file."""
        folder = data_root(self.root) / FOLDER
        absent = [name for name in (*TRAIN, TEST) if not (folder / name).exists()]
        if absent:
            download(ARCHIVE, folder, ", ".join(absent), unpack_tar(FOLDER, (*TRAIN, TEST)))
        parts = [read_batch(folder / name) for name in TRAIN]
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        cut = len(images) - self.valid
        if cut <= 0:
            raise UserError(f"dataset.valid = {self.valid}: must be below {len(images)}, the rows of training")
        valid = Arrays(images[cut:], labels[cut:]) if self.valid else None
        return Raw("grey", Arrays(images[:cut], labels[:cut]), valid, Arrays(*read_batch(folder / TEST)))


def read_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (10000, 3, 32, 32) and labels (10000,) of one file.

    Layout of a record: the label, one byte, then 1024 bytes each of red, green and blue, row by row. Raises UserError
    naming the file if it is anything else.
    """
    way = "delete it to download it again"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); {way}") from error
    if len(content) != ROWS * RECORD:
        raise UserError(f"{path}: has {len(content)} bytes, {ROWS * RECORD} are due; {way}")
    records = np.frombuffer(content, np.uint8).reshape(ROWS, RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= CLASSES:
        raise UserError(f"{path}: has a label {labels.max()}, they go from 0 to {CLASSES - 1}; {way}")
    return records[:, 1:].reshape(ROWS, *SHAPE).copy(), labels  # torch wants memory it may write to
