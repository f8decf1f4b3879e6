"""A comparison on a terminal: as many columns as fit its width, the others named below."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from ebm_cli.comparison import leader
from ebm_cli.comparison.groups import EACH
from ebm_cli.comparison.making import Asked, compared
from ebm_cli.comparison.sheet import Column, Sheet, more, some
from ebm_cli.terminal import Console, output

_GAP = 2
_MARK = re.compile(r"\*\d+")
_LONGEST = {"run": 28, "status": 40, "setting": 24}  # characters of a line of a cell
_SHARE = 3  # a column of words takes one part in so many of the width


def show(sheet: Sheet, console: Console = output, *, whole: bool = False) -> None:
    """Print it; `whole`: with every figure there is, in several tables where they do not fit side by side."""
    parts, others = _parts(sheet.columns, console.width, whole=whole)
    console.print(Text(literal(sheet.title), style="italic"), soft_wrap=True)
    for part in parts:
        console.print(_table(part, console.width), highlight=False)
    for line in (*_marked(sheet, parts), *sheet.notes, *_along(sheet), *more(others)):
        console.print(Text(literal(line)), highlight=False, soft_wrap=False)


def show_jobs(paths: Sequence[Path], title: str, console: Console = output) -> None:
    """Print a row for each run, which is the best, and a row for those that differ in nothing but their seed.

    Nothing is printed of no runs.
    """
    if not paths:
        return
    each = compared(paths, Asked(by=(EACH,)), title)
    means = compared(paths, None, f"{title}, means over seeds")
    show(each, console)
    if best := leader.sentence(each.rows):
        console.print(Text(literal(best)), highlight=False, soft_wrap=True)
    if len(means.rows) < len(each.rows):
        show(means, console)


def literal(text: str) -> str:
    """The same with what is not printable, such as the codes that move a cursor, written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _parts(columns: Sequence[Column], width: int, *, whole: bool) -> tuple[list[list[Column]], list[Column]]:
    """Columns of each table, and those left out: all columns if they fit, else what is compared first."""
    label, *rest = columns
    if whole or sum(map(_room, columns)) <= width:
        return _blocks(label, rest, width), []
    kept = [column for column in rest if column.compared]
    first = _blocks(label, kept, width)
    needed = [column for column in first[0] if column.kind != "metric"]
    if len(needed) == 1 + sum(column.kind != "metric" for column in kept):  # figures alone are left out
        return [first[0]], [column for column in rest if column not in first[0]]
    own = _blocks(label, [column for column in kept if column.kind != "metric"], width)
    return own, [column for column in rest if column.kind == "metric"]


def _blocks(label: Column, rest: Iterable[Column], width: int) -> list[list[Column]]:
    """Side by side as far as they fit, the names of the runs first in each."""
    blocks = [[label]]
    for column in rest:
        if len(blocks[-1]) > 1 and sum(map(_room, [*blocks[-1], column])) > width:
            blocks.append([label])
        blocks[-1].append(column)
    return blocks


def _room(column: Column) -> int:
    """Characters of its longest line, and the gap beside it."""
    cells = [len(line) for cell in column.cells for line in _lines(cell.text + cell.mark)]
    most = _LONGEST.get(column.kind, 1000)
    return min(max([*cells, *(len(line) for line in _lines(_heading(column)))]), most) + _GAP


def _lines(text: str) -> list[str]:
    return literal(text.replace("\n", " ")).split("\n") if "\n" not in text else text.split("\n")


def _heading(column: Column) -> str:
    """A figure's name on two lines, after the evaluation's."""
    first, slash, rest = column.heading.partition("/")
    return f"{literal(first)}{slash}\n{literal(rest)}" if slash and column.kind == "metric" else literal(column.heading)


def _table(columns: Sequence[Column], width: int) -> Table:
    made = Table(box=None, padding=(0, _GAP, 0, 0))
    for column in columns:
        words = column.kind in _LONGEST
        most = min(_LONGEST.get(column.kind, width), max(8, width // _SHARE)) if words else None
        made.add_column(Text(_heading(column)), overflow="fold", max_width=most, no_wrap=not words,
                        justify="left" if words else "right")  # fmt: skip
    for cells in zip(*(column.cells for column in columns), strict=True):
        made.add_row(*(Text(literal(f"{cell.text} {cell.mark}".rstrip())) for cell in cells))
    return made


def _marked(sheet: Sheet, parts: Iterable[Iterable[Column]]) -> list[str]:
    """The sentences of marks that stand in one of the columns."""
    seen = "".join(cell.mark for part in parts for column in part for cell in column.cells)
    return [f"{mark} {sentence}" for mark, sentence in sheet.marks.items() if mark in _MARK.findall(seen)]


def _along(sheet: Sheet) -> list[str]:
    names = [column.heading for column in sheet.left_out]
    return [f"differing along with these: {some(names)}"] if names else []
