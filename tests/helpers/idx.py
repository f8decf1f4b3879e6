"""Small files in MNIST's format."""

import gzip
import hashlib
from pathlib import Path

import numpy as np


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


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
