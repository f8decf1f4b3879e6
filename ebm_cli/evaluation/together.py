"""Evaluations one after the other: what one of them found is kept, whatever becomes of the others."""

import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ebm_cli.device.base import evaluation_precision
from ebm_cli.device.memory import watched
from ebm_cli.errors import RunError, UserError
from ebm_cli.evaluation.base import Evaluation, Result, Subject, measured, on_split
from ebm_cli.record.plain_json import finite
from ebm_cli.terminal import log

_FAILURES = (RunError, UserError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What may come of an evaluation; a disk that is full or a wish to stop ends all of them."""


@dataclass
class Findings:
    """Numbers by name, those that are not finite too; which evaluations failed, and why; what was judged.

    `warnings`: those of each evaluation that did not fail, by its name, none of them an empty list.
    `by_row` and `index`: those of the results, by the same names as the numbers.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    about: dict[str, object] = field(default_factory=dict)
    by_row: dict[str, Tensor] = field(default_factory=dict)
    index: dict[str, Tensor] = field(default_factory=dict)

    @property
    def known(self) -> dict[str, float]:
        """The finite numbers."""
        return finite(self.numbers)

    @property
    def record(self) -> dict[str, object]:
        """What is written down: the numbers and, where there are such, the failures."""
        return {**self.about, **self.numbers, **({"failed": self.failed} if self.failed else {})}

    def relabel(self, label: str) -> None:
        """Have the names say this, as they do the split."""
        self.numbers, self.by_row = on_split(self.numbers, label), on_split(self.by_row, label)
        self.index = on_split(self.index, label)

    def check(self) -> None:
        """Raises RunError if an evaluation failed."""
        if self.failed:
            what = "; ".join(f"evaluation {name} failed: {why}" for name, why in self.failed.items())
            raise RunError(f"{what}. What the others found is recorded")

    def made(self, name: str, evaluation: Evaluation, subject: Subject) -> Result:
        """What the evaluation finds, its numbers noted down; if it fails nothing but an account of that."""
        try:
            with evaluation_precision(), watched(subject.device.torch):
                result = measured(evaluation, subject)
        except _FAILURES as error:
            expected = isinstance(error, RunError | UserError)
            self.failed[name] = str(error) if expected else f"{type(error).__name__}: {error}"
            return Result({}, files={} if expected else {f"{name}-error.txt": traceback.format_exc()})
        numbers = on_split(result.metrics, subject.split)
        self.numbers |= numbers
        self.by_row |= on_split(result.by_row, subject.split)
        self.index |= on_split(result.index, subject.split)
        lost = infinite(numbers)
        return Result(result.metrics, result.images, (*result.warnings, *lost), result.files, result.said)


def infinite(numbers: Mapping[str, float]) -> list[str]:
    """A sentence on those that are not finite, if there are such."""
    lost = [name for name in numbers if name not in finite(numbers)]
    return [f"{', '.join(lost)}: not finite, so there is no number; recorded as null"] if lost else []


def _cost(evaluation: Evaluation) -> str:
    """How far it moves how many chains, of one that moves them."""
    moves, transitions, _ = evaluation.work
    return f", {transitions} transitions of {moves // transitions} chains" if transitions else ""


def one_by_one(
    evaluations: Mapping[str, Evaluation], subject: Callable[[str], Subject], findings: Findings
) -> Iterator[Result]:
    """Every evaluation of its `subject(name)`, into the findings; what there is to say of each is said at once."""
    for name, evaluation in evaluations.items():
        log.info("evaluating: %s%s", name, _cost(evaluation))
        result = findings.made(name, evaluation, subject(name))
        if name in findings.failed:
            log.error("evaluation %s failed: %s", name, findings.failed[name])
        else:
            findings.warnings[name] = [*result.warnings]
        for line in result.said:
            log.info("%s", line)
        for warning in result.warnings:
            log.warning("%s: %s", name, warning)
        yield result
