"""What a file is by its first bytes, whatever its name says, for messages about files of another kind than is read."""

import re
import struct
import zipfile
import zlib
from pathlib import Path

_FIRST = 4096  # bytes that are looked at
_GZIP = 31  # as zlib calls its format

_BYTES = (
    (b"\x93NUMPY", "npy", "an .npy file, one array without a name"),
    (b"\x1f\x8b", "gzip", "packed by gzip"),
    (b"BZh", "packed", "packed by bzip2"),
    (b"\xfd7zXZ", "packed", "packed by xz"),
    (b"(\xb5/\xfd", "packed", "packed by zstandard"),
    (b"\x89HDF\r\n", "hdf5", "an HDF5 file"),
    (b"MATLAB 7.3", "hdf5", "a MATLAB file"),
    (b"MATLAB 5.0", "mat", "a MATLAB file"),
    (b"PK\x03\x04", "cut", "an archive that is cut short, such as an .npz file"),
    (b"PAR1", "table", "a Parquet file"),
    (b"ARROW1", "table", "an Arrow file"),
    (b"\x80", "pickle", "a Python pickle, which could run any code and is never read"),
    (b"\x89PNG", "image", "a PNG picture"),
    (b"\xff\xd8\xff", "image", "a JPEG picture"),
    (b"%PDF", "other", "a PDF document"),
)
_IDX = re.compile(rb"\0\0[\x08\x09\x0b-\x0e][\x01-\x08]")
_NAME = re.compile(rb"[A-Za-z]\w*\0")  # of an array of MATLAB 4
_PHYLIP = re.compile(r"\d+[ \t]+\d+[ \t]*\n\S+[ \t]+[A-Za-z?*.-]{3,}")
_TEXTS = (
    (">", "fasta", "a FASTA file of sequences"),
    ("#A3M#", "fasta", "an a3m file of sequences"),
    ("# STOCKHOLM", "stockholm", "an alignment in Stockholm format"),
    ("CLUSTAL", "clustal", "an alignment in Clustal format"),
    ("MUSCLE (", "clustal", "an alignment in Clustal format"),
    ("PROBCONS", "clustal", "an alignment in Clustal format"),
    ("#NEXUS", "nexus", "an alignment in NEXUS format"),
    ("%%MatrixMarket", "mtx", "a matrix market file"),
    ("{", "json", "JSON"),
    ("[", "json", "JSON"),
)
_ARRAY = "numpy.savez(FILE, train=rows), rows an array (n, *shape)"
_WAYS = {
    "npy": "write it anew by numpy.savez('FILE.npz', train=numpy.load('FILE.npy'))",
    "gzip": "unpack it by gunzip -k FILE",
    "packed": "unpack it",
    "csv": "write it as an .npz file by numpy.savez('FILE.npz', train=numpy.loadtxt('FILE.csv', delimiter=',')), "
    "skiprows=1 if the first line names the columns",
    "hdf5": "use dataset=array",
    "mat": "use dataset=array",
    "idx": "use dataset=array",
    "image": "name its folder with dataset=image_folder",
    "fasta": "use dataset=protein",
    "mtx": "use dataset=bag_of_words if it holds counts of words",
    "stockholm": "use dataset=protein",
    "mat4": "write it anew for MATLAB 5, save('FILE.mat', '-v7') or scipy.io.savemat('FILE.mat', arrays)",
    "phylip": "write it as aligned FASTA, e.g. by seqmagick convert FILE FILE.fasta",
    "clustal": "write it as aligned FASTA, e.g. by seqmagick convert FILE FILE.fasta",
    "nexus": "write it as aligned FASTA, e.g. by seqmagick convert FILE FILE.fasta",
}


def within(path: Path) -> tuple[str, str] | None:
    """The same of what a file holds that may be packed by gzip."""
    seen = found(path)
    if seen is None or seen[0] != "gzip":
        return seen
    try:
        with path.open("rb") as file:
            head = zlib.decompressobj(_GZIP).decompress(file.read(_FIRST), _FIRST)
    except (OSError, zlib.error):
        return seen
    return _of_bytes(head) or seen


def found(path: Path) -> tuple[str, str] | None:
    """The kind of a file in one word and in words that follow "it is"; None if its first bytes say nothing."""
    try:
        with path.open("rb") as file:
            head = file.read(_FIRST)
    except OSError:
        return None
    if not head:
        return "empty", "empty"
    if zipfile.is_zipfile(path):
        return _of_archive(path)
    return _of_bytes(head)


def _of_bytes(head: bytes) -> tuple[str, str] | None:
    for begin, kind, said in _BYTES:
        if head.startswith(begin):
            return kind, said
    if _IDX.match(head):
        return "idx", "an idx file"
    return ("mat4", "a MATLAB file of version 4") if _is_mat4(head) else _of_text(head)


def _is_mat4(head: bytes) -> bool:
    """Whether it begins with an array of MATLAB 4: type, rows, columns, whether complex, and its name, which a 0 ends.

    The type is 1000 M + 10 P + T: M 0 or 1 for the order of bytes, P the kind of numbers, T 0 to 2.
    """
    for order in "<>":
        if len(head) < 20:
            return False
        kind, *size, imaginary, length = struct.unpack(f"{order}5i", head[:20])
        name = head[20 : 20 + max(length, 0)]
        known = kind // 1000 == (order == ">") and kind % 1000 // 10 <= 5 and kind % 10 <= 2
        if known and min(size) >= 0 and imaginary in (0, 1) and _NAME.fullmatch(name):
            return True
    return False


def _of_archive(path: Path) -> tuple[str, str]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("data.pkl") for name in names):
        return "pickle", "a file of torch.save, which could run any code and is never read"
    if any(name.startswith("xl/") for name in names):
        return "table", "an Excel workbook"
    arrays = not names or any(name.endswith(".npy") for name in names)
    return ("npz", "an .npz file") if arrays else ("packed", "a zip archive without arrays")


def _of_text(head: bytes) -> tuple[str, str] | None:
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf16", "text in UTF-16"
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff").lstrip()
    if "\0" in text or text.count("\ufffd") > 1:
        return None
    for begin, kind, said in _TEXTS:
        if text.startswith(begin):
            return kind, said
    if _PHYLIP.match(text):
        return "phylip", "an alignment in PHYLIP format"
    separators = [sign for sign in (",", "\t", ";") if sign in text.partition("\n")[0]]
    return ("csv", "a table in text, such as .csv") if separators else ("text", "text")


def instead(path: Path, fallback: str, wanted: str = f"write {_ARRAY}", others: dict[str, str] | None = None) -> str:
    """What a file is that is not of the kind that is read, and the way out; `fallback` if that cannot be seen.

    `wanted` is the way out for kinds that have none of their own, `others` has ways by kind that go before those here.
    """
    seen = found(path)
    if seen is None:
        return fallback
    kind, said = seen
    ways = {"empty": "write it anew", "cut": "write it anew", "utf16": "convert it to UTF-8"} | _WAYS | (others or {})
    return f"it is {said}; {ways.get(kind, wanted)}"
