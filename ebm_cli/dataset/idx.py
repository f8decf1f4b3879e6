"""Arrays of idx files, as MNIST has them: one file, or a folder of them, packed by gzip or not."""

import gzip
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from ebm_cli.dataset import kinds
from ebm_cli.dataset.content import Header, Place, Reader, of_stream
from ebm_cli.dataset.files import DEFLATES, naming
from ebm_cli.device import memory
from ebm_cli.errors import UserError

_KINDS = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""Types of numbers by the third byte of a file."""
_SPLITS = {"train": r"train", "test": r"t10k|test", "valid": r"val"}
"""What names of files hold, by split; a file of values whose name holds none of them is train."""
_WAY = "fetch or write the file anew"


def is_folder(path: Path) -> bool:
    """Whether it is a folder with an idx file in it."""
    return path.is_dir() and bool(_files(path))


def headers(path: Path, said: str) -> dict[str, Header]:
    """What the files say of their arrays: values by the names of splits, labels by NAME_label."""
    return {name: _header(file, said) for name, file in _named(path, said).items()}


def read(path: Path, keys: Sequence[str], said: str, reader: Reader) -> dict[str, Any]:
    """Those of the arrays that there are. Raises UserError, beginning with `said`, if one cannot be read."""
    present = {key: file for key, file in _named(path, said).items() if key in keys}
    memory.check_room(sum(_header(file, said).taken() for file in present.values()), said)
    return {key: _read(file, said, reader) for key, file in present.items()}


def _files(folder: Path) -> list[Path]:
    inside = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return [path for path in inside if (kinds.within(path) or ("",))[0] == "idx"]


def _named(path: Path, said: str) -> dict[str, Path]:
    """The files by what they hold. Raises UserError where two hold the same."""
    found: dict[str, Path] = {}
    for file in _files(path) if path.is_dir() else [path]:
        split = next((name for name, word in _SPLITS.items() if re.search(word, file.name.lower())), "train")
        name = split if len(_header(file, said).shape) > 1 else f"{split}_label"
        if name in found:
            raise UserError(
                f"{said}: {found[name].name} and {file.name} both hold {name}; name them train-..., valid-... and "
                "test-..., with one file of values and one of labels each"
            )
        found[name] = file
    return found


@contextmanager
def _opened(file: Path, said: str) -> Iterator[IO[bytes]]:
    packed = (kinds.found(file) or ("",))[0] == "gzip"
    with naming(said, _WAY) as reading:
        reading.key = file.name
        with cast(IO[bytes], gzip.open(file)) if packed else file.open("rb") as opened:
            yield opened


def _header(file: Path, said: str) -> Header:
    with _opened(file, said) as opened:
        about = _of_head(opened)
        length = file.stat().st_size
        packed = isinstance(opened, gzip.GzipFile)
        due = opened.tell() + about.size
        if due > DEFLATES * length if packed else due != length:
            raise ValueError(f"its header declares {due} bytes, {'packed in ' * packed}{length} are there")
        return about


def _of_head(file: IO[bytes]) -> Header:
    """Of a file that then stands at its first number."""
    head = file.read(4)
    kind, dimensions = _KINDS.get(head[2]) if len(head) == 4 else None, head[3] if len(head) == 4 else 0
    lengths = file.read(4 * dimensions)
    if kind is None or not dimensions or len(lengths) < 4 * dimensions:
        raise ValueError("it is cut short, or of another kind than idx")
    shape = tuple(int(length) for length in np.frombuffer(lengths, ">u4"))
    return Header(shape, by_columns=False, kind=np.dtype(kind))


def _read(file: Path, said: str, reader: Reader) -> Any:
    with _opened(file, said) as opened:
        about = _of_head(opened)
        place = None if isinstance(opened, gzip.GzipFile) else Place(file, opened.tell())
        return reader(of_stream(opened, about, place))
