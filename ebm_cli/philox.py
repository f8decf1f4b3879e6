"""Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011) in tensor operations.

Under `torch.compile` the rounds become vector instructions fused into whatever uses the numbers: C++ on a CPU, Triton
on CUDA, from this one text. Uncompiled it is right but some fifty times slower. Words are 32 bits in int64.
"""

import torch
from torch import Tensor

_M0, _M1 = 0xD2511F53, 0xCD9E8D57  # multipliers, Salmon et al. table 2
_W0, _W1 = 0x9E3779B9, 0xBB67AE85  # increments of the key (Weyl sequence)
_MASK = 0xFFFFFFFF

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox4x32(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Four random words for each counter of four words, broadcast over the shapes of the arguments."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _M0, c2 * _M1  # low 64 bits: the sign is discarded by the masks
        c0, c1, c2, c3 = (p1 >> 32 & _MASK) ^ c1 ^ k0, p1 & _MASK, (p0 >> 32 & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = k0 + _W0 & _MASK, k1 + _W1 & _MASK
    return c0, c1, c2, c3


def words(rows: int, count: int, key: Tensor, lane: int) -> Tensor:
    """Random 32-bit words, (rows, count) int32.

    `key` (5,) int64: two key words, two counter words, and the number of the first row. Row r of a draw that starts at
    row s is row r + s of the draw that starts at 0, so chains that are split among devices draw what one would.
    """
    blocks = (count + 3) // 4
    row = torch.arange(rows, device=key.device)[:, None] + key[4]
    block = torch.arange(blocks, device=key.device)[None, :]
    found = philox4x32((row, block, key[2] ^ lane, key[3]), (key[0], key[1]))
    return torch.cat([word.to(torch.int32) for word in found], 1)[:, :count]
