"""`ebm compare`: runs side by side."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ebm_cli.cli.plain import Usage, check_free, taken_apart, write
from ebm_cli.errors import UserError

USAGE = Usage(
    "compare",
    "runs side by side: where they differ, what was measured, and which is better",
    "RUN|SWEEP|'PATTERN' ...",
    {
        "metrics": "[a,b]: these figures, or all of an evaluation",
        "by": "[model.hidden]: a row for each value of these keys (usual: of all keys but the seed); run: for each run",
        "sort": "a figure or key; - before it: the largest first (sort=-ais/log_likelihood)",
        "format": "table, csv, json, md or latex",
        "out": "FILE: write it there (its ending may say the format)",
    },
)
CHOICES = {"format": ("table", "csv", "json", "md", "latex"), "by": ("run",)}


def main(arguments: Sequence[str]) -> int:
    """`ebm compare RUN|SWEEP|PATTERN ... [KEY=VALUE ...]`; the exit code."""
    words = taken_apart(arguments, USAGE)
    if words is None:
        sys.stdout.write(USAGE.help)
        return 0
    from ebm_cli.comparison import formats, shown
    from ebm_cli.comparison.making import Asked, compared
    from ebm_cli.record import runs
    from ebm_cli.terminal import output

    out = words.values.get("out")
    form = words.one_of("format", formats.FORMATS, _of_ending(out, formats.SUFFIXES))
    if out is not None:
        check_free(out)
        _check_ending(out, formats.SUFFIXES, said="format" in words.values)
    metrics = words.listed("metrics")
    asked = Asked(metrics, words.listed("by"), words.values.get("sort"))
    sheet = compared(runs.named(words.named), asked, remarks=_waiting(words.named))
    if out is None and form == "table":
        shown.show(sheet, whole=metrics is not None)
        return 0
    text = formats.written(sheet, form, whole=metrics is not None)
    if out is None:
        output.file.write(text)
    else:
        write(out, text)
        output.print(f"written to {out}", soft_wrap=True, highlight=False)
    return 0


def _waiting(named: Sequence[str]) -> list[str]:
    """Of multiruns that have jobs without a run directory, how many."""
    from ebm_cli.record import runs

    counts = {word: len(runs.not_begun(Path(word).expanduser())) for word in named}
    return [f"{word}: {count} jobs have not begun" for word, count in counts.items() if count]


def _check_ending(out: str, endings: dict[str, str], *, said: bool) -> None:
    """Raise UserError for an ending that is another kind of file than can be written, unless the format is said."""
    ending = Path(out).suffix.removeprefix(".")
    if ending and ending not in endings and not said:
        known = ", ".join(f".{each}" for each in endings)
        raise UserError(f"out = {out}: .{ending} cannot be written; end it with one of {known}, or say format=")


def _of_ending(out: str | None, endings: dict[str, str]) -> str:
    return endings.get(Path(out or "").suffix.removeprefix("."), "table")
