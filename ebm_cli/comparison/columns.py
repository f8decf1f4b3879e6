"""Which figures there are among runs, in which order, and which of them are compared first."""

import re
from collections.abc import Iterable, Sequence

from ebm_cli.comparison.declared import declared
from ebm_cli.comparison.facts import Facts, block
from ebm_cli.comparison.likelihood import PER_WORD
from ebm_cli.errors import UserError, nearest
from ebm_cli.evaluation.bracket import LIKELIHOODS

_STANDING = {
    "best": 46,
    "last": 47,
    "baseline": 45,
    "raise": 20,
    "units": 80,
    "judged_step": 98,
    "training_seconds": 99,
}
_BESIDE = {
    "baseline/independent",
    "training_seconds",
    "perplexity/upper_bound",
    "exact/perplexity",
    "words/perplexity",
}
_OF_ROWS = re.compile(r"(log_(pseudo_)?likelihood|bits_per_dimension|perplexity|_independent|/independent|_error)$")
_NO_RIVAL = ("judged_step", "best", "last", "baseline", "units", "training_seconds")


def every(runs: Iterable[Facts]) -> list[str]:
    """All figures that any of them has: likelihoods first, those of one evaluation together."""
    found = dict.fromkeys(name for run in runs for name in run.metrics)
    return sorted(found, key=_standing)


def _standing(metric: str) -> tuple[int, str]:
    name = metric.partition("/")[0]
    return _STANDING.get(name, declared(name).standing), block(metric)


def chosen(runs: Sequence[Facts], asked: Sequence[str] | None) -> list[str]:
    """The figures that are asked for, in that order; an evaluation's name is all of its own. None: all.

    Raises UserError for one that no run has.
    """
    known = every(runs)
    if asked is None:
        return known
    found: list[str] = []
    for word in asked:
        own = [name for name in known if name == word or name.startswith(f"{word}/")]
        if not own and word != "log_likelihood":
            raise UserError(f"metrics = {word}: no run has it{nearest(word, [*known, *_parts(known)])}")
        found += own or [word]
    return list(dict.fromkeys(found))


def _parts(known: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.partition("/")[0] for name in known))


def compared(runs: Sequence[Facts]) -> set[str]:
    """What is shown where not all fit: what evaluations declare, or the first figure of one that declares none.

    Likelihoods are not among them, since they have a column with their brackets.
    """
    known = every(runs)
    found = _BESIDE & {*known}
    for name in _parts(known):
        if name in (*LIKELIHOODS, *_NO_RIVAL, "raise"):
            continue
        own = [metric for metric in known if metric.startswith(f"{name}/")]
        found |= set(declared(name).compared or own[:1])
    return found


def is_of_rows(metric: str) -> bool:
    """Whether it says how likely rows are, so that it compares only on the same ones."""
    return bool(_OF_ROWS.search(metric)) or metric.startswith("perplexity/") or metric == PER_WORD


def is_of_test(metric: str) -> bool:
    """Whether an evaluation found it on the test split."""
    return block(metric).endswith("/") and block(metric).count("/") == 1 and metric.partition("/")[0] not in _NO_RIVAL
