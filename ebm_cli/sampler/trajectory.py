"""Trajectory tempering: replicas on the models that a run passed through exchange configurations with a chain."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from pydantic import Field, PlainValidator
from torch import Tensor
from typing_extensions import override

from ebm_cli.errors import UserError
from ebm_cli.model.base import EnergyModel, Normalised
from ebm_cli.registry import Nested, register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler, shown
from ebm_cli.sampler.kernel import below, nested
from ebm_cli.sampler.parallel_tempering import TemperingState
from ebm_cli.sampler.rungs import Rungs
from ebm_cli.space import Space

_PASSAGES = 10  # from independent units to the model, at best, that samples should have behind them
NO_PAST = (
    "sampler=trajectory: goes along the checkpoints of a run that is there, so nothing can be trained by it; take "
    "chains=trajectory, and this one in ebm sample or ebm evaluate"
)


def _kernel(settings: Mapping[str, Any] | Sampler[Any, Any] | None) -> Sampler[Any, Any] | None:
    return None if settings is None else nested(settings)


@register("sampler", "trajectory")
class TrajectoryTempering(Sampler[EnergyModel, TemperingState]):
    """Replicas x_0 ... x_K on p_0, ..., p_K: independent units, checkpoints of the run, and the model itself.

    A step is two rounds of `Rungs`: a fresh draw of p_0 and `transitions` of `kernel` (null: the run's own sampler) at
    each other rung, then exchanges of the pairs (0, 1), (2, 3) ...; and the same once more with (1, 2), (3, 4) ... So
    prod_k p_k(x_k) is invariant, and a chain shows x_K (Bereux et al. 2025, sec. 3). Info: `swap_k`, the share of
    exchanges of k - 1 and k that were taken.

    Rungs are as few of the checkpoints as exchange with the one before in the share `acceptance` of all tries, the
    last that does so each time. As a kernel on x_K alone it is not exact, but approaches p as replicas forget.

    As configured it has no rungs yet, and moves nothing: `Laid` does.
    """

    kernel: Annotated[Sampler[Any, Any] | None, PlainValidator(_kernel), Nested("sampler")]
    transitions: Annotated[int, Field(ge=1)]
    acceptance: Annotated[float, Field(gt=0, lt=1)]

    spaces = ()  # those of its kernel

    @property
    @override
    def leaves_invariant(self) -> bool:
        return False

    @property
    @override
    def inner(self) -> Sampler[Any, Any]:
        return self.kernel or self

    @property
    @override
    def draws_given(self) -> bool:
        """Checkpoints are models of whole configurations."""
        return False

    def moved_by(self, own: Sampler[Any, Any]) -> Self:
        """With what moves the chains of the run itself as its kernel, where it names none."""
        return dataclasses.replace(self, kernel=self.kernel or own.inner)

    @override
    def refusal(self, space: Space) -> str | None:
        """What the kernel says."""
        found = None if self.kernel is None else self.kernel.refusal(space)
        return found and below(found)

    @override
    def init(self, model: EnergyModel, x: Tensor) -> TemperingState:
        raise UserError(NO_PAST)

    @override
    def step(self, model: EnergyModel, state: TemperingState, key: AnyKey) -> tuple[TemperingState, Info]:
        raise UserError(NO_PAST)


@dataclass(frozen=True, kw_only=True, eq=False)
class Laid(TrajectoryTempering):
    """The same with its rungs: p_0 and the models `lower`, in order, below the one that it is to sample.

    `names` says in words what they are, and what the model itself is; they were chosen among `kept` checkpoints.
    """

    base: Normalised
    lower: Sequence[EnergyModel]
    names: Sequence[str]
    kept: int

    @property
    @override
    def replicas(self) -> int:
        return len(self.lower) + 2

    @property
    @override
    def moves_per_step(self) -> int:
        return 2 * self.transitions * (self.replicas - 1)

    @property
    @override
    def beside(self) -> Sequence[EnergyModel]:
        return self.base, *self.lower

    def hurried(self, steps: int) -> str | None:
        """That in so many steps replicas cannot come often enough from p_0 to the model, in words; or None.

        A replica passes one rung in a round at best, and a step is two of them.
        """
        rungs = self.replicas - 1
        least = math.ceil(_PASSAGES * rungs / 2)
        if steps >= least:
            return None
        return (
            f"steps = {steps}: replicas pass from independent units to the model, {rungs} rungs above, at most "
            f"{2 * steps / rungs:.2g} times, so that modes may be missed; take {least} or more"
        )

    @override
    def init(self, model: EnergyModel, x: Tensor) -> TemperingState:
        """Replicas where they were, or all of a chain at its x."""
        return TemperingState(self.spread(x, model.space))

    @override
    def positions(self, state: TemperingState) -> Tensor:
        return state.replicas

    @override
    def spread(self, x: Tensor, space: Space) -> Tensor:
        """As many replicas of each chain as there are rungs, (chains, rungs, *shape)."""
        if x.shape[1:] == (self.replicas, *space.shape):
            return x
        return torch.stack([shown(x, space)] * self.replicas, 1)

    @override
    def step(self, model: EnergyModel, state: TemperingState, key: AnyKey) -> tuple[TemperingState, Info]:
        """A round for even neighbours, and one for odd ones."""
        x, _, swaps = self.moved(model, state.replicas, key)
        return TemperingState(x), swaps

    def moved(self, model: EnergyModel, x: Tensor, key: AnyKey) -> tuple[Tensor, Info, Info]:
        """All replicas (chains, rungs, *shape) a step later, nothing of the kernel, and the exchanges."""
        rungs = Rungs(self.base, [*self.lower, model], self.inner, self.transitions)
        at, total = [*x.unbind(1)], torch.zeros(self.replicas - 1, len(x), device=x.device)
        for number in range(2):
            at, look = rungs.round(at, number, key.fold(number))
            total += look.taken.to(total)
        return torch.stack(at, 1), {}, {f"swap_{k}": taken for k, taken in enumerate(total, 1)}
