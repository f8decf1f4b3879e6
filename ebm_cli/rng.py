"""Keyed random streams: every draw is a pure function of its key, so there is no generator state to save or share.

A key names one purpose, e.g. `stream(seed, "sampler", step)`, and serves one draw; `key.fold(i)` makes a further,
independent one. All numbers are made from random 32-bit words by the same formulas; the words come from

* Philox4x32-10 on CUDA, by one kernel (`philox_triton.py`), and in tensor operations (`philox.py`) inside compiled
  regions on any device, which a `Counter` carries the key into;
* Philox4x64-10 in numpy's C code for a `Key` on the CPU, because it needs no compiler.

Both are keyed with all 128 bits of the hash of the path (Salmon et al., SC 2011). The two give different numbers.
The first dimension of a draw counts rows (chains); row r depends on r alone, not on how many rows are drawn with it:
`key.at_row(s)` draws rows s, s + 1, ...
"""

import hashlib
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_cli import philox
from ebm_cli.functional import counted, end_to_end

Device = torch.device | str
_CPU = torch.device("cpu")
_BLOCK = 8  # 32-bit words per step of numpy's Philox4x64 counter
_TIER = 64  # draws of each row in the first tier of ragged ones
_SHARES = 2**18  # probabilities summed up at once
_WIDE = 256  # values from which on a search among partial sums is faster than a look at each
_FEW = 16  # fewer than one row in so many is few
_BEGIN: dict[str, Any] = {
    "bit_generator": "Philox",
    "buffer": np.zeros(4, np.uint64),
    "buffer_pos": 4,
    "has_uint32": 0,
    "uinteger": 0,
}
"""A Philox generator of numpy's that has drawn nothing yet, without its key and counter."""
_of_thread = threading.local()
_AT_ONCE = 2**16  # numbers made at once by numpy's words: this much is held between words and result


@dataclass(frozen=True, slots=True)
class Key:
    """128 bits that identify one stream, and the number of the first row to draw."""

    digest: bytes
    row: int = 0

    def fold(self, *path: int | str) -> "Key":
        """The independent key reached from this one by `path`."""
        return Key(hashlib.blake2b(_encode(path), key=self.digest, digest_size=16).digest(), self.row)

    def at_row(self, row: int) -> "Key":
        """The same stream from this row on."""
        return self if row == self.row else Key(self.digest, row)

    def after(self, rows: int) -> "Key":
        """The same stream, so many rows further down."""
        return Key(self.digest, self.row + rows)

    def spread(self, count: int) -> "Key":
        """The same stream where every row has become `count` rows, one after the other."""
        return Key(self.digest, self.row * count)


@dataclass(frozen=True, slots=True)
class Counter:
    """A key inside a compiled region, where nothing can be hashed: a key's words, and the number of the draw in it.

    Draws of one region are told apart by `lane`, a 32-bit hash of the path taken from the region's own key.
    """

    words: Tensor  # (5,) int64: the hash as four 32-bit words, and the row
    lane: int = 0

    def fold(self, *path: int | str) -> "Counter":
        """Another draw of the same region."""
        return Counter(self.words, _lane(self.lane, path))

    def after(self, rows: int) -> "Counter":
        """The same draw, so many rows further down."""
        words = torch.cat([self.words[:4], self.words[4:] + rows]) if rows else self.words
        return Counter(words, self.lane)

    def spread(self, count: int) -> "Counter":
        """The same draw where every row has become `count` rows."""
        return Counter(torch.cat([self.words[:4], self.words[4:] * count]), self.lane)


AnyKey = Key | Counter


def stream(seed: int, *path: int | str) -> Key:
    """The key of one purpose in a run: `stream(seed, "chains", step)`."""
    found = _begun(seed, *path[:-1]).copy()
    found.update(_encode(path[-1:]))
    return Key(found.digest())


def streams(seed: int, name: str, steps: Iterable[int]) -> list[Key]:
    """`stream(seed, name, step)` for each step."""
    begun, found = _begun(seed, name), []
    for step in steps:
        of_step = begun.copy()
        of_step.update(_number(step))
        found.append(Key(of_step.digest()))
    return found


