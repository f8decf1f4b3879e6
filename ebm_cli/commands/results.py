"""Where commands on a trained run write what they find: a folder made before any work, to see that it can be."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ebm_cli.errors import UserError, of_file
from ebm_cli.record import hub, run
from ebm_cli.record.run import Run
from ebm_cli.terminal import log


@contextmanager
def folder(path: Path, kind: str, out: str | None) -> Iterator[Run]:
    """A new folder for results: `kind`/<time> of the run at `path`, or the one that is called `out`. That results go
    into a folder which is made to be published is said.

    It is removed again if nothing comes of it. Raises UserError if there is no run, or if nothing can be written there.
    """
    run.check_there(path, "run = ")
    missing = [] if out is None else _missing(Path(out).expanduser())
    made = _in_run(Run(path), kind) if out is None else _elsewhere(Path(out).expanduser())
    try:
        yield Run(made)
        if out is None and hub.there(path):
            log.warning("run = %s: results went into it, and are published with it; out=DIR has them elsewhere", path)
    finally:
        with suppress(OSError):  # one that holds anything stays
            for empty in (made, *missing) if out is not None else (made, made.parent):
                empty.rmdir()


def _in_run(home: Run, kind: str) -> Path:
    try:
        return home.new_folder(kind)
    except OSError as error:
        raise UserError(
            f"run = {home.path}: {of_file(error)}; have the results written to another folder with out=DIR"
        ) from error


def _elsewhere(out: Path) -> Path:
    there = next((place for place in (out.absolute(), *out.absolute().parents) if os.path.lexists(place)), out)
    if os.path.lexists(there) and not there.is_dir():
        raise UserError(f"out = {out}: {there} is a file, a folder is written; name a new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        used = any(out.iterdir())
    except OSError as error:
        raise UserError(f"out = {out}: {of_file(error)}; name a folder that can be made") from error
    if used:
        raise UserError(f"out = {out}: holds files already, which are kept; name a new folder")
    probe = out / ".probe"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise UserError(f"out = {out}: {of_file(error)}; name a folder that can be written") from error
    return out


def _missing(out: Path) -> list[Path]:
    """The folders above it that are not there yet, the innermost first."""
    return [folder for folder in out.absolute().parents if not folder.exists()]
