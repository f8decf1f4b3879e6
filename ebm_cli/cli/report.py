"""`ebm report`: a page on runs."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ebm_cli.cli.plain import Usage, check_free, taken_apart, write
from ebm_cli.errors import UserError, advice, of_file

USAGE = Usage(
    "report",
    "a page on runs: what came out, what is wrong, and what to do next",
    "RUN|SWEEP|'PATTERN' ...",
    {"out": "FILE.html: write it there (usual: report.html, in the run or multirun if one is named, else here)"},
)

CHOICES: dict[str, tuple[str, ...]] = {}


def main(arguments: Sequence[str]) -> int:
    """`ebm report RUN|SWEEP|PATTERN ... [out=FILE.html]`; the exit code."""
    words = taken_apart(arguments, USAGE)
    if words is None:
        sys.stdout.write(USAGE.help)
        return 0
    from ebm_cli.record import runs
    from ebm_cli.terminal import output

    out = words.values.get("out")
    home = Path(words.named[0]).expanduser()
    paths = runs.named(words.named)
    if out is None and len(words.named) == 1 and home.is_dir():
        place = str(_written_there(home, several=paths != [home]))
    else:
        place = out if out is not None else "report.html"
        check_free(place)
        if Path(place).suffix not in (".html", ".htm"):
            raise UserError(f"out = {place}: a page is written as HTML; name it FILE.html")
        write(place, _page(paths, words.named))
    output.print(f"report: {place}", soft_wrap=True, highlight=False)
    return 0


def _page(paths: Sequence[Path], named: Sequence[str]) -> str:
    from ebm_cli.page.made import page

    if len(paths) == 1:
        return page(paths, paths[0].absolute().name)
    title = Path(named[0]).absolute().name if len(named) == 1 else f"{len(paths)} runs"
    return page(paths, title)


def _written_there(home: Path, *, several: bool) -> Path:
    from ebm_cli.commands import pages

    try:
        (pages.write_multirun if several else pages.write_run)(home)
    except OSError as error:
        raise UserError(f"{home}: {of_file(error)}; {advice(error)}, or name another file, out=FILE.html") from error
    return home / pages.NAME