@lru_cache(maxsize=256)
def _begun(*path: int | str) -> "hashlib.blake2b":
    """The hash of a path that goes on: what differs from step to step is its end."""
    return hashlib.blake2b(_encode(path), digest_size=16)


def counters(keys: Sequence[Key], device: Device = _CPU) -> Tensor:
    """The words of these keys, (len(keys), 5) int64: one transfer for all the draws of a compiled loop."""
    hashes = np.frombuffer(b"".join(key.digest for key in keys), "<u4").reshape(-1, 4).astype(np.int64)
    rows = np.fromiter((key.row for key in keys), np.int64, len(keys))
    return torch.from_numpy(np.column_stack([hashes, rows])).to(device, non_blocking=True)


def _encode(path: Sequence[int | str]) -> bytes:
    """Injective encoding: parts are tagged by type and carry their length, so ("a", 1) differs from ("a1",)."""
    return b"".join([_text(part) if isinstance(part, str) else _number(part) for part in path])


@lru_cache(maxsize=256)
def _text(part: str) -> bytes:
    return _tagged(b"s", part.encode())


@lru_cache(maxsize=256)
def _number(part: int) -> bytes:
    return _tagged(b"i", b"%d" % part)


def _tagged(tag: bytes, part: bytes) -> bytes:
    return b"%b%d:%b" % (tag, len(part), part)


def _lane(lane: int, path: Sequence[int | str]) -> int:
    """FNV-1a over the parts: arithmetic that the compiler evaluates while it traces."""
    for part in path:
        text = "s" + part if isinstance(part, str) else "i" + str(part)
        for letter in text + "/":
            lane = ((lane ^ ord(letter)) * 16777619 + 1) & 0xFFFFFFFF
    return lane


def uniform(shape: Sequence[int], key: AnyKey, device: Device = _CPU, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform on [0, 1): multiples of 2^-24, in float64 of 2^-53."""
    rows, count = _matrix(shape)
    out = _Piecewise((rows, count), key, torch.device(device), dtype)
    return out.fill(lambda part, key: _uniform(len(part), count, key, device, dtype)).reshape(tuple(shape))


def _uniform(rows: int, count: int, key: AnyKey, device: Device, dtype: torch.dtype) -> Tensor:
    if dtype == torch.float64:
        return _unit(*_words(rows, 2 * count, key, device).chunk(2, 1))
    return (_words(rows, count, key, device) >> 8).bitwise_and_(0xFFFFFF).to(dtype).mul_(2.0**-24)


def normal(shape: Sequence[int], key: AnyKey, device: Device = _CPU, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal: sqrt(-2 log u) times cos and sin of 2 pi u' (Box & Muller 1958), |z| < 6.7 (float64: 8.6)."""
    rows, count = _matrix(shape)
    out = _Piecewise((rows, count), key, torch.device(device), dtype)
    return out.fill(lambda part, key: _normal(len(part), count, key, device, dtype)).reshape(tuple(shape))


def _normal(rows: int, count: int, key: AnyKey, device: Device, dtype: torch.dtype) -> Tensor:
    half = (count + 1) // 2
    if dtype == torch.float64:
        a, b, c, d = _words(rows, 4 * half, key, device).chunk(4, 1)
        u, angle = 1 - _unit(a, b), _unit(c, d) * (2 * math.pi)
    else:
        a, b = (w.long() & 0xFFFFFFFF for w in _words(rows, 2 * half, key, device).chunk(2, 1))
        u, angle = (a + 1).to(dtype) * 2.0**-32, b.to(dtype) * (2 * math.pi * 2.0**-32)
    radius = (-2 * u.log()).sqrt()
    return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :count]


def integers(high: int, shape: Sequence[int], key: AnyKey, device: Device = _CPU) -> Tensor:
    """Uniform on {0, ..., high - 1}, int64, to within 2^-53 in each probability."""
    return (uniform(shape, key, device, torch.float64) * high).long()


def permutation(n: int, key: Key) -> Tensor:
    """A uniformly random order of 0, ..., n - 1, int64, on the CPU (the same whatever the device of the run)."""
    return torch.from_numpy(np.random.Generator(_philox4x64(key)).permutation(n))


