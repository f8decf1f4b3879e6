"""The only way to the files of a run directory, which may come from anybody: nothing below it leads elsewhere.

Every function takes the run directory and a name below it, `checkpoints/step-00000012/state.json`. The directory
itself may be reached by a link, since somebody typed that. Below it no link is followed, neither in a folder nor at the
end; what is no plain file (a pipe, a device, a socket, a folder) is not opened, so nothing hangs; and a file that has
another name elsewhere (a hard link) is replaced by a copy before anything is written to it. What fails is an OSError
whose words say which file it is and why.
"""

import errno
import io
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFLNK: (errno.ELOOP, "it is a link, which is not followed in a run directory; put the file itself there"),
    stat.S_IFIFO: (errno.EINVAL, "it is a pipe and no file"),
    stat.S_IFSOCK: (errno.EINVAL, "it is a socket and no file"),
    stat.S_IFCHR: (errno.EINVAL, "it is a device and no file"),
    stat.S_IFBLK: (errno.EINVAL, "it is a device and no file"),
    stat.S_IFDIR: (errno.EISDIR, "it is a folder and no file"),
}
_NO_FOLDER = "it is no folder"
_OPENED = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK)  # of a file system without hard links


def read(root: Path, name: str, *, last: int | None = None) -> bytes:
    """The contents of a file, or its last bytes."""
    with _parent(root, name) as (folder, own), os.fdopen(_plain(folder, own, os.O_RDONLY), "rb") as file:
        if last is not None:
            file.seek(max(0, os.fstat(file.fileno()).st_size - last))
        return file.read()


def text(root: Path, name: str) -> str:
    """The same in UTF-8. Raises UnicodeDecodeError, which is a ValueError."""
    return read(root, name).decode()


def size(root: Path, name: str) -> int | None:
    """Bytes of a file; None if there is none."""
    try:
        with _parent(root, name) as (folder, last):
            return _looked_at(folder, last).st_size
    except FileNotFoundError:
        return None


