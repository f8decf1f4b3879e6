"""Training steps of many transitions: each transition, and the update, is one call of a library."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

from torch import Tensor
from typing_extensions import override

from ebm_cli.acceleration import arithmetic
from ebm_cli.device.ahead import Wanted
from ebm_cli.device.engine import INLINE, Function
from ebm_cli.device.loops import Moves, filled, flat
from ebm_cli.model.base import EnergyModel
from ebm_cli.objective.base import Batch, Objective
from ebm_cli.optimizer import At
from ebm_cli.rng import Counter
from ebm_cli.sampler.base import engine_for
from ebm_cli.terminal import log
from ebm_cli.training.plan import Inputs, Planner, plans
from ebm_cli.training.state import Parts, TrainState
from ebm_cli.training.step import TOGETHER, Execution, GradRows, Values, Weights, compiles, execute, subject, update
from ebm_cli.training.whole_step import InPlace, rateless


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
    if state.weighted is not None:
        return "chains with weights are drawn by these"
    few = min(components.chains.transitions(at, parts.loop.steps) for at in (0, parts.loop.steps))
    return None if few > TOGETHER else f"up to {TOGETHER} transitions are part of the step"


def execution(parts: Parts, state: TrainState) -> Execution:
    """Steps planned some at a time, done operation by operation but for their transitions and the update."""
    engine = _Libraries(parts, state)
    own = replace(parts, device=replace(parts.device, engine=engine))

    def executed(_: Parts, state: TrainState, inputs: Inputs) -> Values:
        return execute(own, state, inputs)

    return Execution(Planner(own, plans), executed)


class _Libraries(Moves):
    """Its regions are the transition and the update of the weights."""

    def __init__(self, parts: Parts, state: TrainState) -> None:
        super().__init__(parts.device.engine.rows, parts.components.sampler.step, _say, alone=True)
        self._updated = Update(parts, state)

    @override
    def region(self, function: Function) -> Function:
        return cast(Function, self._updated) if function == update else super().region(function)


class Update(InPlace):
    """The update of the weights by the rows of a step, a library for each form of these."""

    def __init__(self, parts: Parts, state: TrainState) -> None:
        of = subject(parts, state)
        self.device = parts.device.inline()
        super().__init__((of.objective, rateless(of.weights)))

    def __call__(
        self, objective: Objective, weights: Weights, model: EnergyModel, rows: GradRows, key: Counter, at: At
    ) -> Values:
        """What it says."""
        given = Given(rows.batch.x, rows.batch.x_neg, rows.batch.labels, tuple(rows.info.values()), key, at)
        changing = [*flat(given)]
        said = rows.batch.first, tuple(rows.info)
        form = said, tuple(tensor.shape for tensor in changing)
        return self.values(form, changing, partial(self._wanted, given, changing, said))

    def _wanted(self, given: "Given", changing: Sequence[Tensor], said: tuple[int, tuple[str, ...]]) -> Wanted:
        function, identity = _Updated(self, given, *said), self.identity("update", said)
        return Wanted(function, changing, self.tensors, identity, changes=True, begins=_say_update, alone=True)


class Given(NamedTuple):
    """What an update is given beside the weights, all tensors."""

    x: Tensor
    x_neg: Tensor | None
    labels: Tensor | None
    info: tuple[Tensor, ...]
    key: Counter
    at: At


class _Updated:
    """The update as a function of tensors: those that it is given, then those of objective and weights."""

    def __init__(self, of: Update, given: Given, first: int, names: Sequence[str]) -> None:
        self.leaves, self.device, self.given, self.first, self.names = of.leaves, of.device, given, first, names
        self.said: dict[str, tuple[str, ...]] = {}

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        own = len(tensors) - len(self.leaves.tensors)
        objective, weights = self.leaves.replaced(tensors[own:])
        x, x_neg, labels, info, key, at = filled(self.given, iter(tensors[:own]))
        batch = Batch(x, x_neg, labels, first=self.first, auxiliary=weights.auxiliary, step=at.step)
        rows = GradRows(batch, dict(zip(self.names, info, strict=True)))
        values = update(objective, weights, arithmetic(weights.model, self.device), rows, key, at)
        self.said = {"names": values.names, "moved": values.moved}
        return [values.metrics, values.norms]

    def facts(self) -> Any:
        """Names of the numbers that come out."""
        return self.said


def _say() -> None:
    log.info("compiling a transition of the chains, some ten seconds; later runs of this shape find it there")


def _say_update() -> None:
    log.info("compiling the update of the weights, some ten seconds; later runs of this shape find it there")
