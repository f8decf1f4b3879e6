"""Pictures of a run: the PNG files that it and its evaluations left, as data URIs."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ebm_cli.record import files

_PNG = b"\x89PNG\r\n\x1a\n"
_WIDEST = 8192  # pixels
_ORDER = ("samples.png", "statistics.png", "neighbours.png")
_WHILE_TRAINING = 5


class Picture(NamedTuple):
    """A name for a person, and the address that holds the picture itself, or why it is not there."""

    name: str
    address: str
    pixels: tuple[int, int] = (0, 0)
    missing: str = ""

    @property
    def early(self) -> bool:
        """Whether it was drawn while training."""
        return "/step-" in self.name


def of_run(path: Path, room: int) -> list[Picture]:
    """The final ones first, then those of the newest evaluation, then a few while training; `room`: bytes for all."""
    found = []
    for name in _names(path):
        made = _picture(path, name, room)
        room -= len(made.address)
        found.append(made)
    return found


def address(data: bytes) -> str:
    """A picture within a page."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _names(path: Path) -> Iterator[str]:
    there = [name for name in _listed(path, "samples") if name.endswith(".png")]
    final = [name for name in there if not name.startswith("step-")]
    yield from (f"samples/{name}" for name in sorted(final, key=_standing))
    for folder in reversed(_listed(path, "evaluations")[-3:]):
        yield from (f"evaluations/{folder}/{n}" for n in _listed(path, f"evaluations/{folder}") if n.endswith(".png"))
    early = [name for name in there if name.startswith("step-")]
    stride = max(1, (len(early) - 1) / (_WHILE_TRAINING - 1))
    chosen = dict.fromkeys(early[min(len(early) - 1, round(i * stride))] for i in range(_WHILE_TRAINING) if early)
    yield from (f"samples/{name}" for name in chosen)


def _standing(name: str) -> tuple[int, str]:
    return _ORDER.index(name) if name in _ORDER else len(_ORDER), name


def _listed(path: Path, folder: str) -> list[str]:
    try:
        return files.names(path, folder)
    except OSError:
        return []


def _picture(path: Path, name: str, room: int) -> Picture:
    try:
        size = files.size(path, name) or 0
        if size * 4 / 3 > room:
            return Picture(name, "", missing=f"left out, for the page would grow too large ({size} bytes)")
        data = files.read(path, name)
    except OSError as error:
        return Picture(name, "", missing=f"cannot be read: {error.strerror}")
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    if not data.startswith(_PNG) or data[12:16] != b"IHDR" or not (0 < width <= _WIDEST and 0 < height <= _WIDEST):
        return Picture(name, "", missing="is no picture that can be shown")
    return Picture(name, address(data), (width, height))
