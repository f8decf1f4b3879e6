"""What is left of the memory that Linux control groups allow a process, of both versions of them."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

UNLIMITED = 2**62
"""Bytes; version 1 writes a number near 2^63 where there is no limit."""

_LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")
_USED = ("memory.current", "memory.usage_in_bytes")
_CACHED = ("inactive_file ", "total_inactive_file ")  # pages of files, which are given back before a limit is felt


def left(root: Path = Path("/")) -> int:
    """Bytes that may still be taken in the tightest of all groups the process is in, UNLIMITED without any.

    A group is bounded by those above it, so that all up to the top are looked at. Below `root` lie proc and sys.
    """
    return min((_left_of(group) for group in _groups(root)), default=UNLIMITED)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the groups; within a container, which sees the tree from its own group on, the top is that one."""
    for line in read(root / "proc/self/cgroup").splitlines():
        _, controllers, inside = [*line.split(":", 2), "", ""][:3]
        base = root / "sys/fs/cgroup"
        tops = [base, base / "unified"] if not controllers else [base / "memory"]
        if controllers and "memory" not in controllers.split(","):
            continue
        path = PurePosixPath(inside.lstrip("/"))
        for top in tops:
            yield from (top / part for part in (path, *path.parents) if ".." not in part.parts)
    yield root / "sys/fs/cgroup"
    yield root / "sys/fs/cgroup/memory"


def _left_of(group: Path) -> int:
    """Bytes left of its limits; used ones count but for cached files, which would go first."""
    limits = [int(text) for name in _LIMITS if (text := read(group / name).strip()).isdigit()]
    used = [int(text) for name in _USED if (text := read(group / name).strip()).isdigit()]
    if not limits or not used or min(limits) >= UNLIMITED:
        return UNLIMITED
    return max(0, min(limits) - max(0, used[0] - _cached(group)))


def _cached(group: Path) -> int:
    lines = read(group / "memory.stat").splitlines()
    return max((int(line.split()[1]) for line in lines if line.startswith(_CACHED)), default=0)


def read(path: Path) -> str:
    """The text of a file, empty where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
