"""What a run has to say: its own words, with those of an evaluation done again in place of the former ones."""

import math
from collections.abc import Iterator, Mapping

from ebm_cli.comparison.facts import Facts
from ebm_cli.evaluation.above import above, sentences
from ebm_cli.page import log
from ebm_cli.page.log import Line
from ebm_cli.record.run import Run

_VERDICT = ("verdict: ", "how likely held-out rows are is not known", "worse than independent", "no better than indep")
_OF_SEVERAL = ("ais: off the exact log-likelihood", "the log Z that training learned")
"""What is found from the figures of several evaluations, and found anew by the page."""


def of_run(run: Facts) -> list[Line]:
    """train.log since the run was taken up last, as `ebm evaluate` has left it: its verdict is that of the figures."""
    lines = log.newest(run.path)
    again = dict(_again(run))
    if not again:
        return lines
    former = (*_OF_SEVERAL, *(start for name in again for start in (f"{name}: ", f"evaluation {name} failed")))
    kept = [line for line in lines if not line.text.startswith(former)]
    kept += [Line("WARNING", f"{name}: {text}") for name, warnings in again.items() for text in warnings]
    judged = any(line.text.startswith(_VERDICT) for line in lines)
    if run.status == "done" and not judged:  # a model that independent units are no yardstick of
        return kept
    return [*(line for line in kept if not line.text.startswith(_VERDICT)), *_verdict(run.metrics)]


def _again(run: Facts) -> Iterator[tuple[str, list[str]]]:
    """Evaluations of the test rows whose figures are from `ebm evaluate`, and what they warned of."""
    for block, source in run.sources.items():
        name, _, label = block.partition("/")
        if source.folder and not label:
            found = Run(run.path).read_json(f"{source.folder}/results.json").get("warnings")
            warnings = found.get(name) if isinstance(found, dict) else None
            yield name, [str(text) for text in warnings] if isinstance(warnings, list) else []


def _verdict(metrics: Mapping[str, float]) -> list[Line]:
    known = {name: value for name, value in metrics.items() if math.isfinite(value)}
    said, warnings = sentences(above(known), known=True)
    return [*(Line("INFO", text) for text in said), *(Line("WARNING", text) for text in warnings)]
