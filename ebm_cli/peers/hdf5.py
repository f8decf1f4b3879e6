"""HDF5 files of other packages: numbers and short texts that lie in the file itself, of a size known beforehand."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ebm_cli.dataset.files import DEFLATES
from ebm_cli.device import memory
from ebm_cli.errors import UserError, install
from ebm_cli.peers.foreign import Array

_LONGEST = 1000  # characters of a text


def check_installed() -> None:
    """Raise UserError without h5py."""
    if importlib.util.find_spec("h5py") is None:
        raise UserError(
            f"h5py, which reads and writes HDF5, is not installed; it comes with an extra, {install('hdf5')}"
        )


class Folder:
    """A group of an HDF5 file, of which only what lies there itself is looked at: no link is followed."""

    def __init__(self, group: Any, said: str, name: str = "") -> None:
        self._group, self._said, self._name = group, said, name

    def __contains__(self, name: str) -> bool:
        return name in self.names()

    def names(self) -> list[str]:
        """What it holds. Raises UserError for a link to elsewhere."""
        return [str(name) for name in self._group]

    def folder(self, name: str) -> "Folder":
        """A group within. Raises UserError if there is none."""
        found = self._get(name)
        if not hasattr(found, "keys"):
            raise UserError(f"{self._said}: {self._place(name)} is no group")
        return Folder(found, self._said, self._place(name))

    def text(self, name: str) -> str:
        """A short text."""
        found = self._dataset(name)
        if found.shape != () or not self._is_text(found.dtype) or found.dtype.itemsize > _LONGEST:
            raise UserError(f"{self._said}: {self._place(name)} is no short text")
        value = found[()]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def numbers(self, name: str) -> Array:
        """An array of numbers. Raises UserError, before it is read, for one that the file cannot hold."""
        found = self._dataset(name)
        where = f"{self._said}: {self._place(name)}"
        if found.dtype.kind not in "biuf":
            raise UserError(f"{where} has type {found.dtype}; it must hold numbers")
        size = int(np.prod([int(length) for length in found.shape], dtype=object)) * found.dtype.itemsize
        there = found.id.get_storage_size()
        if size > there * (DEFLATES if found.compression else 1):
            raise UserError(f"{where} declares {size} bytes, the file holds {there} of them; write it anew")
        memory.check_room(2 * size, where)
        values: Array = found[()]
        return values

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an array, without reading it."""
        return tuple(int(length) for length in self._dataset(name).shape)

    def _is_text(self, kind: Any) -> bool:
        import h5py

        return h5py.check_string_dtype(kind) is not None

    def _dataset(self, name: str) -> Any:
        import h5py

        found = self._get(name)
        if not isinstance(found, h5py.Dataset):
            raise UserError(f"{self._said}: {self._place(name)} is no data set")
        if found.external or found.is_virtual:
            raise UserError(f"{self._said}: {self._place(name)} lies in another file, which is not read; copy it in")
        return found

    def _get(self, name: str) -> Any:
        import h5py

        if name not in self.names():
            raise UserError(f"{self._said}: has no {self._place(name)}")
        if not isinstance(self._group.get(name, getlink=True), h5py.HardLink):
            raise UserError(
                f"{self._said}: {self._place(name)} is a link to somewhere else, which is not followed; copy what it "
                "leads to into the file"
            )
        return self._group[name]

    def _place(self, name: str) -> str:
        return f"{self._name}/{name}" if self._name else name


@contextmanager
def opened(path: Path) -> Iterator[Folder]:
    """The root of a file. What h5py cannot read becomes a UserError."""
    check_installed()
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield Folder(file, str(path))
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: is not read as HDF5 ({reason}); it may be cut short, so copy it once more") from error


def written(groups: dict[str, Any]) -> bytes:
    """A file of arrays, numbers and texts by their paths, "update_1/time", as bytes."""
    check_installed()
    import io

    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, value in groups.items():
            file[name] = value
    return buffer.getvalue()
