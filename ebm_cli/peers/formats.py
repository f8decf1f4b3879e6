"""Which format a file has, and the model it holds."""

from functools import lru_cache
from pathlib import Path

from ebm_cli.dataset import kinds
from ebm_cli.dataset.files import UNREADABLE, npz_keys
from ebm_cli.errors import UserError, nearest
from ebm_cli.peers import adabmdca, fasta, hdf5, julia, npz, rbms, scikit
from ebm_cli.peers.foreign import Foreign, Source

READ = ("rbms", "adabmdca", "rbms_jl", "sklearn", "npz")
"""Formats that are read, by name."""

WRITTEN = {"rbms": "h5", "adabmdca": "dat", "npz": "npz", "fasta": "fasta"}
"""Formats of one file that are written, and how its name ends."""

_WAY = f"files of {', '.join(READ[:-1])} and {READ[-1]} are read"


@lru_cache(maxsize=1)
def read(path: Path, form: str, checkpoint: str | None, letters: str | None) -> Foreign:
    """The model in a file of a format, or of the one that it seems to have (auto). Raises UserError.

    The last file is kept, since the command line asks what is in it before the command does.
    """
    source = Source(path, checkpoint)
    found = seen(path) if form == "auto" else form
    if found not in READ:
        raise UserError(f"format = {form}: must be auto or {', '.join(READ)}{nearest(form, [*READ])}")
    if found == "adabmdca":
        return adabmdca.read(source, letters)
    if checkpoint is not None and found == "sklearn":
        raise UserError(f"checkpoint = {checkpoint}: {source.said} holds one model; leave it out")
    return {"rbms": rbms.read, "rbms_jl": julia.read, "sklearn": scikit.read, "npz": npz.read}[found](source)


def content(model: Foreign, form: str) -> bytes:
    """A file of a format. Raises UserError for a model that it cannot hold."""
    return {"rbms": rbms.content, "adabmdca": adabmdca.content, "npz": npz.content, "fasta": fasta.content}[form](model)


def seen(path: Path) -> str:
    """The format by what is in the file. Raises UserError with what it is instead, and the way out."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file, or if ebm wrote it, take it as it is: run={path}")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    kind, said = kinds.found(path) or ("", "of no kind that is known")
    if said == "an HDF5 file":
        return _of_hdf5(path)
    if kind == "npz":
        return _of_npz(path)
    if kind in ("csv", "text") and _are_parameters(path):
        return "adabmdca"
    way = f"of BernoulliRBM write the arrays: {scikit.WAY}" if kind == "pickle" else _WAY
    raise UserError(f"{path}: it is {said}; {way}")


def _of_hdf5(path: Path) -> str:
    with hdf5.opened(path) as root:
        if julia.recognised(root):
            return "rbms_jl"
        if rbms.recognised(root):
            return "rbms"
        there = ", ".join(root.names()[:10]) or "nothing"
    raise UserError(f"{path}: is HDF5 that holds {there}, and no model of rbms or RestrictedBoltzmannMachines.jl")


def _of_npz(path: Path) -> str:
    try:
        return "sklearn" if scikit.recognised(npz_keys(path)) else "npz"
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read as .npz ({error}); write it anew with numpy.savez") from error


def _are_parameters(path: Path) -> bool:
    """Whether the first line that says anything is one of adabmDCA's."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.split()
            if words and not words[0].startswith("#"):
                return words[0] in ("J", "h")
    return False
