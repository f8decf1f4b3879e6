"""The run directory: together with `checkpoint`, the only code that writes to disk for a run.

`config.yaml` `metadata.json` `metrics.jsonl` `summary.json` `train.log` `checkpoints/` `samples/` `evaluations/`.
"""

import json
import os
import platform
import re
import secrets
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from ebm_cli import checkpoint
from ebm_cli.errors import UserError

_SECRET = re.compile(r"(^|_)(key|token|secret|password)$", re.IGNORECASE)
_PACKAGES = ("ebm-cli", "torch", "numpy", "hydra-core", "pydantic", "safetensors", "wandb", "arviz-stats")


@dataclass(frozen=True)
class Run:
    """One run's directory."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object per logged step; a function of configuration and seed alone, so it holds no times."""
        return self.path / "metrics.jsonl"

    def append_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """One more line."""
        with self.metrics.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def sync_metrics(self) -> int:
        """Wait until the lines are on the disk; their number of bytes, which the checkpoint records."""
        with self.metrics.open("a") as file:
            os.fsync(file.fileno())
            return file.tell()

    def truncate_metrics(self, size: int) -> None:
        """Drop what was logged after the checkpoint that recorded `size`; it will be logged again, identically."""
        if self.metrics.stat().st_size < size:
            raise UserError(f"{self.metrics} is shorter than its checkpoint says ({size} bytes); it was edited")
        os.truncate(self.metrics, size)

    def update_metadata(self, **values: Any) -> None:
        """Merge values into metadata.json."""
        self.write_json("metadata.json", {**self.read_json("metadata.json"), **values})

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run."""
        return json.loads((self.path / name).read_text())

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Replace a JSON file of the run in one motion."""
        temporary = self.path / f".{Path(name).name}.writing"
        checkpoint.write_synced(temporary, (json.dumps(values, indent=1) + "\n").encode())
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(self.path / name)

    def write_image(self, name: str, image: NDArray[np.uint8]) -> Path:
        """A PNG below the run directory."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        return path

    def new_folder(self, kind: str) -> Path:
        """A new directory `kind`/<time>, never one that is there."""
        for attempt in range(1000):
            suffix = f"-{attempt}" if attempt else ""
            path = self.path / kind / (time.strftime("%Y-%m-%d_%H-%M-%S") + suffix)
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            return path
        raise UserError(f"{self.path / kind} holds a thousand folders of this second")


def create(path: Path, config: Mapping[str, Any], **facts: Any) -> Run:
    """Claim a directory for a new run and write its configuration. Raises UserError if a run is there already."""
    run = Run(path)
    path.mkdir(parents=True, exist_ok=True)
    try:
        (path / "metadata.json").open("x").close()
    except FileExistsError:
        raise UserError(
            f"hydra.run.dir = {path}: a run is there already; continue it with `ebm train resume={path}`, or name "
            "another directory"
        ) from None
    text = yaml.safe_dump(_redacted(config), sort_keys=False, allow_unicode=True)
    checkpoint.write_synced(path / "config.yaml", text.encode())
    run.metrics.touch()
    run.write_json("metadata.json", {"status": "running", "id": secrets.token_hex(4), **_environment(), **facts})
    return run


def open_existing(path: Path) -> tuple[Run, dict[str, Any]]:
    """A run that is there, and its configuration as plain data: nothing in it is interpolated, imported or called."""
    if not path.is_dir():
        raise UserError(f"{path} is no run directory: there is no such directory")
    try:
        config = yaml.safe_load((path / "config.yaml").read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is no run directory: it has no config.yaml") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path / 'config.yaml'} is not readable YAML: {error}".replace("\n", " ")) from error
    if not isinstance(config, dict):
        raise UserError(f"{path / 'config.yaml'} does not hold a run's configuration")
    return Run(path), config


def _redacted(value: Any, key: str = "") -> Any:
    """The configuration without what looks like a credential."""
    if isinstance(value, Mapping):
        return {name: _redacted(item, str(name)) for name, item in value.items()}
    return "REDACTED" if isinstance(value, str) and _SECRET.search(key) else value


def _environment() -> dict[str, Any]:
    installed = {name: next(iter(metadata.distributions(name=name)), None) for name in _PACKAGES}
    versions = {name: found.version for name, found in installed.items() if found}
    return {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "commit": _commit(), "python": platform.python_version(),
            "machine": platform.machine(), "versions": versions}  # fmt: skip


def _commit() -> str | None:
    """The commit of the source tree this package runs from, if it is one; marked when there are changes."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
