"""Weights & Biases, online with an account and offline without one."""

import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from ebm_cli.errors import UserError
from ebm_cli.record import files
from ebm_cli.registry import register
from ebm_cli.tracker.base import End, RunInfo, Tracker, TrackerSpec, finite, shown
from ebm_cli.tracker.wandb_account import api_key, has_account, settings

if TYPE_CHECKING:
    import wandb

_Mode = Literal["online", "offline", "disabled"]
_LEET = (0, 28)  # the first version that has `wandb leet` for records on disk
_ONLINE_SECONDS = 20.0  # for the server to accept the run, before the record is kept offline instead
# What WANDB_MODE may say, and what the settings file may, with wandb's older words.
_MODES: dict[str, _Mode] = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}


class WandbTracker(Tracker):
    """One wandb run object. The global `wandb.run` is never used: several runs of a multirun must not mix."""

    def __init__(self, run: "wandb.Run", trouble: str | None, *, in_sweep: bool) -> None:
        self._run = run
        self._trouble = trouble  # why a run that should be online is not
        self._in_sweep = in_sweep
        self._code = 1  # of a run whose end was not seen

    @override
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Scalars; wandb joins what has the same step to one row."""
        self._run.log(dict(metrics), step=step)

    @override
    def images(self, step: int, images: Mapping[str, NDArray[np.uint8]]) -> None:
        """Pictures. wandb takes floats as they are and so shows [0, 1] as black: uint8 alone is right."""
        import wandb

        self._run.log({key: wandb.Image(_uint8(key, pixels)) for key, pixels in images.items()}, step=step)

    @override
    def histograms(self, step: int, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Distributions, binned here: wandb stores 64 counts, not the values."""
        import wandb

        kept = {key: finite(array) for key, array in values.items()}
        binned = {key: np.histogram(array, 64) for key, array in kept.items() if array.size}
        self._run.log({key: wandb.Histogram(np_histogram=bins) for key, bins in binned.items()}, step=step)

    @override
    def ended(self, end: End) -> None:
        """Into the summary; the exit code is by which wandb tells runs that failed from those that finished."""
        self._code = end.code
        told = {"status": end.status, **({} if end.error is None else {"error": end.error})}
        self._run.summary.update(told)

    @override
    def close(self, summary: Mapping[str, float]) -> str | None:
        """Set the summary, finish, and say where the record is."""
        self._run.summary.update(dict(summary))
        line = self._line()
        self._run.finish(exit_code=self._code)
        return line

    def _line(self) -> str | None:
        if self._run.disabled:
            return "wandb: disabled"
        if not self._run.offline:
            return f"wandb: {self._run.url}"
        if self._in_sweep and not self._trouble:
            return None
        send = f"send it with  wandb sync {_segments(self._run)}"
        look = f"look at it with  wandb leet {_records(self._run)}  and " if _has_leet() else ""
        return f"wandb (offline{self._trouble or ''}): {look}{send}"


