"""`rows.npz`: what evaluations found of each row, so that two runs can be compared row by row.

For a metric such as `exact/log_likelihood` it holds an array of that name, float64, of which the metric is the mean,
and `exact/log_likelihood:index`, the numbers of these rows in their split, int64, where they are not all of them in
their order. `fingerprint` is that of the split's rows. Arrays lie uncompressed, so that none is longer than its file.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ebm_cli.record import files

if TYPE_CHECKING:  # whoever only asks whether there are rows need not wait for numpy
    from numpy.typing import NDArray

NAME = "rows.npz"
_FINGERPRINT, _INDEX = "fingerprint", ":index"
_LARGEST = 1 << 30  # bytes


class Kept(NamedTuple):
    """What one evaluation says of rows: `values` (rows,), and `which` (rows,), which rows of their split these are."""

    values: "NDArray[Any]"
    which: "NDArray[Any]"


def pack(values: Mapping[str, "NDArray[Any]"], index: Mapping[str, "NDArray[Any]"], fingerprint: str) -> bytes:
    """The file, from values (rows,) by metric and the index of those that are not of all rows in their order."""
    import numpy as np

    arrays = {name: np.asarray(column, np.float64) for name, column in values.items()}
    arrays |= {f"{name}{_INDEX}": np.asarray(which, np.int64) for name, which in index.items()}
    found = io.BytesIO()
    np.savez(found, allow_pickle=False, **{_FINGERPRINT: np.array(fingerprint)}, **arrays)
    return found.getvalue()


def read(root: Path, folder: str = "") -> tuple[str, dict[str, Kept]]:
    """The fingerprint of the rows, and what is known of them by metric; `folder` lies below the run directory.

    Raises OSError if there is no such file, and ValueError if it is not one that `pack` wrote.
    """
    import numpy as np

    name = f"{folder}/{NAME}" if folder else NAME
    if (files.size(root, name) or 0) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST} bytes")
    data = io.BytesIO(files.read(root, name))
    try:
        _check_stored(data)
        with np.load(data, allow_pickle=False) as found:
            arrays = {key: found[key] for key in found.files}
    except (zipfile.BadZipFile, KeyError, EOFError, MemoryError) as error:
        raise ValueError(f"it is no {NAME} of this program ({error})") from error
    return _named(arrays)


def _check_stored(data: io.BytesIO) -> None:
    """Raise ValueError for compressed members, of which a small file could hold any number of bytes."""
    with zipfile.ZipFile(data) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("it is compressed")
    data.seek(0)


def _named(arrays: dict[str, "NDArray[Any]"]) -> tuple[str, dict[str, Kept]]:
    import numpy as np

    fingerprint = arrays.pop(_FINGERPRINT, np.array(""))
    kept = {}
    for name in (name for name in arrays if not name.endswith(_INDEX)):
        values = arrays[name]
        index = arrays.get(f"{name}{_INDEX}", np.arange(values.size))
        if values.dtype != np.float64 or index.dtype != np.int64 or values.shape != index.shape or values.ndim != 1:
            raise ValueError(f"{name} is no column of numbers")
        kept[name] = Kept(values, index)
    return str(fingerprint), kept
