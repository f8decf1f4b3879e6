"""report.html of a run and of a multirun: written last of all, and no reason to fail."""

from collections.abc import Callable
from pathlib import Path
from shlex import quote

from ebm_cli.commands import search
from ebm_cli.errors import UserError, advice, of_file
from ebm_cli.record import files, runs
from ebm_cli.record.run import Run
from ebm_cli.terminal import log

NAME = "report.html"
_OURS = b'<meta name="generator" content="ebm '
_BEGINNING = 4096  # bytes in which it stands


def of_run(home: Path) -> None:
    """Write that of a run which has ended; a warning says why it could not be."""
    _tried(home, lambda: write_run(home))


def of_multirun(home: Path) -> None:
    """The same of a multirun, as far as its jobs are; nothing where none was begun."""
    if runs.any_in(home):
        _tried(home, lambda: write_multirun(home))


def write_run(home: Path) -> None:
    """Write the page into the run directory."""
    from ebm_cli.page.made import page  # only once it is wanted

    _replace(home, page([home], home.name))


def write_multirun(home: Path) -> None:
    """Write the page into the directory of the multirun. Raises UserError where no job was begun."""
    from ebm_cli.page.made import page

    _replace(home, page(runs.named([str(home)]), home.name, home, runs.not_begun(home), _said(home)))


def _said(home: Path) -> list[str]:
    """What a search says of its trials; nothing where it is none."""
    found = Run(home).read_json("summary.json").get("said") if search.there(home) else None
    return found if isinstance(found, list) and all(isinstance(line, str) for line in found) else []


def _replace(home: Path, text: str) -> None:
    """Raises UserError where a file of that name is none of ours."""
    if files.there(home, NAME) and _OURS not in files.read(home, NAME)[:_BEGINNING]:
        raise UserError(
            f"{home / NAME} is no page of this program, and is kept; move it away, or name another file, out=FILE"
        )
    files.replace(home, NAME, text.encode())


def _tried(home: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        log.warning(
            "%s was not written: %s; %s, then: ebm report %s", NAME, of_file(error), advice(error), quote(str(home))
        )
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a picture of the run, the run itself is whole
        log.warning("%s was not written: %s: %s; once that is mended: ebm report %s",
                    NAME, type(error).__name__, error, quote(str(home)))  # fmt: skip
    else:
        log.info("report %s", home / NAME)
