"""How a run goes on: with which rate and chains, which couplings and rungs, and how its steps are done."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ebm_cli.terminal import log
from ebm_cli.training import cuda_graph, long_step, whole_step
from ebm_cli.training.remedies import applied
from ebm_cli.training.rungs import Ladder
from ebm_cli.training.sparse import Sparse
from ebm_cli.training.state import Parts, TrainState
from ebm_cli.training.step import Execution
from ebm_cli.training.taken_back import halved


class Course(NamedTuple):
    """The parts of a run with the rate and the chains of now, and what depends on them."""

    parts: Parts
    sparse: Sparse
    ladder: Ladder
    how: Execution

    @property
    def steps(self) -> int:
        """Until which it trains."""
        return self.parts.loop.steps


def course(first: Parts, state: TrainState, recoveries: Sequence[Mapping[str, Any]]) -> Course:
    """That of a run which had these parts at `first`, and did this since."""
    parts = halved(applied(first, recoveries), state)
    how, said = _execution(parts, state)
    if said:
        log.warning("%s", said)
    return Course(parts, Sparse(parts, state), Ladder(parts, state), how)


def _execution(parts: Parts, state: TrainState) -> tuple[Execution, str | None]:
    """How steps are done, and a sentence on what could not be."""
    device = parts.device
    if device.whole_steps and whole_step.refusal(parts, state, device.engine.rows) is None:
        return whole_step.execution(parts, state), None
    if device.loops is not None and long_step.refusal(parts, state) is None:
        return long_step.execution(parts, state), None
    return cuda_graph.execution(parts, state)
