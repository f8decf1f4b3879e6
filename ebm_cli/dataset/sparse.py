"""Rows of counts of which most are 0, kept as those that are not."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ebm_cli.functional import end_to_end, sparse_rows

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class SparseRows:
    """A matrix (n, columns) in compressed-sparse-row form, of which rows are taken out dense.

    Entries first[r], ..., first[r + 1] - 1 of `column` and `count` are those of row r; `first` has n + 1.
    """

    first: Tensor  # int64
    column: Tensor  # int32
    count: Tensor  # int32
    columns: int

    @staticmethod
    def of(matrix: "csr_matrix") -> "SparseRows":
        """The counts of a matrix of scipy's, duplicates added and zeros dropped."""
        matrix = matrix.copy()
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        parts = (matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data.astype(np.int32))
        first, column, count = map(torch.from_numpy, parts)
        return SparseRows(first, column, count, matrix.shape[1])

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, index: Tensor) -> Tensor:
        """Some rows, (len(index), columns) int32."""
        row, entry = self._entries(index)
        found = torch.zeros(len(index), self.columns, dtype=torch.int32, device=self.device)
        found[row, self.column[entry].long()] = self.count[entry]
        return found

    def sparse(self, index: Tensor) -> Tensor:
        """The same as a sparse tensor of float32."""
        row, entry = self._entries(index)
        return sparse_rows(row, self.column[entry].long(), self.count[entry].float(), (len(index), self.columns))

    def _entries(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Those of some rows one after the other: the place of each one's row in `index`, and its own."""
        start = self.first[index]
        row, place = end_to_end(self.first[index + 1] - start)
        return row, start[row] + place

    @property
    def shape(self) -> tuple[int, int]:
        """(n, columns)."""
        return (len(self), self.columns)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.count.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows."""
        return self.count.dtype

    def tensors(self) -> Iterator[Tensor]:
        """All that it is made of."""
        yield from (self.first, self.column, self.count)

    def of_columns(self) -> Tensor:
        """Sum of each column, (columns,) int64."""
        found = torch.zeros(self.columns, dtype=torch.int64, device=self.device)
        return found.index_add(0, self.column.long(), self.count.long())

    def of_rows(self) -> Tensor:
        """Sum of each row, (n,) int64."""
        total = torch.cat([self.first[:1] * 0, self.count.long().cumsum(0)])
        return total[self.first[1:]] - total[self.first[:-1]]

    def to(self, device: torch.device) -> "SparseRows":
        """The same on another device."""
        first, column, count = (tensor.to(device) for tensor in self.tensors())
        return SparseRows(first, column, count, self.columns)