def bernoulli(logits: Tensor, key: AnyKey) -> Tensor:
    """x_i in {0, 1} with p(x_i = 1) = sigmoid(logits_i), in the shape of `logits`; float64 for float64, else float32.

    The probability is formed in at least float32: with bfloat16 logits only their product is of low precision.
    """
    rows, count = _matrix(logits.shape)
    flat, dtype = logits.reshape(rows, count), torch.float64 if logits.dtype == torch.float64 else torch.float32
    out = _Piecewise((rows, count), key, logits.device, dtype)
    return out.fill(lambda part, key: _bernoulli(flat[part.start : part.stop], key, dtype)).reshape_as(logits)


def _bernoulli(logits: Tensor, key: AnyKey, dtype: torch.dtype) -> Tensor:
    rows, count = logits.shape
    u = _uniform(rows, count, key, logits.device, torch.float32)
    return u.to(dtype).lt_(logits.to(dtype).sigmoid())  # in numbers: truth values take three times as long on a CPU


def categorical(logits: Tensor, key: AnyKey) -> Tensor:
    """Index k with p(k) = softmax(logits)_k over the last dimension, int64, by inversion of a 53-bit uniform number."""
    return inverted(logits, uniform(logits.shape[:-1], key, logits.device, torch.float64))


def inverted(logits: Tensor, u: Tensor) -> Tensor:
    """The number of partial sums of exp(logits - max), in float64, that a share u < 1 of the last one reaches.

    With u (...) uniform and logits (..., K) that is a draw from softmax(logits); an index of probability zero is never
    drawn.
    """
    total = (logits - logits.amax(-1, keepdim=True)).exp().double().cumsum(-1)
    share = u[..., None] * total[..., -1:]
    if total.shape[-1] >= _WIDE:
        return torch.searchsorted(total, share, right=True).squeeze(-1).clamp_max(total.shape[-1] - 1)
    return total.le_(share).sum(-1).long().clamp_max(total.shape[-1] - 1)


def reached(weight: Tensor, u: Tensor) -> Tensor:
    """The same of weights (K, ...) in the place of exp(logits - max), the values first: draws in proportion to them.

    Sums are in the arithmetic of the weights, as u (...) is; u < 1 times a sum is less than it after rounding, too.
    """
    total = weight.cumsum(0)
    return total.le_(u * total[-1]).sum(0).long()  # counted as numbers: truth values take five times as long on a CPU


def markov_chains(n: int, shape: tuple[int, ...], start: float, stay: float, key: Key) -> Tensor:
    """n times `chains` independent binary chains of length `length`, shape = (length, chains): (n, *shape) float32.

    p(x_1 = 1) = start, p(x_(t + 1) = x_t) = stay.
    """
    turns = torch.full((shape[0], 1), 1 - stay)
    turns[0] = start
    return (uniform((n, *shape), key) < turns).float().cumsum(1) % 2


