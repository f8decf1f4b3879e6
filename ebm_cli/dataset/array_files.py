"""Files of arrays with names, whatever their format: .npz, .npy, HDF5, MATLAB, and idx files of a folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ebm_cli.dataset import hdf5, idx, kinds, mat
from ebm_cli.dataset.content import Header, Reader, header
from ebm_cli.dataset.files import naming, npz_headers, npz_size, read_npy, read_npz
from ebm_cli.errors import UserError

UNNAMED = "arr_0"
"""What numpy.savez calls the first array without a name; that of a .npy file is called so too."""


class Format(NamedTuple):
    """How arrays are taken from a file, `said` being how it was named in messages. Both raise UserError."""

    headers: Callable[[Path, str], dict[str, Header]]
    """What a file says of each array, by name; of what is no array of numbers at least the name."""
    read: Callable[[Path, Sequence[str], str, Reader], dict[str, Any]]
    """Those of the arrays named that are there."""


def _npz(path: Path, said: str) -> dict[str, Header]:
    with naming(said):
        return npz_headers(path)


def _npy(path: Path, said: str) -> dict[str, Header]:
    with naming(said) as reading, path.open("rb") as file:
        reading.key = "its array"
        return {UNNAMED: header(file)}


def _read_npy(path: Path, keys: Sequence[str], said: str, reader: Reader) -> dict[str, Any]:
    return {UNNAMED: read_npy(path, said, reader)} if UNNAMED in keys else {}


_FORMATS = {
    "npz": Format(_npz, read_npz),
    "npy": Format(_npy, _read_npy),
    "hdf5": Format(hdf5.headers, hdf5.read),
    "mat": Format(mat.headers, mat.read),
    "idx": Format(idx.headers, idx.read),
}
ENDINGS = ".npz, .npy, .h5, .mat or .idx"


def of(path: Path) -> Format | None:
    """By its first bytes, whatever its name; None if it holds no arrays."""
    if idx.is_folder(path) or (kinds.within(path) or ("",))[0] == "idx":
        return _FORMATS["idx"]
    return _FORMATS.get((kinds.found(path) or ("",))[0])


def size(path: Path, keys: Sequence[str]) -> int:
    """Bytes that reading those of the arrays takes that the file has; 0 if it cannot be read."""
    files = of(path)
    if files is None or files.read is read_npz:
        return npz_size(path, keys)
    try:
        there = files.headers(path, str(path))
    except UserError:
        return 0
    return sum(about.taken(mapped=True) for key, about in there.items() if key in keys)
