"""Read back what wandb wrote on disk, without a server: its record files are protobuf in LevelDB's log framing."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK = 32768
_FILE_HEADER = 7  # ":W&B", magic, version
_RECORD_HEADER = 7  # crc32, length, type
_FULL, _LAST = 1, 4


def segments(run_dir: Path) -> list[Path]:
    """The record files of a run in the order of their starts: one more for every resume. Raises TimeoutError.

    wandb's helper process may still be writing when `finish` has returned.
    """
    found = sorted(run_dir.glob("wandb/*run-*/run-*.wandb"), key=lambda path: path.parent.name)
    deadline = time.monotonic() + 20
    while not all(exit_codes(path) for path in found):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{run_dir}: wandb has not finished")
        time.sleep(0.05)
    return found


def exit_codes(path: Path) -> list[int]:
    """What the process ended with, once that is written."""
    return [record.exit.exit_code for record in records(path) if record.WhichOneof("record_type") == "exit"]


def records(path: Path) -> Iterator[Any]:
    """The protobuf records of one file."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    if data[:4] != b":W&B":
        raise ValueError(f"{path} is not a wandb record file")
    place, joined = _FILE_HEADER, b""
    while place < len(data):
        left = _BLOCK - place % _BLOCK
        if left < _RECORD_HEADER:  # the end of a block is padded
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + _RECORD_HEADER])
        if kind == 0:
            return
        place += _RECORD_HEADER
        joined += data[place : place + length]
        place += length
        if kind in (_FULL, _LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(joined)
            joined = b""
            yield record


def history(run_dir: Path) -> list[dict[str, Any]]:
    """One dict per step, of all segments, later values over earlier: metrics, and media entries as nested dicts."""
    steps: dict[int, dict[str, Any]] = {}
    for path in segments(run_dir):
        for record in records(path):
            if record.WhichOneof("record_type") == "history":
                row = _items(record.history.item)
                steps.setdefault(row["_step"], {}).update(row)
    return [steps[step] for step in sorted(steps)]


def summary(run_dir: Path) -> dict[str, Any]:
    """The last value of everything that was set in the summary, over all segments."""
    found: dict[str, Any] = {}
    for path in segments(run_dir):
        for record in records(path):
            if record.WhichOneof("record_type") == "summary":
                found.update(_items(record.summary.update))
    return found


def runs(run_dir: Path) -> list[dict[str, Any]]:
    """Per segment: id, name, group, project, job type, tags, config."""
    return [
        _run(next(r.run for r in records(path) if r.WhichOneof("record_type") == "run")) for path in segments(run_dir)
    ]


def media(run_dir: Path, entry: dict[str, Any]) -> Path:
    """The file of a media entry of `history`, in whichever segment has it."""
    return next(path for part in segments(run_dir) if (path := part.parent / "files" / entry["path"]).exists())


def _run(run: Any) -> dict[str, Any]:
    return {
        "id": run.run_id,
        "name": run.display_name,
        "group": run.run_group,
        "project": run.project,
        "job_type": run.job_type,
        "tags": list(run.tags),
        "notes": run.notes,
        "config": _items(run.config.update),
    }


def _items(items: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        *outer, key = item.nested_key or [item.key]
        place = found
        for name in outer:  # wandb stores the fields of a picture one by one
            place = place.setdefault(name, {})
        place[key] = json.loads(item.value_json)
    return found
