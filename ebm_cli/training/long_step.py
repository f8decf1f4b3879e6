"""Training steps of many transitions: each transition is one call of a library, compiled ahead of time."""

from dataclasses import replace

from ebm_cli.device.engine import INLINE
from ebm_cli.device.loops import Moves
from ebm_cli.sampler.base import engine_for
from ebm_cli.terminal import log
from ebm_cli.training.plan import Inputs, Planner
from ebm_cli.training.state import Parts, TrainState
from ebm_cli.training.step import TOGETHER, Execution, Values, compiles, execute, subject


def refusal(parts: Parts, state: TrainState) -> str | None:
    """Why transitions of a run cannot be libraries, or None."""
    components, device = parts.components, parts.device
    if device.torch.type != "cpu":
        return "on a GPU they are regions"
    if device.ranks.count > 1:
        return "ranks exchange gradients within a step"
    if not components.objective.negatives:
        return "this objective moves no chains"
    if not compiles(subject(parts, state)):
        return "this objective or model is not compiled"
    if not engine_for(components.sampler, state.model, INLINE).compiled:
        return "this sampler is not compiled"
    few = min(components.chains.transitions(at, parts.loop.steps) for at in (0, parts.loop.steps))
    return None if few > TOGETHER else f"up to {TOGETHER} transitions are part of the step"


def execution(parts: Parts, state: TrainState) -> Execution:
    """Steps planned some at a time, done operation by operation but for their transitions."""
    engine = Moves(parts.device.engine.rows, parts.components.sampler.step, _say, alone=True)
    own = replace(parts, device=replace(parts.device, engine=engine))

    def executed(_: Parts, state: TrainState, inputs: Inputs) -> Values:
        return execute(own, state, inputs)

    return Execution(Planner(own), executed)


def _say() -> None:
    log.info("compiling a transition of the chains, some ten seconds; later runs of this shape find it there")
