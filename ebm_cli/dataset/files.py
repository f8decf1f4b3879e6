"""The data folder, downloads that are never half there, and .npz files that cannot run code."""

import hashlib
import math
import os
import shutil
import socket
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Literal

import platformdirs

from ebm_cli.dataset import kinds
from ebm_cli.dataset.content import NO_NUMBERS, Header, Place, Reader, header, of_npy, whole
from ebm_cli.device import memory
from ebm_cli.errors import UserError

Install = Callable[[Path, Path], None]
TIMEOUT = 10.0  # seconds without a byte from a mirror before the next one is tried
DEFLATES = 1100  # bytes, at most, that deflate makes one of
_LOCAL_HEADER = 30  # bytes before the name of a member of a zip archive
UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, MemoryError, zlib.error, zipfile.BadZipFile)


def data_root(root: str | None) -> Path:
    """The data folder: `root`, else the environment variable EBM_DATA, else the user's cache folder."""
    chosen = root or os.environ.get("EBM_DATA")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("ebm") / "data"


@dataclass(frozen=True)
class Remote:
    """A file to download: its name, the addresses to try in this order, and the hash it must have."""

    name: str
    urls: tuple[str, ...]
    algorithm: Literal["md5", "sha256"]
    digest: str


def has_digest(path: Path, remote: Remote) -> bool:
    """Whether the file at `path` is, byte for byte, the one that `remote` describes."""
    # Not a defence against forgery where it is MD5: that is the only hash those publishers give.
    with path.open("rb") as file:
        return hashlib.file_digest(file, remote.algorithm).hexdigest() == remote.digest


def move(part: Path, folder: Path) -> None:
    """Give a complete download its final name, in one step."""
    part.replace(folder / part.name)


def unpack(part: Path, folder: Path) -> None:
    """Give each file of a complete, downloaded zip archive its final name, in one step per file; no subfolders."""
    with zipfile.ZipFile(part) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                move(Path(archive.extract(member, part.parent)), folder)


def unpack_tar(inner: str, names: Sequence[str]) -> Install:
    """An `Install` that takes the files `names` of the folder `inner` out of a gzipped tar archive, and nothing else.

    They must be plain files: an archive cannot write anywhere else, nor make a link.
    """

    def install(part: Path, folder: Path) -> None:
        try:
            with tarfile.open(part, "r:gz") as archive:
                for name in names:
                    _extract(archive, f"{inner}/{name}", part.parent / name)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise OSError(f"{part.name} cannot be unpacked ({error})") from error
        for name in names:
            move(part.parent / name, folder)

    return install


def _extract(archive: tarfile.TarFile, name: str, path: Path) -> None:
    """Copy a plain file of an archive to `path`. Raises OSError if it is not there, or is anything else."""
    found = [member for member in archive.getmembers() if member.name == name and member.isreg()]
    source = archive.extractfile(found[0]) if found else None
    if source is None:
        raise OSError(f"the archive has no file {name}")
    with source, path.open("wb") as target:
        shutil.copyfileobj(source, target)


