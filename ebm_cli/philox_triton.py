"""Philox4x32-10 as one kernel on CUDA, for draws outside compiled regions: the words of `philox.words`, to the bit.

In tensor operations the ten rounds are some 150 kernels, and a GPU spends a millisecond on starting them.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_AT_ONCE = 512  # counters of a program


def words(rows: int, count: int, key: Tensor) -> Tensor:
    """Random 32-bit words, (rows, count) int32, on the device of the key (5,) int64, as `philox.words` in lane 0."""
    found = torch.empty(rows, count, dtype=torch.int32, device=key.device)
    blocks = (count + 3) // 4
    if found.numel():
        _kernel[(triton.cdiv(rows * blocks, _AT_ONCE),)](found, key, rows, count, blocks, _AT_ONCE)
    return found


@triton.jit(do_not_specialize=["rows", "count", "blocks"])
def _kernel(found: Any, key: Any, rows: Any, count: Any, blocks: Any, at_once: tl.constexpr) -> None:
    place = tl.program_id(0).to(tl.int64) * at_once + tl.arange(0, at_once)
    row, block = place // blocks, place % blocks
    c0, c1 = (row + tl.load(key + 4)).to(tl.uint32), block.to(tl.uint32)
    c2, c3 = tl.load(key + 2).to(tl.uint32), tl.load(key + 3).to(tl.uint32)
    k0, k1 = tl.load(key).to(tl.uint32), tl.load(key + 1).to(tl.uint32)
    for _ in tl.static_range(10):
        p0, p1 = c0.to(tl.uint64) * 0xD2511F53, c2.to(tl.uint64) * 0xCD9E8D57
        c0, c1 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0, p1.to(tl.uint32)
        c2, c3 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1, p0.to(tl.uint32)
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    column = found + row * count + block
    inside = row < rows
    tl.store(column, c0.to(tl.int32, bitcast=True), inside & (block < count))
    tl.store(column + blocks, c1.to(tl.int32, bitcast=True), inside & (block + blocks < count))
    tl.store(column + 2 * blocks, c2.to(tl.int32, bitcast=True), inside & (block + 2 * blocks < count))
    tl.store(column + 3 * blocks, c3.to(tl.int32, bitcast=True), inside & (block + 3 * blocks < count))
