"""How much memory there is, what a run needs of it, and how many chains may be in flight at once."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ebm_cli.errors import RunError, UserError

_FLOAT = 4
_COPIES = 16  # of each unit of a chain in flight: positions, logits, random words, thresholds, gradients
_CACHED = 2**27  # bytes in flight beyond which a CPU gains nothing by more
_SHARE = 0.5  # of the memory that is left goes to chains in flight
PROCESS = 5 * 10**8  # bytes that the libraries of one process take
_ADVICE = "take fewer chains.count, batch_size or hidden units"

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt, in glibc's malloc.h


def keep_freed() -> None:
    """Let glibc keep freed memory for what is allocated next; other C libraries stay as they are.

    It would give it back to the system and take it again zeroed, page by page: in a Langevin step on images of 28 x 28,
    whose tensors live for one layer, a quarter of the time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_MMAP_THRESHOLD, 2**30)


def taken(device: torch.device) -> int:
    """Bytes this process holds: of the GPU, or resident in memory, its libraries included."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    pages = _read("/proc/self/statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0


def available(device: torch.device) -> int:
    """Bytes this process may still take: of the GPU, or of the machine within the limit of its control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([_of_machine(), *_of_control_group()])


def _of_machine() -> int:
    lines = _read("/proc/meminfo").splitlines()
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else 2**62


def _of_control_group() -> list[int]:
    """What is left of its limit, if there is one (version 2 of control groups, as containers see it)."""
    limit, used = _read("/sys/fs/cgroup/memory.max").strip(), _read("/sys/fs/cgroup/memory.current").strip()
    return [int(limit) - int(used)] if limit.isdigit() and used.isdigit() else []


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def check(needed: dict[str, int], left: int, key: str = "chains.count, batch_size or hidden units") -> None:
    """Raise UserError if what a run needs in any case is more than there is; `needed` in bytes by what it is for.

    `key` names what to take less of.
    """
    total = sum(needed.values())
    if total > left:
        parts = ", ".join(f"{what} {readable(size)}" for what, size in needed.items())
        raise UserError(
            f"not enough memory: the run needs {total} bytes ({readable(total)}: {parts}), {left} bytes "
            f"({readable(left)}) are available; take fewer {key}"
        )


def rows_at_once(units: int, left: int, device: torch.device) -> int:
    """Chains of so many units that fit into what is left; on a CPU no more than caches like."""
    share = int(_SHARE * left) if device.type == "cuda" else min(int(_SHARE * left), _CACHED)
    return max(1, share // (_COPIES * _FLOAT * units))


def readable(size: float) -> str:
    """1.5 GB and the like."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


@contextmanager
def watched(device: torch.device) -> Iterator[None]:
    """Within, memory that runs out becomes a RunError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise RunError(
            f"out of memory on {device.type} ({readable(available(device))} left); {_ADVICE}, or set device.memory to "
            "less than this process may have"
        ) from error
