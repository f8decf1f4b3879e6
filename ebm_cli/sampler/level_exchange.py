"""Replicas at all levels of noise of a leveled model, which exchange their configurations with their neighbours."""

from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, PlainValidator
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.level_ladder import LevelLadder, ladder_of
from ebm_cli.model.levels import Leveled
from ebm_cli.registry import Nested, register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler, transitions
from ebm_cli.sampler.kernel import below, exact
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
    """Replicas w_k = m + (x_k - m) sqrt(v_0 / v_k) of each chain at all levels k; it shows w_0 = x_0.

    A step is two rounds: a fresh draw of the last level, `transitions` of `kernel` at each other one, its lengths in
    units of the noise there, r s_k sqrt(v_0 / v_k), then exchanges of every other pair of neighbouring levels; and the
    same with the pairs between. Each is taken with probability
    min(1, exp(E_k(w_k) + E_(k+1)(w_(k+1)) - E_k(w_(k+1)) - E_(k+1)(w_k))), E_k(w) = E(m + (w - m) sqrt(v_k / v_0), k),
    so that prod_k p_k(w_k) is invariant whatever the model has learned. Modes that no chain leaves at level 0 get their
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
        exchange = Exchange(ladder_of(model), self.kernel, self.transitions)
        x = state.replicas if state.begun else exchange.begun(len(state.x), key.fold("start"))
        x, first = exchange.round(x, 0, key.fold(0))
        x, second = exchange.round(x, 1, key.fold(1))
        return Replicas(x, begun=True), {f"swap_{k}": of.float() for k, of in enumerate((first | second).T, 1)}


class Exchange(NamedTuple):
    """Replicas (chains, K, *shape) of w from the last level to level 0, moved together in one batch."""

    ladder: LevelLadder
    kernel: Sampler[Any, Any]
    transitions: int

    @property
    def levels(self) -> int:
        """K."""
        return self.ladder.family.levels

    def begun(self, chains: int, key: AnyKey) -> Tensor:
        """Draws of the last level, moved at one level after the other on the way down."""
        x = [self.ladder.last(chains, key.fold("last"))]
        for level in range(self.levels - 2, -1, -1):
            x.append(self._moved(x[-1], torch.full((chains,), level, device=x[-1].device), key.fold("begin", level)))
        return torch.stack(x, 1)

    def round(self, x: Tensor, number: int, key: AnyKey) -> tuple[Tensor, Tensor]:
        """Replicas after fresh draws of the last level, transitions at all others, and exchanges of the pairs whose
        number is even or odd as that of the round; which of them were taken, (chains, K - 1) bool."""
        last, others = self.ladder.last(len(x), key.fold("last")), x[:, 1:]
        each = key.fold("move").spread(self.levels - 1)  # a row for each replica of a chain
        moved = self._moved(others.flatten(0, 1), self._level(len(x), self.levels - 1), each)
        x = torch.cat([last[:, None], moved.reshape(others.shape)], 1)
        gain = self._gain(x)
        tried = torch.arange(self.levels - 1, device=x.device) % 2 == number % 2
        u = rng.uniform(gain.shape, key.fold("swap"), gain.device, gain.dtype)
        taken = (u.log() < gain) & tried
        return swapped(x, taken), taken

    def _moved(self, x: Tensor, level: Tensor, key: AnyKey) -> Tensor:
        inside = self.ladder.inside(level)
        y, _ = transitions(self.kernel, inside, inside.inside(x), [key.fold(i) for i in range(self.transitions)])
        return inside.outside(y)

    def differences(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log f_j - log f_i of the replicas at i, and of those at j, for each pair of a level i and the next one down,
        j, (chains, K - 1) each, float64; f_k = exp(-E_k(w))."""
        n, level = len(x), self._level(len(x), self.levels)
        own = self._energy(x, level)
        above = self._energy(x[:, :-1], self._level(n, self.levels - 1))
        below = self._energy(x[:, 1:], self._level(n, self.levels - 1) + 1)
        return own[:, :-1] - above, below - own[:, 1:]

    def _gain(self, x: Tensor) -> Tensor:
        """log of the ratio of densities after and before the exchange of each pair, (chains, K - 1) float64."""
        up, down = self.differences(x)
        return up - down

    def _energy(self, x: Tensor, level: Tensor) -> Tensor:
        return self.ladder.at(level).energy(x.flatten(0, 1)).double().reshape(x.shape[:2])

    def _level(self, chains: int, count: int) -> Tensor:
        """The lowest `count` levels from the highest of them down, one chain's after the other's."""
        return torch.arange(count - 1, -1, -1, device=self.ladder.origin.device).repeat(chains)


def swapped(x: Tensor, taken: Tensor) -> Tensor:
    """x (chains, K, *shape) with neighbours k and k + 1 exchanged where taken (chains, K - 1), none in two pairs."""
    order = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    up, down = F.pad(taken, (0, 1)).long(), F.pad(taken, (1, 0)).long()
    order = order + up - down
    return x.gather(1, order.reshape(*order.shape, *[1] * (x.dim() - 2)).expand_as(x))