def there(root: Path, name: str) -> bool:
    """Whether anything has this name, a link that leads nowhere included."""
    try:
        with _parent(root, name) as (folder, last):
            os.stat(last, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def names(root: Path, name: str = "") -> list[str]:
    """What a folder holds, sorted; nothing if there is no such folder."""
    try:
        with _folder(root, _parts(name)) as folder:
            return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def append(root: Path, name: str) -> BinaryIO:
    """A file opened at its end, made if it is missing."""
    with _parent(root, name, make=True) as (folder, last):
        _unshare(folder, last)
        file = os.fdopen(_plain(folder, last, os.O_RDWR | os.O_CREAT | os.O_APPEND, alone=True), "ab")
    file.seek(0, os.SEEK_END)
    return file


def append_text(root: Path, name: str) -> io.TextIOWrapper:
    """The same for text in UTF-8, its lines ended as they are given."""
    return io.TextIOWrapper(append(root, name), encoding="utf-8", newline="")


def replace(root: Path, name: str, data: bytes, writer: str = "") -> None:
    """Write a file in one motion: whoever reads it sees the old one or the new one, also after a power cut.

    Whatever interrupts it, nothing else is left. Where several processes may do so at the same time, `writer` is a name
    of this one.
    """
    with _parent(root, name, make=True) as (folder, last):
        temporary = f".{last}.{writer}writing"
        try:
            _written(folder, temporary, data)
            os.rename(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)


def claim(root: Path, name: str, data: bytes) -> None:
    """Write a file that is whole as soon as it is there. Raises FileExistsError if it is: of two processes one does."""
    temporary = f".{name}.{os.getpid()}.writing"
    with _parent(root, name, make=True) as (folder, last):
        try:
            _written(folder, temporary, data)
            os.link(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.rename(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)


def write_folder(root: Path, name: str, temporary: str, files: Mapping[str, bytes], first: Callable[[], None]) -> None:
    """Write a folder of files that is whole, and on the disk, as soon as it is there. On an error nothing is left.

    Until then it is called `temporary`; `first` is called just before it gets its name.
    """
    with _parent(root, name, make=True) as (folder, last):
        _clear(folder, temporary)
        try:
            os.mkdir(temporary, dir_fd=folder)
            with _opened_folder(folder, temporary) as inner:
                for file, data in files.items():
                    _written(inner, file, data)
                os.fsync(inner)
            first()
            os.rename(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        except OSError:
            with suppress(OSError):
                _clear(folder, temporary)
            raise


def new_folder(root: Path, name: str) -> None:
    """A folder that was not there. Raises FileExistsError if anything of this name is."""
    with _parent(root, name, make=True) as (folder, last):
        os.mkdir(last, dir_fd=folder)


def check(root: Path, name: str) -> None:
    """Raise OSError unless a file, or all that a folder holds, is plain files and folders; what is missing is so."""
    try:
        with _parent(root, name) as (folder, last):
            found = os.stat(last, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        _checked(found, str(root / name))
        return
    for inner in names(root, name):
        check(root, f"{name}/{inner}")


def check_links(root: Path, name: str) -> None:
    """Raise OSError unless the links in a folder, of which some library keeps some, lead into it or nowhere."""
    top = (root / name).resolve()
    for inner in names(root, name):
        place = root / name / inner
        if place.is_symlink() and not place.resolve().is_relative_to(top):
            raise OSError(errno.ELOOP, "it is a link to somewhere else; remove it", str(place))


def move(root: Path, old: str, new: str) -> None:
    """Give a file or folder another name in the same folder."""
    with _parent(root, old) as (folder, last):
        os.rename(last, _parts(new)[-1], src_dir_fd=folder, dst_dir_fd=folder)


def remove(root: Path, name: str) -> None:
    """Remove a file, a link or a whole folder; of a link what it leads to stays."""
    with _parent(root, name) as (folder, last):
        _clear(folder, last)


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part]
    if name.startswith("/") or ".." in parts or "." in parts or "\0" in name:
        raise OSError(errno.EINVAL, "it is no name of a file below a run directory", name)
    return parts


@contextmanager
def _folder(root: Path, parts: list[str], *, make: bool = False) -> Iterator[int]:
    """A folder below the run directory, opened part by part; complaints about what is in it name the whole path."""
    place, folder = root, os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
            inner = _directory(folder, part)
            os.close(folder)
            place, folder = place / part, inner
        yield folder
    except OSError as error:
        raise _named(error, place) from None
    finally:
        os.close(folder)


@contextmanager
def _parent(root: Path, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """The folder that holds a file, and the file's name in it."""
    *parts, last = _parts(name)
    with _folder(root, parts, make=make) as folder:
        yield folder, last


def _named(error: OSError, place: Path) -> OSError:
    """The same error with the whole path of what it is about."""
    if isinstance(error.filename, str) and not os.path.isabs(error.filename) and "/" not in error.filename:
        error.filename = str(place / error.filename)
        error.filename2 = None
    return error


def _directory(folder: int, name: str) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        kind = stat.S_IFMT(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        said = _KINDS[kind][1] if kind == stat.S_IFLNK else _NO_FOLDER
        raise OSError(error.errno, said.replace("the file", "the folder"), name) from None


@contextmanager
def _opened_folder(folder: int, name: str) -> Iterator[int]:
    inner = _directory(folder, name)
    try:
        yield inner
    finally:
        os.close(inner)


def _looked_at(folder: int, name: str) -> os.stat_result:
    """What is known of a plain file without opening it. Raises OSError for anything else."""
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return _checked(found, name)


def _checked(found: os.stat_result, name: str) -> os.stat_result:
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG:
        number, said = _KINDS.get(kind, (errno.EINVAL, "it is no file"))
        raise OSError(number, said, name)
    return found


def _plain(folder: int, name: str, flags: int, *, alone: bool = False) -> int:
    """A plain file, opened; `alone`: one that has no other name."""
    with suppress(FileNotFoundError):
        _looked_at(folder, name)
    file = os.open(name, flags | _OPENED, 0o666, dir_fd=folder)
    try:
        found = _checked(os.fstat(file), name)
        if alone and found.st_nlink > 1:
            raise OSError(errno.EMLINK, "it has another name elsewhere (a hard link)", name)
    except BaseException:
        os.close(file)
        raise
    return file


def _unshare(folder: int, name: str) -> None:
    """Replace a file that has another name elsewhere by a copy."""
    try:
        found = _looked_at(folder, name)
    except FileNotFoundError:
        return
    if found.st_nlink > 1:
        with os.fdopen(_plain(folder, name, os.O_RDONLY), "rb") as file:
            _written(folder, f".{name}.writing", file.read())
        os.rename(f".{name}.writing", name, src_dir_fd=folder, dst_dir_fd=folder)


def _written(folder: int, name: str, data: bytes) -> None:
    """A new file with these contents, on the disk. What had its name is removed, be it a link or what a kill left."""
    _clear(folder, name)
    with os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPENED, 0o666, dir_fd=folder), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _clear(folder: int, name: str) -> None:
    """Remove what has this name, if anything has."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            shutil.rmtree(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
