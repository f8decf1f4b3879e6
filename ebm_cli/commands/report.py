"""The last table of a run: what was found, in words."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ebm_cli import registry
from ebm_cli.commands import best
from ebm_cli.evaluation import baseline, units
from ebm_cli.evaluation.base import Evaluation
from ebm_cli.evaluation.table import Numbers
from ebm_cli.running import log_z
from ebm_cli.terminal import columns, output, table

_ELSEWHERE = {"status", "seconds", "training_seconds", "steps", "step", "split"}
_ALONG, _BASELINE, _UNITS = 40, 45, 80  # where their lines stand among those of the evaluations

Lines = Callable[[Numbers, str], dict[str, str]]


def show(title: str, values: Mapping[str, Any], split: str) -> None:
    """Print what was found, the log-likelihood with its bracket first; what is compared in tables below.

    What is no finite number is not shown: a sentence said so where it was found.
    """
    numbers = Numbers(values)
    tables = [made for evaluation in evaluations() for made in evaluation.tables(numbers)]
    output.print(table(title, rows(numbers, split)))
    for made in tables:
        output.print(columns(*made))


def evaluations() -> list[type[Evaluation]]:
    """Those that there are, a plugin's too, in the order of the table."""
    return sorted(registry.components("evaluation").values(), key=lambda evaluation: evaluation.standing)


def rows(values: Mapping[str, Any], split: str) -> dict[str, str]:
    """What a person wants to know, in words, from flat keys; every other number stands under its own key."""
    numbers = values if isinstance(values, Numbers) else Numbers(values)
    found = best.lines(numbers)
    for lines in _all_lines():
        found |= lines(numbers, split)
    if "training_seconds" in numbers:
        training = f"{numbers['training_seconds']:.1f} s for {numbers['steps']} steps of training"
        found["time"] = f"{training}, {numbers['seconds']:.1f} s with evaluation"
    rest = {key: value for key, value in numbers.rest().items() if key not in _ELSEWHERE}
    return found | {key: f"{value:.4g}" for key, value in rest.items() if isinstance(value, int | float)}


def _all_lines() -> Iterator[Lines]:
    """Of every evaluation and of what is measured beside them, likelihoods first."""
    stand: list[tuple[int, Lines]] = [(evaluation.standing, evaluation.lines) for evaluation in evaluations()]
    stand += [(_BASELINE, baseline.lines), (_ALONG, log_z.lines), (_UNITS, units.lines)]
    yield from (lines for _, lines in sorted(stand, key=lambda pair: pair[0]))
