"""The jobs of one multirun learn from one state of the data, also those that begin days after the first."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebm_cli.dataset.base import Data
from ebm_cli.errors import UserError
from ebm_cli.record import files, plain_json
from ebm_cli.record.run import Run

NAME = "data.json"  # in the directory of the multirun: how data are read -> fingerprint of the rows that came of it


def check(sweep: Path, config: Mapping[str, Any], data: Data) -> None:
    """Note the rows that a job begins with; raises UserError if jobs before it read others from the same place."""
    known, read = Run(sweep).read_json(NAME), _reading(config)
    if known.get(read) == data.fingerprint:
        return
    if read in known:
        raise UserError(
            f"{_place(config['dataset'])}: holds other rows than when jobs of {sweep} began before; put those back, or "
            "start a new multirun with another hydra.sweep.dir"
        )
    noted = plain_json.dumps({**known, read: data.fingerprint}, indent=1) + "\n"
    files.replace(sweep, NAME, noted.encode(), writer=f"{secrets.token_hex(4)}.")  # jobs may begin at the same time


def _reading(config: Mapping[str, Any]) -> str:
    """Names the keys of the data set, and the model, whose space data are read into."""
    keys = json.dumps([config["dataset"], config["model"].get("name")], sort_keys=True)
    return hashlib.sha256(keys.encode()).hexdigest()[:16]


def _place(dataset: Mapping[str, Any]) -> str:
    for key in ("path", "root"):
        if dataset.get(key) is not None:
            return f"dataset.{key} = {dataset[key]}"
    return f"dataset.name = {dataset.get('name')}"
