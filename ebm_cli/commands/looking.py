"""How the records of trackers are looked at, for all jobs of a multirun at once."""

from contextlib import suppress
from pathlib import Path, PurePosixPath
from shlex import quote

from ebm_cli.errors import UserError
from ebm_cli.record import files, run
from ebm_cli.record.ledger import Ledger
from ebm_cli.tracker import several

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
    return lines + _in_one_place(found)


def _in_one_place(found: Ledger) -> list[str]:
    """The trackers of the first job that began, as far as their records of all jobs lie together."""
    homes = (found.home(entry) for entry in found.entries)
    first = next((home for home in homes if files.there(home, run.CONFIG)), None)
    if first is None:
        return []
    with suppress(UserError):  # what cannot be read any more is shown by nobody
        trackers = several.built(run.open_existing(first)[1]["tracker"])
        return [line for line in (tracker.look() for tracker in trackers.values()) if line]
    return []


def _any(home: Path, pattern: str) -> bool:
    return next(home.glob(pattern), None) is not None


def _alike(directory: str) -> str:
    """A pattern of the shell for the folders of jobs that lie as deep."""
    return "/".join("*" for _ in PurePosixPath(directory).parts)
