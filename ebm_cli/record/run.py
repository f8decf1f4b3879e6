"""The run directory: together with `checkpoint` and the trackers, the only code that writes to disk for a run.

`config.yaml` `metadata.json` `metrics.jsonl` `summary.json` `rows.npz` `train.log` `vocabulary.txt` `checkpoints/`
`samples/` `evaluations/` `scores/` `features/`.
"""

import errno
import hashlib
import io
import json
import os
import platform
import re
import secrets
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import yaml

from ebm_cli.errors import UserError, of_file
from ebm_cli.record import files, hub, plain_json, rows

if TYPE_CHECKING:  # whoever only reads what runs found need not wait for numpy
    import numpy as np
    from numpy.typing import NDArray

CONFIG = "config.yaml"
LATER_GROUPS: Mapping[str, Mapping[str, str]] = {
    key: {"name": "none"} for key in ("sparsity", "stop", "running", "health")
}
"""Groups that came later, and what they are in configurations without them."""
VOCABULARY = "vocabulary.txt"
COLUMNS = "columns.json"
"""One word in each line, for data that are words or counts of them."""

_LAST_LINES = 1 << 16  # bytes at the end of metrics.jsonl, in which there are some whole lines
_LONGEST_CONFIG, _DEEPEST_CONFIG = 1 << 18, 100
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WRITTEN = (
    CONFIG, "metadata.json", "metrics.jsonl", "summary.json", "train.log", VOCABULARY, COLUMNS, "metrics.csv",
    rows.NAME, "report.html",
)  # fmt: skip
_FOLDERS = ("checkpoints", "samples", "aside", "images", "tensorboard", "wandb")
_PROBE = f"probe-{os.getpid()}"
_SECRET = re.compile(r"(^|_)(key|token|secret|password)$", re.IGNORECASE)
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
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
        """One more line, with null for what is not finite."""
        with files.append(self.path, self.metrics.name) as file:
            file.write((plain_json.dumps({"step": step, **values}) + "\n").encode())

    def logged(self, name: str) -> list[float]:
        """The numbers of one metric in metrics.jsonl, in the order of the steps."""
        sought = re.compile(rf'"{re.escape(name)}": (-?\d[\d.e+-]*)[,}}]'.encode())
        found = (sought.search(line) for line in files.read(self.path, self.metrics.name).splitlines())
        return [float(match[1]) for match in found if match]

    def logged_lines(self, prefix: str) -> list[dict[str, Any]]:
        """Those lines of metrics.jsonl that have a name which begins so, in the order of the steps; none without it.

        What is damaged in the record of an older program, which has no checksum, is left out.
        """
        if not files.there(self.path, self.metrics.name):
            return []
        sought = f', "{prefix}'.encode()
        lines = [line for line in files.read(self.path, self.metrics.name).splitlines() if sought in line]
        return [found for found in map(_parsed, lines) if found is not None]

    def sync_metrics(self) -> int:
        """Wait until the lines are on the disk; their number of bytes, which the checkpoint records."""
        with files.append(self.path, self.metrics.name) as file:
            os.fsync(file.fileno())
            return file.tell()

    def metrics_sha256(self, size: int) -> str:
        """Of the first `size` bytes, by which an edited number is known."""
        return _sha256(files.read(self.path, self.metrics.name)[:size])

    def check_metrics(self, size: int, sha256: str | None = None) -> None:
        """Raise UserError unless metrics.jsonl has what was logged before the checkpoint that recorded `size`.

        `sha256` is of these bytes, None if the checkpoint does not record it.
        """
        there = files.size(self.path, self.metrics.name) or 0
        if not 0 <= size <= there:
            raise UserError(
                f"{self.metrics} has {there} bytes, its checkpoint says {size}: it was edited or lost; put it back, or "
                "start a new run"
            )
        if size and files.read(self.path, self.metrics.name, last=there - size + 1)[:1] != b"\n":
            raise UserError(
                f"{self.metrics} has no end of a line at byte {size}, where its checkpoint says that one is: it was "
                "edited; put it back, or start a new run"
            )
        if size and sha256 not in (None, self.metrics_sha256(size)):
            raise UserError(
                f"{self.metrics} is not what was logged until its checkpoint: it was edited or damaged; put it back, "
                "or start a new run"
            )

    def edited(self) -> str | None:
        """A sentence if config.yaml is not what the run wrote, as far as metadata.json knows."""
        known = self.read_json("metadata.json").get("config_sha256")
        if known is None or known == _sha256(files.read(self.path, CONFIG)):
            return None
        return f"{self.path / CONFIG} is not as this run wrote it; what it says is taken"

    def logged_step(self) -> int:
        """The last step in metrics.jsonl; 0 if there is none."""
        try:
            lines = files.read(self.path, self.metrics.name, last=_LAST_LINES).split(b"\n")
        except OSError:
            return 0
        steps = [re.match(rb'\{"step": (\d{1,15})[,}]', line) for line in lines]
        return max((int(found[1]) for found in steps if found), default=0)

    def recorded_step(self) -> int:
        """The step at which metadata.json says that the run ended or saved; 0 if it says nothing."""
        meta = self.read_json("metadata.json")
        return max(step if type(step) is int else 0 for step in (meta.get("step"), meta.get("checkpoint")))

    def go_back(self, size: int, *, whole: bool) -> list[str]:
        """Drop what was logged after the checkpoint that recorded `size`; the same configuration logs the same again.

        With another (`whole`), or where more is dropped than a run logs between checkpoints, the file is copied into a
        folder of `aside/` first, and so is one that cannot be read; a sentence says so.
        """
        lost = [self.metrics.name] if whole and (files.size(self.path, self.metrics.name) or 0) > size else []
        if files.size(self.path, "metadata.json") and not self.read_json("metadata.json"):
            lost.append("metadata.json")
        notes = [self._aside(lost)] if lost else []
        with files.append(self.path, self.metrics.name) as file:
            file.truncate(size)
        return notes

    def _aside(self, names: Sequence[str]) -> str:
        """Copies of files in a new folder of `aside/`, and a sentence on them."""
        folder = self.new_folder("aside")
        for name in names:
            self.write_bytes(f"aside/{folder.name}/{name}", files.read(self.path, name))
        return f"{', '.join(Path(name).name for name in names)} as it was is kept in {folder}"

    def metadata(self) -> dict[str, Any]:
        """metadata.json, with what a run needs of it made anew where it is missing or is no such thing."""
        found = self.read_json("metadata.json")
        known = is_id(found.get("id"))
        spent = {name: _seconds(found.get(name)) for name in ("seconds", "training_seconds")}
        return {**new_metadata(), **found, **({} if known else {"id": secrets.token_hex(4)}), **spent}

    def update_metadata(self, **values: Any) -> None:
        """Merge values into metadata.json."""
        self.write_json("metadata.json", {**self.read_json("metadata.json"), **values})

    def change(self, config: Mapping[str, Any], **about: Any) -> None:
        """Replace config.yaml by what a resumed run goes on with; what it was stays in metadata.json, with `about`."""
        before, now = self._before_and_now(config)
        if now == before:
            return
        if self.read_json("summary.json").get("status") == "done":
            found = [name for name in ("summary.json", rows.NAME) if files.there(self.path, name)]
            self._aside([*found, *self._final_samples()])
            for name in found:
                files.remove(self.path, name)
        changes = [*self.metadata().get("changes", []), {**about, "before": before}]
        content = as_yaml(now).encode()
        self.update_metadata(changes=changes, config_sha256=_sha256(content))
        files.replace(self.path, CONFIG, content)

    def changes(self, config: Mapping[str, Any]) -> bool:
        """Whether config.yaml says something else."""
        before, now = self._before_and_now(config)
        return now != before

    def _before_and_now(self, config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        before = _plain_yaml(files.text(self.path, CONFIG))
        return before, {**_redacted(config), "resume": before.get("resume")}

    def _final_samples(self) -> list[str]:
        """What the last evaluation left in `samples/`, which the next will replace."""
        there = [f"samples/{name}" for name in files.names(self.path, "samples") if not name.startswith("step-")]
        return [name for name in there if (self.path / name).is_file()]

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run; empty if it is missing or holds something else."""
        try:
            found = json.loads(files.text(self.path, name))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Replace a JSON file of the run in one motion, with null for what is not finite."""
        self.write_text(name, plain_json.dumps(values, indent=1) + "\n")

    def write_text(self, name: str, text: str) -> Path:
        """Replace a text file below the run directory, in UTF-8, in one motion."""
        return self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Replace a file below the run directory in one motion."""
        files.replace(self.path, name, data)
        return self.path / name

    def write_npz(self, name: str, arrays: Mapping[str, Any]) -> Path:
        """Replace a compressed .npz file below the run directory, of arrays that no pickle is needed for."""
        import numpy as np

        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return self.write_bytes(name, buffer.getvalue())

    def words(self) -> tuple[str, ...] | None:
        """The vocabulary of the data, by the words' numbers; None if the file is missing or holds anything else."""
        try:
            found = files.text(self.path, VOCABULARY).removesuffix("\n").split("\n")
        except (OSError, ValueError):
            return None
        return tuple(found) if all(word and word.isprintable() for word in found) else None

    def write_image(self, name: str, image: "NDArray[np.uint8]") -> Path:
        """A PNG below the run directory."""
        return self.write_bytes(name, png(image))

    def write_all(self, folder: str, images: Mapping[str, "NDArray[np.uint8]"], files: Mapping[str, str]) -> None:
        """Pictures and text files in a folder of the run directory, `samples/`, or in itself, ``."""
        for label, image in images.items():
            self.write_image(f"{folder}{label}.png", image)
        for name, text in files.items():
            self.write_text(f"{folder}{name}", text)

    def new_folder(self, kind: str) -> Path:
        """A new directory `kind`/<time>, never one that is there."""
        for attempt in range(1000):
            suffix = f"-{attempt}" if attempt else ""
            name = f"{kind}/{time.strftime('%Y-%m-%d_%H-%M-%S')}{suffix}"
            try:
                files.new_folder(self.path, name)
            except FileExistsError:
                continue
            return self.path / name
        raise UserError(f"{self.path / kind} holds a thousand folders of this second")


def create(path: Path, config: Mapping[str, Any], **facts: Any) -> Run:
    """Claim a directory for a new run and write its configuration. Raises UserError if a run is there already."""
    run = Run(path)
    check_free(path)
    path.mkdir(parents=True, exist_ok=True)
    content = as_yaml(_redacted(config)).encode()
    try:
        files.claim(path, CONFIG, content)
    except FileExistsError:
        check_free(path)
        raise
    files.append(path, run.metrics.name).close()
    run.write_json("metadata.json", {**new_metadata(), **facts, "config_sha256": _sha256(content)})
    return run


def png(image: "NDArray[np.uint8]") -> bytes:
    """A picture as a PNG file."""
    from PIL import Image

    found = io.BytesIO()
    Image.fromarray(image).save(found, format="png")
    return found.getvalue()


def check_free(path: Path, said: str = "hydra.run.dir = ") -> None:
    """Raise UserError if a run is there already; `said` stands before the path in the complaint."""
    if (path / "config.yaml").exists():
        raise UserError(
            f"{said}{path}: a run is there already; continue it with `ebm train resume={quote(str(path))}`, "
            "or name another directory"
        )


def is_id(found: object) -> bool:
    """Whether this can name a run for trackers: letters, digits, - and _."""
    return isinstance(found, str) and _ID.fullmatch(found) is not None


def new_metadata() -> dict[str, Any]:
    """What is known of a run before it begins; its id is for trackers."""
    return {"status": "running", "id": secrets.token_hex(4), **_environment()}


def check_there(path: Path, said: str = "") -> None:
    """Raise UserError unless a run is there; `said` stands before the path in the complaint."""
    if not os.path.isdir(path):  # unlike the method, also of names no directory can have
        raise UserError(f"{said}{path}: no run is there (there is no such directory)")
    try:
        found = files.there(path, CONFIG)
    except OSError as error:
        raise UserError(f"{said}{path}: {error.strerror}") from error
    if not found and not hub.there(path):
        raise UserError(f"{said}{path}: no run is there (it has no {CONFIG})")


def check_writable(path: Path, said: str) -> None:
    """Raise UserError unless a run can go on in its directory: all its files can be written, and lead nowhere else."""
    try:
        files.replace(path, _PROBE, b"")
        files.remove(path, _PROBE)
        for name in (*_WRITTEN, *_FOLDERS):
            (files.check_links if name == "wandb" else files.check if name in _FOLDERS else files.size)(path, name)
            if files.there(path, name) and not os.access(path / name, os.W_OK):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path / name))
    except OSError as error:
        raise UserError(
            f"{said}{path}: {of_file(error)}; a run is resumed where its files are and can be written, as in a copy "
            "of it"
        ) from error