def multinomial(number: Tensor, logits: Tensor, key: AnyKey) -> Tensor:
    """How often each value comes in `number` (rows,) draws from the softmax of each row of logits (rows, K); (rows, K).

    A value of probability zero is never drawn; other probabilities are right to within 2^-24.
    """
    parts = [weighted(n, weight, part) for n, weight, part in _parts(number, logits, key)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def sparse_multinomial(number: Tensor, logits: Tensor, key: AnyKey) -> Tensor:
    """The same draws as sparse rows (`functional.sparse_rows`), on a CPU."""
    places, first = [], 0
    for n, weight, part in _parts(number, logits, key):
        places.append(_drawn(n, weight, part) + first * logits.shape[1])
        first += len(n)
    return counted(torch.cat(places), (len(logits), logits.shape[1]), logits.dtype)


def _parts(number: Tensor, logits: Tensor, key: AnyKey) -> Iterator[tuple[Tensor, Tensor, AnyKey]]:
    """Rows of numbers and of exp(logits), at most 1, with their keys; on a CPU as many as fit into a core's cache."""
    size = max(1, _SHARES // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    for first in range(0, max(1, len(logits)), max(1, size)):
        rows = logits[first : first + size]
        yield number[first : first + size], (rows - rows.amax(1, keepdim=True)).exp(), key.after(first)


def weighted(number: Tensor, weight: Tensor, key: AnyKey) -> Tensor:
    """The same with probabilities in proportion to each row of weight (rows, K), none negative and not all 0."""
    rows, values = weight.shape
    found = _drawn(number, weight, key)
    return torch.bincount(found, minlength=rows * values).reshape(rows, values).to(weight.dtype)


def _drawn(number: Tensor, weight: Tensor, key: AnyKey) -> Tensor:
    """The place r K + k of each draw, int64, in ascending order on a CPU.

    All draws of all rows are looked up together, so that rows may differ in their number.
    """
    rows, values = weight.shape
    share = weight.cumsum(1, dtype=torch.float64)
    row, u = _ragged_uniform(number, key)
    # Row r's shares lie in (r, r + 1], so that one search serves all rows.
    shelf = torch.arange(rows, dtype=share.dtype, device=weight.device)
    share = torch.addcdiv(shelf[:, None], share, share[:, -1:])
    return _found(share.flatten(), u + row).clamp_max(rows * values - 1)


def _found(edges: Tensor, points: Tensor) -> Tensor:
    """The number of edges, which ascend, at or below each point, the points in any order.

    On a CPU they are sorted first: one search after the other then stays within the cache, which halves its time.
    """
    if edges.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.searchsorted(edges, points, right=True)
    return torch.from_numpy(np.searchsorted(edges.detach().numpy(), np.sort(points.numpy()), side="right"))


def thinned(counts: Tensor, number: Tensor, key: AnyKey) -> Tensor:
    """Counts (rows, K) of `number[r]` of the items counted in row r, chosen without replacement.

    Rows with no more items than that stay as they are.
    """
    rows, values = counts.shape
    places = counts.flatten().nonzero().squeeze(1)
    things = places.repeat_interleave(counts.flatten()[places].long())  # row after row
    size = counts.sum(1).long()
    row, u = _ragged_uniform(size, key)
    u = u[row.argsort(stable=True)]
    row, rank = end_to_end(size)
    order = (row + u).argsort()
    kept = things[order[rank < number[row]]]
    return torch.bincount(kept, minlength=rows * values).reshape(rows, values).to(counts.dtype)


def _ragged_uniform(number: Tensor, key: AnyKey) -> tuple[Tensor, Tensor]:
    """For each of `number` (rows,) draws of a row its row and a uniform number, float64, both (sum of number,).

    A row's numbers do not depend on the other rows: they are drawn in tiers of fixed, doubling widths, as many as the
    longest row needs, for all rows together or, where few are so long, for each of these.
    """
    if isinstance(key, Key) and number.device.type == "cpu":
        of_row, upper = _ragged_words(number.numpy().astype(np.int64), key)
        return torch.from_numpy(of_row), torch.from_numpy(upper * 2.0**-24)
    size, device = number.long(), number.device
    longest, first = int(size.max()) if len(size) else 0, 0
    rows, found = [size[:0]], [torch.zeros(0, dtype=torch.float64, device=device)]
    while first < longest:
        width = max(_TIER, first)
        left, tier = (size - first).clamp(0, width), key.fold(first)
        long = left.nonzero().squeeze(1)
        if _FEW * len(long) < len(size):
            words = torch.cat([_words(1, width, tier.after(row), device) for row in long.tolist()])
        else:
            long, words = torch.arange(len(size), device=device), _words(len(size), width, tier, device)
        owner, place = end_to_end(left[long])
        rows.append(long[owner])
        found.append((words[owner, place] >> 8).bitwise_and_(0xFFFFFF).double().mul_(2.0**-24))
        first += width
    return torch.cat(rows), torch.cat(found)


def _ragged_words(size: NDArray[np.int64], key: Key) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Rows and the upper 24 bits of their words, tier after tier and in each row after row.

    Not by torch, whose many small calls take 2.3 times as long.
    """
    longest, first = int(size.max(initial=0)), 0
    rows: list[NDArray[np.int64]] = [size[:0]]
    found: list[NDArray[np.uint32]] = [np.empty(0, np.uint32)]
    while first < longest:
        width = max(_TIER, first)
        left = np.clip(size - first, 0, width)
        long = left.nonzero()[0]
        long = long if _FEW * len(long) < len(size) else np.arange(len(size))
        words = _words_of_rows(long, width, key.fold(first))
        rows.append(np.repeat(long, left[long]))
        found.append(words[np.arange(width) < left[long, None]] >> np.uint32(8))
        first += width
    return np.concatenate(rows), np.concatenate(found)


def _words_of_rows(rows: NDArray[np.int64], count: int, key: Key) -> NDArray[np.uint32]:
    """What `_numpy_words` has in these rows, which ascend, for whole blocks: (rows, count)."""
    blocks = count // _BLOCK
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return _raw(_philox4x64(key.after(int(rows[0])), blocks), len(rows) * blocks).reshape(len(rows), count)
    generator, at = _philox4x64(key, blocks), 0
    found = np.empty((len(rows), count), np.uint32)
    for i, row in enumerate(rows.tolist()):
        generator.advance((row - at) * blocks)
        found[i], at = _raw(generator, blocks), row + 1
    return found


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Rows, and numbers in each."""
    return (shape[0], math.prod(shape[1:])) if len(shape) else (1, 1)


class _Piecewise(NamedTuple):
    """The result of a draw, (rows, count), made some rows at a time where operations are not fused."""

    shape: tuple[int, int]
    key: AnyKey
    device: torch.device
    dtype: torch.dtype

    def fill(self, make: Callable[[range, AnyKey], Tensor]) -> Tensor:
        """`make(rows, key)` for ranges of rows that cover all of them."""
        rows, count = self.shape
        size = max(1, _AT_ONCE // max(1, count))
        if isinstance(self.key, Counter) or self.device.type != "cpu" or rows <= size:
            return make(range(rows), self.key)
        found = torch.empty(rows, count, dtype=self.dtype)
        for first in range(0, rows, size):
            part = range(first, min(first + size, rows))
            found[first : part.stop] = make(part, self.key.after(first))
        return found


def _words(rows: int, count: int, key: AnyKey, device: Device) -> Tensor:
    """Random 32-bit words, (rows, count) int32."""
    if isinstance(key, Counter):
        return philox.words(rows, count, key.words, key.lane)
    if torch.device(device).type == "cpu":
        return _numpy_words(rows, count, key)
    return _gpu_words()(rows, count, counters([key], device)[0])


@cache
def _gpu_words() -> Callable[[int, int, Tensor], Tensor]:
    """One kernel where Triton is there and a C compiler, which it needs; else tensor operations."""
    if find_spec("triton") is None or not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return partial(philox.words, lane=0)
    from ebm_cli.philox_triton import words

    return words


def _numpy_words(rows: int, count: int, key: Key) -> Tensor:
    """int32; each row starts a block of its own, so that the counter can be set to any row."""
    blocks = -(-count // _BLOCK)
    raw = _raw(_philox4x64(key, blocks), rows * blocks).view(np.int32)
    return torch.from_numpy(raw).reshape(rows, blocks * _BLOCK)[:, :count]


def _raw(generator: np.random.Philox, blocks: int) -> NDArray[np.uint32]:
    return generator.random_raw(blocks * (_BLOCK // 2)).view(np.uint32)


def _unit(a: Tensor, b: Tensor) -> Tensor:
    """53 bits of two words as a float64 in [0, 1)."""
    high, low = a.long() >> 5 & 0x7FFFFFF, b.long() >> 6 & 0x3FFFFFF
    return (high * 2**26 + low).double() * 2.0**-53


def _philox4x64(key: Key, blocks: int = 0) -> np.random.Philox:
    """At the key's row, if each has so many blocks; this thread's own, since to make one takes four times as long."""
    generator: np.random.Philox | None = getattr(_of_thread, "generator", None)
    if generator is None:
        generator = _of_thread.generator = np.random.Philox(0)
    high, low = divmod(key.row * blocks, 2**64)
    state = {"counter": np.array([low, high, 0, 0], np.uint64), "key": np.frombuffer(key.digest, np.uint64)}
    begin: Any = {**_BEGIN, "state": state}
    generator.state = begin
    return generator
