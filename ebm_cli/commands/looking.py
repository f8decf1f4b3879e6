"""How the records of trackers are looked at, for all jobs of a multirun at once."""

from pathlib import Path, PurePosixPath
from shlex import quote

from ebm_cli.record.ledger import Ledger

_WANDB = "wandb/offline-run-*"


def at_sweep(found: Ledger) -> list[str]:
    """A line for each kind of record that some job has."""
    lines = []
    patterns = sorted({_alike(entry.directory) for entry in found.entries if _any(found.home(entry), _WANDB)})
    if patterns:
        each = " ".join(f"{quote(str(found.path))}/{pattern}/{_WANDB}" for pattern in patterns)
        lines.append(f"wandb (offline): send all of it with  wandb sync {each}")
    if any((found.home(entry) / "tensorboard").is_dir() for entry in found.entries):
        lines.append(f"tensorboard: look at all of it with  tensorboard --logdir {quote(str(found.path))}")
    return lines


def _any(home: Path, pattern: str) -> bool:
    return next(home.glob(pattern), None) is not None


def _alike(directory: str) -> str:
    """A pattern of the shell for the folders of jobs that lie as deep."""
    return "/".join("*" for _ in PurePosixPath(directory).parts)