def _uint8(key: str, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8:
        raise TypeError(f"image {key} is {pixels.dtype}, not uint8")
    return pixels


def _segments(run: "wandb.Run") -> str:
    """What to give to `wandb sync`: every interruption of an offline run leaves one more folder with the same id."""
    folder = Path(run.dir).parent
    return f"{shown(folder.parent)}/offline-run-*" if _several(folder) else shown(folder)


def _records(run: "wandb.Run") -> str:
    """What to give to `wandb leet`, which shows one record, or a folder of them."""
    folder = Path(run.dir).parent
    return shown(folder.parent if _several(folder) else folder)


def _several(folder: Path) -> bool:
    return len(list(folder.parent.glob("offline-run-*"))) > 1


def _has_leet() -> bool:
    """Whether this wandb can show its records in the terminal."""
    import wandb

    found = re.match(r"(\d+)\.(\d+)", wandb.__version__)
    return found is not None and (int(found[1]), int(found[2])) >= _LEET


@register("tracker", "wandb")
class Wandb(TrackerSpec):
    """Log to Weights & Biases; without an API key the record is kept in <run>/wandb, to be sent later."""

    project: str | None
    entity: str | None
    mode: Literal["auto", "online", "offline"]
    run_name: str | None
    group: str | None
    tags: tuple[str, ...]
    notes: str | None
    job_type: str | None

    @override
    def check(self) -> None:
        """Raise UserError if the run has to be online and there is no account."""
        if self._mode() == "online" and not has_account():
            cause = "WANDB_MODE=online" if os.environ.get("WANDB_MODE") else f"tracker.mode={self.mode}"
            raise UserError(f"{cause}: there is no wandb API key; run `wandb login`, or set tracker.mode=offline")

    @override
    def open(self, run: RunInfo) -> Tracker:
        """Start the run, online if that works within 20 s and offline otherwise. Raises UserError like `check`."""
        self.check()
        files.check_links(run.directory, "wandb")  # it keeps some to its newest record, and out of older ones
        load()
        import wandb

        _silence()
        mode = self._mode()
        if mode != "online":
            return WandbTracker(self._init(run, mode), None, in_sweep=run.in_sweep)
        try:
            return WandbTracker(self._init(run, mode), None, in_sweep=run.in_sweep)
        except (wandb.Error, OSError) as error:
            # The failed attempt keeps the run's id taken until wandb's helper process has ended.
            wandb.teardown()
            _silence()
            trouble = f"; going online failed with {type(error).__name__}"
            return WandbTracker(self._init(run, "offline"), trouble, in_sweep=run.in_sweep)

    def _mode(self) -> _Mode:
        """online, offline or disabled: WANDB_MODE first, then the configuration, then whether there is an account."""
        given = os.environ.get("WANDB_MODE") or None
        chosen = _MODES.get(given) if given else None
        if given and chosen is None:
            raise UserError(f"WANDB_MODE={given}: there are online, offline and disabled")
        if self.mode == "offline" and chosen == "online":
            return "offline"  # somebody asked for no network: the stricter of the two wins
        if chosen is not None:
            return chosen
        if self.mode != "auto":
            return self.mode
        stored = _MODES.get(settings().get("mode", "online"), "offline")  # `wandb offline` was run here
        return stored if stored != "online" or has_account() else "offline"

    def _named(self, run: RunInfo) -> dict[str, Any]:
        """What wandb shows a run by: the keys first, then wandb's own variables, then what is known of the run."""
        there = os.environ.get
        return {
            "project": self.project or there("WANDB_PROJECT") or "ebm",
            "entity": self.entity or there("WANDB_ENTITY") or None,
            "name": self.run_name or there("WANDB_NAME") or run.name,
            "group": self.group or there("WANDB_RUN_GROUP") or run.group,
            "tags": self.tags or tuple(filter(None, there("WANDB_TAGS", "").split(","))),
            "notes": self.notes or there("WANDB_NOTES") or None,
            "job_type": self.job_type or there("WANDB_JOB_TYPE") or "train",
        }

    def _init(self, run: RunInfo, mode: _Mode) -> "wandb.Run":
        import wandb

        options: dict[str, Any] = {
            "silent": True,
            "console": "off",  # what the run prints is the run's
            "save_code": False,
            "disable_code": True,
            "disable_git": True,
            "disable_job_creation": True,
            "init_timeout": _ONLINE_SECONDS,
            "x_stats_pid": run.process,
        }
        if mode == "online" and (key := api_key()):
            options["api_key"] = key  # given the key, wandb has nothing to ask on the terminal
        return wandb.init(
            **self._named(run),
            dir=str(run.directory.absolute()),  # its helper process keeps the working directory of the first run
            id=run.run_id,
            config={**run.config, "run": dict(run.about)},
            mode=mode,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(**options),
        )


def load() -> None:
    """Import wandb. Offline, too, it would look up the name of its server, in order to report its own errors there."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    importlib.import_module("wandb")


def _silence() -> None:
    """Keep wandb's own lines about credentials off the terminal: they come before the settings of a run apply."""
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))