def download(remote: Remote, folder: Path, expected: str, install: Install = move) -> None:
    """Fetch `remote` under a temporary name, check its hash, then `install` it in `folder`.

    Raises UserError with the folder and the `expected` file names if no address delivers it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # In the same folder, so that the last step is a rename and not a copy that can be interrupted.
        with TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
            part = Path(scratch) / remote.name
            _fetch(remote, part)
            install(part, folder)
    except OSError as error:
        raise UserError(f"{missing(folder, expected)}; the download failed: {error}") from error


def missing(folder: Path, expected: str) -> str:
    """What to say about files that are not there, with the way out."""
    return f"dataset.root: {folder} lacks {expected}; put it there, or set dataset.root or EBM_DATA to the data folder"


def _fetch(remote: Remote, part: Path) -> None:
    """Write the file to `part` from the first address that delivers it intact. Raises OSError with every reason."""
    from torchvision.datasets.utils import download_url  # slow to import, and rarely needed

    reasons = []
    for url in remote.urls:
        part.unlink(missing_ok=True)  # download_url takes any file that is there for the complete one
        try:
            with _timeout(TIMEOUT):
                download_url(url, part.parent, part.name)
        except (OSError, RuntimeError, HTTPException) as error:
            reasons.append(f"{url}: {error}")
            continue
        if has_digest(part, remote):
            return
        reasons.append(f"{url}: its {remote.algorithm} is not {remote.digest}, so it was thrown away")
    raise OSError(", ".join(reasons))


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def read_npz(path: Path, keys: Sequence[str], said: str, read: Reader = whole) -> dict[str, Any]:
    """Those of the arrays `keys` that the file has. Raises UserError, beginning with `said`, if it cannot be read."""
    if not path.is_file():
        raise UserError(f"{said}: there is no such file")
    if not zipfile.is_zipfile(path):
        cut_short = "cut short, or of another kind; write it anew with numpy.savez_compressed"
        raise UserError(f"{said}: not an .npz file: {kinds.instead(path, cut_short)}")
    if (kinds.found(path) or ("npz",))[0] in ("pickle", "table", "hdf5", "mat"):
        raise UserError(f"{said}: not an .npz file: {kinds.instead(path, '')}")
    found: dict[str, Any] = {}
    with naming(said) as reading, zipfile.ZipFile(path) as archive:
        present = [key for key in keys if f"{key}.npy" in archive.namelist()]
        size = 0
        for reading.key in present:
            size += declared(archive, f"{reading.key}.npy", path.stat().st_size, maps=read is not whole)
        memory.check_room(size, said)
        for reading.key in present:
            with archive.open(f"{reading.key}.npy") as member:
                found[reading.key] = read(of_npy(member, _place(archive, f"{reading.key}.npy", path)))
    return found


def read_npy(path: Path, said: str, read: Reader) -> Any:
    """The array of a .npy file. Raises UserError, beginning with `said`, if it cannot be read."""
    with naming(said) as reading, path.open("rb") as file:
        reading.key = "its array"
        memory.check_room(_taken(file, path.stat().st_size, maps=read is not whole), said)
        file.seek(0)
        return read(of_npy(file, Place(path, 0)))


@dataclass
class _Reading:
    """What of a file is read at the moment."""

    key: str = "the list of arrays"


@contextmanager
def naming(said: str, way: str = "write plain number arrays with numpy.savez") -> Iterator[_Reading]:
    """Within, an array that cannot be read becomes a UserError that names it and the `way` out."""
    reading = _Reading()
    try:
        yield reading
    except MemoryError as error:
        raise UserError(f"{said}: there is not enough memory for {reading.key}; take fewer rows") from error
    except UNREADABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{said}: cannot read {reading.key} ({reason}); {way}") from error


def _place(archive: zipfile.ZipFile, name: str, path: Path) -> Place | None:
    """Where an array lies in the archive, if it is not packed."""
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        return None
    with path.open("rb") as file:
        file.seek(member.header_offset)
        head = file.read(_LOCAL_HEADER)
    name_and_extra = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    return Place(path, member.header_offset + _LOCAL_HEADER + name_and_extra)


def declared(archive: zipfile.ZipFile, name: str, file_size: int, *, maps: bool = False) -> int:
    """Bytes that reading an array of an .npz file takes, by its header: itself, and what it is converted to.

    Raises ValueError if the header, or the list of the archive of `file_size` bytes, claims more than can be there.
    """
    member = archive.getinfo(name)
    most = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: DEFLATES}.get(member.compress_type, math.inf)
    if member.file_size > most * min(member.compress_size, file_size) + DEFLATES:
        raise ValueError(f"{member.file_size} bytes cannot be in a file of {file_size}")
    with archive.open(name) as file:
        return _taken(file, member.file_size, maps=maps and member.compress_type == zipfile.ZIP_STORED)


def _taken(file: IO[bytes], length: int, *, maps: bool) -> int:
    """The same of a .npy file of so many bytes. Raises ValueError if its header declares others."""
    about = header(file)
    there = length - file.tell()
    if about.size != there and not about.kind.hasobject:
        raise ValueError(f"its header declares {about.size} bytes, there are {there}")
    return about.taken(mapped=maps)


def npz_size(path: Path, keys: Sequence[str]) -> int:
    """Bytes that reading those of the arrays `keys` takes that the file has; 0 if it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            there = [f"{key}.npy" for key in keys if f"{key}.npy" in archive.namelist()]
            return sum(declared(archive, name, path.stat().st_size, maps=True) for name in there)
    except UNREADABLE:
        return 0


def npz_headers(path: Path) -> dict[str, Header]:
    """What an .npz file says of its arrays; one that cannot be read has no numbers."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for key in npz_keys(path):
            try:
                with archive.open(f"{key}.npy") as member:
                    found[key] = header(member)
            except (*UNREADABLE, KeyError):
                found[key] = NO_NUMBERS
    return found


def npz_keys(path: Path) -> list[str]:
    """Names of the arrays in a readable .npz file."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]
