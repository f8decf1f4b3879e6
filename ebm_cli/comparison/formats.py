"""A comparison as csv, JSON, Markdown and LaTeX. What users named stands in it as they did, never as markup."""

import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from ebm_cli.comparison.groups import Group
from ebm_cli.comparison.paired import Difference
from ebm_cli.comparison.sheet import Column, Sheet, finite, only_compared
from ebm_cli.comparison.shown import literal, show
from ebm_cli.record import plain_json
from ebm_cli.terminal import Console, plain_console

FORMATS = ("table", "csv", "json", "md", "latex")
SUFFIXES = {"csv": "csv", "json": "json", "md": "md", "tex": "latex", "txt": "table"}
_WIDTH = 160  # of a table in a file
_OF_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+|~!])")
_OF_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "√": r"$\sqrt{}$", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip


def written(sheet: Sheet, form: str, *, whole: bool = False) -> str:
    """The text in one of the `FORMATS`; of a table as much as fits into 160 characters.

    Markdown and LaTeX have the figures by which runs are compared first, all of them where `whole`.
    """
    if form == "table":
        return _table(sheet, whole=whole)
    if form in ("md", "latex") and not whole:
        sheet = only_compared(sheet)
    return {"csv": _csv, "json": _json, "md": _markdown, "latex": _latex}[form](sheet)


def _table(sheet: Sheet, *, whole: bool) -> str:
    found = io.StringIO()
    console: Console = plain_console(file=found, width=_WIDTH, color_system=None, force_terminal=False)
    show(sheet, console, whole=whole)
    return "".join(f"{line.rstrip()}\n" for line in found.getvalue().splitlines())


def _csv(sheet: Sheet) -> str:
    """A line for each row, plain numbers, and the error of each figure that has one in a column beside it."""
    found = io.StringIO()
    table = csv.writer(found, lineterminator="\n")
    columns = [*sheet.columns, *sheet.left_out]
    names = {column.name for column in columns}
    heads = [head for column in columns for head in _heads(column, names)]
    table.writerow([*heads, "not_comparable", "directories"])
    for number, group in enumerate(sheet.rows):
        cells = [cell for column in columns for cell in _cells(sheet, column, number)]
        paths = "\n".join(str(run.path) for run in group.runs)
        table.writerow([*cells, _not_comparable(sheet, number), paths])
    return found.getvalue()


def _heads(column: Column, names: Collection[str] = ()) -> list[str]:
    if column.kind == "likelihood":
        return ["log_likelihood_low", "log_likelihood", "log_likelihood_high", "log_likelihood_error"]
    if column.kind == "difference":
        return ["difference", "difference_error", "difference_to", "verdict"]
    if all(cell.error is None for cell in column.cells):
        return [column.name]
    error = f"{column.name}_error"
    return [column.name, error if error not in names else f"{column.name}_error_of_mean"]  # a metric may be called so


def _cells(sheet: Sheet, column: Column, number: int) -> Iterator[Any]:
    cell = column.cells[number]
    if column.kind == "likelihood":
        low, high = sheet.rows[number].ends()
        yield from (finite(low), cell.value, finite(high), cell.error)
    elif column.kind == "difference":
        found = sheet.differences[number]
        verdict = found.verdict if isinstance(found, Difference) else found
        yield from (cell.value, cell.error, sheet.reference if found else None, verdict)
    else:
        yield cell.value
        if len(_heads(column)) > 1:
            yield cell.error


def _not_comparable(sheet: Sheet, number: int) -> str:
    marks = "".join(column.cells[number].mark for column in sheet.columns)
    return "; ".join(sentence for mark, sentence in sheet.marks.items() if mark in re.findall(r"\*\d+", marks))


def _json(sheet: Sheet) -> str:
    rows = [_row(sheet, number, group) for number, group in enumerate(sheet.rows)]
    notes = [*sheet.notes, *(f"{mark} {sentence}" for mark, sentence in sheet.marks.items())]
    found = {"title": sheet.title, "above": sheet.reference, "rows": rows, "notes": notes}
    return plain_json.dumps(found, indent=1) + "\n"


def _row(sheet: Sheet, number: int, group: Group) -> dict[str, Any]:
    settings = [*(column for column in sheet.columns if column.kind == "setting"), *sheet.left_out]
    metrics = {column.name: group.mean(column.name) for column in sheet.columns if column.kind == "metric"}
    low, high = group.ends()
    likely = next((column.cells[number] for column in sheet.columns if column.kind == "likelihood"), None)
    found = sheet.differences[number] if sheet.differences else None
    return {
        "name": group.name,
        "runs": [
            {"directory": str(run.path), "status": run.status, "step": run.step, "error": run.error or None}
            for run in group.runs
        ],
        "settings": {column.name: group.settings.get(column.name) for column in settings},
        "log_likelihood": likely and {"value": likely.value, "low": low, "high": high, "error": likely.error},
        "above": {"why_not": found} if isinstance(found, str) else found and found._asdict(),
        "metrics": {name: mean and mean._asdict() for name, mean in metrics.items()},
        "not_comparable": _not_comparable(sheet, number) or None,
    }


def _lines(sheet: Sheet) -> list[str]:
    names = ", ".join(column.name for column in sheet.left_out)
    along = [f"differing along with these: {names}"] if names else []
    marked = [f"{mark} {sentence}" for mark, sentence in sheet.marks.items()]
    return [literal(line) for line in (*marked, *sheet.notes, *along)]


def _text(column: Column, number: int) -> str:
    cell = column.cells[number]
    return literal(f"{cell.text} {cell.mark}".rstrip())


def _markdown(sheet: Sheet) -> str:
    heads = [_of_markdown(literal(column.heading)) for column in sheet.columns]
    under = ["---" if column.kind in ("run", "status", "setting") else "---:" for column in sheet.columns]
    body = [[_of_markdown(_text(column, i)) for column in sheet.columns] for i in range(len(sheet.rows))]
    table = ["| " + " | ".join(cells) + " |" for cells in (heads, under, *body)]
    return "\n".join([*table, "", *(f"* {_of_markdown(line)}" for line in _lines(sheet))]) + "\n"


def _of_markdown(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _OF_MARKDOWN.sub(r"\\\1", text)


def _latex(sheet: Sheet) -> str:
    """A tabular that needs no package, and the sentences as a paragraph each."""
    kinds = "".join("l" if column.kind in ("run", "status", "setting") else "r" for column in sheet.columns)
    heads = [_of_latex(literal(column.heading)) for column in sheet.columns]
    body = [[_of_latex(_text(column, i)) for column in sheet.columns] for i in range(len(sheet.rows))]
    lines = [rf"\begin{{tabular}}{{{kinds}}}", r"\hline", _tabbed(heads), r"\hline", *map(_tabbed, body), r"\hline",
             r"\end{tabular}"]  # fmt: skip
    return "\n".join([*lines, *(f"\n{_of_latex(line)}" for line in _lines(sheet))]) + "\n"


def _tabbed(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _of_latex(text: str) -> str:
    # a bracket that begins a line after \\ would be taken for its optional argument
    found = "".join(_OF_LATEX.get(c, c) for c in text)
    return f"{{}}{found}" if found.startswith("[") else found
