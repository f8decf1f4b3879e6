"""`ebm import`: its words, for Hydra. The file says which model it is; all else is as for a run that begins."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ebm_cli.cli.words import plain, quoted, taken
from ebm_cli.errors import UserError
from ebm_cli.record.run import check_free

if TYPE_CHECKING:
    from ebm_cli.peers.foreign import Foreign

KEYS = ("format", "checkpoint", "out")
"""Keys of the command and of no run."""

_PLACE = "hydra.run.dir=outputs/${now:%Y-%m-%d_%H-%M-%S}_${hydra:runtime.choices.model}-imported_${ebm_unique:}"
_PAGES = {"-h", "--help", "--hydra-help", "-c", "--cfg", "-i", "--info", "--version"}
_HELP = """ebm import: a run of a model that another package trained

  ebm import RBM.h5 dataset=binarized_mnist out=outputs/THEIRS
  ebm evaluate run=outputs/THEIRS evaluation=[ais,bridge]
  ebm import params.dat dataset=protein dataset.path=FAMILY.fasta
  ebm train resume=outputs/THEIRS                   go on with it here, as from step 0

== Files ==
rbms                    .h5 of rbms 0.5 and 0.6
adabmdca                params.dat of adabmDCA
rbms_jl                 HDF5 of RestrictedBoltzmannMachines.jl
sklearn                 .npz of the arrays of BernoulliRBM
npz                     .npz of arrays by documented names (docs/peers.md)

== Keys of the import ==
format: auto            one of these, where the file does not say it
checkpoint: null        of rbms: the update, N or update_N; null: the last
out: null               the run directory, a new folder (hydra.run.dir is the same); null: one in outputs

dataset=NAME and its keys say which data the model is judged by, and goes on with; without them it is sampled and
scores rows, and dataset.path=FILE says later where data are. Files of rbms and plain arrays do not say which letters
categories are: dataset=protein, or dataset.alphabet=LETTERS without data, reads FASTA then, dataset=array numbers. All
other keys are those of ebm train.
"""


def words(arguments: list[str]) -> list[str]:
    """Words for Hydra: those that the file decides, then those that were typed. Raises UserError."""
    if {"-sc", "--shell-completion"} & set(arguments):
        return arguments
    flags = [word for word in arguments if word.startswith("-")]
    if _PAGES & set(flags):
        header = [f"hydra.help.header={quoted(_HELP)}", "hydra.help.app_name=ebm import"]
        return [*header, *(word for word in arguments if word in flags or "=" in word)]
    file, rest = _file(arguments)
    own, rest = _own(rest)
    _check_no_model(rest, file)
    alphabet = taken(rest, "dataset.alphabet")[0]
    from ebm_cli.dataset.alignment import ALPHABETS
    from ebm_cli.peers import formats

    letters = None if alphabet is None else ALPHABETS.get(plain(alphabet), plain(alphabet))
    found = formats.read(Path(file).expanduser(), own.get("format", "auto"), own.get("checkpoint"), letters)
    place = taken(rest, "hydra.run.dir")[0]
    if "out" in own and place is not None:
        raise UserError(f"hydra.run.dir: out = {own['out']} says where the run goes; leave one of them out")
    _check_place(own)
    goes = [] if place is not None else [f"hydra.run.dir={quoted(own['out'])}" if "out" in own else _PLACE]
    data = any(word.startswith(("dataset=", "dataset.path=")) for word in rest)
    asked = {"file": file, "format": own.get("format", "auto"), "checkpoint": own.get("checkpoint")}
    asked |= {"letters": letters, "data": str(data).lower()}
    peer = [f"+peer.{key}={quoted(value)}" for key, value in asked.items() if value is not None]
    return [*goes, *_decided(found, rest), *rest, *peer]


def _file(arguments: list[str]) -> tuple[str, list[str]]:
    """The file that is named, and the other words."""
    named = [word for word in arguments if not word.startswith("-") and ("=" not in word or os.path.exists(word))]
    if not named:
        raise UserError("name the file of a model: ebm import FILE (see: ebm import --help)")
    if len(named) > 1:
        raise UserError(f"{named[1]}: one file is imported at a time, and that is {named[0]}; leave one out")
    return named[0], [word for word in arguments if word != named[0]]


def _own(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """The keys of the import, without quotes, and the other words."""
    found = {}
    for key in KEYS:
        value, arguments = taken(arguments, key)
        if value == "":
            raise UserError(f"{key} is empty: give {key}=VALUE, or leave it out")
        if value not in (None, "null"):
            found[key] = plain(str(value))
    return found, arguments


def _check_no_model(arguments: list[str], file: str) -> None:
    for word in arguments:
        key = word.lstrip("+~").partition("=")[0]
        if key == "resume":
            raise UserError(f"{word}: an import begins a run; leave it out, and go on with it by ebm train resume=DIR")
        if key.partition(".")[0].partition("@")[0] == "model":
            raise UserError(f"{word}: the model is what {file} holds; leave it out")


def _check_place(own: dict[str, str]) -> None:
    """Raise UserError for an `out` where no run directory can begin."""
    if "out" not in own:
        return
    path = Path(own["out"]).expanduser()
    there = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise UserError(f"out = {own['out']}: {there} is a file; name a new folder, which becomes the run directory")
    check_free(path, "out = ")


def _decided(found: "Foreign", typed: list[str]) -> list[str]:
    """The model, as many chains as the file has, and the data set that reads what the model takes."""
    name, keys = found.model["name"], {key: value for key, value in found.model.items() if key != "name"}
    chosen = [f"model={name}", *(f"model.{key}={value}" for key, value in keys.items())]
    chosen += [] if found.chains is None else ["chains=persistent", f"chains.count={len(found.chains)}"]
    reader = taken(typed, "dataset")[0]
    if reader is None:
        reader = "protein" if found.letters or taken(typed, "dataset.alphabet")[0] is not None else "array"
        values = getattr(found.space, "values", None) if found.space.name == "categorical" else None
        chosen += [f"dataset={reader}", *([f"dataset.categories={values}"] if values and reader == "array" else [])]
    if reader == "protein" and found.letters:
        chosen.append(f"dataset.alphabet={quoted(found.letters)}")
    return chosen
