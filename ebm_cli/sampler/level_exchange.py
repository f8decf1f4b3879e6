"""Replicas at all levels of noise of a leveled model, which exchange their configurations with their neighbours."""

from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, PlainValidator
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import EnergyModel
from ebm_cli.model.level_ladder import ladder_of
from ebm_cli.model.levels import Leveled
from ebm_cli.model.rescaled import Rescaled
from ebm_cli.registry import Nested, register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.sampler.kernel import below, exact
from ebm_cli.sampler.rungs import Rungs
from ebm_cli.space import Real, Space


class Replicas(NamedTuple):
    """Replicas from the last level to level 0, (chains, levels, *shape), or where chains start, (chains, *shape)."""

    replicas: Tensor
    begun: bool

    @property
    def x(self) -> Tensor:
        """Those of level 0, (chains, *shape)."""
        return self.replicas[:, -1] if self.begun else self.replicas


@register("sampler", "level_exchange")
class LevelExchange(Sampler[Leveled, Replicas]):
    """Replicas w_k = m + (x_k - m) a_0 / a_k of each chain at all levels k of a leveled model; it shows w_0 = x_0.

    A step is two rounds of `Rungs`: a fresh draw of the last level, `transitions` of `kernel` at each other one, its
    lengths in units of the noise there, r s_k a_0 / a_k, then exchanges of every other pair of neighbouring levels; and
    the same with the pairs between. Each is taken with probability
    min(1, exp(E_k(w_k) + E_(k+1)(w_(k+1)) - E_k(w_(k+1)) - E_(k+1)(w_k))), E_k(w) = E(m + (w - m) a_k / a_0, k), so
    that prod_k p_k(w_k) is invariant whatever the model has learned. Modes that no chain leaves at level 0 get their
    share by way of the levels where they meet. Info: `swap_k`, the share of exchanges between the rungs k - 1 and k,
    counted from the last level, that were taken.

    The first step forgets where chains start: it draws the last level and moves these draws down, `transitions` at each
    level. As a kernel on x_0 alone it approaches p as replicas forget that. Of some sites given the others these are at
    every level, and the others as given.
    """

    kernel: Annotated[Sampler[Any, Any], PlainValidator(exact), Nested("sampler")]
    transitions: Annotated[int, Field(ge=1)]

    spaces = (Real,)
    needs = (Leveled,)

    @property
    @override
    def leaves_invariant(self) -> bool:
        return False

    @property
    @override
    def draws_given(self) -> bool:
        return self.kernel.draws_given

    @property
    @override
    def inner(self) -> Sampler[Any, Any]:
        return self.kernel

    @override
    def refusal(self, space: Space) -> str | None:
        """What the kernel says."""
        found = self.kernel.refusal(space)
        return found and below(found)

    @override
    def init(self, model: Leveled, x: Tensor) -> Replicas:
        """Replicas where they were, or none yet."""
        return Replicas(x, x.dim() > 1 + len(model.space.shape))

    @override
    def positions(self, state: Replicas) -> Tensor:
        return state.replicas

    @override
    def step(self, model: Leveled, state: Replicas, key: AnyKey) -> tuple[Replicas, Info]:
        """Two rounds."""
        ladder = ladder_of(model)
        models = [InUnits(of, inside) for of, inside in zip(ladder.models, ladder.inside, strict=True)]
        rungs = Rungs(ladder.base, models, InNoise(self.kernel), self.transitions)
        at = [*state.replicas.unbind(1)] if state.begun else rungs.begun(len(state.x), key.fold("start"))
        total = torch.zeros(len(models), len(state.x), device=state.replicas.device)
        for number in range(2):
            at, look = rungs.round(at, number, key.fold(number))
            total += look.taken.to(total)
        swaps = {f"swap_{k}": taken for k, taken in enumerate(total, 1)}
        return Replicas(torch.stack(at, 1), begun=True), swaps


class InUnits(EnergyModel):
    """A rung, and the same in units of its noise."""

    def __init__(self, model: EnergyModel, inside: Rescaled) -> None:
        super().__init__()
        self.model, self.inside, self.space = model, inside, model.space

    @override
    def energy(self, x: Tensor) -> Tensor:
        """(batch,)."""
        energy: Tensor = self.model.energy(x)
        return energy


class Moving(NamedTuple):
    """Where chains are, and the state of the kernel, which is in other units."""

    x: Tensor
    inner: Any


class InNoise(Sampler[InUnits, Moving]):
    """A kernel whose lengths are in units of the noise of the level that it moves at."""

    spaces = (Real,)

    def __init__(self, kernel: Sampler[Any, Any]) -> None:
        self.kernel = kernel

    @override
    def init(self, model: InUnits, x: Tensor) -> Moving:
        return Moving(x, self.kernel.init(model.inside, model.inside.inside(x)))

    @override
    def step(self, model: InUnits, state: Moving, key: AnyKey) -> tuple[Moving, Info]:
        inner, info = self.kernel.step(model.inside, state.inner, key)
        return Moving(model.inside.outside(inner.x), inner), info
