"""A comparison made from the files of runs."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ebm_cli.comparison import columns, comparable, digits, groups, keys, likelihood, order, paired
from ebm_cli.comparison.facts import Facts, block, read
from ebm_cli.comparison.groups import Group
from ebm_cli.comparison.paired import Difference, KeptRows
from ebm_cli.comparison.sheet import DIFFERENCE, LIKELIHOOD, Cell, Column, Kind, Sheet

_NUMBER = re.compile(r"-?(\d[\d.e+-]*|\b(nan|inf)\b)")


@dataclass(frozen=True)
class Asked:
    """The keys of `ebm compare` that say what is shown. None: what is usual."""

    metrics: tuple[str, ...] | None = None
    by: tuple[str, ...] | None = None
    sort: str | None = None


def compared(
    paths: Sequence[Path], asked: Asked | None = None, title: str | None = None, remarks: Sequence[str] = ()
) -> Sheet:
    """The runs in these directories side by side, with `remarks` below.

    Raises UserError for a figure or key that none of them has.
    """
    asked = asked or Asked()
    runs = [read(path) for path in paths]
    rows = groups.grouped(runs, names(paths), asked.by)
    metrics = columns.chosen(runs, asked.metrics)
    rows, said = order.sorted_rows(rows, asked.sort)
    made = _Made(rows, runs)
    made.add_runs()
    left_out = made.add_settings()
    found = made.add_likelihood() if asked.metrics is None or LIKELIHOOD in asked.metrics else []
    made.add_metrics([name for name in metrics if name != LIKELIHOOD])
    several = "" if len(rows) == len(runs) else f" in {_counted(len(rows), 'row')}"
    title = title or f"{_counted(len(runs), 'run')}{several}"
    return Sheet(
        title=title,
        rows=tuple(rows),
        columns=tuple(made.columns),
        notes=(*made.notes, *said, *_remarks(rows), *remarks),
        left_out=tuple(left_out),
        marks=made.marks,
        reference=made.reference,
        differences=tuple(found),
    )


def names(paths: Sequence[Path]) -> list[str]:
    """For each path the shortest ending that no other has."""
    parts = [path.absolute().parts for path in paths]
    found = []
    for own in parts:
        others = [each for each in parts if each is not own]
        depth = next((i for i in range(1, len(own)) if not any(each[-i:] == own[-i:] for each in others)), len(own))
        found.append("/".join(own[-depth:]))
    return found


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}"


class _Made:
    """A sheet in the making."""

    def __init__(self, rows: Sequence[Group], runs: Sequence[Facts]) -> None:
        self.rows, self.runs = rows, runs
        self.columns: list[Column] = []
        self.notes: list[str] = []
        self.marks: dict[str, str] = {}
        self.reference: str | None = None
        self._reasons: dict[str, dict[Path, str]] = {}

    def add_runs(self) -> None:
        """Which runs a row is of, how many, and how those ended that are not done."""
        self._add("run", "run", "run", [Cell(group.name, group.name) for group in self.rows])
        counts = [len(group.runs) for group in self.rows]
        if max(counts) > 1:
            self._add("n", "n", "n", [Cell(str(n), n) for n in counts])
            self.notes.append("± is the standard error of the mean over the n runs of a row, sd / √n")
        states = [Cell(_status(group.runs), _status(group.runs, why=True)) for group in self.rows]
        if {state.text for state in states} != {"done"}:
            self._add("status", "status", "status", states)
            self.notes += _failures(self.rows)

    def add_settings(self) -> list[Column]:
        """Those in which rows differ; returned are those that go along with one that was typed."""
        settings = [group.settings for group in self.rows]
        found = [key for key in keys.differing(settings) if self._told(key)]
        typed = {key for run in self.runs for key in run.typed}
        shown, others = keys.telling(found, settings, typed)
        short = keys.short(found, {key for run in self.runs for key in run.settings})
        made = {
            key: Column("setting", key, short[key], tuple(Cell(word, word) for word in keys.column_of(key, settings)))
            for key in found
        }
        self.columns += [made[key] for key in shown]
        return [made[key] for key in others]

    def _told(self, key: str) -> bool:
        """Whether every row that has the key has one value of it: else it varies within the row."""
        return all(key in group.settings or not any(key in run.settings for run in group.runs) for group in self.rows)

    def add_likelihood(self) -> list[Difference | str | None]:
        """Exact values or brackets, and how far each row is above one of them, on the same held-out rows."""
        found = [[likelihood.judged(run.metrics) for run in group.runs] for group in self.rows]
        sides = [[each for each in side if each is not None] for side in found]
        if not any(sides):
            return []
        ends = [_ends(side) for side in sides]
        means = [three[1] for three in ends if three]
        places = digits.decimals([mean.value for mean in means], [mean.error for mean in means if mean.error])
        judged = [(run, likelihood.judged(run.metrics)) for run in self.runs]
        apart = comparable.reasons(paired.figures((run, each) for run, each in judged if each is not None))
        self._reasons[LIKELIHOOD] = apart
        cells = [self._likelihood(number, sides[number], ends[number], places) for number in range(len(self.rows))]
        self._add("likelihood", LIKELIHOOD, "log-likelihood", cells)
        self.notes += likelihood.legend([each for side in sides for each in side])
        return self._add_differences()

    def _likelihood(
        self, number: int, side: Sequence[likelihood.Likelihood], ends: Sequence[groups.Mean], places: int
    ) -> Cell:
        if not side:
            return Cell()
        low, middle, high = ends
        whole = side[0]._replace(low=low.value, middle=middle.value, high=high.value)
        text = likelihood.shown(whole, lambda value: digits.number(value, places))
        error = max((mean.error for mean in ends if mean.error is not None), default=None)
        doubts = sorted({each.doubtful for each in side if each.doubtful})
        marks = [
            self._mark(number, LIKELIHOOD),
            *(self._noted(f"not to be relied on: {why}") for why in doubts),
        ]
        few = _few(len(side), self.rows[number])
        return Cell(f"{text}{_plus(error, places)}{few}", middle.value, error, "".join(marks))

    def _add_differences(self) -> list[Difference | str | None]:
        if len(self.rows) < 2:
            return []
        first, kept = self._usual(), KeptRows()
        found: list[Difference | str | None] = [
            None if group is first else paired.difference(group, first, kept) for group in self.rows
        ]
        known = [each for each in found if isinstance(each, Difference)]
        if not known:
            return found
        places = digits.decimals([each.mean for each in known], [each.error for each in known])
        cells = [_difference(each, places) for each in found]
        self.reference = first.name
        self._add("difference", DIFFERENCE, f"above {first.name}", cells)
        self.notes += _said(known, first.name)
        if any(len(group.runs) == 1 for group in self.rows):
            self.notes.append("of a row of one run it says how good this model is, not what another seed would give")
        return found

    def _usual(self) -> Group:
        """The first row that has a log-likelihood and can be compared with most others."""
        cells = self.columns[-1].cells
        good = [group for group, cell in zip(self.rows, cells, strict=True) if cell.text and not cell.mark]
        return next(iter(good), self.rows[0])

    def add_metrics(self, metrics: Iterable[str]) -> None:
        """A column for each."""
        shown = columns.compared(self.runs)
        for metric in metrics:
            means = [group.mean(metric) for group in self.rows]
            known = [mean for mean in means if mean is not None]
            errors = [mean.error for mean in known if mean.error]
            places = digits.decimals([mean.value for mean in known], errors)
            cells = [self._metric(number, metric, mean, places) for number, mean in enumerate(means)]
            self._add("metric", metric, metric, cells, compared=metric in shown)

    def _metric(self, number: int, metric: str, mean: groups.Mean | None, places: int) -> Cell:
        if mean is None:
            return Cell()
        mark = self._mark(number, block(metric)) if columns.is_of_rows(metric) else ""
        text = f"{digits.number(mean.value, places)}{_plus(mean.error, places)}{_few(mean.n, self.rows[number])}"
        return Cell(text, mean.value, mean.error, mark)

    def _mark(self, number: int, of: str) -> str:
        """Marks for what keeps the runs of a row from being compared with the others."""
        if of not in self._reasons:
            self._reasons[of] = comparable.reasons(comparable.of_block(self.runs, of))
        found = [self._reasons[of].get(run.path) for run in self.rows[number].runs]
        known = sorted({why for why in found if why})
        mixed = " (of some of its runs)" if known and None in found else ""
        return "".join(self._noted(f"not comparable with the others{mixed}: {why}") for why in known)

    def _noted(self, sentence: str) -> str:
        for mark, known in self.marks.items():
            if known == sentence:
                return mark
        mark = f"*{len(self.marks) + 1}"
        self.marks[mark] = sentence
        return mark

    def _add(self, kind: Kind, name: str, heading: str, cells: Sequence[Cell], *, compared: bool = True) -> None:
        self.columns.append(Column(kind, name, heading, tuple(cells), compared))


def _ends(side: Sequence[likelihood.Likelihood]) -> list[groups.Mean]:
    """Means of the lower bounds, of the values and of the upper bounds; nothing of nothing."""
    return [groups.mean([getattr(each, end) for each in side]) for end in ("low", "middle", "high")] if side else []


def _plus(error: float | None, places: int) -> str:
    return "" if error is None else f" ± {digits.number(error, places)}"


def _few(there: int, group: Group) -> str:
    """How many runs have it, unless all do."""
    return "" if there == len(group.runs) else f" ({there} of {len(group.runs)})"


def _failures(rows: Sequence[Group]) -> list[str]:
    """Why runs failed, a line for each reason; in rows of several runs those that differ in numbers alone are one."""
    found: dict[str, list[tuple[str, Facts]]] = {}
    for group in rows:
        for run in group.runs:
            if run.error and run.status != "done":
                alike = run.error if len(group.runs) == 1 else _NUMBER.sub("#", run.error)
                found.setdefault(alike, []).append((group.name, run))
    return [_failure(those) for those in found.values()]


def _failure(those: Sequence[tuple[str, Facts]]) -> str:
    """Of these rows and their runs, whose reasons are alike."""
    names, (_, first) = dict.fromkeys(name for name, _ in those), those[0]
    whose = f" (numbers of {first.path.name})" if len({run.error for _, run in those}) > 1 else ""
    return f"{groups.joined([*names])}: {first.error}{whose}"


def _status(runs: Sequence[Facts], *, why: bool = False) -> str:
    """`done`, or what else became of how many, how far they came, and the reason if it is asked for."""
    said = [_ended(run, why=why) for run in runs]
    counts = {each: said.count(each) for each in said}
    if set(counts) == {"done"} or len(runs) == 1:
        return said[0]
    return ", ".join(f"{count} {each}" for each, count in counts.items())


def _ended(run: Facts, *, why: bool) -> str:
    if run.status == "done":
        return "done"
    far = f" at step {run.ended_at}" if run.ended_at else ""
    return f"{run.status}{far}" + (f": {run.error}" if run.error and why else "")


def _difference(found: "Difference | str | None", places: int) -> Cell:
    if found is None:
        return Cell("")
    if isinstance(found, str):
        return Cell("" if found == paired.NOTHING else found)
    error = digits.number(found.error, places) if math.isfinite(found.error) else "unknown"
    text = f"{digits.number(found.mean, places)} ± {error} {found.verdict}"
    return Cell(text, found.mean, found.error)


def _said(found: Sequence[Difference], first: str) -> list[str]:
    """What the differences are, and why some are undecided."""
    counts = sorted({each.rows for each in found if each.paired})
    over = " or ".join(map(str, counts))
    how = f"paired over {over} held-out rows" if counts else "rows were not kept: from the means alone, unpaired"
    lines = [f"above {first}: mean difference of log p, {found[0].unit}, ± its standard error, {how}"]
    if counts and not all(each.paired for each in found):
        lines[0] += "; where a run kept no rows, from the means alone"
    reasons = list(dict.fromkeys(each.why for each in found if each.why))
    return [*lines, *([f"undecided: {'; '.join(reasons)}"] if reasons else [])]


def _remarks(rows: Sequence[Group]) -> list[str]:
    """What each run has to say, and rows whose runs are no independent draws."""
    said = [f"{group.name}: {remark}" for group in rows for run in group.runs for remark in run.remarks]
    twice = groups.same_seed(rows)
    if twice:
        said.append(f"{'; '.join(twice)}: two runs have the same seed, so ± is too small")
    return said
