"""How much memory there is, what a run needs of it, and how many chains may be in flight at once."""

import ctypes
import errno
import os
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from ebm_cli.device import control_groups
from ebm_cli.errors import RunError, UserError

_FLOAT = 4
_COPIES = 16  # of each unit of a chain in flight: positions, logits, random words, thresholds, gradients
_CACHED = 2**27  # bytes in flight beyond which a CPU gains nothing by more
_SHARE = 0.5  # of the memory that is left goes to chains in flight
PROCESS = 5 * 10**8  # bytes that the libraries of one process take
_MUCH = 10  # one byte in so many
_ADVICE = "take a lower chains.count or batch_size, or a smaller model"
_SIGNS = ("allocate memory", "std::bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED", "Storage size calculation overflowed")
_bounds: list[int] = []

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
    """Bytes this process may still take: of the GPU, or of the machine within all limits that are set to it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_of_machine(), control_groups.left(), _of_address_space())


def _of_machine() -> int:
    lines = _read("/proc/meminfo").splitlines()
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else control_groups.UNLIMITED


def _of_address_space() -> int:
    """What is left of `ulimit -v`."""
    limit, pages = resource.getrlimit(resource.RLIMIT_AS)[0], _read("/proc/self/statm").split()
    if limit == resource.RLIM_INFINITY or not pages:
        return control_groups.UNLIMITED
    return max(0, limit - int(pages[0]) * os.sysconf("SC_PAGE_SIZE"))


def _read(path: str) -> str:
    return control_groups.read(Path(path))


@contextmanager
def bounded(limit: float | None) -> Iterator[None]:
    """Within, `room` keeps this process below so many GB, its libraries included (None: what is free)."""
    _bounds.append(control_groups.UNLIMITED if limit is None else int(limit * 1e9))
    try:
        yield
    finally:
        _bounds.pop()


def room() -> int:
    """Bytes of main memory that may be taken at once now."""
    cpu = torch.device("cpu")
    return max(0, min([available(cpu), *(bound - taken(cpu) for bound in _bounds)]))


def check_room(size: int, said: str) -> None:
    """Raise UserError, beginning with `said`, if data that take so many bytes while they are read are too large."""
    left = room()
    if size > left:
        raise UserError(
            f"{said}: reading it takes {readable(size)} of memory, {readable(left)} are available; take fewer rows or "
            "store them as uint8, or raise device.memory if that is set"
        )


def tidy() -> None:
    """Give freed memory back to the system, whatever `keep_freed` says of what is freed later."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def check(needed: Mapping[str, int], left: int, ways: Mapping[str, str]) -> None:
    """Raise UserError if what a run needs in any case is more than there is; `needed` in bytes by what it is for.

    `ways` says what to take less of to need less of each, as "a lower chains.count"; those that matter are named.
    """
    total = sum(needed.values())
    if total > left:
        parts = ", ".join(f"{what} {readable(size)}" for what, size in needed.items())
        raise UserError(
            f"not enough memory: the run needs {total} bytes ({readable(total)}: {parts}), {left} bytes "
            f"({readable(left)}) are available; take {_less(needed, ways)}, or raise device.memory if that is set"
        )


def _less(needed: Mapping[str, int], ways: Mapping[str, str]) -> str:
    """The ways to need less of the largest, and of all that take much, the largest first."""
    order = sorted(needed, key=lambda what: needed[what], reverse=True)
    large = [what for what in order if needed[what] * _MUCH >= sum(needed.values()) or what == order[0]]
    return ", or ".join(dict.fromkeys(ways[what] for what in large))


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


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is no memory: of Python and numpy, of torch, or of the system."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    )


@contextmanager
def watched(device: torch.device) -> Iterator[None]:
    """Within, memory that runs out becomes a RunError."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not ran_out(error):
            raise
        raise RunError(
            f"out of memory on {device.type} ({readable(available(device))} left); {_ADVICE}, or set device.memory to "
            "less than this process may have"
        ) from error
