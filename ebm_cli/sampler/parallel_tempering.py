"""Parallel tempering: replicas of every chain at higher temperatures, which exchange their configurations."""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PlainValidator
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng, terminal
from ebm_cli.model.base import Blocked, EnergyModel
from ebm_cli.model.scaled import Scaled, scaled
from ebm_cli.registry import Later, Nested, register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.sampler import ladder
from ebm_cli.sampler.adaptation import BLOCK, Adapting, Warmed, adapts, blocks, correction
from ebm_cli.sampler.base import Info, Sampler, shown
from ebm_cli.sampler.kernel import below, exact
from ebm_cli.space import Binary, Box, Categorical, Real, Space, Spin

_FIRST = 10  # temperatures where their number is to be found
Beta = Annotated[float, Field(gt=0, le=1)]


class TemperingState(NamedTuple):
    """Positions of all replicas, (chains, temperatures, *shape), from the hottest to that at beta = 1."""

    replicas: Tensor

    @property
    def x(self) -> Tensor:
        """Those at beta = 1, (chains, *shape)."""
        return self.replicas[:, -1]


@register("sampler", "parallel_tempering")
class ParallelTempering(Warmed[EnergyModel, TemperingState]):
    """Replicas x_1 ... x_R at beta_1 < ... < beta_R = 1, R = `temperatures`.

    A step is one step of `kernel` for every replica on its p_r, proportional to exp(-E_r), and then two rounds of swaps
    of neighbours, of the pairs (1, 2), (3, 4) ... and of (2, 3), (4, 5) ..., each taken with probability
    min(1, exp(E_r(x_r) + E_r+1(x_r+1) - E_r(x_r+1) - E_r+1(x_r))) (Swendsen & Wang 1986; Geyer 1991). With `swaps`
    alternate a step of the kernel comes before either round, so that a step is two of the non-reversible scheme
    (Okabe et al. 2001; Syed et al. 2021). Each part leaves prod_r p_r(x_r) invariant, so its marginal x_R ~ p too, and
    x_R is what a chain shows. Info: `swap_r`, the share of swaps of r and r + 1 that were taken, and what the kernel
    says of the replica at beta = 1.

    E_r = beta_r E. Where the kernel is block Gibbs of a bipartite model the joint energy beta_r E(v, h) takes its
    place (Desjardins et al. 2010; Cho, Raiko, Ilin 2010; there the betas are evenly spaced), since its conditionals
    sample exactly. Hidden units are summed out of the swaps: E_r(v) = -beta_r b.v - sum_j softplus(beta_r a_j(v)).

    `ladder` geometric: beta_r = beta_min^((R - r) / (R - 1)). adaptive: from there a warm-up moves the betas until all
    pairs reject alike (Syed et al. 2021, alg. 4), and `temperatures` auto takes so many that they reject half of their
    swaps. Training has no warm-up: there it stays geometric or, with `retune` T, is moved after each T steps by what
    these rejected, their number kept; sampling and evaluations of such a run take the betas of its checkpoint, without
    a warm-up. A list is the betas themselves, as many as there are. A kernel that adapts finds a step size for each
    temperature in the same warm-up.

    From one configuration all replicas start there. They are no draws from prod_r p_r then, even if x is one from p: as
    a kernel on x alone it is not `exact`, but approaches p as its replicas forget their start. Training therefore keeps
    the replicas in the store from one update to the next, and annealing, which needs an exact kernel of x, takes
    `kernel` itself.
    """

    kernel: Annotated[Sampler[Any, Any], PlainValidator(exact), Nested("sampler")]
    temperatures: Annotated[int, Field(ge=2, le=ladder.MOST)] | Literal["auto"]
    beta_min: Annotated[float, Field(gt=0, lt=1)]
    ladder: Annotated[Literal["geometric", "adaptive"] | tuple[Beta, ...], Later("geometric")]
    swaps: Annotated[Literal["together", "alternate"], Later("together")]
    step_sizes: Annotated[tuple[Annotated[float, Field(gt=0)], ...] | None, Later(None)]
    retune: Annotated[int, Field(ge=0), Later(0)]

    spaces = (Binary, Spin, Categorical, Real, Box)

    @property
    @override
    def leaves_invariant(self) -> bool:
        return False

    @property
    @override
    def replicas(self) -> int:
        if isinstance(self.ladder, tuple):
            return len(self.ladder)
        return _FIRST if self.temperatures == "auto" else self.temperatures

    @property
    @override
    def moves_per_step(self) -> int:
        return self.replicas * (2 if self.swaps == "alternate" else 1)

    def betas(self, like: Tensor) -> Tensor:
        """beta_1 < ... < beta_R = 1, (temperatures,)."""
        if isinstance(self.ladder, tuple):
            return torch.tensor(self.ladder, device=like.device, dtype=like.dtype)
        return self.beta_min ** torch.linspace(1, 0, self.replicas, device=like.device, dtype=like.dtype)

    @property
    @override
    def inner(self) -> Sampler[Any, Any]:
        return self.kernel

    @property
    @override
    def draws_given(self) -> bool:
        return self.kernel.draws_given

    @override
    def refusal(self, space: Space) -> str | None:
        """What the kernel says, and betas and step sizes that do not go together."""
        found = self.kernel.refusal(space)
        return (found and below(found)) or self._odd_ladder() or self._odd_step_sizes()

    def _odd_ladder(self) -> str | None:
        if not isinstance(self.ladder, tuple):
            auto = self.temperatures == "auto" and self.ladder == "geometric"
            said = "sampler.temperatures = auto: is for sampler.ladder=adaptive; add that, or name a number"
            return said if auto else None
        said = f"sampler.ladder = {list(self.ladder)}"
        if len(self.ladder) < 2 or self.ladder[-1] != 1 or any(a >= b for a, b in pairwise(self.ladder)):
            return f"{said}: must be two or more inverse temperatures that rise, the last being 1"
        return None

    def _odd_step_sizes(self) -> str | None:
        if self.step_sizes is None:
            return None
        said = f"sampler.step_sizes = {list(self.step_sizes)}"
        if not hasattr(self.kernel, "step_size"):
            return f"{said}: sampler.kernel has no step_size; set it to null"
        count = self.replicas
        return None if len(self.step_sizes) == count else f"{said}: there are {count} temperatures; give one for each"

    @override
    def init(self, model: EnergyModel, x: Tensor) -> TemperingState:
        """Replicas where they were, or all of a chain at its x."""
        return TemperingState(self.spread(x, model.space))

    @override
    def positions(self, state: TemperingState) -> Tensor:
        return state.replicas

    @override
    def spread(self, x: Tensor, space: Space) -> Tensor:
        """As many replicas of each chain as there are temperatures, (chains, temperatures, *shape)."""
        if x.shape[1:] == (self.replicas, *space.shape):
            return x
        return torch.stack([shown(x, space)] * self.replicas, 1)

    @override
    def step(self, model: EnergyModel, state: TemperingState, key: AnyKey) -> tuple[TemperingState, Info]:
        """The kernel on all replicas together, rows chain by chain, and both rounds of swaps."""
        x, said, swaps = self.moved(model, state.replicas, key)
        return TemperingState(x), {name: value[:, -1] for name, value in said.items()} | swaps

    def moved(self, model: EnergyModel, x: Tensor, key: AnyKey) -> tuple[Tensor, Info, Info]:
        """All replicas (chains, temperatures, *shape) a step later, what the kernel says of each, and the swaps."""
        rounds = (0, 1)[: self.replicas - 1]
        if self.swaps == "together":
            x, said, swaps = self._round(model, x, (key.fold("kernel"), key), rounds)
            return x, said, {name: swaps[name] for name in sorted(swaps, key=_rung)}
        every, taken = list[Info](), dict[str, Tensor]()
        for first in rounds:
            x, said, swaps = self._round(model, x, (key.fold("kernel", first), key), (first,))
            every, taken = [*every, said], taken | swaps
        mean = {name: torch.stack([said[name] for said in every]).mean(0) for name in every[0]}
        return x, mean, {name: taken[name] for name in sorted(taken, key=_rung)}

    def _round(
        self, model: EnergyModel, x: Tensor, keys: tuple[AnyKey, AnyKey], rounds: Sequence[int]
    ) -> tuple[Tensor, Info, Info]:
        """A step of the kernel by the first key, and these rounds of swaps by the other."""
        betas = self.betas(x)
        hot = self.at(model, betas.repeat(len(x)))
        after, said = self._explored(model, hot, x, keys[0])
        parts = [part.unflatten(0, x.shape[:2]) for part in (after, *hot.statistics(after))]
        swaps: Info = {}
        for first in rounds:
            taken = _taken(hot, parts[1:], betas, first, keys[1].fold("swap", first))
            parts = [_swapped(part, taken, first) for part in parts]
            swaps |= {f"swap_{first + 2 * i + 1}": pair.to(x.dtype) for i, pair in enumerate(taken.unbind(1))}
        return parts[0], said, swaps

    def at(self, model: EnergyModel, betas: Tensor) -> Scaled:
        """The model at a beta for each row, betas (rows,)."""
        return scaled(model, betas, blocks=any(issubclass(need, Blocked) for need in self.kernel.needs))

    def _explored(self, model: EnergyModel, hot: Scaled, x: Tensor, key: AnyKey) -> tuple[Tensor, Info]:
        """A step of the kernel at each temperature: rows chain by chain, and what it says, (chains, temperatures)."""
        count = self.replicas
        if self.step_sizes is None:
            state, said = self.kernel.step(hot, self.kernel.init(hot, x.flatten(0, 1)), key.spread(count))
            return state.x, {name: value.unflatten(0, (-1, count)) for name, value in said.items()}
        betas = self.betas(x)
        ends, infos = list[Tensor](), list[Info]()
        for r, size in enumerate(self.step_sizes):
            kernel = _resized(self.kernel, size)
            alone = self.at(model, betas[r].expand(len(x)))
            state, said = kernel.step(alone, kernel.init(alone, x[:, r]), key.fold(r))
            ends, infos = [*ends, state.x], [*infos, said]
        whole = {name: torch.stack([said[name] for said in infos], 1) for name in infos[0]}
        return torch.stack(ends, 1).flatten(0, 1), whole

    @property
    @override
    def wants_warmup(self) -> bool:
        """Also a kernel that adapts is known where each temperature has its step size."""
        return self.ladder == "adaptive" or (adapts(self.kernel) and self.step_sizes is None)

    @override
    def warmed(self, model: EnergyModel, x: Tensor, steps: int, key: Key) -> tuple[Self, Tensor]:
        """In rounds, each twice as long as the one before; after each the betas move, but their number not at last."""
        tuning = self._begun()
        x, lengths, corrections = tuning.spread(x, model.space), ladder.rounds(steps), 0
        for number, length in enumerate(lengths):
            tuning, x, rejected = tuning.tuned(model, x, length, (key.fold(number), corrections))
            corrections += length
            if self.ladder == "adaptive":
                auto = self.temperatures == "auto" and number < len(lengths) - 1
                count = ladder.wanted(sum(rejected)) if auto else tuning.replicas
                x = x[:, ladder.nearest(rejected, count)] if count != tuning.replicas else x
                tuning = tuning.respaced(rejected, count)
        return tuning, x

    @override
    def found(self) -> dict[str, float]:
        """Their number, where it was to be found."""
        return {"temperatures": float(self.replicas)} if self.temperatures == "auto" else {}

    @override
    def frozen(self) -> Self:
        return self

    def _begun(self) -> Self:
        """With a beta, and a step size where these are to be found, for each temperature."""
        sizes = self.step_sizes
        if sizes is None and isinstance(self.kernel, Adapting) and self.kernel.adapt is not None:
            sizes = (self.kernel.size,) * self.replicas
        return dataclasses.replace(self.listed(), step_sizes=sizes)

    def listed(self) -> Self:
        """With its betas as a list."""
        return dataclasses.replace(self, ladder=tuple(self.betas(torch.zeros((), dtype=torch.float64)).tolist()))

    def respaced(self, rejected: Sequence[float], count: int) -> Self:
        """With `count` betas, by how often the swaps of each pair of the present ones were refused."""
        assert isinstance(self.ladder, tuple)
        betas = ladder.respaced(self.ladder, rejected, count)
        sizes = self.step_sizes and ladder.moved(self.step_sizes, rejected, count)
        return dataclasses.replace(self, ladder=betas, step_sizes=sizes)

    def tuned(
        self, model: EnergyModel, x: Tensor, steps: int, course: tuple[Key, int]
    ) -> tuple[Self, Tensor, list[float]]:
        """With the step sizes that `steps` transitions found, where the replicas are, and how often pairs refused.

        `course` is the key, and how many transitions there were in rounds before.
        """
        (key, before), sampler, tried = course, self, list[NDArray[np.float64]]()
        total = np.zeros(self.replicas - 1)
        for n, length in enumerate(terminal.followed(blocks(steps), "warm-up: block")):
            x, said, taken = sampler.followed(model, x, [key.fold(n, i) for i in range(length)])
            total += length * np.array([swap.double().mean().item() for swap in taken.values()])
            if sampler.step_sizes is not None and isinstance(self.kernel, Adapting) and self.kernel.adapt is not None:
                error = said["acceptance"].double().mean(0).cpu().numpy() - self.kernel.adapt
                tried.append(np.log(sampler.step_sizes) + correction(before // BLOCK + n) * error)
                sampler = dataclasses.replace(sampler, step_sizes=tuple(np.exp(tried[-1]).tolist()))
        if tried:
            late = np.exp(np.mean(tried[len(tried) // 2 :], axis=0))
            sampler = dataclasses.replace(sampler, step_sizes=tuple(late.tolist()))
        return sampler, x, (1 - total / steps).tolist()

    def followed(self, model: EnergyModel, x: Tensor, keys: Sequence[AnyKey]) -> tuple[Tensor, Info, Info]:
        """All replicas after a step for each key, and means over them of what the kernel says and of the swaps."""
        every = list[tuple[Info, Info]]()
        for key in keys:
            x, said, taken = self.moved(model, x, key)
            every.append((said, taken))
        said, taken = (
            {name: torch.stack([info[name] for info in infos]).mean(0) for name in infos[0]}
            for infos in zip(*every, strict=True)
        )
        return x, said, taken


def _rung(name: str) -> int:
    return int(name.removeprefix("swap_"))


def _taken(model: Scaled, statistics: list[Tensor], betas: Tensor, first: int, key: AnyKey) -> Tensor:
    """Which of the pairs (first, first + 1), (first + 2, first + 3) ... are swapped, (chains, pairs) bool.

    With D(x) = E_b(x) - E_a(x), a the hotter of the two: log ratio = D(x_b) - D(x_a).
    """
    pairs = (len(betas) - first) // 2
    hot, cold = (slice(first + side, first + side + 2 * pairs - 1, 2) for side in (0, 1))

    def difference(place: slice) -> Tensor:
        here = [part[:, place] for part in statistics]
        return model.at(here, betas[cold].expand_as(here[0])) - model.at(here, betas[hot].expand_as(here[0]))

    log_ratio = difference(cold) - difference(hot)
    return rng.uniform(log_ratio.shape, key, log_ratio.device, log_ratio.dtype) < log_ratio.exp()


def _swapped(part: Tensor, taken: Tensor, first: int) -> Tensor:
    """The tensor (chains, temperatures, ...) with those pairs exchanged."""
    last = first + 2 * taken.shape[1]
    hot, cold = part[:, first:last:2], part[:, first + 1 : last : 2]
    wide = taken.reshape(*taken.shape, *[1] * (part.dim() - 2))
    mixed = torch.stack([torch.where(wide, cold, hot), torch.where(wide, hot, cold)], 2).flatten(1, 2)
    return torch.cat([part[:, :first], mixed, part[:, last:]], 1)


def _resized(kernel: Sampler[Any, Any], size: float) -> Sampler[Any, Any]:
    """The kernel with a step size of its own."""
    if isinstance(kernel, Adapting):
        return kernel.resized(size)
    return dataclasses.replace(kernel, step_size=size)  # type: ignore[type-var]
