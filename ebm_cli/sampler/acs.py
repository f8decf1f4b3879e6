"""Automatic cyclical scheduling of discrete Langevin proposals (Pynadath, Bhattacharya, Hariharan, Zhang 2024)."""

import dataclasses
import math
from functools import partial
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info
from ebm_cli.sampler.informed import Informed, InformedState, gains
from ebm_cli.sampler.leap import leapt, unless_kept
from ebm_cli.space import Binary, Categorical, Space, Spin


def _share(value: Any) -> Any:
    """`balance`, which has the name of the function g of other samplers."""
    if isinstance(value, str):
        raise ValueError("must be a number from 0.5 to 1, the power of t that the first proposal follows, no name of g")
    return value


@register("sampler", "acs")
class AutomaticCyclical(Informed):
    """`cycle` proposals with q_i(x'_i | x) proportional to exp(b d_i - [x'_i is not x_i] / (2 a)), each with its test.

    d_i is the first-order gain of f = -E. With c_k = (1 + cos(pi k / (cycle - 1))) / 2, k = 0, ..., cycle - 1, a goes
    from `step_size` to `final_step_size` and b from `balance` to 1/2 along c_k: large steps that follow more of the
    gain find other modes, small ones with 1/2, at which they are balanced, look around there. Each proposal is accepted
    with min(1, p(x') q(x | x') / (p(x) q(x' | x))), so a whole cycle, which is one step, leaves p invariant; it is not
    reversible, its time reversal goes `backwards`. In the source a step is one proposal, and the cycle goes on.

    With `adapt` a warm-up brings the mean acceptance of a cycle there: both step sizes keep their ratio. The source
    finds each end of the cycle, and a balance for each place, instead.
    """

    step_size: Annotated[float, Field(gt=0)]
    final_step_size: Annotated[float, Field(gt=0)]
    balance: Annotated[float, BeforeValidator(_share), Field(ge=0.5, le=1)]
    cycle: Annotated[int, Field(ge=1)]
    backwards: bool
    adapt: Annotated[float, Field(gt=0, lt=1)] | None

    spaces = (Binary, Spin, Categorical)
    compiles = True
    rejects = True

    @override
    def refusal(self, space: Space) -> str | None:
        """Steps become smaller."""
        if self.final_step_size > self.step_size:
            return f"sampler.final_step_size = {self.final_step_size}: must be at most sampler.step_size, the first one"
        return None

    @override
    def step(self, model: EnergyModel, state: InformedState, key: AnyKey) -> tuple[InformedState, Info]:
        """One cycle; `acceptance` is the share of its proposals that were taken, `flips` how many sites they moved."""
        total: Info = {}
        for k in range(self.cycle):
            place = self.cycle - 1 - k if self.backwards else k
            state, info = leapt(model, state, partial(self._logits, place), key.fold(k))
            total = {name: value + total.get(name, 0.0) for name, value in info.items()}
        return state, {"acceptance": total["acceptance"] / self.cycle, "flips": total["flips"]}

    def proposal(self, place: int) -> tuple[float, float]:
        """a and b at a place of the cycle."""
        share = (1 + math.cos(math.pi * place / max(1, self.cycle - 1))) / 2
        size = self.final_step_size + share * (self.step_size - self.final_step_size)
        return size, 0.5 + share * (self.balance - 0.5)

    def _logits(self, place: int, model: EnergyModel, state: InformedState) -> Tensor:
        size, balance = self.proposal(place)
        return unless_kept(model.space, state.x, balance * gains(model, state), 1 / (2 * size))

    @override
    def resized(self, size: float) -> Self:
        """Both ends of a cycle."""
        ratio = self.final_step_size / self.step_size
        return dataclasses.replace(self, step_size=size, final_step_size=size * ratio)

    @override
    def reversal(self) -> Self:
        """Backwards."""
        return dataclasses.replace(self, backwards=not self.backwards)

    @override
    def found(self) -> dict[str, float]:
        return {} if self.adapt is None else {name: getattr(self, name) for name in ("step_size", "final_step_size")}
