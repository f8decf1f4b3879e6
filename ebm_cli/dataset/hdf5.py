"""Arrays of HDF5 files, MATLAB's of version 7.3 among them. What lies in other files is never followed."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_cli.dataset.content import NO_NUMBERS, Content, Header, Place, Reader
from ebm_cli.dataset.files import DEFLATES, naming
from ebm_cli.device import memory
from ebm_cli.errors import UserError, install

_AT_ONCE = 2**20  # bytes
_FILTERS = {1, 2, 3, 4, 5, 6, 32000}  # deflate, shuffle, fletcher32, szip, nbit, scale-offset, lzf: others are plug-ins
_MATLAB = "MATLAB_class"  # what MATLAB calls the type of an array, whose axes it writes in the opposite order
_WAY = "write plain number arrays"


def headers(path: Path, said: str) -> dict[str, Header]:
    """What the file says of its arrays by their names, GROUP/NAME; of links, whose values it lacks, the name."""
    with naming(said, _WAY), _opened(path, said) as file:
        links = dict.fromkeys(_links(file), NO_NUMBERS)
        return links | {name: _header(array) for name, array in _arrays(file).items()}


def read(path: Path, keys: Sequence[str], said: str, reader: Reader) -> dict[str, Any]:
    """Those of the arrays that the file has. Raises UserError, beginning with `said`, if one cannot be read."""
    with naming(said, _WAY) as reading, _opened(path, said) as file:
        arrays = _arrays(file)
        for reading.key, place in _links(file).items():
            if reading.key in keys:
                raise ValueError(f"it is a link to {place}, which is not followed; copy what is there into this file")
        present = [key for key in keys if key in arrays]
        size, contents = 0, {}
        for reading.key in present:
            contents[reading.key] = _content(arrays[reading.key], path)
            size += contents[reading.key].about.taken(mapped=contents[reading.key].place is not None)
        memory.check_room(size, said)
        found = {}
        for reading.key in present:
            found[reading.key] = reader(contents[reading.key])
        return found


@contextmanager
def _opened(path: Path, said: str) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{said}: an HDF5 file, for which h5py is needed; install it {install('hdf5')}") from error
    with h5py.File(path, "r", locking=False) as file:
        yield file


def _arrays(file: Any) -> dict[str, Any]:
    """The data sets by name. Links that name a path, in this file or in another, are passed over."""
    found: dict[str, Any] = {}

    def note(name: str, thing: Any) -> None:
        if hasattr(thing, "dtype") and hasattr(thing, "shape") and not name.startswith("#"):
            found[name] = thing

    file.visititems(note)
    return found


def _links(file: Any) -> dict[str, str]:
    """Where those that name a path lead, in words, by their own names."""
    found: dict[str, str] = {}

    def note(name: str, link: Any) -> None:
        if hasattr(link, "path") and not name.startswith("#"):
            found[name] = f"{link.path} in the file {link.filename}" if hasattr(link, "filename") else link.path

    file.visititems_links(note)
    return found


def _is_transposed(array: Any) -> bool:
    return _MATLAB in array.attrs and len(array.shape) > 1


def _header(array: Any) -> Header:
    shape = tuple(array.shape or ())
    kind = array.dtype if array.dtype.metadata is None else np.dtype(object)
    return Header(shape[::-1] if _is_transposed(array) else shape, _is_transposed(array), kind)


def _content(array: Any, path: Path) -> Content:
    """Raises ValueError for what is no array of numbers within this file, or declares more than can be there."""
    if array.shape == () and array.dtype.hasobject:
        return _text(array)
    about = _header(array)
    _check_place(array)
    if about.kind.kind not in "biuf":
        raise ValueError(f"type {array.dtype}, which is no type of numbers")
    _check_size(array, about, path.stat().st_size)
    place = None if _is_transposed(array) else _place(array, path)
    return Content(about, lambda: _pieces(array, about), lambda: _whole(array, about), place)


def _text(array: Any) -> Content:
    """A single string."""
    value = array[()]
    if not isinstance(value, bytes | str):
        raise ValueError(f"type {array.dtype}, which is no type of numbers")
    text = np.array(value.decode("utf-8") if isinstance(value, bytes) else value)
    return Content(Header((), by_columns=False, kind=text.dtype), lambda: iter([text]), lambda: text)


def _check_place(array: Any) -> None:
    if array.external or array.is_virtual:
        raise ValueError("its values lie in another file, which is not followed; copy them into this one")
    layout = array.id.get_create_plist()
    others = {layout.get_filter(i)[0] for i in range(layout.get_nfilters())} - _FILTERS
    if others:
        raise ValueError(f"it is packed by the plug-in filter {min(others)}; pack it by gzip, h5repack -f GZIP=4")


def _check_size(array: Any, about: Header, file_size: int) -> None:
    there = min(array.id.get_storage_size(), file_size)
    most = there if array.chunks is None else DEFLATES * there
    chunk = math.prod(array.chunks or ()) * about.kind.itemsize
    if about.size > most or (array.chunks and chunk > DEFLATES * file_size):
        raise ValueError(f"it declares {max(about.size, chunk)} bytes, of which {there} are stored")
    first = array.id.get_offset()
    if first is not None and first + about.size > file_size:
        raise ValueError("it is cut short")


def _place(array: Any, path: Path) -> Place | None:
    """Where its numbers lie one after the other, if they do."""
    first = array.id.get_offset()
    moved = array.file.userblock_size  # behind which the file begins
    return None if first is None or array.chunks is not None or moved else Place(path, first)


def _pieces(array: Any, about: Header) -> Iterator[NDArray[Any]]:
    """Rows some at a time, whole chunks where they lie in chunks."""
    row = max(1, math.prod(about.shape[1:]) * about.kind.itemsize)
    own = 1 if array.chunks is None else array.chunks[-1 if about.by_columns else 0]
    step = max(1, _AT_ONCE // row // own) * own
    for first in range(0, about.shape[0], step):
        rows = slice(first, first + step)
        yield np.asarray(array[..., rows].T if about.by_columns else array[rows])


def _whole(array: Any, about: Header) -> NDArray[Any]:
    found = np.asarray(array[()])
    return found.T if about.by_columns else found
