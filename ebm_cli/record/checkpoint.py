"""Checkpoints that cannot run code: safetensors and JSON under a manifest of SHA-256 sums, renamed into place whole.

`step-00001000/` holds `state.safetensors` (every tensor), `state.json` (step and other numbers) and `MANIFEST.json`
(size and SHA-256 of both). What does not verify is not used. The folder of the checkpoints lies in a run directory,
below which no link is followed (`files`).
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from ebm_cli.errors import UserError, of_file
from ebm_cli.record import files, hub, plain_json

FORMAT = 1
TENSORS, NUMBERS, MANIFEST = "state.safetensors", "state.json", "MANIFEST.json"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint in memory."""

    path: Path
    step: int
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


class Invalid(Exception):
    """Why a checkpoint directory cannot be used."""


def directory(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def steps(folder: Path) -> list[int]:
    """Steps that have a checkpoint directory, ascending; whether they are valid is another matter."""
    matches = (_NAME.fullmatch(name) for name in files.names(folder.parent, folder.name))
    found = {int(match.group(1)): match.string for match in matches if match}
    return sorted(step for step, name in found.items() if directory(folder, step).name == name)


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> Path:
    """Write to a temporary directory, fsync, rename. An OSError (full disk) leaves other checkpoints as they are."""
    target = directory(folder, step)
    contents = {
        TENSORS: safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}),
        NUMBERS: (json.dumps({"format": FORMAT, "step": step, **numbers}, indent=1) + "\n").encode(),
    }
    sums = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()}
    contents[MANIFEST] = (json.dumps({"format": FORMAT, "files": sums}, indent=1) + "\n").encode()
    name, temporary = f"{folder.name}/{target.name}", f".writing-{step:08d}"
    files.write_folder(folder.parent, name, temporary, contents, first=lambda: set_aside(target))
    return target


def set_aside(target: Path) -> None:
    """Move an unusable checkpoint out of the way of a new one of the same step; nothing is deleted."""
    root, name = _place(target)
    for number in range(1000):
        aside = f"{name}.invalid-{number}"
        if not files.there(root, name):
            return
        if not files.there(root, aside):
            files.move(root, name, aside)


def _place(path: Path) -> tuple[Path, str]:
    """The run directory that a checkpoint lies in, and the name it has there."""
    return path.parent.parent, f"{path.parent.name}/{path.name}"


def load(path: Path) -> Checkpoint:
    """Verify and read one checkpoint directory. Raises Invalid with the reason."""
    try:
        root, own = _place(path)
        manifest = _strict(files.read(root, f"{own}/{MANIFEST}"))
        numbers = _strict(_verified(path, NUMBERS, manifest))
        tensors = safetensors.torch.load(_verified(path, TENSORS, manifest))
        step = numbers["step"]
        known = numbers.get("format") == FORMAT
    except OSError as error:
        raise Invalid(f"{Path(error.filename or path).name}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError) as error:
        raise Invalid(f"not a checkpoint of this program ({type(error).__name__}: {error})") from error
    if not known or type(step) is not int or directory(path.parent, step).name != path.name:
        raise Invalid(f"format {numbers.get('format')!r} of step {step!r} in a directory named {path.name}")
    _check_numbers(step, numbers)
    if name := _not_finite(tensors):
        raise Invalid(f"{name} holds numbers that are not finite")
    return Checkpoint(path, step, tensors, numbers)


def of_hub(path: Path) -> Checkpoint:
    """The model of a folder of the hub as a checkpoint without anything else. Raises UserError."""
    about = hub.described(path)
    try:
        found = safetensors.torch.load(hub.weights(path, about))
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise UserError(f"{path / hub.WEIGHTS} is no safetensors file ({error}); copy the folder anew") from error
    if name := _not_finite(found):
        raise UserError(f"{path / hub.WEIGHTS}: {name} holds numbers that are not finite")
    tensors = {f"model.{name}": tensor for name, tensor in found.items()}
    return Checkpoint(path, about["step"], tensors, {"space": about.get("space"), "data": about.get("data")})


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The first of them that holds a number which is not finite."""
    return next((n for n, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()), None)


def _strict(data: bytes) -> Any:
    """JSON in which every name stands once and every number is one. Raises ValueError."""
    return json.loads(data, object_pairs_hook=_once, parse_constant=plain_json.no_number)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _check_numbers(step: int, numbers: Mapping[str, Any]) -> None:
    """Raises Invalid for what cannot be: a best step after this one, a value that is none, lines of negative length."""
    best, size = numbers.get("best"), numbers.get("metrics_bytes", 0)
    if step < 0 or type(size) is not int or size < 0:
        raise Invalid(f"step {step} with {size!r} bytes of metrics")
    if best is None:
        return
    known = isinstance(best, dict) and type(best.get("step")) is int and 0 <= best["step"] <= step
    value = best.get("value") if known else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise Invalid(f"its best step is {best!r}")


def _verified(path: Path, name: str, manifest: dict[str, Any]) -> bytes:
    root, own = _place(path)
    data, expected = files.read(root, f"{own}/{name}"), manifest["files"][name]
    if len(data) != expected["bytes"]:
        raise Invalid(f"{name} has {len(data)} bytes, its manifest says {expected['bytes']}")
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise Invalid(f"{name} does not match the SHA-256 in its manifest")
    return data


def newest(folder: Path) -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint that verifies, and a sentence for each newer one that does not.

    One that vanishes while it is read was superseded by a run that goes on, so the folder is looked at again. Raises
    UserError saying why each is unusable if none verifies.
    """
    try:
        return _newest(folder)
    except OSError as error:
        raise UserError(f"no valid checkpoint in {folder} ({of_file(error)})") from error


def _newest(folder: Path) -> tuple[Checkpoint, list[str]]:
    reasons: list[str] = []
    seen: set[int] = set()
    while left := [step for step in steps(folder) if step not in seen]:
        try:
            return load(directory(folder, left[-1])), reasons
        except Invalid as error:
            if not files.there(folder.parent, f"{folder.name}/{directory(folder, left[-1]).name}"):
                reasons, seen = [], set()
                continue
            seen.add(left[-1])
            reasons.append(f"{directory(folder, left[-1]).name}: {error}")
    raise UserError(f"no valid checkpoint in {folder} ({'; '.join(reasons) or 'it holds none'})")


def superseded(saved: Checkpoint) -> bool:
    """Whether a newer one has come since this was read."""
    return bool(later := steps(saved.path.parent)) and later[-1] > saved.step


def log_spaced(count: int, total: int) -> set[int]:
    """About `count` steps from 1 to `total`, evenly spaced in their logarithm."""
    if count < 2:
        return set()
    return {round(total ** (i / (count - 1))) for i in range(count)}


def prune(folder: Path, step: int, keep_last: int, protected: set[int]) -> None:
    """Delete all but the newest `keep_last` up to `step` and the protected ones.

    A checkpoint beyond `step` did not verify when the run was resumed: it neither counts nor is deleted.
    """
    found = [other for other in steps(folder) if other <= step]
    root, own = folder.parent, folder.name
    for old in set(found) - set(found[-keep_last:]) - protected:
        gone = f"{own}/.deleting-{old:08d}"
        files.remove(root, gone)
        files.move(root, f"{own}/{directory(folder, old).name}", gone)  # at once, so that nobody reads a half of it
        files.remove(root, gone)
