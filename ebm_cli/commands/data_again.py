"""The data of a run that is there, which may have been moved, or never named."""

from pathlib import Path

from ebm_cli.dataset.base import Data
from ebm_cli.device.base import Device
from ebm_cli.errors import UserError
from ebm_cli.record.run import Run
from ebm_cli.training.state import Components, load_data

WITHOUT_DATA = "without_data"
"""Stands in what a run knows of its import where no data were named: the file, never there, that its configuration
names."""


def load_again(components: Components, device: Device, found: Run) -> Data:
    """Read them. Raises UserError, with how to say where they are, if nothing is there."""
    path = _lost(components)
    if path is None:
        return load_data(components, device)
    imported = found.read_json("metadata.json").get("imported")
    if isinstance(imported, dict) and imported.get(WITHOUT_DATA) == path:
        raise UserError(
            f"dataset.path is missing: {found.path} was imported without data; name them, dataset.path=DATA"
        )
    raise UserError(f"dataset.path = {path}: nothing is there; where they are now can be said: dataset.path=PATH")


def asked_for(components: Components) -> str:
    """What a command on a run must be told to have its data, where they are not there: ` dataset.path=DATA`."""
    return "" if _lost(components) is None else " dataset.path=DATA"


def _lost(components: Components) -> str | None:
    """The place of the data, if nothing is there; None of data that have none, or are there."""
    path = getattr(components.dataset, "path", None)
    return None if path is None or Path(path).exists() else str(path)
