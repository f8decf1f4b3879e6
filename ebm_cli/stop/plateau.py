"""Training ends once a metric improves no more."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.chains import Chains
from ebm_cli.dataset.base import Data
from ebm_cli.errors import RunError
from ebm_cli.objective.base import Objective
from ebm_cli.registry import register
from ebm_cli.stop.base import Logged, Look, Periodic, Watch


@register("stop", "plateau")
class Plateau(Periodic):
    """Ends once `metric` was measured `patience` times without being better by `min_change` than the best before.

    `mode` says which way is better. The metric is one of metrics.jsonl; numbers that are not finite do not count.
    """

    metric: str
    mode: Literal["max", "min"]
    patience: Annotated[int, Field(ge=1)]
    min_change: Annotated[float, Field(ge=0)]

    @override
    def refusal(self, objective: Objective, chains: Chains, measured: Collection[str]) -> str | None:
        """A metric of an evaluation is measured while the run trains."""
        owner = self.metric.partition("/")[0]
        if "/" not in self.metric or owner in measured:
            return None
        return (
            f"stop.metric = {self.metric}: no evaluation measures it while the run trains (these do: "
            f"{', '.join(sorted(measured)) or 'none'}); have it measured with evaluation.{owner}.while_training=true "
            "and an eval_every above 0"
        )

    @override
    def watch(self, data: Data) -> Watch:
        """At the lines of metrics.jsonl."""
        return PlateauWatch(self.every, self)


@dataclass(frozen=True)
class PlateauWatch(Watch):
    """Of one metric of a run."""

    of: Plateau

    @override
    def look(self, chains: Tensor, logged: Logged) -> Look:
        """`stop/since_best`: how often the metric was measured since it was best."""
        found = logged(self.of.metric)
        if not found:
            raise RunError(
                f"stop.metric = {self.of.metric}: nothing of this name was logged so far (names are those of "
                "metrics.jsonl); name another one, or set stop.every to a multiple of eval_every"
            )
        since = since_best(found if self.of.mode == "max" else [-value for value in found], self.of.min_change)
        met = f"{self.of.metric} has not improved {since} times in a row, stop.patience = {self.of.patience}"
        return Look({"stop/since_best": float(since)}, met if since >= self.of.patience else None)


def since_best(values: Sequence[float], change: float) -> int:
    """How many of them came after the last that was above all before it by more than `change`."""
    best, place = values[0], 0
    for at, value in enumerate(values):
        if value > best + change:
            best, place = value, at
    return len(values) - 1 - place
