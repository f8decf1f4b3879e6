"""Which of many runs is the best, by what, and what that is worth."""

import math
from collections.abc import Mapping, Sequence

from ebm_cli.comparison import comparable, likelihood
from ebm_cli.comparison.facts import Facts, block
from ebm_cli.comparison.groups import Group
from ebm_cli.comparison.likelihood import Likelihood

_HOW = "evaluation.ais.while_training=true checkpoint.monitor=ais/valid/log_likelihood"


def sentence(rows: Sequence[Group]) -> str | None:
    """By the figure that all monitored, on the validation split; else by the log-likelihood of test rows.

    `rows` are of one run each. None where fewer than two have it, or figures of other rows stand among them.
    """
    done = {row.name: row.runs[0] for row in rows if row.runs[0].status == "done"}
    monitors = {str(run.settings.get("checkpoint.monitor")) for run in done.values()}
    if len(monitors) == 1:
        [monitor] = monitors
        values = {name: run.metrics.get(f"best/{monitor}", math.nan) for name, run in done.items()}
        found = _best(values, done, "best/")
        if found:
            return f"best run: {found} ({monitor} = {_number(values[found])}), {_of(values)} by the validation split"
    return _by_test_rows(done)


def _by_test_rows(done: Mapping[str, Facts]) -> str | None:
    judged = {name: likelihood.judged(run.metrics) for name, run in done.items()}
    known = {name: each for name, each in judged.items() if each is not None and each.doubtful is None}
    values = {name: each.middle for name, each in known.items()}
    found = _best(values, done, known) if len({each.kind for each in known.values()}) == 1 else None
    if found is None:
        return None
    return (
        f"best run: {found} (log-likelihood = {_number(values[found])}), {_of(values)} by the test split: optimistic; "
        f"choose on valid ({_HOW})"
    )


def _best(values: Mapping[str, float], runs: Mapping[str, Facts], of: str | Mapping[str, Likelihood]) -> str | None:
    """The run with the largest of the values, if there are two or more and they are of the same rows."""
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    blocks = {name: of if isinstance(of, str) else block(of[name].metric) for name in known}
    figures = [comparable.Figure(runs[name], whose) for name, whose in blocks.items()]
    if len(known) < 2 or comparable.reasons(figures):
        return None
    return max(known, key=known.__getitem__)


def _of(values: Mapping[str, float]) -> str:
    return f"best of {sum(map(math.isfinite, values.values()))}"


def _number(value: float) -> str:
    return f"{value:.6g}"
