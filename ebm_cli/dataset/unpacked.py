"""Whole files of text, packed by gzip or not."""

import gzip
import zlib
from pathlib import Path
from typing import IO, cast

from ebm_cli.dataset import kinds
from ebm_cli.device import memory

_AT_ONCE = 2**20  # bytes

DAMAGED = (EOFError, OSError, zlib.error)
"""What `content` raises of files that are cut short or are no gzip files."""


def is_packed(file: Path) -> bool:
    """Whether it is packed by gzip, whatever its name says."""
    return (kinds.found(file) or ("",))[0] == "gzip"


def content(file: Path, said: str, takes: int) -> bytes:
    """All of it, unpacked. Raises UserError, beginning with `said`, as soon as it is more than there is memory for, a
    byte taking `takes` bytes of it while it is read."""
    parts, size = [], 0
    with cast(IO[bytes], gzip.open(file)) if is_packed(file) else file.open("rb") as opened:
        while part := opened.read(_AT_ONCE):
            size += len(part)
            memory.check_room(takes * size, said)
            parts.append(part)
    return b"".join(parts)
