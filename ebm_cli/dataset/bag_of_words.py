"""Word counts of documents."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from scipy.sparse import csr_matrix

from ebm_cli import rng
from ebm_cli.dataset.base import Arrays, Binarize, Dataset, Raw, Values
from ebm_cli.dataset.files import data_root, read_npz
from ebm_cli.dataset.sparse import SparseRows
from ebm_cli.registry import register

_PARTS = ("data", "indices", "indptr", "shape", "label")
_KEYS = [f"{split}_{part}" for split in ("train", "valid", "test") for part in _PARTS]


@register("dataset", "bag_of_words")
class BagOfWords(Dataset):
    """How often each word of a vocabulary is in each document.

    An .npz file has, for train and test, and valid if you like, the parts of a matrix (documents, words) in
    compressed-sparse-row form, SPLIT_data, SPLIT_indices, SPLIT_indptr and SPLIT_shape, integers SPLIT_label
    (documents,) if you like, and the words, vocab. A split that it lacks is held out from train.
    """

    root: str | None
    path: str | None
    held_out: Annotated[float, Field(gt=0, le=0.5)]
    binarize: Binarize
    values: ClassVar[Values | None] = "counts"

    def read(self) -> Raw:
        """The counts. Raises UserError naming the file and the first thing wrong with it."""
        path = data_root(self.root) / str(self.path)
        arrays = read_npz(path, [*_KEYS, "vocab"], f"dataset.path = {self.path}")
        parts = {}
        for split in ("train", "test"):
            data, indices, indptr, shape = (arrays[f"{split}_{part}"] for part in _PARTS[:4])
            parts[split] = csr_matrix((data, indices, indptr), shape=tuple(shape)), arrays[f"{split}_label"]
        matrix, label = parts["train"]
        order = rng.permutation(len(label), rng.stream(0, "bag_of_words", "valid")).numpy()
        count = round(self.held_out * len(label))
        valid, train = np.sort(order[:count]), np.sort(order[count:])
        splits = [(matrix[train], label[train]), (matrix[valid], label[valid]), parts["test"]]
        first, second, third = (Arrays(SparseRows.of(m), of.astype(np.int64)) for m, of in splits)
        return Raw("counts", first, second, third, words=tuple(map(str, arrays["vocab"])))
