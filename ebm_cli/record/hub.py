"""A model as a folder of the Hugging Face hub: `config.json` and `model.safetensors`, read like a run with no more.

`config.json` has the whole configuration, the space, the step, and size and SHA-256 of the weights. Such a folder may
come from anybody: nothing in it is called, and no link is followed below it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebm_cli.errors import UserError, of_file
from ebm_cli.record import files, plain_json

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FORMAT = 1
_LONGEST = 1 << 20  # bytes of config.json
_OWN = "config.yaml"  # of a run, which is no such folder


def there(path: Path) -> bool:
    """Whether this is such a folder, and no run directory."""
    try:
        return files.there(path, CONFIG) and files.there(path, WEIGHTS) and not files.there(path, _OWN)
    except OSError:
        return False


def described(path: Path) -> dict[str, Any]:
    """What config.json says. Raises UserError if this program has not written it."""
    said = path / CONFIG
    try:
        if (files.size(path, CONFIG) or 0) > _LONGEST:
            raise UserError(f"{said} has more than {_LONGEST} bytes; it is not what ebm export wrote")
        found = json.loads(files.text(path, CONFIG), parse_constant=plain_json.no_number)
    except OSError as error:
        raise UserError(f"{said}: {of_file(error)}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{said} is no JSON ({error}); take the folder as ebm export wrote it") from error
    known = isinstance(found, dict) and found.get("library_name") == "ebm" and found.get("format") == FORMAT
    if not known or not isinstance(found.get("configuration"), dict) or not isinstance(found.get("weights"), dict):
        raise UserError(f"{said} is of another program; ebm reads folders that ebm export format=hub wrote")
    if type(found.get("step")) is not int or found["step"] < 0:
        raise UserError(f"{said}: step = {found.get('step')!r}: must be a whole number from 0")
    return found


def weights(path: Path, described: Mapping[str, Any]) -> bytes:
    """model.safetensors. Raises UserError, before it is read, where its size is not the one that config.json says."""
    known = described["weights"]
    try:
        there = files.size(path, WEIGHTS)
        if known.get("bytes") != there:
            said = f"{path / WEIGHTS} has {there} bytes, {CONFIG} says {known.get('bytes')}"
            raise UserError(f"{said}; copy the folder anew")
        data = files.read(path, WEIGHTS)
    except OSError as error:
        raise UserError(f"{path / WEIGHTS}: {of_file(error)}") from error
    if hashlib.sha256(data).hexdigest() != known.get("sha256"):
        raise UserError(f"{path / WEIGHTS} does not match the SHA-256 in {CONFIG}; copy the folder anew")
    return data


def config(about: Mapping[str, Any], weights: bytes) -> str:
    """config.json of a model with these weights; `about` is step, space, hash of the data and configuration."""
    sums = {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    return plain_json.dumps({"library_name": "ebm", "format": FORMAT, **about, "weights": sums}, indent=1) + "\n"
