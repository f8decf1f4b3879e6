"""`ebm export`: the model of a run in a file of another package, or as a folder of the Hugging Face hub."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from ebm_cli.commands import hub, own, results
from ebm_cli.commands.configuration import checked
from ebm_cli.commands.trained import Trained
from ebm_cli.device.memory import watched
from ebm_cli.errors import UserError, advice, of_file
from ebm_cli.peers import formats
from ebm_cli.peers.foreign import Foreign
from ebm_cli.signals import finishing
from ebm_cli.space import Discrete
from ebm_cli.terminal import log, logging_to, output


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of `ebm export` beside its groups."""

    run: Annotated[str, Field(min_length=1)]
    format: Literal["rbms", "adabmdca", "npz", "fasta", "hub"]
    checkpoint: str  # last, best or a step
    letters: Annotated[str, Field(min_length=2)] | None  # of categories; None: those of the run's data set
    out: Annotated[str, Field(min_length=1)] | None  # a new file or folder; None: in exports/<time> of the run
    plugins: list[str]


@watched(torch.device("cpu"))
def export(config: Mapping[str, Any]) -> int:
    """Write the file, and say where it is; the exit code. Raises UserError if its format cannot hold the model."""
    asked = checked(Settings, own.settings(config))
    if asked.format == "hub":
        return _as_folder(asked, config)
    if asked.out is not None:
        _check_free(asked.out, asked.format)
    with logging_to(None):
        trained = own.opened(asked.run, asked.checkpoint, asked.plugins, config)
        content = formats.content(exported(trained, asked.letters), asked.format)
        finishing()
        place = _written(asked, content)
        log.info("%s at step %d", asked.run, trained.state.step)
    output.print(f"{asked.format}: {place}", soft_wrap=True, highlight=False)
    return 0


def _as_folder(asked: Settings, config: Mapping[str, Any]) -> int:
    with logging_to(None), results.folder(Path(asked.run), "exports", asked.out) as home:
        trained = own.opened(asked.run, asked.checkpoint, asked.plugins, config)
        content = hub.content(trained, Path(asked.run).absolute().name)
        finishing()
        for name, data in content.items():
            home.write_bytes(name, data)
        log.info("%s at step %d", asked.run, trained.state.step)
    output.print(f"hub: {home.path}; use it as run={home.path}, or upload the folder", soft_wrap=True, highlight=False)
    return 0


def exported(trained: Trained, letters: str | None) -> Foreign:
    """The model that is evaluated, averaged weights where the run keeps them, and the chains of the run."""
    model, config, space = trained.state.averaged_model(), trained.config, trained.parts.data.space
    x = trained.state.chains()
    kept = None
    about: dict[str, Any] = {"step": trained.state.step, "batch_size": config["batch_size"], "seed": config["seed"]}
    about |= {"learning_rate": config["optimizer"].get("lr", 0.0)}
    if len(x):
        kept = (space.decode(x) if isinstance(space, Discrete) else space.as_data(x)).cpu()
        with torch.no_grad():
            about["energies"] = model.energy(x).tolist() if isinstance(space, Discrete) else []
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    own_letters = letters or str(config["dataset"].get("alphabet") or "")
    return Foreign(config["model"], weights, space, about, kept, own_letters)


def _check_free(out: str, form: str) -> None:
    """Raise UserError unless `out` can be a new file of this format."""
    path = Path(out).expanduser()
    if path.is_dir() or out.endswith(("/", os.sep)):
        name = path / f"model.{formats.WRITTEN[form]}"
        raise UserError(f"out = {out}: is a folder, format = {form} writes one file; name a new file, e.g. out={name}")
    if os.path.lexists(path):
        raise UserError(f"out = {out}: is there already, and is kept; name another file")
    there = next(place for place in path.absolute().parents if os.path.lexists(place))
    if not there.is_dir():
        raise UserError(f"out = {out}: {there} is a file, not a folder; name another file")


def _written(asked: Settings, content: bytes) -> Path:
    """A new file with this content."""
    if asked.out is None:
        with results.folder(Path(asked.run), "exports", None) as home:
            return home.write_bytes(f"model.{formats.WRITTEN[asked.format]}", content)
    path = Path(asked.out).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"out = {asked.out}: {of_file(error)}; {advice(error)}, or name another file") from error
    return path
