"""A whole training step as one library, compiled ahead of time: in small models calls take longer than products."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from ebm_cli.acceleration import arithmetic
from ebm_cli.device.ahead import Made, Wanted, library
from ebm_cli.device.engine import INLINE
from ebm_cli.device.leaves import Leaves
from ebm_cli.sampler.base import engine_for
from ebm_cli.terminal import log
from ebm_cli.training.plan import Packed, Planner, packs
from ebm_cli.training.state import Parts, TrainState
from ebm_cli.training.step import TOGETHER, Execution, Subject, Values, Weights, compiles, subject, whole


def refusal(parts: Parts, state: TrainState, at_once: int) -> str | None:
    """Why the steps of a run cannot be one region each, or None; `at_once` rows may be in flight."""
    components, device, batch = parts.components, parts.device, parts.loop.batch_size
    if device.torch.type != "cpu":
        return "on a GPU a CUDA graph does it"
    if device.ranks.count > 1:
        return "ranks exchange gradients within a step"
    if not compiles(subject(parts, state)):
        return "this objective or model is not compiled"
    chains = components.chains.slots or batch if components.objective.negatives else 0
    if batch * components.objective.places + chains > at_once:
        return "rows and chains are worked on in groups"
    if not components.objective.negatives:
        return None
    if state.weighted is not None:
        return "chains with weights are drawn by these"
    moves = components.chains.transitions
    if not engine_for(components.sampler, state.model, INLINE).compiled:
        return "this sampler is not compiled"
    longest = max(moves(0, parts.loop.steps), moves(parts.loop.steps, parts.loop.steps))
    return None if longest <= TOGETHER else f"more than {TOGETHER} transitions a step are regions of their own"


def execution(parts: Parts, state: TrainState) -> Execution:
    """Steps planned some at a time, each of them one call of a library."""
    return Execution(Planner(parts, packs), WholeStep(parts, state))


class InPlace:
    """Calls libraries with the tensors of a run, its weights and what belongs to them, which they change in place."""

    def __init__(self, parts: Any) -> None:
        self.leaves = Leaves(parts)
        self.tensors = self.leaves.tensors
        self.libraries: dict[Any, Made] = {}
        self.said: dict[Any, tuple[tuple[str, ...], tuple[str, ...]]] = {}

    def values(self, form: Hashable, changing: Sequence[Tensor], wanted: Callable[[], Wanted]) -> Values:
        """What an update of this form says, for tensors that differ from call to call; its library at first."""
        if form not in self.libraries:
            self.libraries[form] = library(wanted())
        metrics, norms = self.libraries[form].call(changing, self.tensors)
        if form not in self.said:
            facts = self.libraries[form].facts
            self.said[form] = tuple(facts["names"]), tuple(facts["moved"])
        names, moved = self.said[form]
        return Values(names, metrics, moved, norms)

    def identity(self, *named: object) -> str | None:
        """None where code outside this package takes part, which may change without our seeing it."""
        return None if self.leaves.foreign else repr((self.leaves.description(), *named))


class WholeStep(InPlace):
    """One library for each number of transitions."""

    def __init__(self, parts: Parts, state: TrainState) -> None:
        of = subject(replace(parts, device=parts.device.inline()), state)
        super().__init__(of._replace(weights=rateless(of.weights)))

    def __call__(self, parts: Parts, state: TrainState, inputs: Packed) -> Values:
        """The update."""
        return self.values(len(inputs.words), inputs.tensors(), partial(self._wanted, inputs))

    def _wanted(self, inputs: Packed) -> Wanted:
        identity = self.identity(inputs.own, inputs.first)
        function = _Step(self.leaves, inputs)
        return Wanted(function, inputs.tensors(), self.tensors, identity, changes=True, begins=_say)


def rateless(weights: Weights) -> Weights:
    """The same for any schedule of the rate and of averaging: these numbers are inputs of each step."""
    constant = replace(weights.optimizer, lr=1.0, schedule="constant", final_lr=0.0, warmup=0, ema_start=0.0)
    return weights._replace(optimizer=constant)


def _say() -> None:
    log.info("compiling the training step, some fifteen seconds of a core; later runs of this shape find it there")


class _Step:
    """A step as a function of tensors."""

    def __init__(self, leaves: Leaves, inputs: Packed) -> None:
        self.leaves, self.inputs = leaves, inputs
        self.said: dict[str, tuple[str, ...]] = {}

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        own = len(self.inputs.tensors())
        of: Subject = self.leaves.replaced(tensors[own:])
        model = arithmetic(of.weights.model, of.moves.device)
        values = whole(of, model, self.inputs.inputs(tensors[:own]))
        self.said = {"names": values.names, "moved": values.moved}
        return [values.metrics, values.norms]

    def facts(self) -> Any:
        """Names of the numbers that come out."""
        return self.said