def open_existing(path: Path, said: str = "") -> tuple[Run, dict[str, Any]]:
    """A run that is there, and its configuration as plain data: nothing in it is interpolated, imported or called.

    `said` stands before the path in a complaint.
    """
    check_there(path, said)
    if hub.there(path):
        return Run(path), hub.described(path)["configuration"]
    try:
        config = _plain_yaml(files.text(path, CONFIG))
    except OSError as error:
        raise UserError(f"{said}{path}: {of_file(error)}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{path / 'config.yaml'} is not a run's configuration: {why}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path / 'config.yaml'} is not a run's configuration: it holds no keys")
    return Run(path), config


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def as_yaml(config: Mapping[str, Any]) -> str:
    """The text of a configuration, its keys in their order; libyaml, where it is, writes it ten times as fast."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(dict(config), Dumper=dumper, sort_keys=False, allow_unicode=True)
    return text


def _plain_yaml(text: str) -> Any:
    """YAML as JSON could write it. Raises ValueError, TypeError or YAMLError for tags, aliases, dates and the like.

    Size and depth are bounded before anything is built: libyaml reads ten times as fast as Python, but recurses in C.
    """
    if len(text) > _LONGEST_CONFIG:
        raise ValueError(f"it has {len(text)} characters, more than {_LONGEST_CONFIG}")
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has YAML aliases")  # a few lines of them can stand for gigabytes
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST_CONFIG:
            raise ValueError(f"it is nested more than {_DEEPEST_CONFIG} deep")
    loader = _LOADER(text)
    try:
        return json.loads(json.dumps(loader.get_single_data()))
    finally:
        loader.dispose()


def is_secret(key: str) -> bool:
    """Whether a key is called like that of a credential."""
    return _SECRET.search(key.rpartition(".")[2]) is not None


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:  # no JSON, or no UTF-8
        return None
    return found if isinstance(found, dict) else None


def _seconds(found: object) -> float:
    """A duration a file claims, or none."""
    return float(found) if isinstance(found, int | float) and 0 <= found < 1e12 else 0.0


def _redacted(value: Any, key: str = "") -> Any:
    """The configuration without what looks like a credential."""
    if isinstance(value, Mapping):
        return {name: _redacted(item, str(name)) for name, item in value.items()}
    return "REDACTED" if isinstance(value, str) and is_secret(key) else value


def _environment() -> dict[str, Any]:
    return {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "commit": _commit(), "python": platform.python_version(),
            "machine": platform.machine(), "versions": _versions()}  # fmt: skip


@cache
def _versions() -> dict[str, str]:
    installed = {name: next(iter(metadata.distributions(name=name)), None) for name in _PACKAGES}
    return {name: found.version for name, found in installed.items() if found}


@cache  # this process runs what was there when it began
def _commit() -> str | None:
    """The commit of the source tree this package runs from, if it is one; marked when there are changes."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
