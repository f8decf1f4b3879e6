"""Keyed random streams: every draw is a pure function of its key, so there is no generator state to save or share.

A key names one purpose, e.g. `stream(seed, "sampler", step)`, and serves one draw; `key.fold(i)` makes a further,
independent one. On the CPU the numbers come from Philox4x64-10 (Salmon et al., SC 2011) keyed with the 128-bit hash of
the path; on CUDA from torch's Philox4x32-10 seeded with 63 bits of it. The two devices draw different numbers.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Device = torch.device | str
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Key:
    """128 bits that identify one stream."""

    digest: bytes

    def fold(self, *path: int | str) -> "Key":
        """The independent key reached from this one by `path`."""
        return Key(hashlib.blake2b(_encode(path), key=self.digest, digest_size=16).digest())


def stream(seed: int, *path: int | str) -> Key:
    """The key of one purpose in a run: `stream(seed, "chains", step)`."""
    return Key(hashlib.blake2b(_encode((seed, *path)), digest_size=16).digest())


def _encode(path: Sequence[int | str]) -> bytes:
    """Injective encoding: parts are tagged by type and carry their length, so ("a", 1) differs from ("a1",)."""
    parts = (part.encode() if isinstance(part, str) else b"%d" % part for part in path)
    return b"".join(
        b"%c%d:%s" % (b"s"[0] if isinstance(source, str) else b"i"[0], len(part), part)
        for source, part in zip(path, parts, strict=True)
    )


def uniform(shape: Sequence[int], key: Key, device: Device = _CPU, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform on [0, 1)."""
    if torch.device(device).type == "cpu":
        return torch.from_numpy(_philox(key).random(tuple(shape), dtype=_numpy_type(dtype)))
    return torch.rand(tuple(shape), generator=_torch_generator(key, device), device=device, dtype=dtype)


def normal(shape: Sequence[int], key: Key, device: Device = _CPU, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal."""
    if torch.device(device).type == "cpu":
        return torch.from_numpy(_philox(key).standard_normal(tuple(shape), dtype=_numpy_type(dtype)))
    return torch.randn(tuple(shape), generator=_torch_generator(key, device), device=device, dtype=dtype)


def integers(high: int, shape: Sequence[int], key: Key, device: Device = _CPU) -> Tensor:
    """Uniform on {0, ..., high - 1}, int64."""
    if torch.device(device).type == "cpu":
        return torch.from_numpy(_philox(key).integers(high, size=tuple(shape)))
    return torch.randint(high, tuple(shape), generator=_torch_generator(key, device), device=device)


def permutation(n: int, key: Key) -> Tensor:
    """A uniformly random order of 0, ..., n - 1, int64, on the CPU (the same whatever the device of the run)."""
    return torch.from_numpy(_philox(key).permutation(n))


def bernoulli(logits: Tensor, key: Key) -> Tensor:
    """x_i in {0, 1} with p(x_i = 1) = sigmoid(logits_i), in the shape of `logits`; float64 for float64, else float32.

    The probability is formed in at least float32: with bfloat16 logits only their product is of low precision.
    """
    p = (logits if logits.dtype == torch.float64 else logits.float()).sigmoid()
    return (uniform(p.shape, key, p.device) < p).to(p.dtype)


def categorical(logits: Tensor, key: Key) -> Tensor:
    """Index k with p(k) = softmax(logits)_k over the last dimension, by the Gumbel-max trick (float64 noise)."""
    u = uniform(logits.shape, key, logits.device, torch.float64)
    return (logits - (-torch.log1p(-u)).log()).argmax(-1)


def _philox(key: Key) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key.digest, np.uint64)))


def _torch_generator(key: Key, device: Device) -> torch.Generator:
    return torch.Generator(device).manual_seed(int.from_bytes(key.digest[:8], "little") >> 1)


def _numpy_type(dtype: torch.dtype) -> type[np.float32] | type[np.float64]:
    return np.float64 if dtype == torch.float64 else np.float32
