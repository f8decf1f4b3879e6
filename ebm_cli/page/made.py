"""The page itself: everything in one file, with a policy that lets nothing run or load but what the page brings."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ebm_cli import __version__
from ebm_cli.comparison import facts
from ebm_cli.comparison.making import names
from ebm_cli.page import catalogue, one
from ebm_cli.page.chart import Chart
from ebm_cli.page.many import Board, board
from ebm_cli.page.one import Seen, Whole

if TYPE_CHECKING:
    from jinja2 import Template

_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS, _STYLES = ("uPlot.js", "page.js"), ("uPlot.css", "page.css")
_ROOM = 2_000_000  # bytes of pictures in all
_MOST = 12  # runs that are shown whole


def page(
    paths: Sequence[Path],
    title: str,
    home: Path | None = None,
    waiting: Sequence[str] = (),
    said: Sequence[str] = (),
) -> str:
    """HTML on the runs in these directories. In the page of a multirun in `home` each has a link to its own page.

    `waiting`: jobs that have no run directory yet. `said`: what a search says of its trials. Raises UserError where no
    such run is.
    """
    runs = [one.seen(name, facts.read(path)) for name, path in zip(names(paths), paths, strict=True)]
    side_by_side = board(runs, title, said) if len(runs) > 1 else None
    order = side_by_side.order if side_by_side else runs
    whole = [(run, one.whole(run, _ROOM // min(len(runs), _MOST))) for run in order[:_MOST]]
    return _written(title, order, whole, side_by_side, home, waiting)


def _written(
    title: str,
    order: Sequence[Seen],
    whole: Sequence[tuple[Seen, Whole]],
    side_by_side: Board | None,
    home: Path | None,
    waiting: Sequence[str],
) -> str:
    charts = _Charts()
    entries = catalogue.used(entry for run in order for answer in run.answers for _, entry in answer.warnings)
    return _template().render(
        title=title,
        version=__version__,
        runs=order,
        whole=whole,
        board=side_by_side,
        links={run.facts.path: _link(run.facts.path, home) for run in order} if home else {},
        waiting=waiting,
        entries=entries,
        marks=_MARKS,
        pieces=catalogue.parts,
        chart=charts.add,
        charts=charts.data,
        styles=[Markup(_asset(name)) for name in _STYLES],
        scripts=[Markup(_asset(name)) for name in _SCRIPTS],
        hashes=" ".join(f"'sha256-{_sha256(_asset(name))}'" for name in _SCRIPTS),
    )


_MARKS = {"good": "✓", "bad": "✗", "unsure": "!", "unknown": "?"}


class _Charts:
    """The data of the charts, in the order in which the page has them."""

    def __init__(self) -> None:
        self.data: list[Mapping[str, Any]] = []

    def add(self, chart: Chart) -> int:
        """The number under which the page finds it."""
        self.data.append(chart.data())
        return len(self.data) - 1


def _link(path: Path, home: Path) -> str:
    """From the page of a multirun to that of a job below it; nothing for one that lies elsewhere or has none."""
    below = path.is_relative_to(home) and (path / "report.html").is_file()
    return f"{path.relative_to(home).as_posix()}/report.html" if below else ""


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _template() -> "Template":
    import jinja2

    loader = jinja2.FileSystemLoader(_ASSETS)
    made = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return made.get_template("page.html")
