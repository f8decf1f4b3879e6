"""The order of the rows of a comparison, and what choosing the first of many by a test figure is worth."""

import math
from collections.abc import Sequence

from ebm_cli.comparison import columns, keys, likelihood
from ebm_cli.comparison.groups import Group, mean
from ebm_cli.errors import UserError, nearest
from ebm_cli.record.runs import natural

_WHOLE = "log_likelihood"


def sorted_rows(rows: Sequence[Group], by: str | None) -> tuple[list[Group], list[str]]:
    """By a figure or a key, the largest first where `-` stands before it; and a sentence where it is of the test split.

    Rows without it come last. Raises UserError for a name that no run has.
    """
    if by is None:
        return list(rows), []
    falling, name = by.startswith("-"), by.removeprefix("-")
    runs = [run for group in rows for run in group.runs]
    known = [*columns.every(runs), _WHOLE]
    if name not in known:
        return _by_setting(rows, name, known, falling=falling), []
    values = [_value(group, name) for group in rows]
    order = sorted(range(len(rows)), key=lambda i: (math.isnan(values[i]), -values[i] if falling else values[i]))
    judged = sum(not math.isnan(value) for value in values)
    said = [_optimism(by, name, rows, judged)] if judged > 1 and (name == _WHOLE or columns.is_of_test(name)) else []
    return [rows[i] for i in order], said


def _value(group: Group, name: str) -> float:
    if name != _WHOLE:
        found = group.mean(name)
        return math.nan if found is None else found.value
    values = [likelihood.judged(run.metrics) for run in group.runs]
    known = [each.middle for each in values if each is not None]
    return mean(known).value if known else math.nan


def _by_setting(rows: Sequence[Group], name: str, known: Sequence[str], *, falling: bool) -> list[Group]:
    if name == "run":
        return sorted(rows, key=lambda group: natural(group.name), reverse=falling)
    settings = [group.settings for group in rows]
    own = {key for each in settings for key in each}
    if name not in own and not any(key.endswith(f".{name}") for key in own):
        raise UserError(f"sort = {name}: no run has such a figure or key{nearest(name, [*known, *own])}")
    (key,) = keys.resolved([name], settings, "sort")
    having = [group for group in rows if key in group.settings]
    others = [group for group in rows if key not in group.settings]
    return sorted(having, key=lambda group: _key(group.settings[key]), reverse=falling) + others


def _key(value: object) -> tuple[int, float, list[tuple[int, int, str]]]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(str(value)), []) if number else (1, 0.0, natural(keys.shown(value)))


def _optimism(by: str, name: str, rows: Sequence[Group], judged: int) -> str:
    """That the first row owes part of its lead to chance, and by which figure of the validation split to choose."""
    runs = [run for group in rows for run in group.runs if name in run.metrics or name == _WHOLE]
    known = {metric for metric in columns.every(runs) if all(metric in run.metrics for run in runs)}
    sign = "-" if by.startswith("-") else ""
    own = name.replace("/", "/valid/", 1)
    offered = (
        [own] if own in known else sorted(each for each in known if each.startswith("best/") and "/valid/" in each)
    )
    way = f"sort={sign}{offered[0]}" if offered else (
        f"ebm evaluate run=RUN split=valid evaluation=[{name.partition('/')[0] if '/' in name else 'ais'}], then "
        f"sort={sign}{own if '/' in name else 'ais/valid/log_likelihood'}")  # fmt: skip
    return f"best of {judged} by the test split: optimistic; choose on valid ({way})"
