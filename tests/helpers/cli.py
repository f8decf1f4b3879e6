"""Run command lines of `ebm` in this process, in the current directory, and look at what they leave behind."""

import contextlib
import hashlib
import io
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from ebm_cli.cli.main import dispatch
from ebm_cli.record import checkpoint

TINY = (
    "model.hidden=8", "steps=12", "batch_size=10", "log_every=1", "tracker=none", "device=cpu",
    "evaluation=[samples]", "evaluation.samples.count=4", "evaluation.samples.steps=2",
    "checkpoint.monitor=pseudo_likelihood/valid/log_pseudo_likelihood",
)  # fmt: skip
"""A run of a few hundredths of a second."""

INTERNALS = re.compile(r"hydra\.cc|object_type|full_key|\bstruct\b|DictConfig|search path|Exception")
"""Words of libraries that tell a newcomer nothing."""


@dataclass(frozen=True)
class Answer:
    """What a command line did."""

    code: int
    out: str
    err: str


def ebm(line: str, *more: str) -> Answer:
    """`ebm LINE MORE...`; the words of the line are split as a shell does."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = dispatch([*shlex.split(line), *more])
    return Answer(code, out.getvalue(), err.getvalue())


def train(line: str = "", directory: str = "run") -> Answer:
    """A tiny run in `directory`, with what the line changes."""
    return ebm("train", *TINY, f"hydra.run.dir={directory}", *shlex.split(line))


def trained(line: str = "", directory: str = "run") -> Path:
    """The directory of a tiny run that went well."""
    answer = train(line, directory)
    assert answer.code == 0, answer.err
    return Path(directory)


def last_step(run: Path) -> Path:
    """Its newest checkpoint directory."""
    return sorted((run / "checkpoints").glob("step-????????"))[-1]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def outcome(run: Path) -> dict[str, str]:
    """SHA-256 of all that a run's seed and configuration decide."""
    files = {name: last_step(run) / name for name in (checkpoint.TENSORS, checkpoint.NUMBERS)}
    return {name: digest(path) for name, path in (files | {"metrics": run / "metrics.jsonl"}).items()}


def facts(run: Path, name: str = "metadata.json") -> dict:
    return json.loads((run / name).read_text())


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder, with its contents in short."""
    return {str(path.relative_to(folder)): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def forge(folder: Path, **files: bytes) -> None:
    """Replace state.safetensors (`tensors`) or state.json (`numbers`) of a checkpoint, and the sums in its manifest."""
    names = {"tensors": checkpoint.TENSORS, "numbers": checkpoint.NUMBERS}
    manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
    for kind, data in files.items():
        (folder / names[kind]).write_bytes(data)
        manifest["files"][names[kind]] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / checkpoint.MANIFEST).write_text(json.dumps(manifest))


def assert_refused(answer: Answer, *words: str) -> None:
    """Bad input: exit code 2 and one sentence on stderr that holds these words."""
    lines = answer.err.strip().splitlines()
    assert answer.code == 2, answer
    assert "Traceback" not in answer.err
    assert len(lines) == 1, answer.err
    assert lines[0].startswith("ebm ")
    assert not INTERNALS.search(lines[0]), lines[0]
    for word in words:
        assert word in lines[0], (word, lines[0])
