"""What a person is told in the end: whether anything was learned beyond independent units, and what looks wrong."""

import math
from collections.abc import Mapping, Sequence

from ebm_cli.evaluation.above import above, sentences
from ebm_cli.evaluation.base import Result, Subject, of_split, on_split
from ebm_cli.evaluation.baseline import independent
from ebm_cli.evaluation.bracket import contradictions
from ebm_cli.evaluation.together import Findings
from ebm_cli.evaluation.units import idle_units
from ebm_cli.health import limits
from ebm_cli.model.exponential_family import BernoulliProduct, CategoricalProduct, GaussianUnits
from ebm_cli.terminal import log


def verdict(subject: Subject, found: Mapping[str, float], *, asked: bool = True) -> Result:
    """`baseline/independent`, `units/...` and sentences, from what the evaluations found, named without the split.

    Where no likelihood was `asked` for, that there is none is not said. Independent units are in the units of the data,
    as the likelihoods beside them are (`measured`).
    """
    units = idle_units(subject)
    beside = independent(subject, subject.held_out)
    metrics = dict(units.metrics)
    if beside is not None:
        metrics["baseline/independent"] = beside.mean().item() - subject.model.space.log_volume
    said, warnings = sentences(above(found), known=asked and beside is not None)
    if isinstance(subject.model, BernoulliProduct | CategoricalProduct | GaussianUnits):
        said, warnings = (), ()  # it is what others are compared with
    return Result(metrics, said=said, warnings=(*units.warnings, *warnings))


def conclude(subject: Subject, findings: Findings, label: str, *, asked: bool = True) -> None:
    """Add to the findings of a split, whose keys are labelled so, and say what there is to say of them all."""
    named = of_split(findings.known, label)
    for sentence in contradictions(named):
        log.warning("%s", sentence)
    result = verdict(subject, named, asked=asked)
    findings.numbers |= on_split(result.metrics, label)
    for line in result.said:
        log.info("%s", line)
    for warning in result.warnings:
        log.warning("%s", warning)


def runaway(gaps: Sequence[float], words: float = 0.0) -> str | None:
    """A warning where the energy gap of the last steps is far from 0 and stays there; `gaps` as logged, or None.

    It is for runs that nobody watched: health has the same limits, `limits.far`, of documents by their `words`. At the
    maximum of the likelihood data and model have the same mean energy.
    """
    late = gaps[-max(1, len(gaps) // 10) :]
    if not late:
        return None
    mean = sum(late) / len(late)
    spread = (sum((gap - mean) ** 2 for gap in late) / len(late)) ** 0.5
    if not limits.far(mean, abs(mean) / spread if spread else math.inf, words):
        return None
    side = "data lie far below the chains, which lag behind the model" if mean < 0 else "chains lie far below the data"
    return (
        f"energy_gap was {mean:.4g} nats over the last steps, far from 0: {side}; take more chains.steps, another "
        "sampler, or a lower optimizer.lr"
    )
